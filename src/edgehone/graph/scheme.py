"""Which tensors of a quantized graph must have the same scale and zero point. Data and pure functions, no torch.

The rules are those of the TFLite 8-bit quantization specification:

- Operators of `SHARED_SCALE` move or select values, so their output has the parameters of their input. A concat has one
  set of parameters for all its inputs and its output (the specification asks for it, XNNPACK refuses anything else).
- Operators of `FIXED_PARAMS` have output parameters that no data can change.
- Where both meet (a sigmoid that is concatenated with a convolution) a `requantize` node stands in front of the concat.
- Where a concat would force a far coarser scale on a tensor that others read too, a `requantize` node stands there as
  well: the others keep the fine scale, and the concat loses nothing it would have kept.

All other outputs are free: their range is what was observed after the fused activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgehone.graph.ir import Graph, Node
from edgehone.graph.quantized import QuantParams

Range = tuple[float, float]

SHARED_SCALE = frozenset({"max_pool", "avg_pool", "reshape", "transpose", "slice", "pad", "resize", "concat"})
FIXED_PARAMS: Mapping[str, QuantParams] = {
    "softmax": QuantParams(1 / 256, -128),
    "sigmoid": QuantParams(1 / 256, -128),
    "tanh": QuantParams(1 / 128, 0),
}
COARSER = 4.0  # a concat may widen the range of a tensor that others read by up to this factor: two of eight bits


def representatives(graph: Graph) -> dict[str, str]:
    """Every tensor → the tensor whose quantization parameters it has; a tensor of its own maps to itself."""
    groups = _Groups(graph.input)
    for node in graph.nodes:
        groups.add(node)
    return {name: groups.root(name) for name in graph.shapes}


def fixed_params(graph: Graph) -> dict[str, QuantParams]:
    """Representative → the parameters that its group must have, for the groups that data cannot change."""
    roots = representatives(graph)
    return {roots[node.output]: FIXED_PARAMS[node.op] for node in graph.nodes if node.op in FIXED_PARAMS}


def insert_requantize(graph: Graph, ranges: Mapping[str, Range] | None = None) -> Graph:
    """The graph with `requantize` nodes where shared scales would contradict each other, or would cost precision.

    Args:
        graph: a deployed graph.
        ranges: observed range of every tensor; without it only contradictions are resolved.

    Returns:
        A graph that computes the same; the same graph when nothing is in the way.
    """
    groups = _Groups(graph.input, graph, ranges)
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    for node in graph.nodes:
        renamed: dict[str, str] = {}
        for name in groups.in_the_way(node):
            copy = _unused(f"{name}_requantized", shapes)
            shapes[copy] = shapes[name]
            renamed[name] = copy
            nodes.append(Node("requantize", (name,), copy, module=node.module))
            groups.add(nodes[-1])
        moved = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs)) if renamed else node
        nodes.append(moved)
        groups.add(moved)
    return graph.with_nodes(tuple(nodes), shapes=shapes) if len(nodes) > len(graph.nodes) else graph


def _unused(name: str, taken: Mapping[str, object]) -> str:
    number = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name}_{number}"
        number += 1
    return candidate


def _union(ranges: list[Range]) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


class _Groups:
    """Union-find over tensors, grown in the order of the nodes; each root knows what its group is bound to."""

    def __init__(self, first: str, graph: Graph | None = None, ranges: Mapping[str, Range] | None = None) -> None:
        self._parent = {first: first}
        self._fixed: dict[str, QuantParams] = {}
        self._ranges = dict(ranges or {})
        self._readers = graph.consumers() if graph is not None else {}
        self._output = graph.output if graph is not None else ""

    def root(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def add(self, node: Node) -> None:
        """Enter a node's output, tied to its inputs where the operator asks for it."""
        self._parent[node.output] = node.output
        if node.op in FIXED_PARAMS:
            self._fixed[node.output] = FIXED_PARAMS[node.op]
        if node.op == "requantize" and node.inputs[0] in self._ranges:
            self._ranges[node.output] = self._ranges[node.inputs[0]]
        if node.op in SHARED_SCALE:
            for name in node.inputs:
                self._tie(node.output, name)

    def in_the_way(self, node: Node) -> list[str]:
        """Inputs of a node that need a scale of their own before it."""
        if node.op not in SHARED_SCALE:
            return []
        names = list(dict.fromkeys(node.inputs))
        fixed = {name: self._fixed[self.root(name)] for name in names if self.root(name) in self._fixed}
        if node.op == "pad":
            return [name for name, params in fixed.items() if not _holds(params, float(node.attrs["value"]))]
        if fixed and (len(fixed) < len(names) or len(set(fixed.values())) > 1):
            return list(fixed)
        return [] if fixed else self._widened(node, names)

    def _tie(self, output: str, name: str) -> None:
        ours, theirs = self.root(output), self.root(name)
        if ours == theirs:
            return
        self._parent[ours] = theirs
        if ours in self._fixed:
            self._fixed[theirs] = self._fixed[ours]
        known = [self._ranges[root] for root in (ours, theirs) if root in self._ranges]
        if known:
            self._ranges[theirs] = _union(known)

    def _widened(self, node: Node, names: list[str]) -> list[str]:
        """Inputs of a concat that others read and whose scale it would make more than `COARSER` times coarser."""
        ranges = {name: self._ranges[self.root(name)] for name in names if self.root(name) in self._ranges}
        if node.op != "concat" or len(ranges) < len(names):
            return []
        low, high = _union([*ranges.values(), (0.0, 0.0)])
        return [
            name
            for name, (own_low, own_high) in ranges.items()
            if (high - low) > COARSER * (max(own_high, 0.0) - min(own_low, 0.0)) and self._read_elsewhere(name)
        ]

    def _read_elsewhere(self, name: str) -> bool:
        """Whether an operator that computes with this tensor's values reads its group, or the graph returns it."""
        group = [member for member in self._parent if self.root(member) == self.root(name)]
        return self._output in group or any(
            reader.op not in SHARED_SCALE for member in group for reader in self._readers.get(member, [])
        )


def _holds(params: QuantParams, value: float) -> bool:
    return params.scale * (-128 - params.zero_point) <= value <= params.scale * (127 - params.zero_point)
