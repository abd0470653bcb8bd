"""Train with a price on weights, so that what is to leave is nearly gone before it is cut.

The cost is the loss of the task plus a term; both are told, epoch by epoch, in the result's notes. Four terms:

    l1        sum of |w| over all conv and linear weights                     weights go to zero one by one
    l2        sum of w²                                                       all weights shrink
    group     sum of the norms of whole channels (group lasso; Wen et al. 2016, arXiv:1608.03665, section 3.1)
    growing   w² of the channels that are about to leave, its strength rising from 0 to the full one over the training
              (Wang et al. 2021, arXiv:2012.09243, section 3.1, GReg-1)

Channels are the classes of coupled channels that a cut removes together, with all that writes them: weights, biases,
and the scales and shifts of batch norms.

When to use it: "growing" before `prune` with the same keep, criterion and allocation: the network moves what it knows
into the channels that stay while it still has the others, which matters more the deeper the cut. "l1" before
`sparsify`. When not: a mild cut (keep above 0.7) that `distil` recovers anyway; it costs a whole training. A teacher
that the context has teaches here too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from edgehone.errors import RecipeError
from edgehone.graph.groups import Group, Slots, channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import NUMBER, Step
from edgehone.task import Training
from edgehone.techniques import Context, Result
from edgehone.techniques._allocation import allocate
from edgehone.techniques.distil import epochs_of, train
from edgehone.techniques.prune import technique as prune

Kind = Literal["growing", "group", "l1", "l2"]
_KINDS = ("growing", "group", "l1", "l2")
_OF_CHANNELS = ("growing", "group")
_TINY = 1e-12  # under a root: its slope at zero is infinite


@dataclass(frozen=True)
class RegulariseSettings:
    """What is priced, and how much.

    Attributes:
        kind: the term, see the module docstring.
        strength: factor of the term; of "growing" the one it ends with. Usual: 0.1 to 1 for "growing" (more where
            steps are few), 1e-4 to 1e-2 for the others.
        keep: share of the multiply-accumulates that is to stay; only what is about to leave is priced. For "growing".
        criterion: which channels matter, a name of `techniques.criteria`. For "growing".
        allocation: how the cut is spread over the layers, see `prune`. For "growing".
        training: epochs and rates.
    """

    kind: Kind = "growing"
    strength: float = 0.3
    keep: float = 0.5
    criterion: str = "l2"
    allocation: Literal["global", "uniform"] = "global"
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise RecipeError(f"kind is {self.kind!r}", where="regularise", do=f"choose one of: {', '.join(_KINDS)}")
        if not 0 <= self.strength < inf:
            raise RecipeError(f"strength is {self.strength}", where="regularise", do="give 0 or more")
        if not 0 < self.keep <= 1:
            raise RecipeError(f"keep is {self.keep}", where="regularise", do="give a share above 0 and at most 1")


class Regularise:
    """The technique."""

    Settings = RegulariseSettings
    identity = None

    def supports(self, graph: Graph) -> Sequence[str]:
        """Every graph with weights can be trained; the terms over channels need channels that may leave."""
        return () if any(True for _ in graph.weighted()) else ("the network has no weights to train",)

    def step(self, settings: RegulariseSettings) -> Step:
        """Labelled like "regularise-l1-0.0001-3" (kind, strength, epochs), "regularise-growing-0.3-keep-50-3"."""
        keep = f"-keep-{round(settings.keep * 100)}" if settings.kind == "growing" else ""
        label = f"regularise-{settings.kind}-{settings.strength:g}{keep}-{settings.training.epochs:g}"
        return Step("regularise", asdict(settings), label)

    def from_label(self, label: str) -> RegulariseSettings | None:
        """The inverse of the label; None for a label of another technique."""
        pattern = rf"regularise-(growing|group|l1|l2)-({NUMBER})(?:-keep-(\d+))?-({NUMBER})"
        found = re.fullmatch(pattern, label)
        if found is None:
            return None
        kind: Kind
        kind, strength, keep, epochs = found.groups()  # type: ignore[assignment]  # the pattern names the kinds
        share = RegulariseSettings.keep if keep is None else int(keep) / 100
        training = epochs_of(epochs, "regularise")
        return RegulariseSettings(kind, float(strength), share, training=training)

    def apply(self, graph: Graph, settings: RegulariseSettings, context: Context) -> Result:
        """Train with the term; the notes tell loss and term of every epoch.

        Raises:
            RecipeError: the network has no weights, or no channels that could leave.
            DataError: the loss stopped being finite.
        """
        for reason in self.supports(graph):
            raise RecipeError(reason, where="regularise", do="leave this step out")
        groups = channel_groups(graph)
        if settings.kind in _OF_CHANNELS and not groups:
            raise RecipeError("no channel of this network can leave", where="regularise", do="use kind l1 or l2")
        leaving = self._leaving(graph, groups, settings, context) if settings.kind == "growing" else {}
        term = _Term(graph, groups, settings, leaving)
        trained = train(graph, settings.training, context, term)
        return Result(trained.graph, curve=trained.curve, notes=term.told(trained))

    def _leaving(
        self, graph: Graph, groups: Sequence[Group], settings: RegulariseSettings, context: Context
    ) -> Mapping[str, tuple[int, ...]]:
        """Group → the classes that a cut with these settings would remove now."""
        scores = prune.scores(graph, settings.criterion, context)
        keep = allocate(groups, scores, settings.keep, settings.allocation)
        return {g.name: tuple(c for c in range(g.width) if c not in set(keep[g.name])) for g in groups}


class _Term:
    """The term, as `Run.penalty` calls it; it remembers what it came to."""

    def __init__(
        self, graph: Graph, groups: Sequence[Group], settings: RegulariseSettings, leaving: Mapping[str, Sequence[int]]
    ) -> None:
        self._settings, self._groups, self._leaving = settings, groups, leaving
        self._weights = list(dict.fromkeys(node.params["weight"] for node in graph.weighted()))
        still = {
            node.params[role]
            for node in graph.nodes
            for role in ("mean", "variance", "value")
            if role in node.params and (role != "value" or node.attrs.get("fixed"))
        }
        # what writes a channel lies on axis 0; what reads it (axis 1 of a weight) belongs to the next group
        self._slots = {g.name: [s for s in g.params if s.axis == 0 and s.name not in still] for g in groups}
        self._seen: dict[int, list[Tensor]] = defaultdict(list)

    def __call__(self, network: nn.Module, share: float) -> Tensor:
        if not isinstance(network, GraphNetwork):
            raise TypeError("the term belongs to a GraphNetwork")
        strength = self._settings.strength * (share if self._settings.kind == "growing" else 1.0)
        parts = list(self._parts(network))
        term = strength * torch.stack(parts).sum() if parts else torch.zeros(())
        self._seen[int(share * self._settings.training.epochs)].append(term.detach())
        return term

    def _parts(self, network: GraphNetwork) -> Iterator[Tensor]:
        if self._settings.kind in ("l1", "l2"):
            for weight in map(network.tensor, self._weights):
                yield weight.abs().sum() if self._settings.kind == "l1" else weight.square().sum()
            return
        for group in self._groups:
            squares = torch.stack([squared(network, slots) for slots in self._slots[group.name]]).sum(0)
            if self._settings.kind == "group":
                yield (squares + _TINY).sqrt().sum()
            elif leaving := self._leaving[group.name]:
                yield squares[list(leaving)].sum()

    def told(self, trained: Result) -> tuple[str, ...]:
        """Loss and term of every epoch that was trained here, as sentences."""
        notes = []
        for number, point in enumerate(trained.curve):
            if number in self._seen:  # an epoch of before an interruption is not remembered
                term = float(torch.stack(self._seen[number]).mean())
                notes.append(f"epoch {point.epoch:g}: cost {point.loss:.4g}, of which {term:.4g} is the term")
        return tuple(notes)


def squared(network: GraphNetwork, slots: Slots) -> Tensor:
    """The sum of squares of every class on one parameter, (width)."""
    tensor = network.tensor(slots.name)
    index = torch.from_numpy(slots.indices).to(tensor.device)
    return tensor.movedim(slots.axis, 0)[index].square().flatten(1).sum(1)


technique = Regularise()
