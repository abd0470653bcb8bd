"""A core's database filled with a fleet that has lived for a while: for tests of whoever looks at it, and for pictures.

place = make_core(folder); fill(place, now_s)         # same seed, same fleet
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, select, update

from edgehone.fleet import rollouts
from edgehone.fleet.cohorts import put_cohort, set_versions
from edgehone.fleet.rollout import RolloutPlan
from edgehone.loop.gate import judge
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.round import Round
from edgehone.records import audit
from edgehone.records.blobs import Blobs, open_blobs
from edgehone.records.database import open_database
from edgehone.records.tables import dataset, decision, evidence, feedback, node, release, sample, served
from edgehone.records.tables import round as round_table
from edgehone.registry.names import blob_path, bundle_path
from edgehone.service.settings import Place
from edgehone.testing.bundles import write_bundle
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Failed, Labelled, TaskStatus

TASK, WAVES = "digits", "pump-vibration"
WAITING = "r-0008"  # the round that waits for a person
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MEMBERS = (
    ("w16-int8", 0.951, 410.0, 21_000),
    ("w32-int8", 0.972, 900.0, 58_000),
    ("w32-float", 0.978, 2100.0, 214_000),
)
CHANNELS = ("brightness", "contrast", "projection 3", "confidence", "class mix")
HOUR_S = 3600.0
FACTS = {"machine": "aarch64", "runtimes": ["litert", "onnxruntime"], "memory_bytes": 1 << 30, "agent": "0.1.0"}


@dataclass
class Seeded:
    """What was made: nodes by name, the rollout that runs, and how many samples wait for a label."""

    nodes: dict[str, str] = field(default_factory=dict)
    rollout: str = ""
    waiting: int = 0


def fill(place: Place, now_s: float, *, nodes: int = 14, samples: int = 36, seed: int = 1) -> Seeded:
    """Fill a core's database.

    Args:
        place: of a core whose database is there and has no nodes.
        now_s: the core's clock; what is made lies in the day before it.
        nodes: how many, 6 or more.
        samples: of the task `TASK`, without a label.
        seed: of all that is random.
    """
    database, blobs = open_database(place.database_url), open_blobs(place.blobs_url)
    made, rng = Seeded(waiting=samples), np.random.default_rng(seed)
    try:
        with database.write() as conn:
            digests = _releases(conn, place.registry, now_s)
            _nodes(conn, made, digests, now_s, nodes, rng)
            _samples(conn, blobs, made, digests, now_s, samples, rng)
            _loop(conn, blobs, now_s)
            put_cohort(
                conn, "digits/south", TASK, tags={"site": "south"}, channel="canary", actor="person:ada", now_s=now_s
            )
            set_versions(conn, TASK, [TASK, "digits/south"], 2, now_s - 40 * HOUR_S)
        plan = RolloutPlan(shadow_rows=0, canary_share=0.2, soak_s=3600.0)
        started = rollouts.start(
            database, TASK, 3, now_s=now_s - 900, actor="person:ada", plan=plan, id=f"{seed:016x}", supersede=True
        )  # fmt: skip
        made.rollout = started.id
        rollouts.advance(database, now_s)
        with database.write() as conn:
            content = rollouts.find_rollout(conn, started.id)
            for watched in content.canaries:
                _take(conn, watched.node, digests[(TASK, 3)], now_s)
        rollouts.advance(database, now_s)
    finally:
        database.close()
    return made


def _releases(conn: Connection, registry: Path, now_s: float) -> dict[tuple[str, int], str]:
    """Three versions of a family, with real bundles in the registry's place; the digest of each first member."""
    found: dict[tuple[str, int], str] = {}
    for task, version in ((TASK, 1), (TASK, 2), (TASK, 3), (WAVES, 1)):
        for rank, (member, accuracy, latency_us, size) in enumerate(MEMBERS if task == TASK else MEMBERS[:1]):
            labels = NAMES if task == TASK else ("fine", "worn", "loose")
            scratch = registry.parent / "scratch" / f"{task}-{version}-{member}.bundle"
            made = write_bundle(
                scratch, version=version, task=task, member=member, widths=(8, len(labels)), labels=labels, seed=rank
            )
            kept = registry / blob_path(bundle_path(task, version, member), made.digest)
            kept.parent.mkdir(parents=True, exist_ok=True)
            made.path.replace(kept)
            found.setdefault((task, version), made.digest)
            quality = accuracy + 0.004 * version
            conn.execute(
                insert(release).values(
                    digest=made.digest, task=task, version=version, member=member, rank=rank, size_bytes=size,
                    fit=Fit(machines=("aarch64",), runtimes=("litert",), memory_bytes=1 << 20).to_json(),
                    measured={
                        "accuracy test": {"value": quality, "low": quality - 0.009, "high": quality + 0.007},
                        "latency_us litert": {"value": latency_us * (1 - 0.03 * version)},
                    },
                    recipe=f"prune + {'quantize' if 'int8' in member else 'distil'}", approved_by="person:ada",
                    published_s=now_s - (4 - version) * 30 * HOUR_S, round="r-0007" if version == 2 else None,
                )
            )  # fmt: skip
    return found


