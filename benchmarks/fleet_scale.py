"""What a rollout costs a core with many nodes: one step each second, while the nodes go on with their heartbeats.

    python benchmarks/fleet_scale.py --output benchmarks/results/fleet_scale.json

A SQLite database as a core has it, with statuses of the size that nodes send. Nodes have a heartbeat a minute, so about
1,667 of 100,000 are new at each step. The whole rollout is driven, from its shadow to its end, by a clock of its own.
For each size of the fleet, in seconds by the clock on the wall and of the processor (`cpu`):

- `reading`: the first steps, each of which reads a part of the fleet, until all of it is known.
- `begins`: steps in which something happens: canaries are chosen, a stage begins, the rollout is done.
- `quiet`: all others. `longest_s` is the longest step of any kind.
- `longest_write_s`: the longest write transaction of a step. A heartbeat never waits longer for a step than that.
- `everybody_s`: the time to read all nodes as whole views, which each step would cost that keeps nothing.
- `kept_mb`: by how much the process grew from before the first step to the end of the rollout.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, insert, update

from edgehone.fleet.releases import load_offers
from edgehone.fleet.rollout import RolloutPlan
from edgehone.fleet.rollouts import advance, find_rollout, start
from edgehone.fleet.views import node_views
from edgehone.records.database import Database, open_database, sqlite_url
from edgehone.records.tables import node, release
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Failed, Labelled, ShadowStatus, TaskStatus

BEAT_S = 60.0
CHUNK = 5000
FACTS = {
    "machine": "aarch64", "runtimes": ["litert", "onnxruntime"], "memory_bytes": 1 << 30, "agent": "0.1.0",
    "clock_skew_s": 0.012, "floors": {"digits": 1}, "flags": [], "disk_free_bytes": 10**9,
    "evidence_s": {"digits": 1e9}, "nonce_before": "a" * 32,
}  # fmt: skip
OLD, NEW = "a" * 64, "b" * 64
STATUS = TaskStatus(
    digest=OLD, version=1, member="w22-int8", ready=True, latency_us=103.4, predictions=120_345, swaps=2,
    memory_bytes=1_200_000, failed=(Failed("c" * 64, 9, "the probe answers differently"),), labelled=Labelled(20, 1),
)  # fmt: skip
_BEAT = update(node).where(node.c.id == bindparam("b_id")).values(
    status=bindparam("b_status"), seen_s=bindparam("b_seen"), beats=node.c.beats + 1
)  # fmt: skip


def _row(k: int, count: int, now_s: float) -> dict[str, Any]:
    return {
        "id": f"{k:016x}", "name": f"node {k}", "tags": {"site": f"s{k % 7}"}, "state": "active", "why": "",
        "facts": {**FACTS, "memory_bytes": (1 << 30) + k * 4096}, "enrolled_s": now_s, "beats": 1,
        "seen_s": now_s - BEAT_S * k / count, "nonce": "d" * 32, "status": {"digits": STATUS.to_json()},
    }  # fmt: skip


def fill(db: Database, count: int, now_s: float) -> None:
    """Nodes that were heard of within the last minute, and two releases."""
    fit = Fit(machines=("aarch64",), runtimes=("litert",), memory_bytes=1 << 20).to_json()
    for at in range(0, count, CHUNK):
        with db.write() as conn:
            conn.execute(
                insert(node), [_row(k, count, now_s) for k in range(at, min(count, at + CHUNK))]
            )  # fmt: skip
    with db.write() as conn:
        for version, digest in ((1, OLD), (2, NEW)):
            conn.execute(
                insert(release).values(
                    digest=digest, task="digits", version=version, member="w22-int8", rank=0, size_bytes=10**5, fit=fit,
                    measured={}, published_s=now_s,
                )
            )  # fmt: skip


def heartbeats(db: Database, count: int, now_s: float, since_s: float, touches: Any) -> int:
    """Nodes whose minute is over report again, with what a rollout has them do."""
    rows = []
    for k in range(count):
        due_s = -BEAT_S * k / count  # each at its own second of a minute
        if (now_s - due_s) // BEAT_S == (since_s - due_s) // BEAT_S:
            continue
        id = f"{k:016x}"
        status = STATUS
        if touches is not None and touches.touches(id):
            if touches.stage == "shadow":
                shadow = ShadowStatus(NEW, 2, rows=500, disagreements=2, latency_us=100.0)
                status = replace(STATUS, shadow=shadow)
            else:
                status = replace(STATUS, digest=NEW, version=2)
        rows.append({"b_id": id, "b_status": {"digits": status.to_json()}, "b_seen": now_s})
    with db.write() as conn:
        conn.execute(_BEAT, rows)
    return len(rows)


class Writes:
    """The longest write transaction of a database, while it is on."""

    def __init__(self, db: Database) -> None:
        self.longest_s = 0.0
        self.on = False
        self._write = db.write
        db.write = self.write  # type: ignore[method-assign]

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """As `Database.write`."""
        began = time.perf_counter()
        with self._write() as conn:
            yield conn
        if self.on:
            self.longest_s = max(self.longest_s, time.perf_counter() - began)


@dataclass
class Times:
    """Of steps of one kind."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Figures of them."""
        found: dict[str, Any] = {"steps": len(self.wall_s)}
        for name, times in (("", self.wall_s), ("cpu_", self.cpu_s)):
            ordered = sorted(times) or [0.0]
            found[f"{name}p50_s"] = round(statistics.median(ordered), 4)
            found[f"{name}p99_s"] = round(ordered[int(len(ordered) * 0.99)], 4)
            found[f"{name}longest_s"] = round(ordered[-1], 4)
        return found


