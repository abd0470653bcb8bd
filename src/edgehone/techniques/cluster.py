"""Let weights share values: each layer's weights become a few levels, found by k-means (Han, Mao, Dally 2016, Deep
Compression, arXiv:1510.00149, section 3).

When to use it: the file is stored or sent compressed (`sparsify.compressed_bytes`). When not: for speed, memory or the
size of the plain file, which stay as they were. With 16 levels a weight carries 4 bits of information, as in a 4-bit
file, and runs on 8-bit kernels.

Levels are made for int8, which scales every output channel by its largest weight: they are sizes in units of that
weight, the same for both signs and for all channels of a layer. So post-training quantization finds at most `levels`
different integers in a channel, and as a rule the same ones in the whole layer, which is what compresses. (Levels in
plain values, as the paper has them, become other integers in every channel.) Two things break it: quantization-aware
training, which moves each weight by itself, and a scale of the input that differs by channel, since it folds into the
layer behind it.

Zeros stay zeros and are one of the levels, so `sparsify` may come before, as in the paper. While training goes on,
weights of a level move together, to the nearest such weights (least squares; the paper sums their gradients).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgehone.errors import RecipeError
from edgehone.graph.ir import FloatArray, Graph
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import NUMBER, Step
from edgehone.techniques import Context, Result
from edgehone.techniques._projected import train_projected, training_of
from edgehone.techniques.prune import technique as prune

_ROUNDS = 100  # of k-means; it settles in 10 to 40


@dataclass(frozen=True)
class ClusterSettings:
    """How many levels, and how the network gets used to them.

    Attributes:
        levels: values that the weights of an output channel have at most, 3 to 256: two for each size, and 0.
        epochs: of training in which levels move and weights stay with their level; 0 re-estimates batch-norm
            statistics instead.
        learning_rate: peak of the training.
    """

    levels: int = 16
    epochs: float = 1.0
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        if not 3 <= self.levels <= 256:
            raise RecipeError(f"levels is {self.levels}", where="cluster", do="give 3 to 256")
        if not 0 <= self.epochs < inf:
            raise RecipeError(f"epochs is {self.epochs}", where="cluster", do="give 0 or more")
        if not 0 < self.learning_rate < inf:
            raise RecipeError(f"learning_rate is {self.learning_rate}", where="cluster", do="give a number above 0")


class Cluster:
    """The technique."""

    Settings = ClusterSettings
    identity = None

    def supports(self, graph: Graph) -> Sequence[str]:
        """Every network with weights has levels."""
        return () if any(True for _ in graph.weighted()) else ("the network has no weights to share values",)

    def step(self, settings: ClusterSettings) -> Step:
        """Labelled like "cluster-16-1": levels, epochs."""
        return Step("cluster", asdict(settings), f"cluster-{settings.levels}-{settings.epochs:g}")

    def from_label(self, label: str) -> ClusterSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(rf"cluster-(\d+)-({NUMBER})", label)
        return None if found is None else ClusterSettings(int(found[1]), float(found[2]))

    def apply(self, graph: Graph, settings: ClusterSettings, context: Context) -> Result:
        """Cluster every layer's weights, and train the levels.

        Raises:
            RecipeError: the network has no weights.
            DataError: the loss stopped being finite.
        """
        for reason in self.supports(graph):
            raise RecipeError(reason, where="cluster", do="leave this step out")
        keys = dict.fromkeys(node.params["weight"] for node in graph.weighted())
        shared = {key: share_values(graph.params[key], settings.levels) for key in keys}
        clustered = graph.with_nodes(graph.nodes, params={**graph.params, **{k: s.weight for k, s in shared.items()}})
        if settings.epochs == 0:
            return prune.recalibrate(clustered, context)
        training = training_of(context.prepared.task, settings.epochs, settings.learning_rate)
        return train_projected(clustered, GraphNetwork(clustered), training, context, _Together(shared))


class Shared(NamedTuple):
    """A weight of few values: unit * levels[members].

    Attributes:
        weight: the values, shaped as before.
        unit: by which each level is multiplied: the sign of the weight times the largest weight of its output channel,
            shaped as the weight; 0 where the weight is 0.
        members: number of the level of each weight, flat.
    """

    weight: FloatArray
    unit: FloatArray
    members: NDArray[np.int64]


def share_values(weight: FloatArray, levels: int) -> Shared:
    """K-means over the sizes of a layer's weights, from centres at equal distances ("linear", section 3.2).

    Args:
        weight: (O, ...); where an output channel's sizes are few already, they stay.
        levels: at most so many values in a channel, two for each size; a 0 is one of them.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, *[1] * (weight.ndim - 1))
    unit = np.sign(weight) * largest
    sizes = np.divide(weight, unit, out=np.zeros_like(weight), where=unit != 0).ravel().astype(np.float64)  # 0 to 1
    alive = np.flatnonzero(unit.ravel())
    found = max(1, (levels - int(len(alive) < weight.size)) // 2)
    members = np.zeros(weight.size, np.int64)
    values, places = np.unique(sizes[alive], return_inverse=True)
    if len(values) > found:
        weights = np.square(unit.ravel()[alive], dtype=np.float64)  # a wrong size costs most where units are large
        values, nearest = _kmeans(values, np.bincount(places, weights).astype(np.float64), found)
        places = nearest[places]
    members[alive] = places
    shared = np.zeros_like(weight) if not len(values) else unit * values[members].reshape(weight.shape)
    return Shared(shared.astype(np.float32), unit, members)


def _kmeans(
    values: NDArray[np.float64], counts: NDArray[np.float64], levels: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres, and the number of each value's centre; a centre without values stays where it is.

    Args:
        values: ascending.
        counts: how much each weighs.
    """
    centres = np.linspace(values[0], values[-1], levels)
    nearest = np.full(len(values), -1)
    for _ in range(_ROUNDS):
        before, nearest = nearest, np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        if np.array_equal(before, nearest):
            break
        weights = np.bincount(nearest, counts, minlength=levels)
        sums = np.bincount(nearest, counts * values, minlength=levels)
        centres = np.divide(sums, weights, out=centres, where=weights > 0)
    return centres, nearest.astype(np.int64)


class _Together:
    """Puts weights back to unit * level, each level as near to its weights as can be."""

    def __init__(self, shared: Mapping[str, Shared]) -> None:
        self._shared = {key: (torch.from_numpy(s.unit), torch.from_numpy(s.members)) for key, s in shared.items()}

    @torch.no_grad()
    def __call__(self, network: nn.Module, share: float) -> None:  # noqa: ARG002  one signature for what follows steps
        if not isinstance(network, GraphNetwork):
            raise TypeError("levels belong to a GraphNetwork")
        for key, (unit, members) in self._shared.items():
            weight = network.tensor(key)
            weight.copy_(_nearest(weight, unit.to(weight.device), members.to(weight.device)))


def _nearest(weight: Tensor, unit: Tensor, members: Tensor) -> Tensor:
    """The weights unit * level that are nearest to these."""
    flat, of = weight.flatten().double(), unit.flatten().double()
    levels = torch.bincount(members, flat * of) / torch.bincount(members, of * of).clamp_min(1e-300)
    return (of * levels[members]).to(weight.dtype).view(weight.shape)


technique = Cluster()
