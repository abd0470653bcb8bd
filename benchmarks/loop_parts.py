"""What the benchmarks of the loop share: a core in a folder, and nodes that see what the benchmark shows them.

    core = Core(folder, policy, x, nodes=("a",))
    answers = core.see("a", x)                     # the node's released file answers, its watch looks on
    core.label("a", x[rows], answers[rows], y[rows])   # people label rows that were drawn at random
    turn = core.turn()                             # evidence goes up; what the loop decided, and the round it ran

Nodes and core are in this process and the clock is made up. All that decides is the product's own: the bundles with
their cards, the nodes' watch and labels, the uploads, the diagnosis, the training process, the gate, signing, rollout.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select, update

from edgehone.bundle.build import Wishes, build
from edgehone.data.prepare import Prepared
from edgehone.fleet import releases, rollouts, uploads
from edgehone.fleet.desired import desired_state
from edgehone.loop.policy import LoopPolicy, save_policy
from edgehone.loop.round import Round
from edgehone.loop.rounds import Site, current, find_round
from edgehone.loop.tick import Loop
from edgehone.measure.machine import describe_machine
from edgehone.records.blobs import open_blobs
from edgehone.records.database import open_database, sqlite_url
from edgehone.records.tables import decision, node, release
from edgehone.registry.create import create
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.names import blob_path, bundle_path
from edgehone.registry.publish import publish
from edgehone.registry.store import Store
from edgehone.report.study_file import read as read_study
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import BundleError
from edgehone_agent.fast import FastModel
from edgehone_agent.feedback import read_event
from edgehone_agent.loading import load_bundle, read_card
from edgehone_agent.watch import Labels, Watcher
from edgehone_agent.wire.uplink import Evidence, SampleLine, TaskStatus

RESULTS = Path(__file__).parent / "results"
DAY_S = 86_400.0
_START_S = 1_800_000_000.0
_PHRASE = "a passphrase that keeps nothing"
_FACTS = {"machine": "x86_64", "runtimes": ["litert"], "memory_bytes": 1 << 30, "agent": "0.1.0"}
AT_ONCE = {"shadow_rows": 0, "soak_s": 0.0, "patience_s": 60.0, "stages": [1.0]}
"""Settings of a rollout that waits for nothing: there is no traffic while the made-up clock moves on."""
Array = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass
class Served:
    """What answers on a node: a release's file, its card's watch, and the labels about it."""

    version: int
    names: tuple[str, ...]
    model: FastModel
    watcher: Watcher
    labels: Labels


@dataclass(frozen=True)
class Turn:
    """What came of one look of the loop: its decisions as they were recorded, and the round, where there was one."""

    decisions: tuple[dict[str, str], ...]
    round: Round | None

    @property
    def told(self) -> str:
        """The round in words, like "retrain, done: ..." or "re-baseline, refused: ..."; "" for none."""
        return "" if self.round is None else f"{self.round.kind}, {self.round.state}: {self.round.why}"


class Core:
    """A core with nodes as rows; `close` it.

    Args:
        folder: empty.
        policy: of the loop; the first of its members is released as version 1, from its study.
        x: (N, *input shape) validation readings, for the first bundle's card.
        nodes: names.
        seed: of the nodes' watches.
        watch_tolerance, label_tolerance: of the nodes; None for what the card and the agent have.
    """

    def __init__(
        self, folder: Path, policy: LoopPolicy, x: Array, *, nodes: Sequence[str], seed: int = 0,
        watch_tolerance: float | None = None, label_tolerance: float | None = None,
    ) -> None:  # fmt: skip
        self.policy, self.nodes, self.now_s = policy, tuple(nodes), _START_S
        self._seed, self._watch_tolerance = seed, watch_tolerance
        self._label_tolerance = {} if label_tolerance is None else {"tolerance": label_tolerance}
        self._served: dict[tuple[str, str], Served] = {}
        self._serial = self._told = 0
        folder.mkdir(parents=True, exist_ok=True)
        blobs, self._unpacked = str(folder / "blobs"), folder / "node"
        self.site = Site(
            open_database(sqlite_url(folder / "core.sqlite"), create=True), open_blobs(blobs), blobs, folder / "rounds",
            folder / "registry", folder / "keys",
        )  # fmt: skip
        self.loop = Loop(self.site)
        self._release_first(folder, x)

    def close(self) -> None:
        """End training that runs, and let go of the files."""
        self.loop.close()
        for served in self._served.values():
            served.model.close()
        self.site.database.close()

    def serving(self, name: str) -> Served:
        """What answers on a node now."""
        with self.site.database.read() as conn:
            status = conn.execute(select(node.c.status).where(node.c.id == name)).scalar_one()[self.policy.task]
        key = (name, str(status["digest"]))
        if key not in self._served:
            target = bundle_path(self.policy.task, status["version"], status["member"])
            file = self.site.registry / blob_path(target, status["digest"])
            self._served[key] = self._load(file, status["version"], self.nodes.index(name))
        return self._served[key]

    def see(self, name: str, x: Array) -> Array:
        """Answers (N, classes) of a node to readings, in the order in which they come; its watch looks at them."""
        served, answers = self.serving(name), []
        served.model.take_embedding()  # of answers that nobody watched
        for start in range(0, len(x), 256):
            part = x[start : start + 256]
            answers.append(served.model.predict(part))
            hidden = served.model.take_embedding()
            served.watcher.observe(part, answers[-1], None if hidden is None else hidden.reshape(len(part), -1))
        return np.concatenate(answers)

    def answers(self, x: Array) -> Array:
        """The same without the watch."""
        model = self.serving(self.nodes[0]).model
        return np.concatenate([model.predict(x[start : start + 256]) for start in range(0, len(x), 256)])

    def label(self, name: str, x: Array, answers: Array, y: Ints) -> None:
        """People label answers that were drawn without regard to them; node and core get to know."""
        served, digest = self.serving(name), self._digest(name)
        readings, events = [], []
        for row, right in zip(range(len(x)), y, strict=True):
            self._serial += 1
            id, answered = f"p{self._serial}", int(answers[row].argmax())
            file = io.BytesIO()
            np.save(file, x[row])
            line = SampleLine(
                id, self.policy.task, digest, self.now_s, "uniform", 0.1, 0.5, str(answered),
                tuple(map(float, answers[row])), base64.b64encode(file.getvalue()).decode(),
            )  # fmt: skip
            reading = uploads.check_reading(line)
            readings.append((reading, self.site.blobs.put(reading.content)))
            event = {
                "id": f"e{self._serial}", "prediction_id": id, "kind": "correct", "share": "uniform",
                "time": self.now_s, "label": served.names[int(right)],
            }  # fmt: skip
            served.labels.take(event, answered, is_drawn=True)
            events.append(read_event(event))
        with self.site.database.write() as conn:
            uploads.take_samples(conn, name, readings, self.now_s)
            uploads.take_feedback(conn, name, events, self.now_s)

    def turn(self, days: float = 1.0) -> Turn:
        """Evidence goes up, the loop looks once, and a round that it begins is driven to its end."""
        for name in self.nodes:
            served = self.serving(name)
            content = {**served.watcher.evidence(), "risk": served.labels.evidence()}
            with self.site.database.write() as conn:
                told = Evidence(self.policy.task, self._digest(name), json.loads(json.dumps(content)))
                uploads.take_evidence(conn, name, told, self.now_s)
        self.now_s += 60.0
        self.loop.tick(self.now_s)
        with self.site.database.read() as conn:
            begun = current(conn, self.policy.task)
        decided = self._decisions()
        ended = None
        while begun is not None and ended is None:
            self._beat()
            self.loop.tick(self.now_s)
            with self.site.database.read() as conn:
                found = find_round(conn, begun.id)
            ended = found if found.ended else None
            time.sleep(0.02)
        decided += self._decisions()
        self.now_s += days * DAY_S
        return Turn(tuple(decided), ended)

    def _decisions(self) -> list[dict[str, str]]:
        query = select(decision).where(decision.c.id > self._told).order_by(decision.c.id)
        with self.site.database.read() as conn:
            rows = conn.execute(query).all()
        self._told = max([self._told, *(row.id for row in rows)])
        return [{"trigger": row.trigger, "answer": row.answer, "why": row.why} for row in rows]

    def _digest(self, name: str) -> str:
        with self.site.database.read() as conn:
            status = conn.execute(select(node.c.status).where(node.c.id == name)).scalar_one()
        return str(status[self.policy.task]["digest"])

    def _beat(self) -> None:
        """Rollouts go on, every node reports and does as it is told, and a minute passes."""
        task = self.policy.task
        rollouts.advance(self.site.database, self.now_s)
        with self.site.database.write() as conn:
            for name in self.nodes:
                row = conn.execute(select(node.c.status).where(node.c.id == name)).scalar_one()
                status = TaskStatus.from_json(row[task])
                wanted = desired_state(conn, name, self.now_s, {task: status}).get(task)
                if wanted is not None and wanted.version is not None and wanted.version != status.version:
                    found = conn.execute(
                        select(release.c.digest, release.c.member)
                        .where(release.c.task == task, release.c.version == wanted.version)
                        .order_by(release.c.rank)
                    ).first()
                    if found is not None:
                        status = replace(status, version=wanted.version, digest=found.digest, member=found.member)
                values = {"status": {task: status.to_json()}, "seen_s": self.now_s}
                conn.execute(update(node).where(node.c.id == name).values(**values))
        self.now_s += 60.0

    def _load(self, file: Path, version: int, number: int) -> Served:
        folder = self._unpacked / file.name
        with open_bundle(file) as bundle:
            if not folder.exists():
                bundle.unpack(folder)
            manifest, digest = bundle.manifest, bundle.digest
        loaded = load_bundle(digest, manifest, folder, threads=1, sessions=1, measure=False)
        card = read_card(loaded, self.policy.task)
        if card is None:
            raise BundleError("the bundle has no card", where=file.name, do="give 60 validation readings")
        watcher = Watcher(card, seed=1000 * self._seed + number, tolerance=self._watch_tolerance)
        return Served(
            version, manifest.labels, loaded.models[0], watcher, Labels(manifest, digest, **self._label_tolerance)
        )

    def _release_first(self, folder: Path, x: Array) -> None:
        task, study, member = self.policy.task, Path(self.policy.study), self.policy.members[0]
        ring, now = KeyRing([self.site.keys], Passphrases([_PHRASE])), datetime.fromtimestamp(self.now_s, UTC)
        registry = Store(self.site.registry)
        create(registry, ring, [task], now, approve="auto", online_plain=True)
        first = folder / "1.bundle"
        first.write_bytes(build(read_study(study), member, study, Wishes(1), x))
        publish(registry, ring, [first], [], now)
        releases.sync(self.site.database, registry, self.now_s)
        with self.site.database.write() as conn:
            digest = conn.execute(select(release.c.digest)).scalar_one()
            status = TaskStatus(digest=digest, version=1, member=member, ready=True, latency_us=10.0)
            for name in self.nodes:
                conn.execute(
                    insert(node).values(
                        id=name, name=name, tags={}, state="active", why="", facts=_FACTS, enrolled_s=0.0,
                        seen_s=self.now_s, status={task: status.to_json()}, beats=1,
                    )
                )  # fmt: skip
            save_policy(conn, self.policy, actor="benchmark", now_s=self.now_s)


def validation_readings(prepared: Prepared) -> Array:
    """What a card is built from, (N, *input shape)."""
    return prepared.validation.arrays()[0].astype(np.float32)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median of the seeds, lowest and highest."""
    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values)), "n": len(values)}


def arguments(what: str, **more: Mapping[str, Any]) -> argparse.Namespace:
    """--quick, --seeds and --output, and more options by name."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--quick", action="store_true", help="one seed and less of everything")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--output", type=Path, help="file for the result")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def write_result(name: str, asked: argparse.Namespace, what: str, result: Mapping[str, Any], started_s: float) -> Path:
    """Write a result with what is needed to make it again; a quick one goes only where it is asked for."""
    file = asked.output or (Path(tempfile.gettempdir()) if asked.quick else RESULTS) / f"{name}.json"
    told = {
        "what": what.strip().split("\n", 1)[0],
        "command": f"python benchmarks/{name}.py{' --quick' if asked.quick else ''}",
        "seeds": list(range(1 if asked.quick else asked.seeds)),
        "seconds": round(time.monotonic() - started_s),
        "machine": describe_machine(),
    }
    file.write_text(json.dumps({**told, **result}, indent=1) + "\n")
    print(f"\nwrote {file}")
    return file
