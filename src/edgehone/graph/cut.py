"""Real removal of channels: a smaller dense graph with the same operators.

    smaller = cut(graph, {"blocks.0.conv1.0": range(8)})

Rules: a group that is not named keeps all its classes; a named one keeps at least one, listed ascending without
repeats; keeping everything gives an equal graph. The graph handed in stays as it was, its arrays too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import CutError
from edgehone.graph.cost import widths
from edgehone.graph.groups import Group, Slots, channel_groups
from edgehone.graph.ir import Graph, Node, Shape

Masks = dict[tuple[str, int], NDArray[np.bool_]]  # (tensor or parameter, axis) → what stays


def cut(graph: Graph, keep: Mapping[str, Sequence[SupportsIndex]]) -> Graph:
    """Remove every class that is not kept, from all tensors and parameters it touches.

    Args:
        graph: training or deployed.
        keep: group name (see `channel_groups`) → the classes that stay, ascending.

    Returns:
        A graph whose shapes, parameters and attributes are those of the smaller network.

    Raises:
        CutError: an unknown or frozen group, or classes that are missing, unknown, repeated or out of order.
    """
    groups = {group.name: group for group in channel_groups(graph)}
    tensors: Masks = {}
    params: Masks = {}
    for name, kept in keep.items():
        group = groups.get(name)
        if group is None:
            raise _unknown(graph, name, groups)
        gone = np.setdiff1d(np.arange(group.width), _checked(group, kept))
        for slots in group.tensors:
            _mark(tensors, slots, gone, graph.shapes[slots.name])
        for slots in group.params:
            _mark(params, slots, gone, graph.params[slots.name].shape)
    shapes = dict(graph.shapes)
    for (name, axis), mask in tensors.items():
        shapes[name] = (*shapes[name][:axis], int(mask.sum()), *shapes[name][axis + 1 :])
    arrays = dict(graph.params)
    for (key, axis), mask in params.items():
        arrays[key] = np.compress(mask, arrays[key], axis)
    nodes = tuple(_rewritten(node, tensors, shapes) for node in graph.nodes)
    return graph.with_nodes(nodes, shapes=shapes, params=arrays)


def _checked(group: Group, kept: Sequence[SupportsIndex]) -> list[int]:
    where = f"group {group.name!r}"
    try:
        classes = [index(item) for item in kept]
    except TypeError as error:
        raise CutError("the classes to keep are not whole numbers", where=where) from error
    if not classes:
        raise CutError("nothing would stay", where=where, do="keep at least one class of every group")
    if any(a >= b for a, b in pairwise(classes)):
        raise CutError("the classes to keep are not ascending, or one is named twice", where=where)
    if classes[0] < 0 or classes[-1] >= group.width:
        raise CutError(f"it has the classes 0 to {group.width - 1}", where=where, do="keep only some of them")
    return classes


def _unknown(graph: Graph, name: str, groups: Mapping[str, Group]) -> CutError:
    if name in widths(graph):
        what = "the channels of this layer cannot be chosen by its name: they are frozen, or belong to another group"
    else:
        what = "there is no such group"
    return CutError(what, where=f"group {name!r}", do=f"name one of: {', '.join(groups) or '(this graph has none)'}")


def _mark(masks: Masks, slots: Slots, gone: NDArray[np.intp], shape: Shape) -> None:
    mask = masks.setdefault((slots.name, slots.axis), np.ones(shape[slots.axis], np.bool_))
    mask[slots.indices[gone]] = False


def _rewritten(node: Node, masks: Masks, shapes: Mapping[str, Shape]) -> Node:
    """The node with the attributes that count channels brought up to date."""
    attrs: dict[str, Any] = {}
    if node.op == "conv" and (node.inputs[0], 1) in masks and masks[node.inputs[0], 1].size == node.attrs["groups"] > 1:
        attrs["groups"] = shapes[node.inputs[0]][1]
    elif node.op == "reshape":
        attrs["shape"] = shapes[node.output]
    elif node.op == "slice" and (node.inputs[0], node.attrs["axis"]) in masks:
        mask = masks[node.inputs[0], node.attrs["axis"]]
        start, stop = (int(mask[: node.attrs[bound]].sum()) for bound in ("start", "stop"))
        attrs.update(start=start, stop=stop)
    elif node.op == "pad":
        attrs["pads"] = tuple(
            _amounts(pair, masks.get((node.output, axis))) for axis, pair in enumerate(node.attrs["pads"])
        )
    return replace(node, attrs={**node.attrs, **attrs}) if attrs else node


def _amounts(pair: tuple[int, int], mask: NDArray[np.bool_] | None) -> tuple[int, int]:
    before, after = pair
    if mask is None:
        return before, after
    return int(mask[:before].sum()), int(mask[mask.size - after :].sum())