def _nodes(
    conn: Connection,
    made: Seeded,
    digests: dict[tuple[str, int], str],
    now_s: float,
    count: int,
    rng: np.random.Generator,
) -> None:
    for at in range(count):
        site = ("north", "south", "harbour")[at % 3]
        name, id = f"{site}-{at // 3 + 1}", hashlib.sha256(f"node {at}".encode()).hexdigest()[:16]
        made.nodes[name] = id
        drifts = site == "south" and at < 8
        state = {count - 1: "revoked", count - 2: "quarantined"}.get(at, "active")
        latency_us = float(rng.uniform(380, 520))
        status = TaskStatus(
            digest=digests[(TASK, 2)], version=2, member="w16-int8", ready=True, latency_us=latency_us,
            watch_level=3 if drifts else int(at == 4), risk_level=2 if drifts and at < 4 else 0,
            predictions=int(rng.integers(20_000, 90_000)), memory_bytes=3 << 20,
            labelled=Labelled(200, int(rng.integers(4, 14)) + 30 * drifts),
            failed=(Failed(digests[(TASK, 1)], 1, "its golden answers differ"),) if at == 3 else (),
        )  # fmt: skip
        tasks = {TASK: status.to_json()}
        if site == "harbour":
            tasks[WAVES] = TaskStatus(
                digest=digests[(WAVES, 1)], version=1, member="w16-int8", ready=at != 5, latency_us=latency_us / 3,
                fault="the vibration sensor is not there" if at == 5 else None, predictions=1200,
            ).to_json()  # fmt: skip
        seen_s = now_s - (9 * HOUR_S if at == 6 else float(rng.uniform(1, 40)))
        conn.execute(
            insert(node).values(
                id=id, name=name, tags={"site": site, "camera": "ab"[at % 2]}, state=state,
                why={"revoked": "sold", "quarantined": "its lens is cracked"}.get(state, ""),
                enrolled_s=now_s - 90 * 24 * HOUR_S,
                facts={**FACTS, "disk_free_bytes": 9 << 30, "clock_skew_s": 0.2, "flags": []}, seen_s=seen_s,
                status=tasks, beats=120_000 + at,
            )
        )  # fmt: skip
        conn.execute(
            insert(served).values(
                node=id, task=TASK, digest=digests[(TASK, 2)], version=2, member="w16-int8",
                from_s=now_s - 40 * HOUR_S, to_s=None, why="the cohort's version",
            )
        )  # fmt: skip
        for hour in range(24, 0, -1):
            strength = max(0.0, (14 - hour) / 14) if drifts else 0.0
            time_s = now_s - hour * HOUR_S + 600
            if time_s <= seen_s:
                conn.execute(insert(evidence).values(**_evidence(id, time_s, strength, rng)))


def _evidence(id: str, time_s: float, strength: float, rng: np.random.Generator) -> dict[str, Any]:
    """A row of evidence; strength 0 is quiet, 1 an alarm in the first two channels."""
    decades = [max(-0.4, strength * (6.6 - 2.1 * at)) + float(rng.normal(0, 0.14)) for at in range(len(CHANNELS))]
    level = sum(max(decades) >= limit for limit in (3.0, 5.0, 6.0))
    channels = [
        {"channel": name, "log_e": {"exact": value * math.log(10), "tolerant": (value - 0.3) * math.log(10)},
         "direction": "lower"}
        for name, value in zip(CHANNELS, decades, strict=True)
    ]  # fmt: skip
    content = {"level": level, "index": 10 ** max(decades), "rows": 5000, "channels": channels}
    return {
        "node": id, "task": TASK, "digest": "0" * 64, "received_s": time_s, "watch_level": level,
        "risk_level": 0, "rows": 5000, "content": content,
    }  # fmt: skip


