"""A core as a process on a database of either kind, with nodes, loads and a look into its tables from outside."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from quick_core import quick

from edgehone.records.database import open_database
from edgehone.service.settings import Place, load_place
from edgehone.testing.cores import CoreNode, new_token
from edgehone_agent.wire.uplink import HeartbeatAnswer, TaskStatus

COMMAND = (sys.executable, "-m", "edgehone.cli.main", "core")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
DIGEST = "a" * 64
SERVES = TaskStatus(digest=DIGEST, version=1, member="w8", ready=True, latency_us=100.0)


def run_core(*args: object, code: int = 0) -> Any:
    """Run a verb with --json to its end, and return what it printed, or the error's object."""
    done = subprocess.run(
        [*COMMAND, *map(str, args), "--json"], capture_output=True, text=True, timeout=120, env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def wait_until(found: Callable[[], Any], what: Callable[[], object] | str, limit_s: float = 60.0) -> Any:
    """Ask again and again until there is something. Answers that do not come count as nothing."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError, AssertionError, http.client.HTTPException):
            value = found()
            if value:
                return value
        time.sleep(0.05)
    raise AssertionError(f"not within {limit_s} s: {what() if callable(what) else what}")


class CoreProcess:
    """A core that serves on one port, however often it is started again. Its log goes on in one file."""

    def __init__(self, place: Place, log: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.place, self._log = place, log
        self._environment = {**ENVIRONMENT, **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.nodes: list[CoreNode] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> CoreProcess:
        """Start it, and return when it listens."""
        command = [*quick([*COMMAND, "start"]), str(self.place.folder), "--listen", f"127.0.0.1:{self.port}", "--json"]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment
            )
        assert self.process.stdout is not None
        with self.process.stdout as said:
            assert "ready" in said.readline(), self.log()
        return self

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)

    def close(self) -> None:
        """End what runs."""
        for node in self.nodes:
            node.close()
        if self.process is not None:
            self.end(signal.SIGKILL)

    def log(self) -> str:
        """What it has logged since it was started first."""
        return self._log.read_text()

    def node(self, folder: Path, **token: Any) -> CoreNode:
        """A node with a fresh token."""
        node = self.stranger(folder)
        node.enrol(new_token(self.place, **token))
        return node

    def stranger(self, folder: Path) -> CoreNode:
        """A node that is not enrolled."""
        self.nodes.append(CoreNode(self.port, folder, self.place.authority / "ca.pem", timeout_s=60.0))
        return self.nodes[-1]

    def rows(self, query: Any) -> list[Any]:
        """What a query finds in the database, read beside the core."""
        with closing(open_database(self.place.database_url)) as database, database.read() as conn:
            return list(conn.execute(query))

    def column(self, column: Any) -> list[Any]:
        """Every value of a column, in its order."""
        return [row[0] for row in self.rows(select(column).order_by(column))]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        """A call of a person's program over plain HTTP on this machine."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(connection):
            given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request(method, path, None if body is None else json.dumps(body), given)
            answer = connection.getresponse()
            content = answer.read()
            is_json = "json" in answer.headers.get("content-type", "")
            return answer.status, json.loads(content) if is_json else content.decode(), dict(answer.headers)


def moved(folder: Path, log: Path) -> CoreProcess:
    """The core that lies in a folder."""
    return CoreProcess(load_place(folder), log)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory; the test is skipped where mounting is not allowed, and fails in CI."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail("this container may not mount a tmpfs")
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def event(id: str, **more: Any) -> dict[str, Any]:
    """A feedback event."""
    return {"id": id, "prediction_id": f"p-{id}", "kind": "correct", "label": "3", **more}


def sample_line(id: str, *, values: int = 4, seed: int = 0, task: str = "digits") -> bytes:
    """A line of samples, its reading unlike any other's."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng([seed, *id.encode()]).standard_normal((1, values)).astype(np.float32))
    told = {
        "id": id, "task": task, "digest": DIGEST, "time_s": 5.0, "share": "uniform", "propensity": 0.5,
        "informativeness": 0.1, "stratum": "zero", "answer": [0.5, 0.5],
        "x": base64.b64encode(file.getvalue()).decode(),
    }  # fmt: skip
    return json.dumps(told).encode()


class Talker:
    """A node that sends feedback, samples and heartbeats as fast as it is answered, and notes what was acknowledged.

    Attributes:
        events, samples: ids that were acknowledged.
        beats: digests that were acknowledged, in their order; each heartbeat reports another one.
        refusals: status → how often; `waits` the Retry-After of each.
    """

    def __init__(self, node: CoreNode, name: str, *, values: int = 4) -> None:
        self.node, self.name, self._values = node, name, values
        self.events: set[str] = set()
        self.samples: set[str] = set()
        self.beats: list[str] = []
        self.refusals: dict[int, int] = {}
        self.waits: list[float] = []
        self.broken = 0
        self.worst_s = 0.0
        self._number = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Talk in a thread of its own."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        """Say no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(120)
            assert not self._thread.is_alive()

    @property
    def said(self) -> int:
        """Acknowledged so far."""
        return len(self.events) + len(self.samples) + len(self.beats)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self.turn()
            except (OSError, http.client.HTTPException, ssl.SSLError):  # the core is away
                self.broken += 1
                self.node.close()
                time.sleep(0.1)

    def turn(self, *, beats: bool = True) -> None:
        """One of each; the last ids are sent again, so that a core that takes an id twice would show."""
        self._number += 1
        for id in {f"{self.name}-{self._number}", f"{self.name}-{max(1, self._number - 1)}"}:
            body = json.dumps({"events": [event(f"e-{id}"), event(f"f-{id}")]}).encode()
            self.events |= self._take("/v1/node/feedback", body)
            self.samples |= self._take("/v1/node/samples", sample_line(f"s-{id}", values=self._values))
        if not beats:
            return
        digest = hashlib.sha256(f"{self.name}-{self._number}".encode()).hexdigest()
        told = {"sent_s": time.time(), "agent": "0.1.0", "nonce": self.node.nonce}
        status = TaskStatus(digest=digest, version=self._number, member="w8", ready=True)
        body = json.dumps({**told, "tasks": {"digits": status.to_json()}}).encode()
        found = self._call("/v1/node/heartbeat", body)
        if found is not None:
            self.node.nonce = found["nonce"]
            self.beats.append(digest)

    def _take(self, path: str, body: bytes) -> set[str]:
        found = self._call(path, body)
        return set() if found is None else {*found["taken"], *found["known"]}

    def _call(self, path: str, body: bytes) -> Any:
        began = time.monotonic()
        status, content, headers = self.node.call("POST", path, body)
        self.worst_s = max(self.worst_s, time.monotonic() - began)
        if status == 200:
            return json.loads(content)
        self.refusals[status] = self.refusals.get(status, 0) + 1
        self.waits.append(float(headers.get("retry-after") or 0))
        time.sleep(0.02)
        return None


class Puppet:
    """A node that serves what the core wants of a task, from one heartbeat to the next.

    Attributes:
        status: of its task.
        answer: the core's last one.
    """

    def __init__(self, node: CoreNode, task: str, digests: Mapping[int, str], status: TaskStatus = SERVES) -> None:
        self.node, self.task, self.digests, self.status = node, task, digests, status
        self.answer: HeartbeatAnswer | None = None
        self.facts = {"machine": "x86_64", "runtimes": ["litert"], "memory_bytes": 1 << 30}

    def beat(self) -> HeartbeatAnswer:
        """A heartbeat; what it asks for is done at once."""
        self.answer = self.node.beat({self.task: self.status}, facts=self.facts)
        wanted = self.answer.desired.get(self.task)
        if wanted is not None and wanted.version is not None and wanted.version != self.status.version:
            digest, version = self.digests[wanted.version], wanted.version
            self.status = replace(self.status, version=version, digest=digest, ready=True, predictions=0)
        return self.answer


CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile double *ahead_s;
__attribute__((constructor)) static void find(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *place = file < 0 ? MAP_FAILED : mmap(0, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    if (place != MAP_FAILED) ahead_s = place;
    if (file >= 0) close(file);
}
int clock_gettime(clockid_t id, struct timespec *t) {
    int failed = syscall(SYS_clock_gettime, id, t);
    if (!failed && ahead_s && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += (time_t)*ahead_s;
    return failed;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """The time of day of a process, OpenSSL's included, moved while it runs: a library in front of the system's.

    Attributes:
        environment: of a process that goes by this clock.
        ahead_s: of the true time.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            if os.environ.get("CI"):
                pytest.fail("there is no C compiler")
            pytest.skip("there is no C compiler")
        source, library, self._file = folder / "clock.c", folder / "clock.so", folder / "clock"
        source.write_text(CLOCK)
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
        self.ahead_s = 0.0
        self._file.write_bytes(struct.pack("d", 0.0))
        self.environment = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(self._file)}

    def shift(self, ahead_s: float) -> None:
        """Be so many seconds ahead of the true time from now on."""
        self.ahead_s = ahead_s
        with self._file.open("r+b") as file:
            file.write(struct.pack("d", ahead_s))

    def now_s(self) -> float:
        """What a process that goes by this clock takes for the time."""
        return time.time() + self.ahead_s
