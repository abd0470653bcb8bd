"""The training processes of one driver: started, looked at, stopped. What they do is in `worker`.

A process that another driver has started is seen by the lock that it holds; only the own ones are waited for.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgehone.loop.worker import LOCK, STOP
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import HostError

SPEC, LOG = "spec.json", "worker.log"
_TAIL_BYTES = 2000


class Workers:
    """Training processes by the folder of their round. Use it as a context, or call `close`: they end with it."""

    def __init__(self) -> None:
        self._running: dict[Path, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, folder: Path, spec: Mapping[str, Any]) -> int:
        """Start the process of a round, and return its id.

        Raises:
            StateError: the folder cannot be written.
            HostError: no process can be started.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STOP).unlink(missing_ok=True)
        write_bytes(folder / SPEC, json.dumps(spec, indent=1).encode())
        command = [sys.executable, "-m", "edgehone.loop.worker", str(folder / SPEC)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(spec["threads"])}
        try:
            with (folder / LOG).open("wb") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # a Ctrl-C is for the driver, which ends it
                )
        except OSError as error:
            raise HostError(f"no process can be started: {error}", where="training") from error
        self._running[folder] = process
        return process.pid

    def is_alive(self, folder: Path) -> bool:
        """Whether a process works on a round, whoever has started it."""
        mine = self._running.get(folder)
        if mine is not None:
            if mine.poll() is None:
                return True
            del self._running[folder]
        return _is_locked(folder / LOCK)

    def said(self, folder: Path) -> str:
        """The last line that it has said; "" for none."""
        with suppress(OSError), (folder / LOG).open("rb") as log:
            log.seek(max(0, (folder / LOG).stat().st_size - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
            return lines[-1][:300] if lines else ""
        return ""

    def close(self) -> None:
        """End all processes of this driver; what they have finished is kept."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()
        self._running.clear()


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(f"the lock cannot be read: {error.strerror}", where=str(path)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
