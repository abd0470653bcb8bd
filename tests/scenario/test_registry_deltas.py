"""A publisher makes deltas by itself, and a running agent takes them: seen in the bytes that the web server sends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.bundles import Made, write_bundle
from edgehone.testing.hosts import write_linear
from edgehone.testing.links import RangeHandler, serving

pytestmark = pytest.mark.slow
TASK = "gestures"
WIDTHS = (20, 400, 400, 4)
ENVIRONMENT = {**os.environ, "EDGEHONE_PASSPHRASE": "of this test alone"}


def edgehone(*arguments: str | Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgehone.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Counting(RangeHandler):
    """Notes the length of every answer below `targets/`."""

    sent: dict[str, int]

    def send_header(self, keyword: str, value: str) -> None:
        if keyword == "Content-Length" and self.path.startswith("/targets/"):
            name = self.path.rpartition("/")[2].partition(".")[2]
            self.sent[name] = self.sent.get(name, 0) + int(value)
        super().send_header(keyword, value)


class Publisher:
    """A registry, and versions of one model whose weights move a little each time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry, self.keys = folder, folder / "registry", folder / "keys"
        edgehone("registry", "init", self.registry, "--task", TASK, "--approve", "auto", "--keys", self.keys)
        self._model = write_linear(folder / "model.tflite", WIDTHS, seed=1).read_bytes()

    def publish(self, version: int, *words: str) -> tuple[Made, dict[str, Any]]:
        model = bytearray(self._model)
        weights = np.frombuffer(model, "<u4")[len(model) // 16 : len(model) // 8]  # the middle of the file
        weights[version::7] ^= 1  # the last bit of a float: the golden probe does not mind
        made = write_bundle(
            self.folder / f"{version}.bundle", version=version, widths=WIDTHS, seed=1, model=bytes(model), task=TASK
        )
        return made, edgehone("registry", "publish", self.registry, made.path, "--keys", self.keys, *words)


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder with a short name: it holds a socket."""
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Agent:
    """A running agent process."""

    def __init__(self, port: int, state: Path, root: Path) -> None:
        self._state = state
        arguments = ["run", "--registry", f"http://127.0.0.1:{port}", "--root", root, "--task", TASK, "--state", state]
        self.process = subprocess.Popen(
            [*self._command(*arguments), "--listen", "127.0.0.1:0", "--poll", "1"], stderr=subprocess.PIPE, text=True
        )

    def _command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "edgehone_agent", *map(str, arguments)]

    def wait(self, version: int) -> None:
        until = time.monotonic() + 60
        while True:
            done = subprocess.run(
                self._command("status", "--json", "--state", self._state), capture_output=True, text=True, timeout=60
            )
            task = json.loads(done.stdout)["tasks"].get(TASK, {}) if done.returncode == 0 else {}
            if task.get("version") == version:
                return
            assert time.monotonic() < until and self.process.poll() is None, (task, done.stderr)
            time.sleep(0.1)

    def stop(self) -> str:
        self.process.terminate()
        _, log = self.process.communicate(timeout=30)
        return log


def test_an_agent_takes_the_delta_that_publish_made(tmp_path: Path, state: Path) -> None:
    publisher = Publisher(tmp_path)
    one, _ = publisher.publish(1)
    sent: dict[str, int] = {}
    handler = type("Handler", (Counting,), {"sent": sent})
    with serving(publisher.registry, handler=handler) as port:
        agent = Agent(port, state, publisher.keys / "root.json")
        try:
            agent.wait(1)
            assert sent == {"1-linear.bundle": one.path.stat().st_size}
            two, done = publisher.publish(2)
            (way,) = done["deltas"]
            assert way["from_version"] == 1 and way["share"] < 0.3
            agent.wait(2)
            name = way["path"].rpartition("/")[2]
            assert sent == {"1-linear.bundle": one.path.stat().st_size, name: way["size_bytes"]}
            assert way["size_bytes"] < 0.3 * two.path.stat().st_size
            three, done = publisher.publish(3, "--no-deltas")
            assert done["deltas"] == []
            agent.wait(3)
            assert sent["3-linear.bundle"] == three.path.stat().st_size  # the whole one where there is no delta
        finally:
            log = agent.stop()
    assert agent.process.returncode == 0 and "Traceback" not in log, log
