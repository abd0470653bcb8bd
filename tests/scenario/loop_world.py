"""A small world for the loop: a sensor table with three classes, a core's folder, nodes as rows, and a clock."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, insert, select, update

from edgehone.fleet import releases, rollouts
from edgehone.fleet.desired import desired_state
from edgehone.loop.policy import LoopPolicy, load_policy, save_policy
from edgehone.loop.rounds import Site, list_rounds
from edgehone.loop.tick import Loop
from edgehone.records.blobs import open_blobs
from edgehone.records.database import open_database, sqlite_url
from edgehone.records.tables import evidence, feedback, node, release, sample
from edgehone.registry.create import create
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.publish import publish
from edgehone.registry.store import Store
from edgehone_agent.model import open_model
from edgehone_agent.wire.uplink import TaskStatus

TASK = "gas"
LABELS = ("air", "methane", "smoke")
SOURCE = '''
"""Readings of eight gas sensors, three classes; trains in a second."""
import numpy as np
from torch import nn

from edgehone.task import Task, Training

CENTRES = np.random.default_rng(5).normal(0, 1.2, (3, 8))


def draw(count, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    return (CENTRES[y] + rng.normal(0, 0.8, (count, 8)) + shift).astype(np.float32), y


def network():
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))


TRAINING = Training(epochs=6, batch_size=64, learning_rate=0.05)
task = Task(
    name="gas", network=network, train=draw(1500, 1), validation=draw(1500, 3), test=draw(400, 2),
    labels=("air", "methane", "smoke"), training=TRAINING,
    recovery=Training(epochs=2, batch_size=64, learning_rate=0.05),
)
'''
DEVICE = "nrf52840"  # its latency is estimated, which takes no time; the bound that it gives is far above this machine
FACTS = {"machine": "x86_64", "runtimes": ["litert"], "memory_bytes": 1 << 30, "agent": "0.1.0"}
QUICK = {"shadow_rows": 0, "soak_s": 0.0, "patience_s": 60.0, "stages": [1.0]}


def draw(count: int, seed: int, shift: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Readings and classes, as the task's own file draws them."""
    found: dict[str, Any] = {}
    exec(SOURCE.split("def network")[0], found)
    x, y = found["draw"](count, seed, shift)
    return x, y


def prepare_world(folder: Path) -> None:
    """The task's file and a finished study of it: all that a world needs to be made in a copy of the folder."""
    import edgehone

    folder.mkdir()
    (folder / "gas_task.py").write_text(SOURCE)
    edgehone.optimize(str(folder / "gas_task.py"), members=1, output=folder / "family", device=DEVICE)


