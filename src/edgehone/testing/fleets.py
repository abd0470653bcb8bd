"""A fleet without processes: nodes that take releases, fail, fall silent and come back, by a clock that a test moves.

fleet = FakeFleet([FakeNode(f"{n:03}", tags={"site": "north"}) for n in range(200)], seed=1)
fleet.models[2] = Model(accuracy=0.85)
fleet.beat(now_s, wanted)            # every node that is on has a heartbeat; wanted(node) says what it should run
step(rollout, fleet.views(now_s), now_s)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgehone.fleet.observed import NodeView
from edgehone_agent.wire.uplink import Desired, Failed, Labelled, ShadowStatus, TaskStatus

ONLINE_S = 180.0


@dataclass(frozen=True)
class Model:
    """How a version behaves.

    Attributes:
        accuracy: share of right answers.
        flips: share of answers that differ from the version before it.
        latency_us, memory_bytes: on a node of speed 1.
        crash_on_load: a node that tries it goes back and remembers.
        hangs: a node that takes it is never heard of again.
        crashes: per heartbeat.
        watch_level: of a node that runs it.
    """

    accuracy: float = 0.9
    flips: float = 0.01
    latency_us: float = 1000.0
    memory_bytes: int = 20 << 20
    crash_on_load: bool = False
    hangs: bool = False
    crashes: int = 0
    watch_level: int = 0


@dataclass
class FakeNode:
    """A node; what it knows of a version survives its being off."""

    id: str
    tags: dict[str, str] = field(default_factory=dict)
    cohort: str = "digits"
    version: int | None = 1
    previous: int | None = None
    on: bool = True
    quarantined: bool = False
    speed: float = 1.0
    seen_s: float | None = None
    failed: tuple[int, ...] = ()
    crashes: int = 0
    labelled: tuple[int, int] = (0, 0)
    shadow: tuple[int, int, int, int, int, int] | None = None  # version, rows, differ, labelled, wrong, champion wrong
    served: set[int] = field(default_factory=set)


class FakeFleet:
    """Nodes and what the versions are like.

    Args:
        nodes: all of them.
        seed: of what is random in answers and labels.
        rows: answers per node and heartbeat.
        labels: of them, how many get a label.
    """

    def __init__(self, nodes: Iterable[FakeNode], *, seed: int = 0, rows: int = 50, labels: int = 0) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.models: dict[int, Model] = {1: Model()}
        self.rows, self.labels = rows, labels
        self.last: dict[str, TaskStatus] = {}
        self._random = random.Random(seed)

    def beat(self, now_s: float, wanted: Callable[[FakeNode], Desired]) -> None:
        """One heartbeat of every node that is on: it reports, and then does what it is told."""
        for node in self.nodes.values():
            if not node.on:
                continue
            self._work(node)
            self.last[node.id] = self._status(node)
            node.seen_s = now_s
            if not node.quarantined:
                self._obey(node, wanted(node))

    def views(self, now_s: float, *, online_s: float = ONLINE_S) -> list[NodeView]:
        """The nodes as the core sees them, by their last heartbeats."""
        return [
            NodeView(
                id=node.id,
                cohort=node.cohort,
                online=node.seen_s is not None and abs(now_s - node.seen_s) <= online_s,
                seen_s=node.seen_s,
                status=self.last.get(node.id, TaskStatus()),
                tags=node.tags,
                quarantined=node.quarantined,
            )
            for node in self.nodes.values()
        ]

    def _work(self, node: FakeNode) -> None:
        if node.version is None:
            return
        model = self.models[node.version]
        node.crashes += model.crashes
        rows, wrong = node.labelled
        node.labelled = rows + self.labels, wrong + self._count(self.labels, 1 - model.accuracy)
        if node.shadow is not None:
            version, seen, differ, labelled, bad, champion = node.shadow
            shadow = self.models[version]
            node.shadow = (
                version, seen + self.rows, differ + self._count(self.rows, shadow.flips),
                labelled + self.labels, bad + self._count(self.labels, 1 - shadow.accuracy),
                champion + self._count(self.labels, 1 - model.accuracy),
            )  # fmt: skip

    def _obey(self, node: FakeNode, desired: Desired) -> None:
        self._shadow(node, desired.shadow)
        version = desired.version
        if version is None or version == node.version:
            return
        if node.version is not None and version < node.version:
            if version == node.previous:  # the last good one is still there
                node.failed = (*node.failed, node.version)
                node.version, node.previous, node.labelled = version, None, (0, 0)
            return
        if version in node.failed:
            return
        model = self.models[version]
        node.served.add(version)
        if model.crash_on_load:
            node.failed = (*node.failed, version)
            return
        node.previous, node.version, node.labelled = node.version, version, (0, 0)
        node.on = node.on and not model.hangs

    def _shadow(self, node: FakeNode, version: int | None) -> None:
        if version is None:
            node.shadow = None
        elif (node.shadow is None or node.shadow[0] != version) and version not in node.failed:
            if self.models[version].crash_on_load:
                node.failed = (*node.failed, version)
            else:
                node.shadow = (version, 0, 0, 0, 0, 0)

    def _status(self, node: FakeNode) -> TaskStatus:
        model = None if node.version is None else self.models[node.version]
        return TaskStatus(
            digest=None if node.version is None else f"{node.version:064x}",
            version=node.version,
            member=None if node.version is None else "w8-int8",
            ready=node.version is not None,
            latency_us=None if model is None else model.latency_us / node.speed * self._random.uniform(0.9, 1.1),
            memory_bytes=None if model is None else model.memory_bytes,
            watch_level=0 if model is None else model.watch_level,
            crashes=node.crashes,
            failed=tuple(Failed(f"{version:064x}", version, "it failed") for version in node.failed),
            labelled=Labelled(*node.labelled),
            shadow=self._shadow_status(node),
        )

    def _shadow_status(self, node: FakeNode) -> ShadowStatus | None:
        if node.shadow is None:
            return None
        version, rows, differ, labelled, wrong, champion = node.shadow
        latency_us = self.models[version].latency_us / node.speed * self._random.uniform(0.9, 1.1)
        return ShadowStatus(
            f"{version:064x}", version, rows, differ, latency_us, None, Labelled(labelled, wrong, champion)
        )

    def _count(self, rows: int, share: float) -> int:
        return sum(self._random.random() < share for _ in range(rows))
