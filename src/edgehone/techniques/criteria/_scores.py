"""From one number per channel of a layer to one number per class of a group; what the criteria share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehone.errors import DataError
from edgehone.graph.groups import Group, Slots
from edgehone.graph.ir import FloatArray, Graph
from edgehone.graph.network import GraphNetwork
from edgehone.techniques.criteria import Probe

Line = NDArray[np.float64]  # one number per channel of a layer, or per class of a group
_RECTIFIED = frozenset({"relu", "relu6"})
_ACTIVATED = _RECTIFIED | {"hard_swish", "silu", "leaky_relu", "tanh"}


def combine(group: Group, places: Iterable[Slots], values: Callable[[Slots], Line]) -> Line:
    """Mean over layers of a class's share in each: (width) scores whose mean is near 1; ones where no layer counts.

    Args:
        group: the group.
        places: the layers that count.
        values: the channel values of a whole layer, (size of its axis), at least 0.
    """
    layers = []
    for slots in places:
        line = np.asarray(values(slots), np.float64)
        mean = line.mean()
        layers.append((line / mean if mean > 0 else line)[slots.indices].mean(axis=1))
    return np.mean(layers, axis=0) if layers else np.ones(group.width)


def filter_slots(graph: Graph, group: Group, *, reading: bool = False) -> list[Slots]:
    """Slots on the conv and linear weights that write the group's channels, and on those that read them if asked."""
    weights = {node.params["weight"] for node in graph.weighted()}
    axes = (0, 1) if reading else (0,)
    return [slots for slots in group.params if slots.name in weights and slots.axis in axes]


def rows(weight: FloatArray, axis: int) -> NDArray[np.float64]:
    """(O, I, ...) → (size of the axis, all else): one flat filter per channel."""
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)


def activation_slots(graph: Graph, group: Group, *, rectified: bool = False) -> list[Slots]:
    """Slots on the group's activations: after a non-linearity (a ReLU if asked), else what its consumers read."""
    wanted = _RECTIFIED if rectified else _ACTIVATED
    after = {node.output for node in graph.nodes if node.op in wanted or node.activation}
    readers = {link.node for link in group.consumers}
    read = {node.inputs[0] for node in graph.nodes if node.output in readers}
    for names in (after, read):
        chosen = [slots for slots in group.tensors if slots.name in names]
        if chosen:
            return chosen
    return list(group.tensors)


def activation_means(
    graph: Graph, probe: Probe, slots: Sequence[Slots], measure: Callable[[Tensor], Tensor]
) -> Mapping[str, Line]:
    """Tensor name → (channels) mean of an element-wise measure over examples and positions, in evaluation mode."""
    network = GraphNetwork(graph).eval()
    wanted = {place.name: place.axis for place in slots}
    sums: dict[str, Line] = {}
    count = 0
    with torch.no_grad():
        for x, _ in batches(probe):
            activations = network.activations(x)
            count += len(x)
            for name, axis in wanted.items():
                value = measure(activations[name]).double().movedim(axis, 1)
                per_example = value.reshape(*value.shape[:2], -1).mean(dim=2)  # (N, C)
                sums[name] = sums.get(name, 0.0) + per_example.sum(dim=0).numpy()
    return {name: total / count for name, total in sums.items()}


def batches(probe: Probe) -> Iterator[tuple[Tensor, Tensor]]:
    """The probe's batches. Raises DataError when it has none."""
    if not probe.batches:
        raise DataError("this criterion needs examples", where="criterion", do="give the probe a few training batches")
    return iter(probe.batches)
