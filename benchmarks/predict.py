"""What the node adds to a model's own time: `Node.predict` and `Node.infer` over the bare call, and a request while
models are swapped.

The calls of one round are interleaved and each is timed alone. Requests go over a Unix socket to a process of its own.

python benchmarks/predict.py        writes benchmarks/results/predict.json
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgehone.bundle.card import build_card
from edgehone.measure.machine import describe_machine
from edgehone.testing.bundles import write_bundle
from edgehone_agent.bundle import open_bundle
from edgehone_agent.model import open_model, to_file
from edgehone_agent.node import Node

RESULTS = Path(__file__).parent / "results"
TASK = "gestures"
ROUNDS, CALLS = 60, 200
SWAPS = 60
SERVER = """
import sys
from edgehone.testing.hosts import serving
from edgehone_agent.node import Node
sys.setswitchinterval(0.0005)
folder = sys.argv[1]
with Node(f"{folder}/n", tasks=["gestures"]) as node:
    node.install("gestures", f"{folder}/1.bundle")
    with serving(node, [f"unix:{folder}/s"]):
        print("ready", flush=True)
        for line in sys.stdin:
            node.install("gestures", line.strip())
            print("swapped", flush=True)
"""


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def timed(call: Callable[[], Any], watching: Node) -> float:
    """Median of some calls, in microseconds, with an empty queue before them: a full one would cost less."""
    feed = watching._live[TASK].feed
    if feed is not None:
        feed.drain()
    times = np.empty(CALLS)
    for index in range(CALLS):
        started = time.perf_counter_ns()
        call()
        times[index] = time.perf_counter_ns() - started
    return float(np.median(times)) / 1e3


def card_of(bundle: Path) -> bytes:
    """A drift reference for the bundle's model, from random readings."""
    with open_bundle(bundle) as opened:
        part = opened.manifest.part("model")
        content = opened.read(part)
    file = bundle.with_suffix(".model.tflite")
    file.write_bytes(content)
    x = np.random.default_rng(1).standard_normal((4000, 20), np.float32)
    with open_model(file) as model:
        y = model.predict(x)
    return build_card(x, y, None, kind="classification", model_digest=part.sha256).to_bytes()


def in_process(folder: Path) -> dict[str, Any]:
    """Medians over rounds of each way to ask, and what they add to the bare call."""
    bare = write_bundle(folder / "bare.bundle", version=1)
    watched = write_bundle(folder / "watched.bundle", version=1, extra=(("card.bin", "card", card_of(bare.path)),))
    with Node(folder / "a", tasks=[TASK]) as plain, Node(folder / "b", tasks=[TASK]) as watching:
        plain.install(TASK, bare.path)
        watching.install(TASK, watched.path)
        session = plain._live[TASK].lanes[0].model.session
        x, batch = bare.x, bare.x[None]
        ready = to_file(session, x)
        calls: dict[str, Callable[[], Any]] = {
            "bare": lambda: session.run(ready),
            "predict": lambda: plain.predict(x),
            "predict_watched": lambda: watching.predict(x),
            "infer": lambda: plain.infer(TASK, batch),
            "infer_watched": lambda: watching.infer(TASK, batch),
        }
        rounds = [{name: timed(call, watching) for name, call in calls.items()} for _ in range(ROUNDS)]
    medians = {name: float(np.median([one[name] for one in rounds])) for name in calls}
    added = {name: medians[name] - medians["bare"] for name in calls if name != "bare"}
    return {"median_us": medians, "over_bare_us": added, "rounds": ROUNDS, "calls": CALLS}


def requests(connection: Connection, body: bytes, until: Callable[[], bool]) -> list[float]:
    """Latencies of one client, in milliseconds, until told to stop. Raises RuntimeError when a request fails."""
    times = []
    while not until():
        started = time.perf_counter()
        connection.request("POST", f"/v2/models/{TASK}/infer", body)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"a request failed: {response.status}")
        times.append((time.perf_counter() - started) * 1e3)
        time.sleep(0.001)
    return times


def swapping(folder: Path) -> dict[str, Any]:
    """Request latency while nothing is swapped, and while a model is, again and again."""
    made = [write_bundle(folder / f"{version}.bundle", version=version) for version in range(1, SWAPS + 2)]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if server.stdin is None or server.stdout is None:
        raise RuntimeError("no pipe")
    server.stdout.readline()
    connection = Connection(folder / "s")
    data = made[0].x.tolist()
    body = json.dumps({"inputs": [{"name": "reading", "shape": [1, 20], "datatype": "FP32", "data": data}]}).encode()
    still, moving = [], []
    for one in made[1:]:
        end = time.perf_counter() + 0.3
        still += requests(connection, body, lambda end=end: time.perf_counter() > end)  # type: ignore[misc]
        server.stdin.write(f"{one.path}\n")
        server.stdin.flush()
        moving += requests(connection, body, lambda: bool(select.select([server.stdout], [], [], 0)[0]))
        server.stdout.readline()
    server.stdin.close()
    server.wait()
    found = {
        name: {
            "p50_ms": float(np.quantile(times, 0.5)),
            "p99_ms": float(np.quantile(times, 0.99)),
            "requests": len(times),
        }
        for name, times in (("still", still), ("swapping", moving))
    }
    return {**found, "p99_rise_ms": found["swapping"]["p99_ms"] - found["still"]["p99_ms"], "swaps": SWAPS, "failed": 0}


def main() -> None:
    """Run and write the result."""
    with tempfile.TemporaryDirectory(prefix="eh-") as name:
        folder = Path(name)
        result = {
            "what": "Node over the bare runtime call: float32 .tflite, 20 values in, 4 out, LiteRT, 1 thread",
            "command": "python benchmarks/predict.py",
            "in_process": in_process(folder),
            "requests": swapping(folder),
            "machine": describe_machine(),
        }
    (RESULTS / "predict.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("in_process", "requests")}, indent=1))


if __name__ == "__main__":
    main()
