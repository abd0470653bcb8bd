"""A graph that is being changed, for the rewrites of `rewrite.py` and `fold.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgehone.graph.ir import FloatArray, Graph, Node, Shape


class Edit:
    """Nodes by output, in order; `graph()` is the result.

    A node may be replaced under its own name, at its own place, by one that reads earlier tensors; `insert` puts one
    in front of another.
    """

    def __init__(self, graph: Graph) -> None:
        self.start = graph
        self.nodes = {node.output: node for node in graph.nodes}
        self.shapes: dict[str, Shape] = dict(graph.shapes)
        self.params: dict[str, FloatArray] = dict(graph.params)
        self.output = graph.output

    def graph(self) -> Graph:
        """The changed graph, checked, without tensors and parameters that nothing uses."""
        return replace(self.start, shapes=self.shapes, params=self.params).with_nodes(
            tuple(self.nodes.values()), output=self.output
        )

    def producer(self, name: str, op: str = "") -> Node | None:
        """The node that writes a tensor, when it is of that operator (any, if none is given)."""
        node = self.nodes.get(name)
        return node if node is not None and op in ("", node.op) else None

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor."""
        return [node for node in self.nodes.values() if name in node.inputs]

    def only_reader(self, name: str) -> Node | None:
        """The node that alone reads a tensor which is not the output."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name != self.output else None

    def put(self, node: Node, shape: Shape | None = None) -> None:
        """Replace the node of the same output."""
        self.nodes[node.output] = node
        if shape is not None:
            self.shapes[node.output] = shape

    def bypass(self, node: Node) -> bool:
        """Remove a node that returns its first input."""
        source = node.inputs[0]
        del self.nodes[node.output]
        for reader in self.readers(node.output):
            self.put(replace(reader, inputs=tuple(source if n == node.output else n for n in reader.inputs)))
        if self.output == node.output:
            self.output = source
        return True

    def insert(self, node: Node, shape: Shape, before: str) -> None:
        """Add a node in front of the one that writes `before`."""
        self.shapes[node.output] = shape
        order = list(self.nodes.items())
        place = next(i for i, (name, _) in enumerate(order) if name == before)
        self.nodes = dict([*order[:place], (node.output, node), *order[place:]])

    def keep(self, key: str, array: FloatArray) -> str:
        """Store a parameter under the key, or the key with a number when other values have it."""
        free, number = key, 1
        while free in self.params and not np.array_equal(self.params[free], array, equal_nan=True):
            number += 1
            free = f"{key}_{number}"
        self.params.setdefault(free, array)
        return free

    def drop_unread(self) -> None:
        """Remove nodes that do not lead to the output."""
        needed = {self.output}
        for node in reversed(list(self.nodes.values())):
            if node.output in needed:
                needed.update(node.inputs)
            else:
                del self.nodes[node.output]
