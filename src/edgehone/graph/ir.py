"""The graph: a network as a list of nodes over named tensors, with float32 parameters beside it.

Everything in edgehone that touches a network works on this: cutting, training, quantizing, the oracle, the exporters.
A `Graph` is plain data. Shapes are in torch order with a batch of 1: (1, C, H, W), (1, C, L) or (1, F); any batch runs.
One input, one output. Nodes stand in an order in which every tensor is written before it is read, each tensor once.

Operators, their attributes, and their parameters (role → shape). Spatial attributes are always two-dimensional
((height, width) order); a rank-3 tensor (1, C, L) counts as height 1, so a 1-D convolution has a (O, I/g, 1, k) weight.

    conv         stride, dilation: (h, w); padding: ((top, bottom), (left, right)); groups
                                                          weight (O, I/g, kh, kw), bias (O)
    linear                                                weight (O, F), bias (O)            rank 2
    batch_norm   eps, momentum                            weight, bias, mean, variance (C)   training form only
    relu, relu6, hard_swish, silu, sigmoid, tanh, softmax (rank 2, last axis)
    leaky_relu   slope
    add, mul     two inputs that broadcast, or one input and the parameter `value` (rank as the input, batch 1);
                 fixed: true (or absent) when training leaves `value` alone, as it is no parameter of the user's
    sub          two inputs that broadcast
    concat       axis (never 0)
    slice        axis, start, stop, step (start and stop within the axis, step > 0)
    pad          pads: ((before, after) for every axis), value
    max_pool     kernel, stride, padding as conv; padded places never win
    avg_pool     kernel, stride, padding as conv; count_include_pad
    mean         axes (all spatial axes), keepdim
    reshape      shape (batch 1 first)
    transpose    perm (batch stays first)
    resize       size: (h, w); mode "nearest" | "bilinear"; align_corners; half_pixel
    dropout      rate                                                           identity outside training
    requantize   same value in other quantization parameters; only in a prepared graph that is quantized

A *training* graph may hold batch_norm, dropout and silu; a *deployed* graph (see `fold.py`) holds none of them, and
its conv, linear, add, sub and mul nodes may carry a fused `activation` ("relu" or "relu6"). A bias is always present
on conv and linear of a deployed graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import NetworkError

Shape = tuple[int, ...]
FloatArray = NDArray[np.float32]

OPS = frozenset(
    {
        "conv",
        "linear",
        "batch_norm",
        "relu",
        "relu6",
        "hard_swish",
        "silu",
        "sigmoid",
        "tanh",
        "softmax",
        "leaky_relu",
        "add",
        "mul",
        "sub",
        "concat",
        "slice",
        "pad",
        "max_pool",
        "avg_pool",
        "mean",
        "reshape",
        "transpose",
        "resize",
        "dropout",
        "requantize",
    }
)
WEIGHTED = frozenset({"conv", "linear"})
FUSED_ACTIVATIONS = frozenset({"relu", "relu6"})


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: a name of the table above.
        inputs: names of the tensors it reads.
        output: name of the tensor it writes; also the node's own name.
        attrs: its attributes, JSON-able once tuples are lists.
        params: role → key in `Graph.params`; two nodes may share a key (one module called twice).
        module: dotted path of the user's module it came from, for messages and tables.
        activation: a fused "relu" or "relu6".
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    module: str = ""
    activation: str | None = None


@dataclass(frozen=True)
class Graph:
    """A network: nodes in execution order, the shape of every tensor, and float32 parameters.

    Call `check()` after building one by hand; every function of this package returns checked graphs.
    """

    input: str
    output: str
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]
    params: Mapping[str, FloatArray]

    @property
    def input_shape(self) -> Shape:
        """Shape of the input with a batch of 1."""
        return self.shapes[self.input]

    @property
    def output_shape(self) -> Shape:
        """Shape of the output with a batch of 1."""
        return self.shapes[self.output]

    def producers(self) -> dict[str, Node]:
        """Tensor name → the node that writes it (the input has none)."""
        return {node.output: node for node in self.nodes}

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor name → the nodes that read it, in order; the graph's output may have none."""
        readers: dict[str, list[Node]] = {name: [] for name in self.shapes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return readers

    def weighted(self) -> Iterator[Node]:
        """The conv and linear nodes, in order."""
        return (node for node in self.nodes if node.op in WEIGHTED)

    def param(self, node: Node, role: str) -> FloatArray | None:
        """The array a node uses in a role, or None when it has none."""
        key = node.params.get(role)
        return None if key is None else self.params[key]

    def parameter_count(self) -> int:
        """Number of values in all conv, linear and constant parameters in use, shared ones counted once."""
        keys = {key for node in self.nodes for key in node.params.values()}
        return sum(int(self.params[key].size) for key in keys)

    def with_nodes(self, nodes: tuple[Node, ...], **changes: Any) -> Graph:
        """A copy with other nodes; tensors and parameters that nothing uses any more are dropped."""
        graph = replace(self, nodes=nodes, **changes)
        names = {graph.input} | {node.output for node in nodes}
        keys = {key for node in nodes for key in node.params.values()}
        return replace(
            graph,
            shapes={name: shape for name, shape in graph.shapes.items() if name in names},
            params={key: value for key, value in graph.params.items() if key in keys},
        ).check()

    def check(self) -> Graph:
        """Return self if the graph is well formed.

        Raises:
            NetworkError: an unknown operator, a tensor read before it is written or written twice, a missing shape
                or parameter, or a parameter that is not float32.
        """
        written = {self.input}
        for node in self.nodes:
            if node.op not in OPS:
                raise NetworkError(f"operator {node.op!r} is not part of the graph", where=node.module)
            for name in node.inputs:
                if name not in written:
                    raise NetworkError(f"tensor {name!r} is read before it is written", where=node.module)
            if node.output in written:
                raise NetworkError(f"tensor {node.output!r} is written twice", where=node.module)
            for key in node.params.values():
                if key not in self.params:
                    raise NetworkError(f"parameter {key!r} is missing", where=node.module)
                if self.params[key].dtype != np.float32:
                    raise NetworkError(f"parameter {key!r} is {self.params[key].dtype}, not float32")
            written.add(node.output)
        missing = [name for name in written if name not in self.shapes]
        if missing:
            raise NetworkError(f"no shape is known for {missing[0]!r}")
        if self.output not in written:
            raise NetworkError(f"the output {self.output!r} is never written")
        return self
