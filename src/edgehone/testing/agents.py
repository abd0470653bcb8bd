"""A registry and an agent process beside it, for tests of what an agent lives through.

field = Field(folder)                 # a folder with a short path: it holds a socket
field.publish(1)
field.start()
field.wait_for(1)
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgehone.bundle.delta import make_delta
from edgehone.testing.bundles import Made, write_bundle
from edgehone.testing.trust import Repository

TASK = "gestures"
PROGRAM = (sys.executable, "-m", "edgehone_agent")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Field:
    """A registry, and an agent that is started and stopped as a test likes. `state` may be another disk."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        self.folder, self.state = folder, state or folder / "n"
        self.repository = Repository(folder / "registry", now_s=time.time(), tasks=(TASK,))
        (folder / "root.json").write_bytes(self.repository.root)
        self.made: dict[int, Made] = {}
        self.process: subprocess.Popen[str] | None = None
        self.log = folder / "log"

    def publish(self, version: int, *, base: int | None = None, **more: Any) -> Made:
        """Release a version, with a delta from `base` where one is named."""
        made = write_bundle(self.folder / f"{version}.bundle", version=version, **more)
        deltas = []
        if base is not None:
            content = make_delta(self.made[base].path, made.path)
            if content is None:
                raise AssertionError("no delta")
            path = f"{TASK}/{version}-from-{self.made[base].digest[:16]}.delta"
            self.repository.put_target(TASK, path, content, {"from": self.made[base].digest, "to": made.digest})
            deltas = [{"from": self.made[base].digest, "path": path}]
        content = made.path.read_bytes()
        self.repository.release(TASK, version, content, member="linear", fit={"runtimes": ["litert"]}, deltas=deltas)
        self.repository.commit()
        self.made[version] = made
        return made

    def start(self, *more: str, program: Sequence[str] = PROGRAM) -> None:
        """Start the agent with the usual arguments and these."""
        arguments = ["--registry", str(self.folder / "registry"), "--root", str(self.folder / "root.json")]
        arguments += ["--task", TASK, "--state", str(self.state), "--listen", "127.0.0.1:0", "--poll", "1", *more]
        with self.log.open("a") as log:
            self.process = subprocess.Popen([*program, "run", *arguments], stderr=log, text=True)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the agent beside it."""
        command = [*PROGRAM, *arguments, "--state", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """The agent's JSON answer over its own socket."""
        connection = UnixConnection(self.state / "agent.sock")
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise AssertionError(content)
            found: dict[str, Any] = json.loads(content)
            return found
        finally:
            connection.close()

    def answer(self) -> bytes:
        """What the agent says to the one reading, as float32 bytes."""
        x = next(iter(self.made.values())).x
        request = {"inputs": [{"name": "reading", "shape": [1, len(x)], "datatype": "FP32", "data": x.tolist()}]}
        found = self.ask("POST", f"/v2/models/{TASK}/infer", json.dumps(request).encode())
        return np.array(found["outputs"][0]["data"], np.float32).tobytes()

    def version(self) -> int:
        """Which version's answer the agent gives; it must be one that was published."""
        answers = {made.y.tobytes(): version for version, made in self.made.items()}
        return answers[self.answer()]

    def status(self) -> dict[str, Any]:
        """What the agent says about itself."""
        found: dict[str, Any] = self.ask("GET", "/status")
        return found

    def task(self) -> dict[str, Any]:
        """The same about its task."""
        found: dict[str, Any] = self.status()["tasks"][TASK]
        return found

    def wait_for_answer(self, limit_s: float) -> tuple[int, float]:
        """The version that answers first after a start, and how long that took."""
        started = time.monotonic()
        while time.monotonic() - started < limit_s:
            with suppress(OSError, AssertionError):
                return self.version(), time.monotonic() - started
            time.sleep(0.02)
        raise AssertionError(f"no answer within {limit_s} s: {self.log.read_text()[-2000:]}")

    def wait_for(self, version: int, limit_s: float = 30) -> None:
        """Return when a version answers."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            with suppress(OSError, AssertionError):
                if self.version() == version:
                    return
            time.sleep(0.05)
        raise AssertionError(f"version {version} does not answer: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """As a crash would."""
        self.running().kill()
        self.running().wait()

    def settle(self) -> None:
        """Let what serves be proven, as a minute would: else it is blamed for the kills of a test."""
        self.stop()
        pointer = self.state / "tasks" / TASK / "current.json"
        pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "trial": None}))
        self.start()
        self.wait_for_answer(60)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.running().send_signal(number)
        return self.running().wait(30)

    def running(self) -> subprocess.Popen[str]:
        """The process that was started last."""
        if self.process is None:
            raise AssertionError("the agent was not started")
        return self.process

    def close(self) -> None:
        """End the process if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
