"""What the node adds to a model's own time: `Node.predict` and `Node.infer` over the bare call, and a request while
models are swapped.

The calls of one round are interleaved and each is timed alone. Requests go over a Unix socket to a process of its own.

python benchmarks/predict.py        writes benchmarks/results/predict.json

On a machine where others work, `chrt -r 1` before it keeps their work out of the figures.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from serving import by_socket, http_request

from edgehone.bundle.card import build_card
from edgehone.exporters import EXPORTERS
from edgehone.graph.twin import quantize
from edgehone.measure.machine import describe_machine
from edgehone.testing.bundles import write_bundle
from edgehone.testing.graphs import GraphBuilder
from edgehone_agent.bundle import open_bundle
from edgehone_agent.fast import FastModel
from edgehone_agent.model import open_model, to_file
from edgehone_agent.node import Node

RESULTS = Path(__file__).parent / "results"
TASK = "gestures"
SCHEDULED = "chrt -r 1 " if os.sched_getscheduler(0) == os.SCHED_RR else ""
ROUNDS, CALLS = 60, 200
PICTURE = (3, 32, 32)
SWAPS, STILL_S = 200, 0.05
INSTALLER = """
import contextlib, random, sys, time
from edgehone.testing.hosts import serving
from edgehone_agent.node import Node
sys.setswitchinterval(0.0005)
folder, name = sys.argv[1:]
with Node(f"{folder}/{name}", tasks=["gestures"]) as node:
    node.install("gestures", f"{folder}/1.bundle")
    with serving(node, [f"unix:{folder}/s"]) if name == "here" else contextlib.nullcontext():
        print("ready", flush=True)
        for line in sys.stdin:
            time.sleep(random.uniform(0.002, 0.004))  # when the line comes, the other side is about to ask
            started = time.perf_counter()
            node.install("gestures", line.strip())
            print(started, time.perf_counter(), flush=True)
"""


def timed(call: Callable[[], Any], watching: Node | None = None) -> float:
    """Median of some calls, in microseconds, with an empty queue before them: a full one would cost less."""
    feed = None if watching is None else watching._live[TASK].feed
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


def pictures(folder: Path) -> dict[str, Any]:
    """What the conversion of a float32 picture adds to the bare call: a file of floats, and one of integers."""
    import torch

    rng, calls = np.random.default_rng(0), dict[str, Callable[[], Any]]()
    for name in ("float32", "int8"):
        build = GraphBuilder((1, *PICTURE), seed=2)
        x = build.node("relu", build.conv(build.input, 4, bias=True))
        graph = build.graph(build.linear(build.node("mean", x, axes=(2, 3), keepdim=False), 5))
        if name == "int8":
            graph = quantize(graph, [torch.from_numpy(rng.standard_normal((32, *PICTURE), np.float32))])
        file = folder / f"{name}.tflite"
        file.write_bytes(EXPORTERS.get("tflite").export(graph))
        model, x = FastModel(open_model(file).session), rng.standard_normal(PICTURE, np.float32)
        ready = to_file(model.session, x)
        calls[f"{name} bare"] = lambda session=model.session, ready=ready: session.run(ready)  # type: ignore[misc]
        calls[f"{name} predict"] = lambda model=model, x=x: model.predict(x)  # type: ignore[misc]
    rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    medians = {name: float(np.median([one[name] for one in rounds])) for name in calls}
    added = {name: medians[f"{name} predict"] - medians[f"{name} bare"] for name in ("float32", "int8")}
    return {"shape": PICTURE, "median_us": medians, "over_bare_us": added, "rounds": ROUNDS, "calls": CALLS}


Times = list[tuple[float, float]]  # of requests: sent, answered; seconds of the clock that all processes share


def asking(ask: Callable[[], None], until: Callable[[], bool]) -> Times:
    """Ask about once a millisecond until told to stop."""
    times = []
    while not until():
        started = time.perf_counter()
        ask()
        times.append((started, time.perf_counter()))
        time.sleep(0.001)
    return times


def swapping(folder: Path) -> dict[str, Any]:
    """Request latency while nothing is installed, while the serving process swaps, and while another one does the same.

    The other process is the control: it takes the same time of cores and disk and shares no interpreter. A request
    counts for a swap when it is under way at any moment of it. The three take turns, in a new order for every bundle.
    """
    made = [write_bundle(folder / f"{version}.bundle", version=version) for version in range(1, SWAPS + 2)]
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", INSTALLER, str(folder), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in ("here", "aside")
    }  # fmt: skip
    pipes = {name: (_given(process.stdin), _given(process.stdout)) for name, process in processes.items()}
    for _, said in pipes.values():
        said.readline()
    tensor = {"name": "reading", "shape": [1, 20], "datatype": "FP32", "data": made[0].x.tolist()}
    ask = by_socket(f"unix:{folder / 's'}", http_request(json.dumps({"inputs": [tensor]}).encode(), None, TASK))
    found: dict[str, list[list[float]]] = {"still": [], "here": [], "aside": []}
    rng = random.Random(0)
    for one in made[1:]:
        for name in rng.sample(list(found), 3):
            end = time.perf_counter() + STILL_S
            before = asking(ask, lambda end=end: time.perf_counter() > end)  # type: ignore[misc]
            if name == "still":
                found[name].append([(done - sent) * 1e3 for sent, done in before])
                continue
            told, said = pipes[name]
            told.write(f"{one.path}\n")
            told.flush()
            during = asking(ask, lambda said=said: bool(select.select([said], [], [], 0)[0]))  # type: ignore[misc]
            first, last = map(float, said.readline().split())
            found[name].append([(done - sent) * 1e3 for sent, done in during if done > first and sent < last])
    for name, process in processes.items():
        pipes[name][0].close()
        process.wait()
    rows = {name: _quantiles(blocks) for name, blocks in found.items()}
    rises = {f"p99_rise_over_{name}_ms": _rise(found["here"], found[name]) for name in ("still", "aside")}
    return {**rows, **rises, "swaps": SWAPS, "failed": 0}  # a request that fails ends the run


def _given(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("no pipe")
    return pipe


def _quantiles(blocks: list[list[float]]) -> dict[str, float]:
    times = np.concatenate(blocks)
    return {
        "p50_ms": float(np.quantile(times, 0.5)),
        "p90_ms": float(np.quantile(times, 0.9)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "requests": len(times),
    }


def _rise(here: list[list[float]], there: list[list[float]]) -> dict[str, float]:
    """Difference of the 99th percentiles, with its 95 % bootstrap interval over the swaps."""
    rng = np.random.default_rng(0)

    def p99(blocks: list[list[float]], picks: Any) -> float:
        return float(np.quantile(np.concatenate([blocks[pick] for pick in picks]), 0.99))

    every = range(len(here))
    drawn = [p99(here, rng.integers(0, len(here), len(here))) - p99(there, rng.integers(0, len(there), len(there)))
             for _ in range(500)]  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": p99(here, every) - p99(there, every), "low": float(low), "high": float(high)}


def main() -> None:
    """Run and write the result."""
    with tempfile.TemporaryDirectory(prefix="eh-") as name:
        folder = Path(name)
        result = {
            "what": "Node over the bare runtime call: float32 .tflite, 20 values in, 4 out, LiteRT, 1 thread",
            "command": f"{SCHEDULED}python benchmarks/predict.py",
            "in_process": in_process(folder),
            "pictures": pictures(folder),
            "requests": swapping(folder),
            "machine": describe_machine(),
        }
    (RESULTS / "predict.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("in_process", "pictures", "requests")}, indent=1))


if __name__ == "__main__":
    main()
