"""What happens to nodes without processes: they answer many rows at a time, a person labels, and the story is told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from edgehone.fleet import uploads
from edgehone.records.database import Database
from edgehone.simulate.core_news import CoreNews
from edgehone.simulate.fake_nodes import FakeNode, Kept
from edgehone.simulate.people import SimulatedPerson
from edgehone.simulate.scenario import Scenario
from edgehone.simulate.story import Story
from edgehone.simulate.streams import Pool, Stream
from edgehone.simulate.telling import ALARM, Teller
from edgehone_agent.feedback import read_event

LABELS_PER_BEAT = 80  # that the person has time for
MOST_LABELS = 3000  # that the person gives about one version
_REMEMBERED = 1000  # samples that the person may still look at
_SHOWN_ROWS = 32  # of a phase, among which are the readings that the report shows


class FakeTelling:
    """A scenario on nodes without processes, a stretch of rows at a time.

    Attributes:
        samples: that were sent up and that the person may look at, the newest last.
    """

    def __init__(
        self, database: Database, nodes: Sequence[FakeNode], scenario: Scenario, pool: Pool, story: Story, *, seed: int
    ) -> None:
        self.samples: deque[tuple[FakeNode, Kept]] = deque(maxlen=_REMEMBERED)
        self._database, self._nodes, self._scenario, self._story = database, nodes, scenario, story
        self._teller = Teller(nodes, CoreNews(database), scenario, story)
        self._streams = [Stream(scenario, pool, seed=seed, node=number) for number in range(len(nodes))]
        self._person = SimulatedPerson(scenario.annotator, pool.labels, seed=seed)
        self._serving: dict[int, int] = {}
        self._labelled: set[str] = set()
        self._said: Counter[int] = Counter()  # newest version → labels

    @property
    def row(self) -> int:
        """Of each node, that comes next."""
        return self._teller.row

    @property
    def labels(self) -> int:
        """Given so far."""
        return self._teller.labels

    def begin_phase(self) -> None:
        """Tell of the phase that the next row is in, if it is a new one."""
        if not self._teller.begin_phase():
            return
        for number, stream in enumerate(self._streams):
            for row in range(self.row, self.row + _SHOWN_ROWS):
                self._teller.keep(number, stream.reading(row))

    def feed(self, rows: int) -> None:
        """Let every node answer so many readings."""
        for node, stream in zip(self._nodes, self._streams, strict=True):
            block = stream.block(self.row, rows)
            y = node.see(block, self.row)
            if y is None:
                continue
            latency_us = node.latency_us
            for is_right in y.reshape(len(y), -1).argmax(1) == block.y:
                self._story.answer(node.cohort, is_right=bool(is_right), latency_us=latency_us)
        self._teller.row += rows

    def label(self, now_s: float) -> None:
        """While a node alarms, the person looks through what nodes have sent up, newest first, no reading twice."""
        version = max((node.version or 0 for node in self._nodes), default=0)
        enough = self._said[version] >= MOST_LABELS
        if enough or not any(node.level >= ALARM for node in self._nodes):
            return
        given: list[tuple[FakeNode, dict[str, Any]]] = []
        passed: list[tuple[FakeNode, Kept]] = []
        while self.samples and len(given) < LABELS_PER_BEAT:
            node, kept = self.samples.pop()
            if self.row - kept.row < self._scenario.annotator.delay_rows:
                passed.append((node, kept))
                continue
            if kept.line.x in self._labelled:  # the examples of a pool come again, what a device sees does not
                continue
            label = self._person.says(node.number, kept.line.id, kept.truth)
            if label is None:
                continue
            event = {
                "id": f"label-{kept.line.id}", "prediction_id": kept.line.id, "kind": "correct", "label": label,
                "share": kept.line.share, "annotator": f"person at {node.name}", "time": now_s,
            }  # fmt: skip
            self._labelled.add(kept.line.x)
            node.judge(event, kept.told)
            given.append((node, event))
        self.samples.extend(reversed(passed))
        if not given:
            return
        with self._database.write() as conn:
            for number in sorted({node.number for node, _ in given}):
                events = [read_event(event) for node, event in given if node.number == number]
                uploads.take_feedback(conn, self._nodes[number].id, events, now_s)
        self._teller.count_labels(len(given))
        self._said[version] += len(given)

    def look(self) -> None:
        """Tell what the nodes and the core have done."""
        serving: dict[int, int] = {}
        for node in self._nodes:
            if node.version is not None:
                serving[node.version] = serving.get(node.version, 0) + 1
        for version in sorted(serving):
            if serving[version] != self._serving.get(version):
                words = f"version {version} answers on {serving[version]} of {len(self._nodes)} nodes"
                self._story.event("serves", words)
        self._serving = serving
        self._teller.look()
