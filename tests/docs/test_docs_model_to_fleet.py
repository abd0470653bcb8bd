"""The page "from a model to a fleet" runs as it stands: real commands, a real core, a real node."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/how-to/model-to-fleet.md"
COMMANDS = re.findall(r"^\$ (.+)$", PAGE.read_text(), re.MULTILINE)
LIMIT_S = 120.0


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


class Shell:
    """Runs the page's lines in one folder; those that end with & go on in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"7443": free_port(), "8080": free_port()}
        self.behind: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def run(self, line: str) -> str:
        for port, other in self.ports.items():
            line = re.sub(rf"\b{port}\b", other, line)
        if line.endswith("&"):
            self.behind.append(self._start(line.removesuffix("&")))
            return ""
        until = time.monotonic() + LIMIT_S
        while True:
            done = subprocess.run(
                ["bash", "-c", line], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=LIMIT_S,
            )  # fmt: skip
            if done.returncode == 0:
                return done.stdout
            is_soon = bool(self.behind) and time.monotonic() < until  # what it needs is being started
            assert is_soon and all(one.poll() is None for one in self.behind), f"{line}\n{done.stdout}{done.stderr}"
            time.sleep(0.3)

    def _start(self, line: str) -> subprocess.Popen[bytes]:
        if " core start" in line:
            line = f"{line} --listen 127.0.0.1:{self.ports['7443']}"
        with (self.folder / f"behind-{len(self.behind)}.log").open("wb") as out:
            return subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def close(self) -> None:
        for process in reversed(self.behind):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.behind):
            assert process.wait(30) == 0


def test_the_page_runs_as_it_stands(shell: Shell) -> None:
    said = {line: shell.run(line) for line in COMMANDS}
    answer = next(text for line, text in said.items() if " predict " in line)
    assert "7" in answer
    (lineage,) = (text for line, text in said.items() if " lineage " in line)
    assert "camera-1" in lineage and "version 1" in lineage
    policy = json.loads(shell.run("edgehone loop policy digits --core my-core --json"))
    assert policy["approve"] == "manual" and policy["members"] == ["int8"]
    assert len(said) == len(COMMANDS) > 14  # none stands there twice
