"""A graph that an importer is writing: nodes in order, shapes by running each node on tensors without memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from edgehone.errors import NetworkError
from edgehone.graph._builder import Builder
from edgehone.graph.ir import FloatArray, Graph, Node, Shape
from edgehone.graph.kernels import run_node

_MOST_VALUES = 1 << 28  # of one tensor; 1 GiB in float32, far above every network that runs at the edge


class Draft:
    """Collects nodes; every method that adds one returns the name of what it writes.

    Attributes:
        shapes: of all tensors so far, batch 1.
        params: all parameters so far.
    """

    def __init__(self) -> None:
        self._builder = Builder(batch=1)
        self.shapes = self._builder.shapes
        self.params = self._builder.params

    def input(self, name: str, shape: Shape) -> str:
        """Name the network's input."""
        self.shapes[name] = shape
        return name

    def keep(self, key: str, array: FloatArray) -> str:
        """Store a parameter under the key, or the key with a number when other values have it."""
        return self._builder.keep(key, array)

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        *,
        module: str,
        attrs: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> str:
        """Add a node. A name that is taken gets a number.

        Raises:
            NetworkError: its result is too large for any device.
            RuntimeError: torch finds that shapes do not fit.
        """
        free, number = name, 1
        while free in self.shapes:
            number += 1
            free = f"{name}_{number}"
        node = Node(op, tuple(inputs), free, attrs or {}, params or {}, module)
        self.shapes[free] = self._shape(node)
        self._builder.nodes.append(node)
        return free

    def graph(self, source: str, output: str) -> Graph:
        """The finished graph, checked, without nodes that do not lead to the output."""
        return self._builder.graph(source, output)

    def _shape(self, node: Node) -> Shape:
        values = [torch.empty(self.shapes[name], device="meta") for name in node.inputs]
        params = {role: torch.empty(self.params[key].shape, device="meta") for role, key in node.params.items()}
        shape = tuple(run_node(node, values, params).shape)
        if prod(shape) > _MOST_VALUES:
            raise NetworkError(f"a tensor of shape {shape} is too large", where=node.module, do="reduce the input")
        return shape
