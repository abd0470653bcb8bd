"""A core and its nodes on this machine as real processes, ended when the simulation ends, however it ends.

    with Processes(folder) as site:
        site.start_core("digits", interval_s=1.0)
        site.publish([Path("1.bundle")])
        node = site.add_node("digits", "camera-0", {"cohort": "north"})
        answer = node.ask(x)
        node.feedback(answer.id, "tap", label="3")

Rules:
- Every process is started through `leash`: it ends with this one, also after kill -9.
- What they say stands in files under FOLDER/logs. The nodes keep their state in a folder with a short path, because
  a socket's path is short.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgehone.fleet.authority import Authority
from edgehone.fleet.enrol import make_token
from edgehone.fleet.releases import sync
from edgehone.records.database import Database, open_database
from edgehone.service.settings import Place, load_place, write_settings
from edgehone.simulate.core_news import CoreNews, drawn_samples
from edgehone.simulate.telling import News
from edgehone_agent.errors import HostError

T = TypeVar("T")

_PASSPHRASE = "EDGEHONE_PASSPHRASE"
_CORE = (sys.executable, "-m", "edgehone.cli.main")
_AGENT = (sys.executable, "-m", "edgehone_agent")
_READY_S = 60.0
_STOP_S = 10.0
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Answered:
    """A node's answer to one reading: its id, the class, and the time inside the node."""

    id: str
    answer: int
    version: int
    latency_us: float


@dataclass
class LiveNode:
    """An agent that runs."""

    name: str
    task: str
    state: Path
    process: subprocess.Popen[bytes]
    log: Path
    _link: http.client.HTTPConnection | None = field(default=None, repr=False)

    def ask(self, x: NDArray[np.float32]) -> Answered:
        """Answer one reading. Raises HostError when the node does not."""
        body = x.astype("<f4").tobytes()
        found = self._call("POST", f"/v2/models/{quote(self.task, safe='')}/infer", body, binary=True)
        output, told = found["outputs"][0], found["parameters"]
        version = int(found["model_version"])
        return Answered(told["prediction_id"], int(np.argmax(output["data"])), version, float(told["latency_us"]))

    def feedback(self, id: str, prediction: str, *, label: str, time_s: float) -> None:
        """Say what the right answer was, of a sample of the uniform share. Raises HostError."""
        event = {
            "id": id, "prediction_id": prediction, "kind": "correct", "label": label, "share": "uniform",
            "annotator": f"person at {self.name}", "time": time_s,
        }  # fmt: skip
        self._call("POST", f"/v2/models/{quote(self.task, safe='')}/feedback", json.dumps(event).encode())

    def status(self) -> dict[str, Any]:
        """What it says of its task; {} before it has one. Raises HostError."""
        found: dict[str, Any] = self._call("GET", "/status")["tasks"].get(self.task, {})
        return found

    def _call(self, method: str, path: str, body: bytes | None = None, *, binary: bool = False) -> dict[str, Any]:
        headers = {"Inference-Header-Content-Length": "0"} if binary else {}
        try:
            if self._link is None:
                self._link = _Unix(self.state / "agent.sock")
            self._link.request(method, path, body, headers)
            response = self._link.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise HostError(f"the node does not answer: {error}", where=self.name, do=f"see {self.log}") from error
        if response.status != 200:
            raise HostError(f"the node refused: {content[:200]!r}", where=self.name, do=f"see {self.log}")
        found: dict[str, Any] = json.loads(content) if content else {}
        return found

    def close(self) -> None:
        """Close the connection; the process goes on."""
        if self._link is not None:
            self._link.close()
            self._link = None


