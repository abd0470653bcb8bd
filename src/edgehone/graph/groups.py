"""Coupled channel groups: the widths of a network that can be chosen, and all that shrinks with each.

A *class* is one set of channels that must leave together; a *group* is a family of classes that play the same role
(each touches the same tensors and parameters, equally often): any of them may leave, only their number sets the sizes.
A plain layer's group has one class per output channel. A residual stage's group spans every layer that adds to it.

    groups = channel_groups(graph)
    groups[0].name                  "blocks.0.conv1.0", the module that first writes these channels
    groups[0].width                 16 classes
    cut(graph, {groups[0].name: (0, 2, 3, ...)})

At least one class of every group must stay. Channels of the graph's input and output are in no group, nor is a class
that is alone in its role.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from edgehone.graph.channels import FROZEN, Ids, channels
from edgehone.graph.cost import node_macs
from edgehone.graph.ir import Graph

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Slots:
    """Where the classes of a group sit on one axis of a tensor or parameter.

    Attributes:
        name: of the tensor, or key of the parameter.
        axis: the axis that shrinks.
        indices: (width, n); row c lists the n places of class c, ascending.
    """

    name: str
    axis: int
    indices: Indices


@dataclass(frozen=True)
class Link:
    """A conv or linear node on one side of a group.

    Attributes:
        node: its output name.
        share: part of the node's output (or input) channels that one class is; its MACs shrink by that part.
        macs: multiply-accumulates of the whole node at present.
    """

    node: str
    share: float
    macs: int


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that leave together, class by class.

    Attributes:
        name: module path of the first layer that writes them; "#2", "#3" follow where a layer feeds several groups.
        width: number of classes.
        channels_per_class: channels that one class is in that first layer; above 1 for grouped convolutions.
        params: slots on parameters.
        tensors: slots on activations, in execution order.
        producers: nodes that write these channels, depthwise convolutions included.
        consumers: nodes that read and mix them. What leaves a group leaves through these alone.
    """

    name: str
    width: int
    channels_per_class: int
    params: tuple[Slots, ...]
    tensors: tuple[Slots, ...]
    producers: tuple[Link, ...]
    consumers: tuple[Link, ...]

    def step(self, multiple: int = 8) -> int:
        """The number of classes whose channels are a multiple of `multiple`."""
        return multiple // gcd(multiple, self.channels_per_class)


def channel_groups(graph: Graph) -> tuple[Group, ...]:
    """All groups of a training or deployed graph, in the order in which their channels are first written."""
    found = channels(graph)
    tensors = [(name, axis, ids) for name, (axis, ids) in found.tensors.items()]
    params = [(key, axis, ids) for (key, axis), ids in found.params.items()]
    touched: dict[int, list[tuple[int, int]]] = defaultdict(list)  # id → (site, how often)
    for site, (_, _, ids) in enumerate([*tensors, *params]):
        labels, counts = np.unique(ids, return_counts=True)
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            touched[label].append((site, count))
    touched.pop(FROZEN, None)
    families: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for label in sorted(touched):
        families[tuple(touched[label])].append(label)
    names: dict[str, int] = defaultdict(int)
    groups = []
    for pattern, members in families.items():
        if len(members) == 1:  # alone in its role: at least one must stay, so this one always does
            continue
        sites = [site for site, _ in pattern]
        group = _group(
            graph,
            tuple(_slots(*tensors[site], members) for site in sites if site < len(tensors)),
            tuple(_slots(*params[site - len(tensors)], members) for site in sites if site >= len(tensors)),
            names,
        )
        groups.append(group)
    return tuple(groups)


def _slots(name: str, axis: int, ids: Ids, members: list[int]) -> Slots:
    places = np.flatnonzero(np.isin(ids, members))
    by_class = places[np.argsort(ids[places], kind="stable")]
    return Slots(name, axis, by_class.reshape(len(members), -1))


def _group(graph: Graph, tensors: tuple[Slots, ...], params: tuple[Slots, ...], names: dict[str, int]) -> Group:
    sides: tuple[list[Link], list[Link]] = ([], [])  # written channels lie on a weight's axis 0, read ones on axis 1
    by_key = {(slots.name, slots.axis): slots for slots in params}
    channels_per_class = tensors[0].indices.shape[1]
    modules = []
    for node in graph.weighted():
        for axis, links in enumerate(sides):
            slots = by_key.get((node.params["weight"], axis))
            if slots is not None:
                per_class = slots.indices.shape[1]
                links.append(
                    Link(node.output, per_class / graph.params[slots.name].shape[axis], node_macs(graph, node))
                )
                if axis == 0:
                    modules.append((node.module or node.output, per_class))
    first = next(node for node in graph.nodes if node.output in {slots.name for slots in tensors})
    name, channels_per_class = modules[0] if modules else (first.module or first.output, channels_per_class)
    names[name] += 1
    return Group(
        name=name if names[name] == 1 else f"{name}#{names[name]}",
        width=tensors[0].indices.shape[0],
        channels_per_class=channels_per_class,
        params=params,
        tensors=tensors,
        producers=tuple(sides[0]),
        consumers=tuple(sides[1]),
    )
