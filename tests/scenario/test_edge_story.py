"""The agent alone with one runtime, in its own environment: signed install, inference, update, bad update, rollback.

The registry is made by the core; the agent's environment has no core and no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.bundles import Made, write_bundle

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TASK = "gestures"
ENVIRONMENT = {**os.environ, "EDGEHONE_PASSPHRASE": "of this test alone"}


@pytest.fixture(scope="module")
def agent_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment that holds the agent and LiteRT."""
    folder = tmp_path_factory.mktemp("alone") / "environment"
    venv.create(folder)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    command += ["--constraint", ROOT / "constraints.txt"]
    done = subprocess.run([*command, f"{ROOT / 'agent'}[litert]"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    missing = subprocess.run([folder / "bin" / "python", "-c", "import torch"], capture_output=True)
    assert missing.returncode != 0
    return folder / "bin"


def edgehone(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "edgehone.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Registry:
    """A registry with its keys, and what was published."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys, self._parent = folder / "registry", folder / "keys", folder
        edgehone("registry", "init", self.folder, "--task", TASK, "--approve", "auto", "--keys", self.keys)

    def publish(self, version: int, **options: Any) -> Made:
        made = write_bundle(self._parent / f"{version}.bundle", version=version, task=TASK, **options)
        edgehone("registry", "publish", self.folder, made.path, "--approve", "auto", "--keys", self.keys)
        return made


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder with a short name: it holds a socket."""
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Agent:
    """A running agent process."""

    def __init__(self, folder: Path, state: Path, registry: Registry) -> None:
        self._bin, self._state = folder, state
        root = registry.keys / "root.json"
        arguments = ["run", "--registry", registry.folder, "--root", root, "--task", TASK, "--state", state]
        command = [folder / "edgehone-agent", *arguments, "--listen", "127.0.0.1:0", "--poll", "1"]
        self.process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, cwd="/")

    def call(self, *arguments: str | Path) -> str:
        command = [self._bin / "edgehone-agent", *map(str, arguments), "--state", str(self._state)]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def task(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("status", "--json"))["tasks"].get(TASK, {})
        return found

    def wait(self, version: int) -> None:
        until = time.monotonic() + 60
        while self.task().get("version") != version:
            assert time.monotonic() < until and self.process.poll() is None, self.task()
            time.sleep(0.1)

    def predict(self, x: np.ndarray, folder: Path) -> np.ndarray:
        np.save(folder / "x.npy", x)
        answer = json.loads(self.call("predict", folder / "x.npy", "--json"))
        return np.asarray(answer["values"], np.float32)

    def stop(self) -> str:
        self.process.terminate()
        _, log = self.process.communicate(timeout=30)
        return log


def test_from_signed_install_to_rollback(agent_bin: Path, registry: Registry, state: Path, tmp_path: Path) -> None:
    one = registry.publish(1)
    agent = Agent(agent_bin, state, registry)
    try:
        agent.wait(1)
        assert np.allclose(agent.predict(one.x, tmp_path).ravel(), one.y.ravel(), atol=1e-4)
        two = registry.publish(2)
        agent.wait(2)
        assert np.allclose(agent.predict(two.x, tmp_path).ravel(), two.y.ravel(), atol=1e-4)
        registry.publish(3, wrong_probe=True)
        until = time.monotonic() + 60
        while not agent.task()["failed"]:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert agent.task()["version"] == 2
        agent.call("rollback", TASK)
        agent.wait(1)
        assert np.allclose(agent.predict(one.x, tmp_path).ravel(), one.y.ravel(), atol=1e-4)
    finally:
        log = agent.stop()
    assert agent.process.returncode == 0 and "Traceback" not in log, log


def test_it_serves_what_it_has_after_a_kill_and_without_its_registry(
    agent_bin: Path, registry: Registry, state: Path, tmp_path: Path
) -> None:
    one = registry.publish(1)
    agent = Agent(agent_bin, state, registry)
    agent.wait(1)
    agent.process.kill()
    agent.process.communicate()
    shutil.rmtree(registry.folder)
    again = Agent(agent_bin, state, registry)
    try:
        again.wait(1)
        assert np.allclose(again.predict(one.x, tmp_path).ravel(), one.y.ravel(), atol=1e-4)
    finally:
        log = again.stop()
    assert again.process.returncode == 0 and "Traceback" not in log, log