class World:
    """A core with nodes that do as they are told; made in a copy of a prepared folder."""

    def __init__(self, folder: Path, *, nodes: int = 3, policy: dict[str, Any] | None = None) -> None:
        self.folder, self.now_s, self.serial = folder, 1_800_000_000.0, 0
        self.url = sqlite_url(folder / "core.sqlite")
        fresh = not (folder / "core.sqlite").exists()
        self.site = open_site(folder, create=fresh)
        self.loop = Loop(self.site)
        self.names = [f"{number:08x}" for number in range(1, nodes + 1)]
        if fresh:
            self._make(policy or {})
        else:  # the clock goes on where it stood
            with self.site.database.read() as conn:
                self.now_s = float(conn.execute(select(func.max(node.c.seen_s))).scalar_one()) + 60.0

    def close(self) -> None:
        self.loop.close()
        self.site.database.close()

    def beat(self) -> None:
        """Rollouts go on, then every node reports and does what it is told, then a minute passes."""
        rollouts.advance(self.site.database, self.now_s)
        with self.site.database.write() as conn:
            for name in self.names:
                row = conn.execute(select(node.c.status).where(node.c.id == name)).scalar_one()
                status = TaskStatus.from_json(row[TASK])
                wanted = desired_state(conn, name, self.now_s, {TASK: status}).get(TASK)
                if wanted is not None and wanted.version is not None and wanted.version != status.version:
                    digest, member = conn.execute(
                        select(release.c.digest, release.c.member).where(
                            release.c.task == TASK, release.c.version == wanted.version
                        )
                    ).one()
                    status = replace(status, version=wanted.version, digest=digest, member=member)
                told = {TASK: status.to_json()}
                conn.execute(update(node).where(node.c.id == name).values(status=told, seen_s=self.now_s))
        self.now_s += 60.0

    def see(self, shift: float, count: int = 150, *, level: int = 2, flip: bool = False) -> None:
        """Nodes see a shifted world: samples, labels of people on the node, and evidence."""
        answering = self._model()
        for position, name in enumerate(self.names):
            self.serial += 1
            x, y = draw(count, 1000 + self.serial, shift)
            with open_model(answering) as model:
                answers = model.predict(x)
            blobs = [self.site.blobs.put(_npy(one)) for one in x]
            digest = self.digest()
            rows, events = [], []
            for row in range(count):
                id = f"p{self.serial}-{row}"
                rows.append({
                    "node": name, "id": id, "task": TASK, "digest": digest, "time_s": self.now_s,
                    "received_s": self.now_s, "share": "uniform", "propensity": 0.1, "informativeness": 0.5,
                    "stratum": str(int(answers[row].argmax())), "answer": answers[row].tolist(), "blob": blobs[row],
                    "size_bytes": 160,
                })  # fmt: skip
                label = LABELS[(int(y[row]) + (flip and position == 0)) % 3]
                events.append({
                    "node": name, "id": f"e{self.serial}-{row}", "task": TASK, "prediction": id, "kind": "correct",
                    "label": label, "value": None, "annotator": "", "trust": 1.0, "time_s": self.now_s,
                    "received_s": self.now_s, "content": {"share": "uniform"}, "quarantined": None,
                })  # fmt: skip
            content = {"level": level, "tolerant": {"index": 1e6, "channel": "input 0", "direction": "higher"}}
            with self.site.database.write() as conn:
                conn.execute(insert(sample), rows)
                conn.execute(insert(feedback), events)
                conn.execute(
                    insert(evidence).values(
                        node=name, task=TASK, digest=digest, received_s=self.now_s, watch_level=level, risk_level=0,
                        rows=count, content=content,
                    )
                )  # fmt: skip

    def set_policy(self, **values: Any) -> None:
        """Change the policy of the task."""
        with self.site.database.write() as conn:
            policy = load_policy(conn, TASK)
            if policy is not None:
                save_policy(conn, replace(policy, **values), actor="test", now_s=self.now_s)

    def policy(self) -> LoopPolicy:
        """The policy of the task."""
        with self.site.database.read() as conn:
            found = load_policy(conn, TASK)
        if found is None:
            raise ValueError(TASK)
        return found

    def digest(self) -> str:
        """Of the bundle that the first node serves."""
        with self.site.database.read() as conn:
            return str(
                conn.execute(select(node.c.status).where(node.c.id == self.names[0])).scalar_one()[TASK]["digest"]
            )

    def accuracy(self, shift: float) -> float:
        """Of the model that is served, in a shifted world."""
        x, y = draw(500, 99, shift)
        with open_model(self._model()) as model:
            return float((model.predict(x).argmax(1) == y).mean())

    def round(self) -> Any:
        """The newest round."""
        with self.site.database.read() as conn:
            return list_rounds(conn, TASK)[0]

    def _model(self) -> Path:
        with self.site.database.read() as conn:
            round_id = conn.execute(select(release.c.round).where(release.c.digest == self.digest())).scalar()
        study = self.folder / "family" if round_id is None else self.site.rounds / round_id / "study"
        return study / "members" / "int8" / "model.tflite"

    def _make(self, policy: dict[str, Any]) -> None:
        ring = KeyRing([self.site.keys], Passphrases(["correct horse battery staple"]))
        now = datetime.fromtimestamp(self.now_s, UTC)
        create(Store(self.site.registry), ring, [TASK], now, approve="auto", online_plain=True)
        from edgehone.bundle.build import Wishes, build
        from edgehone.report.study_file import read

        study = self.folder / "family"
        first = self.folder / "1.bundle"
        first.write_bytes(build(read(study), "int8", study, Wishes(1), draw(300, 3, 0.0)[0]))
        publish(Store(self.site.registry), ring, [first], [], now)
        releases.sync(self.site.database, Store(self.site.registry), self.now_s)
        values = {"cool_down_s": 60.0, "approve": "auto", "rollout": QUICK, "latency_ratio": 3.0, **policy}
        chosen = LoopPolicy(
            TASK, str(self.folder / "gas_task.py"), str(study), ("int8",), **values
        )  # fmt: skip
        with self.site.database.write() as conn:
            digest = conn.execute(select(release.c.digest)).scalar_one()
            status = TaskStatus(digest=digest, version=1, member="int8", ready=True, latency_us=10.0)
            for name in self.names:
                conn.execute(
                    insert(node).values(
                        id=name, name=f"node-{name}", tags={}, state="active", why="", facts=FACTS, enrolled_s=0.0,
                        seen_s=self.now_s, status={TASK: status.to_json()}, beats=1,
                    )
                )  # fmt: skip
            save_policy(conn, chosen, actor="test", now_s=self.now_s)


def open_site(folder: Path, *, create: bool = False) -> Site:
    """The core's parts in a folder."""
    database = open_database(sqlite_url(folder / "core.sqlite"), create=create)
    blobs = str(folder / "blobs")
    return Site(database, open_blobs(blobs), blobs, folder / "rounds", folder / "registry", folder / "keys")


def _npy(x: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()
