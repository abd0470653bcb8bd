"""What the layers of a deployed graph ask of any device, for the estimates of `edgehone.devices`."""

from __future__ import annotations

from math import prod

from edgehone.devices import LayerCost, LayerKind
from edgehone.graph.cost import node_macs
from edgehone.graph.ir import Graph, Node

_FREE = frozenset({"reshape", "requantize"})


def layer_costs(graph: Graph) -> list[LayerCost]:
    """What every node of a deployed graph costs as int8, for the estimates of `edgehone.devices`."""
    return [_cost(graph, node) for node in graph.nodes if node.op not in _FREE]


def _cost(graph: Graph, node: Node) -> LayerCost:
    outputs = prod(graph.shapes[node.output])
    weight, bias = graph.param(node, "weight"), graph.param(node, "bias")
    stored = (weight.size if weight is not None else 0) + (4 * bias.size if bias is not None else 0)
    moved = outputs + sum(prod(graph.shapes[name]) for name in node.inputs)
    return LayerCost(_kind(graph, node), node_macs(graph, node), outputs, int(stored), moved)


def _kind(graph: Graph, node: Node) -> LayerKind:
    if node.op == "linear":
        return "linear"
    if node.op != "conv":
        return "elementwise"
    weight = graph.params[node.params["weight"]]
    if node.attrs["groups"] > 1 and weight.shape[1] == 1:
        return "depthwise"
    return "conv1x1" if weight.shape[2:] == (1, 1) and node.attrs["groups"] == 1 else "conv"
