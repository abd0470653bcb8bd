"""A scenario in memory: many nodes, a clock that nobody waits for, and the real rules of node and core.

    with FakeWorld(folder, study, scenario, seed=0) as world:
        world.set_up()
        world.play()
    world.story.to_json()        # the same for the same seed, byte for byte

Rules:
- Time goes on by heartbeats: every node answers its readings, then all report, then the person labels, then the core
  looks. A heartbeat has `ROWS_PER_BEAT` readings, fewer at the end of a phase, and takes as long as they take.
- The model, the watch, the judgement of labels, heartbeats, uploads, rollouts, diagnosis and rounds are the product's
  own. Processes, sockets, certificates, disks of nodes, and what a machine measures of itself are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, insert

from edgehone.errors import HostError, InputError
from edgehone.fleet import rollouts, uploads
from edgehone.fleet.cohorts import put_cohort
from edgehone.fleet.desired import told
from edgehone.fleet.heartbeat import Arrived, take
from edgehone.fleet.rollout import RolloutPlan
from edgehone.loop.policy import read_policy, save_policy
from edgehone.records.tables import node as node_table
from edgehone.report.study_file import read
from edgehone.simulate import times
from edgehone.simulate.fake_core import START_S, FakeCore, ids_from
from edgehone.simulate.fake_models import Models
from edgehone.simulate.fake_nodes import FakeNode
from edgehone.simulate.fake_telling import FakeTelling
from edgehone.simulate.scenario import Scenario
from edgehone.simulate.story import Story
from edgehone.simulate.streams import load_splits
from edgehone_agent import __version__
from edgehone_agent.fit import describe_node
from edgehone_agent.wire.uplink import HeartbeatAnswer

ROWS_PER_BEAT = 32  # a shadow answers so many together
SAMPLES_PER_BEAT = 160  # that the fleet sends up, on average
TRAINING_BEATS = 6  # a training lasts
LOOK_BEATS = 3  # between two looks of the loop, and two times that nodes send evidence
DAY_S = times.DAY_S
_READY_BEATS = 40  # within which all nodes have the first release
_FIRST_BEAT_S = 60.0  # between those, at most
_MEMORY_BYTES = 1 << 30  # of a node
_VALIDATION_ROWS = 60_000
_POLICY: Mapping[str, Any] = {
    "approve": "auto", "min_labels_per_class": 3, "corrections": 0, "epochs": 3.0, "flip_limit": 0.1,
    "latency_ratio": 1000.0,  # what this machine measures must not change what happens
}  # fmt: skip
_PATIENCE, _SOAK, _COOL_DOWN = 12, 2, 12  # in heartbeats
_MIN_LABELS = 1500  # fewer where the task has few examples, which come again and again


@dataclass(frozen=True)
class Played:
    """What was played: seconds of the nodes' lives, readings and heartbeats of all of them, and labels."""

    life_s: float
    readings: int
    heartbeats: int
    labels: int


