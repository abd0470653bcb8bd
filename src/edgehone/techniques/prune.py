"""Remove whole channels for real: smaller dense tensors, not masks (structured pruning, Li et al. 2017,
arXiv:1608.08710; coupled channels as in DepGraph, Fang et al. 2023, arXiv:2301.12900).

When to use it: the network is wider than the task needs. When not: it is already narrow (8 channels or fewer), or
what costs time is its depth. Batch-norm statistics are re-estimated after the cut; recover with `distil` afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

from edgehone.errors import CutError, RecipeError
from edgehone.graph.cut import cut
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.recipe import Step
from edgehone.techniques import Context, Result
from edgehone.techniques._allocation import allocate
from edgehone.techniques.criteria import CRITERIA, Probe
from edgehone.train.losses import task_loss
from edgehone.train.statistics import reestimate_statistics

_PROBE_BATCHES = 4
_STATISTICS_BATCHES = 20
_BATCH = 128


@dataclass(frozen=True)
class PruneSettings:
    """How to cut.

    Attributes:
        keep: share of the multiply-accumulates that stays, above 0 and at most 1; 1 changes nothing.
        criterion: which channels matter, a name of `techniques.criteria`.
        allocation: "global" ranks all layers against each other, "uniform" cuts every layer alike; "knapsack" is what
            a study chose by the prices of its target, and cannot be repeated without them.
        step: widths stay multiples of it.
        minimum: channels below which no layer is cut.
    """

    keep: float = 0.5
    criterion: str = "l2"
    allocation: Literal["knapsack", "global", "uniform"] = "global"
    step: int = 8
    minimum: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise RecipeError(f"keep is {self.keep}", where="prune", do="give a share above 0 and at most 1")


class Prune:
    """The technique; `plan` is its cheap half, without data for statistics."""

    Settings = PruneSettings
    identity = PruneSettings(keep=1.0)

    def supports(self, graph: Graph) -> Sequence[str]:
        """A graph without a single group of channels cannot be cut."""
        return () if channel_groups(graph) else ("no channel of this network can leave",)

    def step(self, settings: PruneSettings) -> Step:
        """Labelled like "prune-l2-global-40": criterion, allocation, percent of the MACs that stay."""
        label = f"prune-{settings.criterion}-{settings.allocation}-{round(settings.keep * 100)}"
        return Step("prune", asdict(settings), label)

    def from_label(self, label: str) -> PruneSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(r"prune-(.+)-(knapsack|global|uniform)-(\d+)", label)
        if found is None:
            return None
        allocation: Any = found[2]
        return PruneSettings(int(found[3]) / 100, found[1], allocation)

    def plan(self, graph: Graph, scores: Any, settings: PruneSettings) -> Graph:
        """The cut graph for given scores, its statistics not yet re-estimated."""
        if settings.allocation == "knapsack":
            raise RecipeError(
                "a knapsack needs the prices of a target", where="prune", do="run a study, or choose global or uniform"
            )
        keep = allocate(
            channel_groups(graph), scores, settings.keep, settings.allocation, settings.step, settings.minimum
        )
        return cut(graph, keep)

    def scores(self, graph: Graph, criterion: str, context: Context) -> Any:
        """Importance of every channel, group by group."""
        data = context.prepared.train
        loss = task_loss(context.prepared.task)
        batches = list(islice(data.batches(_BATCH, seed=context.seed), _PROBE_BATCHES))
        probe = Probe(batches, lambda output, target: loss(output, target, target), context.seed)
        if context.prepared.task.kind == "anomaly":  # its target is its own input
            probe = Probe([(x, x) for x, _ in batches], lambda output, x: loss(output, x, x), context.seed)
        return CRITERIA.get(criterion).score(graph, channel_groups(graph), probe)

    def apply(self, graph: Graph, settings: PruneSettings, context: Context) -> Result:
        """Score, cut, re-estimate batch-norm statistics.

        Raises:
            CutError: nothing can be cut.
        """
        if settings.keep == 1:
            return Result(graph)
        for reason in self.supports(graph):
            raise CutError(reason, where="prune", do="use quantize alone, or a wider network")
        return self.recalibrate(self.plan(graph, self.scores(graph, settings.criterion, context), settings), context)

    def recalibrate(self, graph: Graph, context: Context) -> Result:
        """Batch-norm statistics of a cut graph, over training data."""
        data = context.prepared.train
        batches = data.batches(_BATCH, seed=context.seed, drop_last=len(data) >= _BATCH)
        return Result(reestimate_statistics(graph, (x for x, _ in islice(batches, _STATISTICS_BATCHES))))


technique = Prune()
