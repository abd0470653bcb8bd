"""A measuring service in a thread of a test, and a runtime whose files do what they say, also the worst.

with measuring(queue=1) as address:          # "127.0.0.1:40123"
    measure_remote(f"http://{address}", ...)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgehone_agent.measure.service import MeasuringSettings, serve_measuring

ODD = {"odd": "1.0", "litert": "2.0"}

# An installed package with a runtime. A file is a line of words: what loading it does.
_ODD_RUNTIME = """
import os
import signal
import sys
import time

import numpy as np

from edgehone_agent.runtimes import TensorInfo


class Session:
    layout = "channels_first"
    embedding = None
    input = output = TensorInfo("x", (1, 4), "float32")

    def run(self, x):
        return np.array(x)

    def run_with_embedding(self, x):
        raise NotImplementedError

    def describe(self):
        return {"runtime": "odd", "version": "1.0", "threads": 1, "accelerator": "none"}

    def close(self):
        pass


class Odd:
    name = "odd"
    suffixes = (".odd",)

    def version(self):
        return "1.0"

    def load(self, path, *, threads=1):
        word, *rest = path.read_text().split()
        if word == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif word == "hangs":
            time.sleep(600)
        elif word == "raises":
            raise RuntimeError("a defect of the runtime")
        elif word == "prints":
            os.write(1, b'{"result": {}}\\n' * 100)
            sys.stderr.write("x" * 100_000)
        elif word == "notes":  # when it was loaded, and until when that took
            began = time.time()
            time.sleep(0.1)
            with open(rest[0], "a") as file:
                file.write(f"{began} {time.time()}\\n")
        return Session()


runtime = Odd()
"""


def install_odd_runtime(folder: Path) -> Path:
    """Put the runtime `odd` into a folder, which then belongs on PYTHONPATH; returns the folder."""
    (folder / "odd_runtime.py").write_text(_ODD_RUNTIME)
    about = folder / "odd_runtime-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-runtime\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[edgehone.runtimes]\nodd = odd_runtime\n")
    return folder


@contextmanager
def measuring(runtimes: Mapping[str, str] | None = ODD, **settings: Any) -> Iterator[str]:
    """Run a service in a thread of this process; yields its address, and stops it at the end.

    Args:
        runtimes: what it offers, see `serve_measuring`.
        settings: fields of `MeasuringSettings`; it listens on a free port of loopback where they do not say.

    Raises:
        ConfigError: as `serve_measuring`.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    started: Future[str] = Future()
    work = serve_measuring(
        MeasuringSettings(**{"listen": "127.0.0.1:0", **settings}),
        stop=stop,
        ready=started.set_result,
        runtimes=runtimes,
    )
    with ThreadPoolExecutor(1, thread_name_prefix="measuring") as pool:
        running = pool.submit(loop.run_until_complete, work)
        either: tuple[Future[Any], ...] = (started, running)
        wait(either, timeout=60, return_when=FIRST_COMPLETED)
        try:
            if running.done():
                running.result()
            yield started.result(0)
        finally:
            if not running.done():
                loop.call_soon_threadsafe(stop.set)
                running.result(60)
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