class FakeWorld:
    """A core and nodes without processes. A context that closes them.

    Args:
        folder: new or empty; the core is made there.
        study: a finished one of the scenario's task.
        scenario: what happens.
        say: is told every line of the story.
        at: called often, with the row that was reached; may raise to stop.
        seed: of all that is random.
        training: whether rounds train; without, they end where they would.
    """

    def __init__(
        self, folder: Path, study: Path, scenario: Scenario, *, seed: int = 0, training: bool = True,
        say: Callable[[str], None] = lambda _: None, at: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.scenario, self.seed = scenario, seed
        self.now_s = START_S
        self.story = Story(self._clock, say, length_s=scenario.rows / scenario.rows_per_s)
        self.beats = 0
        self._folder, self._study, self._at = folder, study, at
        self.beat_s = ROWS_PER_BEAT / scenario.rows_per_s
        self._ids = ids_from(seed)
        self._training_s = TRAINING_BEATS * self.beat_s if training else None
        self.nodes: list[FakeNode] = []
        self._examples = 0
        self._core: FakeCore | None = None
        self._models: Models | None = None
        self._live: FakeTelling | None = None

    def __enter__(self) -> FakeWorld:
        self._ids.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.close()
        if self._models is not None:
            self._models.close()
        if self._core is not None:
            self._core.close()
        self._ids.__exit__(None, None, None)

    def set_up(self) -> None:
        """Make the core and the nodes, and let a member of the study answer on all of them.

        Raises:
            InputError: the study is of another task.
            HostError: the first release does not reach all nodes.
        """
        record = read(self._study)
        task, members, seed = record.task["name"], [one.name for one in record.members], record.settings.get("seed")
        pool, x = load_splits(
            self.scenario.task, seed if isinstance(seed, int) else 0, validation_rows=_VALIDATION_ROWS
        )  # fmt: skip
        if tuple(record.task["labels"]) != pool.labels or not members:
            raise InputError(
                f"the study is of {task!r}", where=str(self._study), do=f"give one of {self.scenario.task}"
            )
        member = members[min(1, len(members) - 1)]
        core = self._core = FakeCore(
            self._folder / "core", task, now_s=self.now_s, training_s=self._training_s, online_s=3 * self.beat_s,
            waiting=lambda: self._at(self.row),
        )  # fmt: skip
        self._examples = len(pool.y)
        self._models = Models(core.bundle, self._folder / "core" / "unpacked", len(pool.y))
        self._release(record, member, x)
        with core.database.write() as conn:
            self._furnish(conn, task, member)
        self._enrol(task)
        self._live = FakeTelling(core.database, self.nodes, self.scenario, pool, self.story, seed=self.seed)
        rollouts.start(core.database, task, 1, now_s=self.now_s, actor="core", plan=self._plan(shadow_rows=0, soak_s=0))
        for _ in range(_READY_BEATS):
            self._beat(0)
            if all(node.version == 1 for node in self.nodes) and self._is_rolled_out(task):
                break
        else:
            raise HostError("the first release has not reached all nodes", where=str(self._folder))
        self.story.event("release", f"version 1 ({member}) answers on all nodes")

    def play(self) -> Played:
        """Play all phases, and tell each cohort's accuracy in each phase. Raises StateError, HostError."""
        end = 0
        for phase in self.scenario.phases:
            end += phase.rows
            from_s = self.story.now_s
            while self.row < end:
                self._beat(min(ROWS_PER_BEAT, end - self.row))
                self._at(self.row)
            for cohort in self.scenario.cohorts:
                found = self.story.accuracy(cohort, from_s, self.story.now_s + self.beat_s)
                if found is not None:
                    self.story.event("accuracy", f"{cohort}, {phase.name}: {100 * found:.1f} %")
        labels = 0 if self._live is None else self._live.labels
        return Played(self.story.now_s, self.row * len(self.nodes), self.beats * len(self.nodes), labels)

    @property
    def row(self) -> int:
        """Of each node, that comes next."""
        return 0 if self._live is None else self._live.row

    def _clock(self) -> float:
        return self.now_s

    def _beat(self, rows: int) -> None:
        """A stretch of the nodes' lives up to their next heartbeat; without rows they only report."""
        core, live = self._core, self._live
        if core is None or live is None:
            raise HostError("the world is not set up")
        if rows:
            live.begin_phase()
        self.now_s += rows / self.scenario.rows_per_s if rows else min(self.beat_s, _FIRST_BEAT_S)
        if rows:
            live.feed(rows)
        with core.database.write() as conn:
            arrived = [Arrived(node.id, node.beat(self.now_s), self.now_s) for node in self.nodes]
            answers = take(conn, arrived, told, self.beat_s)
        heard = [
            (node, answer)
            for node, answer in zip(self.nodes, answers, strict=True)
            if isinstance(answer, HeartbeatAnswer)
        ]
        is_looking = self.beats % LOOK_BEATS == 0
        self.beats += 1
        self._send_up(core, heard, with_evidence=is_looking)
        for node, answer in heard:
            node.hear(answer)
        live.label(self.now_s)
        core.tick(self.now_s, is_looking=is_looking)
        live.look()

    def _send_up(
        self, core: FakeCore, heard: Sequence[tuple[FakeNode, HeartbeatAnswer]], *, with_evidence: bool
    ) -> None:
        """Evidence where the core wants it, and samples."""
        asked = {node.id: answer.wants for node, answer in heard}
        lines = [(node, kept) for node, _ in heard for kept in node.kept]
        readings = [uploads.check_reading(kept.line) for _, kept in lines]
        blobs = core.site.blobs.put_many([reading.content for reading in readings]) if readings else []
        with core.database.write() as conn:
            for node, _ in heard:
                wants = asked[node.id].get(core.task)
                evidence = node.evidence() if with_evidence and wants is not None and wants.evidence else None
                if evidence is not None:
                    uploads.take_evidence(conn, node.id, evidence, self.now_s)
                mine = [
                    (reading, blob)
                    for (sender, _), reading, blob in zip(lines, readings, blobs, strict=True)
                    if sender is node
                ] if node.kept else []  # fmt: skip
                if mine:
                    uploads.take_samples(conn, node.id, mine, self.now_s)
                if self._live is not None:
                    self._live.samples.extend((node, kept) for kept in node.kept)
                node.kept.clear()

    def _release(self, record: Any, member: str, x: Any) -> None:
        from edgehone.bundle.build import Wishes, build

        core = self._core
        if core is None:
            raise HostError("the world is not set up")
        file = self._folder / "core" / "1.bundle"
        file.write_bytes(build(record, member, self._study, Wishes(1), x))
        core.publish([file], self.now_s)
        file.unlink()

    def _furnish(self, conn: Connection, task: str, member: str) -> None:
        """Cohorts and the policy of the task."""
        for cohort in self.scenario.cohorts:
            put_cohort(conn, cohort, task, tags={"site": cohort}, actor="core", now_s=self.now_s)
        plan = self._plan(shadow_rows=200, soak_s=_SOAK * self.beat_s)
        values: dict[str, Any] = {
            **_POLICY, "source": self.scenario.task, "study": str(self._study.absolute()), "members": [member],
            "min_labels": min(_MIN_LABELS, self._examples // 4), "cool_down_s": _COOL_DOWN * self.beat_s,
            "rollout": {
                "shadow_rows": plan.shadow_rows, "shadow_s": plan.shadow_s, "soak_s": plan.soak_s,
                "patience_s": plan.patience_s, "stages": list(plan.stages),
            },
        }  # fmt: skip
        save_policy(conn, read_policy(task, values), actor="core", now_s=self.now_s)

    def _plan(self, *, shadow_rows: int, soak_s: float) -> RolloutPlan:
        patience_s = _PATIENCE * self.beat_s
        return RolloutPlan(
            shadow_rows=shadow_rows, shadow_s=patience_s, soak_s=soak_s, patience_s=patience_s,
            stages=(0.25, 1.0) if shadow_rows else (1.0,),
        )  # fmt: skip

    def _enrol(self, task: str) -> None:
        """Nodes as the core knows them after their enrolment."""
        core, models = self._core, self._models
        if core is None or models is None:
            raise HostError("the world is not set up")
        facts = replace(describe_node(memory_bytes=_MEMORY_BYTES), agent=__version__)
        share = min(1.0, SAMPLES_PER_BEAT / (ROWS_PER_BEAT * self.scenario.nodes))
        for number in range(self.scenario.nodes):
            cohort = self.scenario.cohort(number)
            node = FakeNode(
                number, f"node-{number}", cohort, task, facts, models, share=share, seed=self.seed, clock=self._clock
            )
            self.nodes.append(node)
        rows = [
            {
                "id": node.id, "name": node.name, "tags": {"site": node.cohort}, "state": "active", "why": "",
                "facts": {}, "enrolled_s": self.now_s, "status": {}, "beats": 0,
            }
            for node in self.nodes
        ]  # fmt: skip
        with core.database.write() as conn:
            conn.execute(insert(node_table), rows)
        self.story.event("core", f"{len(self.nodes)} nodes enrolled")

    def _is_rolled_out(self, task: str) -> bool:
        if self._core is None:
            return False
        with self._core.database.read() as conn:
            return not rollouts.list_rollouts(conn, task, running=True)
