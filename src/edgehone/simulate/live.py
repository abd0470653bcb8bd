"""A scenario on real processes: feed the nodes, label what they send up, and tell what the core makes of it.

live = Live(site, nodes, scenario, pool, story, seed=0)
live.run(until=lambda: live.row >= scenario.rows)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import HostError
from edgehone.simulate.nodes import Answered
from edgehone.simulate.people import SimulatedPerson
from edgehone.simulate.scenario import Scenario
from edgehone.simulate.story import Story
from edgehone.simulate.streams import Pool, Stream
from edgehone.simulate.telling import News, Node, Teller

LOOK_S = 1.0
_MOST_LABELS = 32  # at one look, so that feeding goes on


class Device(Node, Protocol):
    """A node that is asked. Both raise HostError when it does not answer."""

    def ask(self, x: NDArray[np.float32]) -> Answered:
        """Answer one reading."""

    def feedback(self, id: str, prediction: str, *, label: str, time_s: float) -> None:
        """Take in what the right answer was."""


class Site(Protocol):
    """What is there besides the nodes: their processes and their core."""

    def check(self) -> None:
        """Raises HostError when a process has ended."""

    def news(self) -> Iterable[News]:
        """What the core did since it was last asked."""

    def to_label(self, answered: Collection[str]) -> Sequence[str]:
        """Of the answers given, those that a person may look at, whatever was answered; the best first."""


class Live:
    """Drives a scenario, one row of every node at a time.

    Attributes:
        labelling: whether the person looks at samples; set it when you like, by default the first alarm does.
    """

    def __init__(
        self, site: Site, nodes: Sequence[Device], scenario: Scenario, pool: Pool, story: Story, *, seed: int
    ) -> None:
        self._site, self._nodes, self._scenario, self._story = site, nodes, scenario, story
        self._teller = Teller(nodes, site.news, scenario, story)
        self._streams = [Stream(scenario, pool, seed=seed, node=number) for number in range(len(nodes))]
        self._person = SimulatedPerson(scenario.annotator, pool.labels, seed=seed)
        self._truth: dict[str, tuple[int, int, int]] = {}  # prediction → node, row, class
        self._asked: set[str] = set()
        self._versions: dict[str, int] = {}
        self._looked_s = 0.0
        self.labelling = False

    @property
    def row(self) -> int:
        """Of each node, that comes next."""
        return self._teller.row

    @property
    def labels(self) -> int:
        """Given so far."""
        return self._teller.labels

    def run(self, until: Callable[[], bool], *, limit_s: float = float("inf")) -> bool:
        """Feed until something holds; False when the time is over first.

        Raises:
            HostError: a process has ended.
        """
        end_s = time.monotonic() + limit_s
        pause_s = 1.0 / self._scenario.rows_per_s
        due_s = time.monotonic()
        while time.monotonic() < end_s:
            self._feed()
            if time.monotonic() - self._looked_s >= LOOK_S:
                self._looked_s = time.monotonic()
                self._site.check()
                known = len(self._teller.alarmed)
                self._teller.look()
                self.labelling |= len(self._teller.alarmed) > known
                if self.labelling:
                    self._label()
                if until():
                    return True
            due_s = max(due_s + pause_s, time.monotonic() - 1.0)
            time.sleep(max(0.0, due_s - time.monotonic()))
        return False

    def _feed(self) -> None:
        self._teller.begin_phase()
        for number, (node, stream) in enumerate(zip(self._nodes, self._streams, strict=True)):
            seen = stream.reading(self.row)
            self._teller.keep(number, seen)
            try:
                answered = node.ask(seen.x)
            except HostError:  # busy or swapping; a device would lose this reading, too
                continue
            self._truth[answered.id] = (number, self.row, seen.y)
            self._story.answer(
                self._scenario.cohort(number), is_right=answered.answer == seen.y, latency_us=answered.latency_us
            )
            if self._versions.get(node.name) != answered.version:
                self._versions[node.name] = answered.version
                self._story.event("serves", f"{node.name} answers with version {answered.version}")
        self._teller.row += 1

    def _label(self) -> None:
        """The person looks through what nodes have seen."""
        given = 0
        for id in self._site.to_label(self._truth):
            if id not in self._truth or id in self._asked:
                continue
            number, row, truth = self._truth[id]
            if self.row - row < self._scenario.annotator.delay_rows or given >= _MOST_LABELS:
                continue
            self._asked.add(id)
            label = self._person.says(number, id, truth)
            if label is None:
                continue
            self._nodes[number].feedback(f"label-{id}", id, label=label, time_s=time.time())
            given += 1
        self._teller.count_labels(given)