def memory_mb() -> float:
    """What the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def measure(folder: Path, count: int) -> dict[str, Any]:
    """One rollout over a fleet of this size."""
    db = open_database(sqlite_url(folder / f"{count}.sqlite"), create=True)
    now_s = 60_000_000.0
    fill(db, count, now_s)
    gc.collect()
    before_mb = memory_mb()
    plan = RolloutPlan(stages=(0.25, 1.0), soak_s=30.0)
    state = start(db, "digits", 2, now_s=now_s, actor="core", plan=plan, id="r1")
    writes = Writes(db)
    kinds = {"reading": Times(), "begins": Times(), "quiet": Times()}
    steps = beats = 0
    while not state.ended and steps < 900:
        writes.on = True
        began, began_cpu = time.perf_counter(), time.process_time()
        happened = advance(db, now_s)
        took_s, took_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        writes.on = False
        steps += 1
        with db.read() as conn:
            state = find_rollout(conn, "r1")
        kind = kinds["begins" if happened else "quiet" if state.canaries else "reading"]
        kind.wall_s.append(took_s)
        kind.cpu_s.append(took_cpu_s)
        beats += heartbeats(db, count, now_s + 1.0, now_s, state)
        now_s += 1.0
    kept_mb = memory_mb() - before_mb
    with db.read() as conn:
        offers = load_offers(conn)[0][("digits", 2)]
        began = time.perf_counter()
        seen = len(node_views(conn, "digits", offers, now_s))
        everybody_s = time.perf_counter() - began
    db.close()
    return {
        "nodes": count, "seen": seen, "everybody_s": round(everybody_s, 3), "state": state.state, "steps": steps,
        "beats_per_step": round(beats / steps, 1), "kept_mb": round(kept_mb, 1),
        "longest_s": round(max(max(one.wall_s, default=0.0) for one in kinds.values()), 4),
        "longest_write_s": round(writes.longest_s, 4), **{name: one.to_json() for name, one in kinds.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]), "machine": platform.machine(), "cores": os.cpu_count(),
        "python": platform.python_version(), "fleets": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for count in args.nodes:
            result["fleets"].append(measure(Path(name), count))
            print(json.dumps(result["fleets"][-1]), flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
