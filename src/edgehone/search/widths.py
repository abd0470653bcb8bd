"""Choose widths by measured latency: bisect how much stays until the cut network, exported and timed, is fast enough.

A candidate is timed before it is trained: latency does not depend on the values of weights. A candidate that is no
faster, or that another cut reaches as fast, costs seconds, not epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgehone.budget import Budget
from edgehone.exporters import EXPORTERS
from edgehone.graph.cost import peak_activation_bytes, widths
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.twin import quantize
from edgehone.search.target import MAIN_FORMAT, Target
from edgehone.techniques import Context
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.quantize import inputs
from edgehone_agent.wire.measurement import Measurement

SMALLEST = 0.01  # share of the work below which no cut goes
_BISECTIONS = 7
MOST_TIMED = _BISECTIONS + 1  # candidates in one search
_CALIBRATION = 16


@dataclass(frozen=True)
class Candidate:
    """A cut that is not trained yet, and what it costs."""

    keep: float
    graph: Graph
    latency: Measurement
    size_bytes: int
    memory_bytes: int

    def holds(self, budget: Budget) -> bool:
        """Whether it holds every limit on cost; the bad end of the latency interval counts."""
        return (
            (budget.latency_us is None or bad_end_us(self) <= budget.latency_us)
            and (budget.size_bytes is None or self.size_bytes <= budget.size_bytes)
            and (budget.memory_bytes is None or self.memory_bytes <= budget.memory_bytes)
        )


def bad_end_us(candidate: Candidate) -> float:
    """The bad end of its latency."""
    return candidate.latency.high if candidate.latency.high is not None else candidate.latency.value


class Cuts(Protocol):
    """Ways to cut one parent."""

    def floor(self) -> Candidate:
        """The cut that costs least."""

    def reaching(self, latency_us: float) -> Candidate | None:
        """The best cut that takes at most this long, None when no cut does."""

    def holding(self, budget: Budget) -> Candidate | None:
        """The best cut that holds every limit on cost, None when no cut does."""


class Widths:
    """Candidates cut from one parent, from the scores of its channels.

    Args:
        graph: the parent's training graph.
        settings: criterion, allocation and step; `keep` is chosen here.
        context: data for scores and ranges.
        target: where latency is judged.
        progress: told how many candidates were timed.
    """

    def __init__(
        self, graph: Graph, settings: PruneSettings, context: Context, target: Target,
        progress: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._graph, self._settings, self._context, self._target = graph, settings, context, target
        self._progress = progress
        self._scores = prune.scores(graph, settings.criterion, context)
        self._known: dict[tuple[int, ...], Candidate] = {}

    def candidate(self, keep: float) -> Candidate:
        """The cut that keeps a share of the work; equal widths are timed once."""
        settings = PruneSettings(
            keep, self._settings.criterion, self._settings.allocation, self._settings.step, self._settings.minimum
        )
        graph = prune.plan(self._graph, self._scores, settings)
        key = tuple(widths(graph).values())
        if key not in self._known:
            self._known[key] = price(keep, graph, self._context, self._target)
            self._progress(len(self._known))
        return self._known[key]

    def floor(self) -> Candidate:
        """The narrowest cut."""
        return self.candidate(SMALLEST)

    def reaching(self, latency_us: float) -> Candidate | None:
        """The widest cut that takes at most this long, None when no cut does."""
        return self.largest(lambda candidate: candidate.latency.value <= latency_us)

    def holding(self, budget: Budget) -> Candidate | None:
        """The widest cut that holds every limit on cost, None when no cut does."""
        return self.largest(lambda candidate: candidate.holds(budget))

    def largest(self, accepted: Callable[[Candidate], bool]) -> Candidate | None:
        """The widest cut that is accepted, None when not even the narrowest is; acceptance grows as widths shrink."""
        best = self.candidate(SMALLEST)
        if not accepted(best):
            return None
        low, high = SMALLEST, 1.0
        for _ in range(_BISECTIONS):
            middle = (low * high) ** 0.5 if low < 0.2 else (low + high) / 2
            found = self.candidate(middle)
            if accepted(found):
                low, best = middle, found
            else:
                high = middle
        return best


def price(keep: float, graph: Graph, context: Context, target: Target) -> Candidate:
    """What an untrained cut costs as an int8 file on the target."""
    integers = rough_integers(graph, context)
    size = len(EXPORTERS.get(MAIN_FORMAT).export(integers))
    return Candidate(keep, graph, target.latency(integers), size, peak_activation_bytes(integers.graph))


def rough_integers(graph: Graph, context: Context) -> QuantizedGraph:
    """Integers good enough to time: ranges from a handful of examples."""
    return quantize(deploy(graph), inputs(context.prepared.train.sample(_CALIBRATION, context.seed)))
