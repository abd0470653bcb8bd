"""A conv or linear layer as a chain of smaller ones that compute the same: the graph's side of low-rank factors.

    links = chain(graph, node, [first.shape, second.shape])       what each link would be, without its values
    graph = factored(graph, "blocks.0.conv1.weight", [first, second])

Rules:
- The weights multiply out to the layer's own weight; whether they do, and how well, is the caller's business.
- No activation and no bias stands between the links: the last one has the layer's bias, activation and output name,
  so that a batch norm stays behind it.
- On each axis the link that is wider than one place there takes stride, padding and dilation; where none is, the first
  one does. Places padded with zeros stay zero through a link without bias, so this is exact.
- A weight that several layers share is replaced in all of them, and its factors are shared again.
- Grouped convolutions are not taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

from edgehone.errors import CutError
from edgehone.graph._edit import Edit
from edgehone.graph.ir import WEIGHTED, FloatArray, Graph, Node, Shape


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Attributes:
        attrs: of its node.
        shape: of its output.
        macs: its multiply-accumulates for one example.
    """

    attrs: dict[str, Any]
    shape: Shape
    macs: int


def divisible(node: Node) -> bool:
    """Whether a node can be a chain: a linear layer, or a convolution without groups."""
    return node.op in WEIGHTED and node.attrs.get("groups", 1) == 1


def chain(graph: Graph, node: Node, shapes: Sequence[Shape]) -> list[Link]:
    """The links that weights of these shapes, first one first, make of a node.

    Args:
        shapes: (R, F) ... (O, R) for a linear node, (R, I, kh, kw) ... (O, R, kh, kw) for a convolution.

    Raises:
        CutError: the shapes do not follow each other, or do not span what the node's own weight does.
    """
    own = graph.params[node.params["weight"]].shape
    follow = all(after[1] == before[0] for before, after in pairwise(shapes))
    places = tuple(1 + sum(shape[axis] - 1 for shape in shapes) for axis in range(2, len(own)))
    if not divisible(node) or not follow or (shapes[-1][0], shapes[0][1], *places) != own:
        raise CutError(
            f"layers of {', '.join(map(str, shapes))} cannot take the place of one of {own}",
            where=node.module or node.output,
        )
    if node.op == "linear":
        return [Link({}, (1, shape[0]), prod(shape)) for shape in shapes]
    takers = [next((i for i, shape in enumerate(shapes) if shape[axis] > 1), 0) for axis in (2, 3)]
    links, before = [], graph.shapes[node.inputs[0]]
    for index, shape in enumerate(shapes):
        takes = [taker == index for taker in takers]
        stride, dilation = (
            tuple(n if takes[axis] else 1 for axis, n in enumerate(node.attrs[name])) for name in ("stride", "dilation")
        )
        padding = tuple(ends if takes[axis] else (0, 0) for axis, ends in enumerate(node.attrs["padding"]))
        attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 1}
        room = (1, *before[2:])[-2:]  # a rank-3 tensor counts as height 1
        size = tuple(
            (room[axis] + sum(padding[axis]) - dilation[axis] * (shape[2 + axis] - 1) - 1) // stride[axis] + 1
            for axis in (0, 1)
        )
        after = (1, shape[0], *size[-(len(before) - 2) :])
        links.append(Link(attrs, after, prod(after[2:]) * prod(shape)))
        before = after
    return links


def factored(graph: Graph, key: str, weights: Sequence[FloatArray]) -> Graph:
    """The graph whose layers with one weight are chains of layers; the graph handed in stays as it was.

    Args:
        graph: training or deployed.
        key: of the weight in `Graph.params`.
        weights: of the links, first one first; shapes as for `chain`.

    Raises:
        CutError: as `chain`.
    """
    edit = Edit(graph)
    stem = key.removesuffix(".weight")
    stored = [edit.keep(f"{stem}.factor{number}.weight", weight) for number, weight in enumerate(weights, 1)]
    shapes = [tuple(weight.shape) for weight in weights]
    for node in [node for node in graph.weighted() if node.params["weight"] == key]:
        links = chain(graph, node, shapes)
        source = edit.nodes[node.output].inputs
        for number, (link, name) in enumerate(zip(links[:-1], stored[:-1], strict=True), 1):
            output = _unused(f"{node.output}.factor{number}", edit)
            module = f"{node.module or node.output}.factor{number}"
            edit.insert(Node(node.op, source, output, link.attrs, {"weight": name}, module), link.shape, node.output)
            source = (output,)
        params = {**node.params, "weight": stored[-1]}
        edit.put(replace(node, inputs=source, attrs=links[-1].attrs, params=params))
    return edit.graph()


def _unused(name: str, edit: Edit) -> str:
    free, number = name, 1
    while free in edit.shapes:
        number += 1
        free = f"{name}_{number}"
    return free
