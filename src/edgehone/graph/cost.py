"""What a graph costs before anything is measured: multiply-accumulates, parameter bytes, activation memory.

Figures describe one example. They order candidates and check budgets early; a latency is always measured.
"""

from __future__ import annotations

from math import prod

from edgehone.graph.ir import FUSED_ACTIVATIONS, WEIGHTED, Graph, Node

_FUSED_AWAY = FUSED_ACTIVATIONS | {"batch_norm", "dropout", "reshape"}  # no tensor of their own in a deployed network


def widths(graph: Graph) -> dict[str, int]:
    """Output channels of every conv and linear layer, in order, by module path (by node name where there is none)."""
    return {node.module or node.output: graph.params[node.params["weight"]].shape[0] for node in graph.weighted()}


def node_macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of one node for one example; 0 for all but conv and linear."""
    if node.op not in WEIGHTED:
        return 0
    weight = graph.params[node.params["weight"]]
    positions = prod(graph.shapes[node.output][2:])  # 1 for linear
    return positions * int(weight.size)


def macs(graph: Graph) -> int:
    """Multiply-accumulates of all conv and linear nodes for one example."""
    return sum(node_macs(graph, node) for node in graph.nodes)


def parameter_bytes(graph: Graph, *, bytes_per_weight: int = 1) -> int:
    """Bytes of the parameters as deployed: weights and constants in a given width, a 4-byte bias per output channel.

    Args:
        graph: training or deployed; batch norms are counted as folded.
        bytes_per_weight: 1 for int8, 4 for float32.
    """
    keys = {node.params[role] for node in graph.nodes for role in ("weight", "value") if _stored(node, role)}
    biases = {node.params["weight"] for node in graph.weighted()}
    values = sum(int(graph.params[key].size) for key in keys)
    return values * bytes_per_weight + 4 * sum(len(graph.params[key]) for key in biases)


def _stored(node: Node, role: str) -> bool:
    return role in node.params and node.op != "batch_norm"


def peak_activation_bytes(graph: Graph, *, bytes_per_value: int = 1, alignment: int = 16) -> int:
    """Bytes of the arena that holds all activations of one inference, input and output included.

    Tensors that live at the same time get different places: the largest first, each at the lowest offset that is free
    for its whole life (greedy by size, Pisarchyk and Lee 2020, section 5; the planner of TensorFlow Lite Micro).
    Runtimes add their own bookkeeping and scratch buffers on top.

    Args:
        graph: training or deployed; what folds or fuses into its neighbour takes no memory.
        bytes_per_value: 1 for int8, 4 for float32.
        alignment: every tensor starts at and is padded to a multiple of it.
    """
    placed: list[tuple[int, int, int, int]] = []  # first, last, offset, end
    lives = lifetimes(graph)
    sizes = {name: -(-prod(graph.shapes[name]) * bytes_per_value // alignment) * alignment for name in lives}
    for name in sorted(lives, key=lambda name: -sizes[name]):
        first, last = lives[name]
        offset = 0
        for start, end in sorted((o, e) for f, to, o, e in placed if f <= last and first <= to):
            if offset + sizes[name] <= start:
                break
            offset = max(offset, end)
        placed.append((first, last, offset, offset + sizes[name]))
    return max(end for _, _, _, end in placed)


def lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """Buffer (named after the tensor first written to it) → positions of its first write and last read."""
    readers = graph.consumers()
    buffer = {graph.input: graph.input}
    lives = {graph.input: (-1, -1)}
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            lives[buffer[name]] = (lives[buffer[name]][0], position)
        if node.op in _FUSED_AWAY and len(readers[node.inputs[0]]) == 1 and node.inputs[0] != graph.input:
            buffer[node.output] = buffer[node.inputs[0]]
        else:
            buffer[node.output] = node.output
            lives[node.output] = (position, position)
    end = len(graph.nodes)
    lives[buffer[graph.output]] = (lives[buffer[graph.output]][0], end)
    return lives
