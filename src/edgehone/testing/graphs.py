"""Graphs built by hand, node by node, for tests that want a shape no network of `networks.py` has.

    build = GraphBuilder((1, 3, 8, 8))
    x = build.relu(build.batch_norm(build.conv(build.input, 16)))
    graph = build.graph(build.linear(build.mean(x), 10))

Every method adds one node and returns the name of its output, which is also the node's module path. Shapes come from
running the node, so that a wrong attribute shows at once. Parameters are random and tame; batch norms do change.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from edgehone.graph.ir import FloatArray, Graph, Node, Shape
from edgehone.graph.kernels import run_node


class GraphBuilder:
    """Collects nodes; `input` is the name of the input tensor."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.input = "x"
        self.shapes: dict[str, Shape] = {self.input: shape}
        self.params: dict[str, FloatArray] = {}
        self.nodes: list[Node] = []
        self._random = np.random.default_rng(seed)

    def graph(self, output: str) -> Graph:
        """The checked graph that ends in a tensor; nodes it does not need must not exist."""
        return Graph(self.input, output, tuple(self.nodes), dict(self.shapes), dict(self.params)).check()

    def node(
        self,
        op: str,
        *inputs: str,
        params: dict[str, FloatArray] | None = None,
        keys: dict[str, str] | None = None,
        **attrs: Any,
    ) -> str:
        """Add a node of any operator; `keys` reuses parameters that another node has."""
        name = f"{op}{len(self.nodes)}"
        own = {role: f"{name}.{role}" for role in params or {}}
        self.params.update({own[role]: array for role, array in (params or {}).items()})
        node = Node(op, inputs, name, attrs, {**own, **(keys or {})}, module=name)
        values = [torch.zeros(self.shapes[i]) for i in inputs]
        arrays = {role: torch.from_numpy(self.params[key]) for role, key in node.params.items()}
        self.shapes[name] = tuple(run_node(node, values, arrays).shape)
        self.nodes.append(node)
        return name

    def conv(
        self,
        x: str,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        like: str | None = None,
    ) -> str:
        """A padded convolution, one-dimensional on rank 3; `like` names the conv whose parameters it shares."""
        inputs, flat = self.shapes[x][1], len(self.shapes[x]) == 3
        size = (1, kernel) if flat else (kernel, kernel)
        params = None if like else self._weights((outputs, inputs // groups, *size), bias)
        keys = dict(next(node.params for node in self.nodes if node.output == like)) if like else None
        half, strides = kernel // 2, (1, stride) if flat else (stride, stride)
        padding = ((0, 0) if flat else (half, half), (half, half))
        return self.node(
            "conv", x, params=params, keys=keys, stride=strides, padding=padding, dilation=(1, 1), groups=groups
        )

    def linear(self, x: str, outputs: int, *, bias: bool = True) -> str:
        """A linear layer on a rank-2 tensor."""
        return self.node("linear", x, params=self._weights((outputs, self.shapes[x][1]), bias))

    def batch_norm(self, x: str) -> str:
        """A batch norm with random scale, shift and statistics."""
        width, draw = (self.shapes[x][1],), self._random
        params = {
            "weight": draw.uniform(0.5, 1.5, width).astype(np.float32),
            "bias": draw.normal(0.0, 0.3, width).astype(np.float32),
            "mean": draw.normal(0.0, 0.3, width).astype(np.float32),
            "variance": draw.uniform(0.5, 1.5, width).astype(np.float32),
        }
        return self.node("batch_norm", x, params=params, eps=1e-5, momentum=0.1)

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("relu", x)

    def mean(self, x: str, *, keepdim: bool = False) -> str:
        """The mean over all spatial axes."""
        return self.node("mean", x, axes=tuple(range(2, len(self.shapes[x]))), keepdim=keepdim)

    def flatten(self, x: str) -> str:
        """(1, C, H, W) → (1, C * H * W)."""
        return self.reshape(x, (1, prod(self.shapes[x])))

    def reshape(self, x: str, shape: Shape) -> str:
        """The same values in another shape, batch of 1 first."""
        return self.node("reshape", x, shape=shape)

    def concat(self, *inputs: str) -> str:
        """Concatenation of channels."""
        return self.node("concat", *inputs, axis=1)

    def slice(self, x: str, start: int, stop: int, *, step: int = 1, axis: int = 1) -> str:
        """A part of an axis."""
        return self.node("slice", x, axis=axis, start=start, stop=stop, step=step)

    def constant(self, op: str, x: str, shape: Sequence[int]) -> str:
        """Add or mul with a random constant of a shape."""
        return self.node(op, x, params={"value": self._normal(tuple(shape), 1.0)})

    def _weights(self, shape: Shape, bias: bool) -> dict[str, FloatArray]:
        params = {"weight": self._normal(shape, prod(shape[1:]) ** -0.5)}
        return {**params, "bias": self._normal(shape[:1], 0.3)} if bias else params

    def _normal(self, shape: Shape, scale: float) -> FloatArray:
        return self._random.normal(0.0, scale, shape).astype(np.float32)
