"""What a rollout costs a core with many nodes: one step each second, while the nodes go on with their heartbeats.

    python benchmarks/fleet_scale.py --output benchmarks/results/fleet_scale.json

A SQLite database as a core has it, with statuses of the size that nodes send. Nodes have a heartbeat a minute, so about
1,667 of 100,000 are new at each step. The whole rollout is driven, from its shadow to its end, by a clock of its own.
Three figures for each size of the fleet: the first step, which reads everybody; the steps that follow; and those in
which a stage begins. `everybody_s` is the time to read all nodes as whole views, which each step would cost that keeps
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, insert, update

from edgehone.fleet.releases import load_offers
from edgehone.fleet.rollout import RolloutPlan
from edgehone.fleet.rollouts import advance, find_rollout, start
from edgehone.fleet.views import node_views
from edgehone.records.database import Database, open_database, sqlite_url
from edgehone.records.tables import node, release
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Failed, Labelled, ShadowStatus, TaskStatus

BEAT_S = 60.0
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


def fill(db: Database, count: int, now_s: float) -> None:
    """Nodes that were heard of within the last minute, and two releases."""
    fit = Fit(machines=("aarch64",), runtimes=("litert",), memory_bytes=1 << 20).to_json()
    with db.write() as conn:
        conn.execute(
            insert(node),
            [
                {
                    "id": f"{k:016x}", "name": f"node {k}", "tags": {"site": f"s{k % 7}"}, "state": "active", "why": "",
                    "facts": {**FACTS, "memory_bytes": (1 << 30) + k * 4096}, "enrolled_s": now_s, "beats": 1,
                    "seen_s": now_s - BEAT_S * k / count, "nonce": "d" * 32, "status": {"digits": STATUS.to_json()},
                }
                for k in range(count)
            ],
        )  # fmt: skip
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


def measure(folder: Path, count: int) -> dict[str, Any]:
    """One rollout over a fleet of this size."""
    db = open_database(sqlite_url(folder / f"{count}.sqlite"), create=True)
    now_s = 60_000_000.0
    fill(db, count, now_s)
    with db.read() as conn:
        offers = load_offers(conn)[0][("digits", 2)]
        began = time.perf_counter()
        seen = len(node_views(conn, "digits", offers, now_s))
        everybody_s = time.perf_counter() - began
    plan = RolloutPlan(stages=(0.25, 1.0), soak_s=30.0)
    begun = start(db, "digits", 2, now_s=now_s, actor="core", plan=plan, id="r1")
    times: list[float] = []
    begins: list[float] = []
    cpu_s: list[float] = []
    beats = 0
    state = begun
    while not state.ended and len(times) < 900:
        began, began_cpu = time.perf_counter(), time.process_time()
        happened = advance(db, now_s)
        took_s = time.perf_counter() - began
        cpu_s.append(time.process_time() - began_cpu)
        (begins if happened else times).append(took_s)
        with db.read() as conn:
            state = find_rollout(conn, "r1")
        beats += heartbeats(db, count, now_s + 1.0, now_s, state)
        now_s += 1.0
    db.close()
    ordered = sorted(times)
    return {
        "nodes": count, "seen": seen, "everybody_s": everybody_s, "state": state.state, "steps": len(times),
        "beats_per_step": beats / max(1, len(times) + len(begins)), "first_s": begins[0],
        "p50_s": statistics.median(ordered), "p99_s": ordered[int(len(ordered) * 0.99)],
        "cpu_p50_s": statistics.median(cpu_s), "begins_s": [round(one, 3) for one in begins[1:]],
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
