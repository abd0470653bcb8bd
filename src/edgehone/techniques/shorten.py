"""Remove whole branches: residual blocks and arms of a sum that the network can best do without (residual networks
behave like ensembles of shallow ones, Veit, Wilber, Belongie 2016, arXiv:1605.06431, section 4; layers chosen by how
little they matter, as in Shortened LLaMA, Kim et al. 2024, arXiv:2402.02834, section 3).

When to use it: the network is deep and narrow. Every layer has a price of its own on a real runtime, so fewer layers
save time where narrower ones do not: a ResNet-56 with half of its blocks takes half the time. When not: the network
has no additions (a chain), or its blocks are few and wide; then `prune`. Recover with `distil` afterwards.

Which branch leaves is measured: the rise of the training loss without it, batch-norm statistics re-estimated. The
ranking is repeated after every few removals, since a branch is worth more when its neighbours are gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil

from edgehone.errors import CutError, RecipeError
from edgehone.graph.branches import branches, without
from edgehone.graph.ir import Graph
from edgehone.recipe import Step
from edgehone.techniques import Context, Result
from edgehone.techniques._sensitivity import Sensitivity
from edgehone.techniques.prune import technique as prune


@dataclass(frozen=True)
class ShortenSettings:
    """How much to remove.

    Attributes:
        keep: share of the branches that stay, 0 to 1; 1 changes nothing.
        at_once: share of what is to leave that leaves before branches are ranked again, above 0 and at most 1.
    """

    keep: float = 0.5
    at_once: float = 0.34

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise RecipeError(f"keep is {self.keep}", where="shorten", do="give a share from 0 to 1")
        if not 0 < self.at_once <= 1:
            raise RecipeError(f"at_once is {self.at_once}", where="shorten", do="give a share above 0 and at most 1")


class Shorten:
    """The technique."""

    Settings = ShortenSettings
    identity = ShortenSettings(keep=1.0)

    def supports(self, graph: Graph) -> Sequence[str]:
        """A network without a branch cannot be shortened."""
        return () if branches(graph) else ("no branch of this network can leave: it adds nothing to anything",)

    def step(self, settings: ShortenSettings) -> Step:
        """Labelled like "shorten-50": percent of the branches that stay."""
        return Step("shorten", asdict(settings), f"shorten-{round(settings.keep * 100)}")

    def from_label(self, label: str) -> ShortenSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(r"shorten-(\d+)", label)
        return None if found is None else ShortenSettings(int(found[1]) / 100)

    def apply(self, graph: Graph, settings: ShortenSettings, context: Context) -> Result:
        """Remove the branches that matter least, and re-estimate batch-norm statistics.

        Raises:
            CutError: there is no branch.
        """
        if settings.keep == 1:
            return Result(graph)
        for reason in self.supports(graph):
            raise CutError(reason, where="shorten", do="use prune instead")
        leaving = round((1 - settings.keep) * len(branches(graph)))
        at_once = ceil(settings.at_once * leaving)
        measured = Sensitivity(context)
        while leaving > 0 and (found := branches(graph)):
            many = min(leaving, at_once, len(found))
            ranked = sorted(found, key=lambda branch: measured.loss(without(graph, [branch.name])))
            graph = without(graph, [branch.name for branch in ranked[:many]])
            leaving -= many
        return prune.recalibrate(graph, context)


technique = Shorten()