class Processes:
    """The processes of one simulation; a context that ends them all.

    Args:
        folder: for the core, the logs and the bundles.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.nodes: list[LiveNode] = []
        self.address = ""
        self.password = ""
        self._states = Path(tempfile.mkdtemp(prefix="edgehone-"))
        self._running: list[subprocess.Popen[bytes]] = []
        self._place: Place | None = None
        self._database: Database | None = None
        self._news: CoreNews | None = None
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def place(self) -> Place:
        """The core's folder. Raises HostError before there is one."""
        if self._place is None:
            raise HostError("the core was not started")
        return self._place

    @property
    def database(self) -> Database:
        """The core's database, beside the core that runs. Raises HostError before there is one."""
        if self._database is None:
            raise HostError("the core was not started")
        return self._database

    def start_core(self, task: str, *, interval_s: float) -> None:
        """Make a core that may sign for the task by itself, and start it. Raises HostError."""
        core = self.folder / "core"
        environment = {_PASSPHRASE: secrets.token_urlsafe(18)}  # of this simulation's keys; nobody needs it afterwards
        command = [*_CORE, "core", "init", str(core), "--task", task, "--approve", "auto", "--json"]
        self.password = json.loads(_call(command, environment))["password"]
        place = load_place(core)
        place = replace(place, settings=replace(place.settings, interval_s=interval_s, listen=(_free_address(),)))
        write_settings(place)
        self._place, self._database = place, open_database(place.database_url)
        self.address = f"https://{place.settings.listen[0]}"
        log = self.folder / "logs" / "core.log"
        process = self._start([*_CORE, "core", "start", str(core), "--json"], log)
        wait_for(lambda: '"ready"' in log.read_text(), "the core", log, process)

    def publish(self, bundles: Sequence[Path]) -> None:
        """Sign releases and let the core know them. Raises EdgehoneError."""
        from edgehone.registry.create import load_anchor
        from edgehone.registry.keys import KeyRing, Passphrases
        from edgehone.registry.publish import publish
        from edgehone.registry.store import Store

        ring = KeyRing([self.place.keys], Passphrases())
        store, anchor = Store(self.place.registry), load_anchor(ring)
        publish(store, ring, list(bundles), [], datetime.now(UTC), anchor=anchor)
        sync(self.database, store, time.time(), anchor=anchor)

    def add_node(self, task: str, name: str, tags: dict[str, str]) -> LiveNode:
        """Make a token, enrol a node with it, and start it. Raises HostError."""
        token = self.make_token(name, tags)
        state = self._states / name
        enrol = [*_AGENT, "enrol", "-", "--core", self.address, "--task", task, "--state", str(state)]
        _call(enrol, {}, f"{token}\n")
        log = self.folder / "logs" / f"{name}.log"
        run = [*_AGENT, "run", "--state", str(state), "--listen", "127.0.0.1:0", "--poll", "2"]
        process = self._start(run, log)
        node = LiveNode(name, task, state, process, log)
        wait_for(lambda: (state / "agent.sock").exists(), name, log, process)
        self.nodes.append(node)
        return node

    def make_token(self, name: str, tags: dict[str, str]) -> str:
        """A token that lets one node in. Raises EdgehoneError."""
        with self.database.write() as conn:
            authority = Authority.load(self.place.authority)
            token = make_token(
                conn, authority, now_s=time.time(), actor="core", name=name, tags=tags, life_s=_HOUR_S
            )  # fmt: skip
        return str(token)

    def news(self) -> list[News]:
        """What the core did since it was last asked. Raises StateError."""
        if self._news is None:
            self._news = CoreNews(self.database)
        return self._news()

    def to_label(self, answered: Collection[str]) -> Sequence[str]:
        """Of the answers given, those whose samples of the uniform share were sent up. Raises StateError."""
        return [id for id in drawn_samples(self.database) if id in answered]

    def check(self) -> None:
        """Raises HostError when a process has ended."""
        for process in self._running:
            if process.poll() is not None:
                raise HostError(
                    f"a process ended by itself with {process.returncode}", where=str(self.folder / "logs"),
                    do="read the last lines of the logs",
                )  # fmt: skip

    def close(self) -> None:
        """End every process, nodes before the core, and remove the nodes' states."""
        for node in self.nodes:
            node.close()
        ending = [one for one in reversed(self._running) if one.poll() is None]
        for process in ending:
            process.terminate()
        until = time.monotonic() + _STOP_S
        for process in ending:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        if self._database is not None:
            self._database.close()
            self._database = None
        shutil.rmtree(self._states, ignore_errors=True)

    def _start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        leashed = [sys.executable, "-m", "edgehone.simulate.leash", str(os.getpid()), *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("ab") as out:
            process = subprocess.Popen(
                leashed, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,  # a Ctrl-C is for the simulation, which ends them in order
            )  # fmt: skip
        self._running.append(process)
        return process


def wait_for(
    found: Callable[[], T],
    what: str,
    log: Path,
    process: subprocess.Popen[bytes] | None = None,
    limit_s: float = _READY_S,
) -> T:
    """Ask until the answer is true; what it was. Raises HostError when it takes too long or the process ends."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until and (process is None or process.poll() is None):
        with suppress(OSError, HostError):
            value = found()
            if value:
                return value
        time.sleep(0.05)
    raise HostError(f"{what} is not ready after {limit_s:.0f} s", where=str(log), do="read its last lines")


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _call(command: Sequence[str], environment: dict[str, str], given: str = "") -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        raise HostError(f"a command failed: {done.stderr.strip()[-500:]}", where=" ".join(command[2:5]))
    return done.stdout


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