def _samples(
    conn: Connection, blobs: Blobs, made: Seeded, digests: dict[tuple[str, int], str], now_s: float, count: int,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Readings that got darker, each with the scores that were answered; and a few sequences of another task."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images / 16.0
    order = rng.permutation(len(images))
    names = [name for name in made.nodes if name.startswith("south")][:3]
    for at in range(count + 6):
        image = np.clip(zoom(images[order[at]], 4, order=3), 0, 1)
        dark = np.clip(0.16 + 0.62 * image + rng.normal(0, 0.035, image.shape), 0, 1).astype(np.float32)[None]
        belief = rng.normal(0, 1.0, len(NAMES))
        belief[digits.target[order[at]]] += 2.5 if rng.random() < 0.7 else 0.0
        scores = np.exp(belief)
        row = _sample(
            f"p-{at:04}", made.nodes[names[at % len(names)]], TASK, digests[(TASK, 2)], now_s - 60.0 * at,
            blobs.put(_npy(dark)), scores / scores.sum(), informativeness=float(rng.uniform(0.2, 1.0)),
        )  # fmt: skip
        conn.execute(insert(sample).values(**row))
        if at >= count:
            conn.execute(insert(feedback).values(**_said(row, now_s - 30.0 * at, NAMES[at % 10])))
    for at in range(4):
        t = np.arange(256) / 256
        wave = np.stack(
            [np.sin(9 * at * t + 20 * t * k) * (1 - 0.4 * t * k) + rng.normal(0, 0.06, 256) for k in (1, 2)]
        )
        row = _sample(
            f"v-{at:04}", made.nodes["harbour-1"], WAVES, digests[(WAVES, 1)], now_s - 90.0 * at,
            blobs.put(_npy(wave.astype(np.float32))), np.array([0.6, 0.3, 0.1]), informativeness=0.5,
        )  # fmt: skip
        conn.execute(insert(sample).values(**row))


def _sample(
    id: str, node_id: str, task: str, digest: str, time_s: float, blob: str, scores: NDArray[np.floating[Any]], *,
    informativeness: float,
) -> dict[str, Any]:  # fmt: skip
    return {
        "node": node_id, "id": id, "task": task, "digest": digest, "time_s": time_s, "received_s": time_s + 5,
        "share": "informative", "propensity": 0.0, "informativeness": informativeness,
        "stratum": str(int(scores.argmax())), "answer": [float(one) for one in scores], "blob": blob,
        "size_bytes": 4224,
    }  # fmt: skip


def _said(row: dict[str, Any], time_s: float, label: str) -> dict[str, Any]:
    return {
        "node": row["node"], "id": f"e-{row['id']}", "task": row["task"], "prediction": row["id"], "kind": "correct",
        "label": label, "value": None, "annotator": "shift 2", "trust": 0.8, "time_s": time_s, "received_s": time_s,
        "content": {}, "quarantined": None,
    }  # fmt: skip


def _take(conn: Connection, id: str, digest: str, now_s: float) -> None:
    """A canary that has taken version 3."""
    status = conn.execute(select(node.c.status).where(node.c.id == id)).scalar_one()
    status[TASK] = {**status[TASK], "version": 3, "digest": digest}
    conn.execute(update(node).where(node.c.id == id).values(status=status, seen_s=now_s))


def _loop(conn: Connection, blobs: Blobs, now_s: float) -> None:
    """Two rounds, the decisions before them, and the versions of data that they made."""
    first, second = (blobs.put(f"manifest {n}".encode()) for n in (1, 2))
    counts = {
        "field": 410,
        "feedback": 260,
        "replay": 1200,
        "labels": {name: 150 + 9 * at for at, name in enumerate(NAMES)},
    }
    conn.execute(
        insert(dataset),
        [
            {
                "digest": first,
                "task": TASK,
                "created_s": now_s - 60 * HOUR_S,
                "parent": None,
                "counts": {"replay": 1437},
            },
            {"digest": second, "task": TASK, "created_s": now_s - 33 * HOUR_S, "parent": first, "counts": counts},
        ],
    )
    waiting = _waiting_round(conn, second, now_s)
    done = Round(
        "r-0007", TASK, "risk", {}, "families/digits", now_s - 43 * HOUR_S, now_s - 40 * HOUR_S, "done", "done",
        ended_s=now_s - 40 * HOUR_S, why="version 2 is on all nodes; labels showed more errors", version=2,
    )  # fmt: skip
    refused = replace(
        done, id="r-0006", phase="gate", state="refused", started_s=now_s - 60 * HOUR_S, ended_s=now_s - 59 * HOUR_S,
        version=None, why="the old slice fell by 2.1 points; 1.0 is allowed",
    )  # fmt: skip
    conn.execute(
        insert(round_table),
        [
            {"id": one.id, "task": one.task, "phase": one.phase, "state": one.state, "content": one.to_json(),
             "started_s": one.started_s, "ended_s": one.ended_s, "why": one.why}
            for one in (waiting, done, refused)
        ],
    )  # fmt: skip
    told = (
        (
            26.0,
            "drift",
            "collect",
            "brightness fell on 3 of 5 nodes of one cohort; labels are too few to say more",
            None,
        ),
        (
            3.0,
            "risk",
            "retrain",
            "labels say that errors rose from 4 to 21 %; the fall of brightness explains which",
            WAITING,
        ),
        (
            1.0,
            "drift",
            "nothing",
            "one node, one channel, below its limit: within the false alarms that are allowed",
            None,
        ),
    )
    for hours, trigger, answer, why, made_round in told:
        seen = {
            "nodes": 3,
            "of": 5,
            "channel": "brightness",
            "log_e_all_rows": 18.4,
            "labelled": {"rows": 120, "wrong": 25},
        }
        conn.execute(
            insert(decision).values(
                task=TASK, time_s=now_s - hours * HOUR_S, trigger=trigger, answer=answer, why=why, evidence=seen,
                round=made_round,
            )
        )  # fmt: skip
    audit.record(
        conn, now_s=now_s - 2 * HOUR_S, actor="core", action="round.start", subject=WAITING, detail={"task": TASK}
    )


def _waiting_round(conn: Connection, data: str, now_s: float) -> Round:
    """A round that has passed its gate with two members of three, and waits for a person."""
    query = select(release.c.member, release.c.digest).where(release.c.task == TASK, release.c.version == 3)
    parents = {row.member: row.digest for row in conn.execute(query.order_by(release.c.rank))}
    policy = LoopPolicy(TASK, "digits", "families/digits", tuple(parents), cool_down_s=3600.0)
    figures = tuple(_refreshed(member, at) for at, member in enumerate(parents))
    verdicts = judge(figures, policy)
    return Round(
        WAITING, TASK, "risk", policy.to_json(), policy.study, now_s - 2 * HOUR_S, now_s - HOUR_S, "sign", "waiting",
        why="version 4 is ready: a person has to approve it", began="labels show more errors", dataset=data, version=4,
        parent=parents, members=tuple(one.member for one in verdicts if one.ok),
        verdicts=tuple(one.to_json() for one in verdicts), figures=figures,
    )  # fmt: skip


def _refreshed(member: str, at: int) -> dict[str, Any]:
    """A member as `search.refresh.Refreshed` tells of it in JSON."""
    worse = (0.1, 0.3, 1.2)[at]  # pp on old data; the last is too much
    latency, before, seen = 0.99 + 0.02 * at, 0.973 + 0.002 * at, 0.703 + 0.03 * at
    return {
        "member": member, "size": 1.0,
        "latency": latency, "latency_low": latency - 0.03, "latency_high": latency + 0.03,
        "slices": {
            "old": {"before": before, "after": before - worse / 100, "drop": _drop(worse, 0.6, 540),
                    "flips": 0.011 + 0.012 * at, "n": 540},
            "new": {"before": seen, "after": seen + 0.21, "drop": _drop(-21.0, 6.1, 131), "flips": 0.27, "n": 131},
        },
    }  # fmt: skip


def _drop(value_pp: float, half_pp: float, n: int) -> dict[str, Any]:
    return {
        "value_pp": value_pp, "low_pp": value_pp - half_pp, "high_pp": value_pp + half_pp, "method": "paired", "n": n,
    }  # fmt: skip


def _npy(array: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()
