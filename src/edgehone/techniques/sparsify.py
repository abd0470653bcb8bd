"""Set weights to zero: the smallest ones, more and more of them while the network trains (gradual magnitude pruning,
Zhu and Gupta 2017, arXiv:1710.01878, section 3), anywhere or two of every four (Mishra et al. 2021, arXiv:2104.08378).

When to use it: the file is stored or sent compressed, as an update over a slow link is; see `compressed_bytes`. When
not: for speed, or for fewer bytes in memory. The kernels that run int8 networks on CPUs and microcontrollers multiply
by zero like by anything else, so latency, file size and memory stay as they were: `prune` and `decompose` lower those.

Zeros are zeros in the int8 file too, as post-training quantization maps 0 to 0. Quantization-aware training does not
know of them and fills them again. Weights of depthwise convolutions stay: they are few, and each matters.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from edgehone.errors import RecipeError
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import NUMBER, Step
from edgehone.techniques import Context, Result
from edgehone.techniques._projected import train_projected, training_of
from edgehone.techniques.prune import technique as prune

Pattern = Literal["unstructured", "2:4"]
Allocation = Literal["uniform", "global"]

_UPDATES = 20  # times that zeros are chosen anew
_FLOOR = 0.05  # of a layer's weights that "global" never takes, so that no layer dies


def compressed_bytes(content: bytes) -> int:
    """Size of a file as it is stored or sent compressed: zlib (DEFLATE, RFC 1951) at level 9."""
    return len(zlib.compress(content, 9))


@dataclass(frozen=True)
class SparsifySettings:
    """How many zeros, where, and how the network gets used to them.

    Attributes:
        sparsity: share of zeros among the weights that may be zero, 0 or more and below 1; 0 changes nothing.
        pattern: "unstructured", or "2:4": of every four weights that meet neighbouring input channels, the two largest
            stay. That is a sparsity of 0.5, in the layers whose input channels are a multiple of 4.
        allocation: "uniform" makes that share of every layer zero; "global" ranks the weights of all layers together.
        epochs: of training while zeros grow; 0 sets them in one go and re-estimates batch-norm statistics instead.
        ramp: share of the training in which zeros grow, above 0 and at most 1; after it they stay where they are.
        learning_rate: peak of the training.
    """

    sparsity: float = 0.5
    pattern: Pattern = "unstructured"
    allocation: Allocation = "uniform"
    epochs: float = 1.0
    ramp: float = 0.6
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise RecipeError(f"sparsity is {self.sparsity}", where="sparsify", do="give 0 or more, and less than 1")
        for name, value, known in (
            ("pattern", self.pattern, get_args(Pattern)), ("allocation", self.allocation, get_args(Allocation)),
        ):  # fmt: skip
            if value not in known:
                do = f"choose one of: {', '.join(known)}"
                raise RecipeError(f"{name} {value!r} is not known", where="sparsify", do=do)
        if self.pattern == "2:4" and self.sparsity != 0.5:
            do = "set it to 0.5, or choose the pattern unstructured"
            raise RecipeError(f"sparsity is {self.sparsity}, and 2:4 means 0.5", where="sparsify", do=do)
        if not 0 <= self.epochs < inf:
            raise RecipeError(f"epochs is {self.epochs}", where="sparsify", do="give 0 or more")
        if not 0 < self.ramp <= 1:
            raise RecipeError(f"ramp is {self.ramp}", where="sparsify", do="give a share above 0 and at most 1")
        if not 0 < self.learning_rate < inf:
            raise RecipeError(f"learning_rate is {self.learning_rate}", where="sparsify", do="give a number above 0")


class Sparsify:
    """The technique."""

    Settings = SparsifySettings
    identity = SparsifySettings(sparsity=0.0)

    def supports(self, graph: Graph) -> Sequence[str]:
        """A network needs weights that may be zero."""
        return () if _keys(graph) else ("the network has no weights that may be zero",)

    def step(self, settings: SparsifySettings) -> Step:
        """Labelled like "sparsify-50-uniform-1" (percent, allocation, epochs) or "sparsify-2of4-uniform-1"."""
        share = "2of4" if settings.pattern == "2:4" else f"{settings.sparsity * 100:g}"
        return Step("sparsify", asdict(settings), f"sparsify-{share}-{settings.allocation}-{settings.epochs:g}")

    def from_label(self, label: str) -> SparsifySettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(rf"sparsify-(?:(2of4)|({NUMBER}))-(uniform|global)-({NUMBER})", label)
        if found is None:
            return None
        pattern, percent, allocation, epochs = found.groups()
        sparsity = 0.5 if pattern else round(float(percent) / 100, 6)
        return SparsifySettings(sparsity, "2:4" if pattern else "unstructured", allocation, float(epochs))  # type: ignore[arg-type]

    def apply(self, graph: Graph, settings: SparsifySettings, context: Context) -> Result:
        """Zero the smallest weights, at once or while training.

        Raises:
            RecipeError: no weight may be zero, or none in this pattern.
            DataError: the loss stopped being finite.
        """
        if settings.sparsity == 0:
            return Result(graph)
        for reason in self.supports(graph):
            raise RecipeError(reason, where="sparsify", do="leave this step out")
        keys = [key for key in _keys(graph) if settings.pattern != "2:4" or graph.params[key].shape[1] % 4 == 0]
        if not keys:
            reason = "no layer has input channels in fours"
            raise RecipeError(reason, where="sparsify", do="choose the pattern unstructured")
        network = GraphNetwork(graph)
        masks = _Masks(network, keys, settings)
        if settings.epochs == 0:
            masks(network, 1.0)
            return prune.recalibrate(graph.with_nodes(graph.nodes, params=network.to_graph().params), context)
        training = training_of(context.prepared.task, settings.epochs, settings.learning_rate)
        return train_projected(graph, network, training, context, masks)


class _Masks:
    """What stays; kept in buffers of the network, so that a checkpoint holds it too.

    Zeros only grow: weights that are zero are the smallest when zeros are chosen anew.
    """

    def __init__(self, network: GraphNetwork, keys: Sequence[str], settings: SparsifySettings) -> None:
        self._settings = settings
        self._buffers = {key: f"keep{number}" for number, key in enumerate(keys)}
        network.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        for key, buffer in self._buffers.items():
            network.register_buffer(buffer, torch.ones_like(network.tensor(key), dtype=torch.bool))
        zeros = {key: float((network.tensor(key) == 0).float().mean()) for key in keys}
        sizes = {key: network.tensor(key).numel() for key in keys}
        whole = sum(zeros[key] * sizes[key] for key in keys) / sum(sizes.values())
        self._first = zeros if settings.allocation == "uniform" else dict.fromkeys(keys, whole)

    @torch.no_grad()
    def __call__(self, network: nn.Module, share: float) -> None:
        """Choose zeros anew where it is time, and set them."""
        if not isinstance(network, GraphNetwork):
            raise TypeError("masks belong to a GraphNetwork")
        weights = {key: network.tensor(key) for key in self._buffers}
        self._set(network, weights)
        stage = min(_UPDATES, int(share / self._settings.ramp * _UPDATES + 1e-9))
        if stage > int(network.get_buffer("stage")):
            network.get_buffer("stage").fill_(stage)
            for key, keep in self._chosen(weights, stage / _UPDATES).items():
                network.get_buffer(self._buffers[key]).copy_(keep)
            self._set(network, weights)

    def _set(self, network: GraphNetwork, weights: Mapping[str, Tensor]) -> None:
        for key, weight in weights.items():
            weight.masked_fill_(~network.get_buffer(self._buffers[key]), 0.0)

    def _chosen(self, weights: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """What stays once the schedule has come that far: s = last + (first - last) * (1 - progress) ** 3."""
        last = self._settings.sparsity
        goals = {key: max(first, last + (first - last) * (1 - progress) ** 3) for key, first in self._first.items()}
        may_go = {key: _candidates(weight, self._settings) for key, weight in weights.items()}
        if self._settings.allocation == "uniform":
            return {key: _keep(weights[key], may_go[key], goals[key]) for key in weights}
        flat = _keep(
            torch.cat([weight.flatten() for weight in weights.values()]),
            torch.cat([may.flatten() for may in may_go.values()]),
            next(iter(goals.values())),
        )
        parts = torch.split(flat, [weight.numel() for weight in weights.values()])
        return {key: part.view_as(weights[key]) for key, part in zip(weights, parts, strict=True)}


def _keys(graph: Graph) -> list[str]:
    """Weights that may be zero, each once."""
    every = dict.fromkeys(node.params["weight"] for node in graph.weighted())
    return [key for key in every if graph.params[key].shape[1] > 1]


def _candidates(weight: Tensor, settings: SparsifySettings) -> Tensor:
    """Which weights of a layer may go, as booleans."""
    if settings.pattern == "2:4":
        fours = weight.movedim(1, -1)  # (O, ..., I)
        order = fours.reshape(-1, 4).abs().argsort(dim=1, stable=True)
        small = torch.zeros(len(order), 4, dtype=torch.bool, device=weight.device).scatter_(1, order[:, :2], True)
        return small.view(fours.shape).movedim(-1, 1)
    if settings.allocation == "uniform":
        return torch.ones_like(weight, dtype=torch.bool)
    staying = ceil(min(_FLOOR, (1 - settings.sparsity) / 2) * weight.numel())
    may_go = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    may_go[weight.flatten().abs().argsort(descending=True, stable=True)[:staying]] = False
    return may_go.view(weight.shape)


def _keep(weight: Tensor, may_go: Tensor, sparsity: float) -> Tensor:
    """All but the smallest of those that may go; `sparsity` is of all weights."""
    magnitude = torch.where(may_go, weight.abs(), inf).flatten()
    leaving = min(round(sparsity * weight.numel()), int(may_go.sum()))
    keep = torch.ones_like(magnitude, dtype=torch.bool)
    keep[magnitude.argsort(stable=True)[:leaving]] = False
    return keep.view(weight.shape)


technique = Sparsify()
