"""A graph on its way into an ONNX model: which value of the file holds which tensor of the graph.

In an int8 file every tensor is stored as levels and read through a DequantizeLinear; operators are written as float
operators between the two, and a runtime replaces each such group by an integer kernel. Levels in the file are uint8,
128 above those of the graph: on x86, ONNX Runtime multiplies uint8 by int8 far faster than int8 by int8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehone.exporters._onnx_model import Attribute, Data, ModelWriter
from edgehone.graph.ir import Graph, Node
from edgehone.graph.quantized import QuantizedGraph, QuantParams

_OFFSET = 128  # of uint8 levels over int8 levels
LOWEST = -128


class Stored(NamedTuple):
    """Levels in the file, and what they mean."""

    levels: str
    params: QuantParams


@dataclass
class Lowering:
    """The state of writing one graph, as float32 or, with the integers of `quantized`, as int8."""

    graph: Graph
    quantized: QuantizedGraph | None
    model: ModelWriter = field(default_factory=ModelWriter)
    _values: dict[str, str] = field(default_factory=dict)  # in float32; in an int8 file once they were read
    _stored: dict[str, Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.readers: Mapping[str, list[Node]] = self.graph.consumers()
        name = self.graph.input
        if self.quantized is None:
            self._values[name] = self.model.input
        else:
            self.store(name, self.quantize(self.model.input, self.quantized.tensors[name]))

    @property
    def int8(self) -> bool:
        """Whether the file computes with integers."""
        return self.quantized is not None

    def emit(self, operator: str, inputs: Iterable[str], **attributes: Attribute) -> str:
        """Append an operator; returns the name of its output. See `ModelWriter.node`."""
        return self.model.node(operator, inputs, **attributes)

    def integers(self, values: Iterable[int]) -> str:
        """A constant int64 vector: axes, shapes, paddings."""
        return self.model.constant(np.array(list(values), np.int64))

    def number(self, value: float) -> str:
        """A constant float32 number."""
        return self.model.constant(np.array(value, np.float32))

    def level(self, value: float, params: QuantParams) -> str:
        """A constant number as a level."""
        return self.model.constant(_unsigned(params.quantize(np.array(value))))

    def constant(self, levels: NDArray[np.int8], params: QuantParams) -> str:
        """The real values of constant int8 levels, any shape."""
        return self.dequantize(Stored(self.model.constant(_unsigned(levels)), params))

    def rounded_number(self, value: float, params: QuantParams) -> str:
        """A constant number on the grid of `params`; it broadcasts to any shape."""
        return self.dequantize(Stored(self.level(value, params), params))

    def channels(self, levels: Data, scale: Data) -> str:
        """The real values of constant levels (O, ...) with zero point 0 and a scale (O) per channel."""
        zero_point = np.zeros(scale.shape, levels.dtype)
        inputs = [self.model.constant(data) for data in (levels, scale, zero_point)]
        return self.emit("DequantizeLinear", inputs, axis=0)

    def read(self, name: str) -> str:
        """The value of the file that holds a graph tensor, in float32."""
        if name not in self._values:
            self._values[name] = self.dequantize(self._stored[name])
        return self._values[name]

    def stored(self, name: str) -> Stored:
        """The levels of a graph tensor; in an int8 file only."""
        return self._stored[name]

    def quantize(self, value: str, params: QuantParams) -> Stored:
        """Levels of a float value."""
        return Stored(self.emit("QuantizeLinear", [value, *self._grid(params)]), params)

    def dequantize(self, stored: Stored, factor: float = 1.0) -> str:
        """Real values of levels, times a factor: a product that costs nothing."""
        params = replace(stored.params, scale=stored.params.scale * factor)
        return self.emit("DequantizeLinear", [stored.levels, *self._grid(params)])

    def round(self, value: str, params: QuantParams) -> str:
        """A float value on the grid of `params`."""
        return self.dequantize(self.quantize(value, params))

    def store(self, name: str, stored: Stored) -> None:
        """Let these levels be a graph tensor."""
        self._stored[name] = stored
        self._values.pop(name, None)

    def write(self, node: Node, value: str, activation: str | None = None) -> None:
        """Let a float value, after an activation, be the node's output."""
        if self.quantized is None:
            self._values[node.output] = self._activated(value, activation)
            return
        params = self.quantized.tensors[node.output]
        if activation is not None:
            # On a grid that starts at 0, levels that saturate are the activation. It is as fine and reaches as far.
            params = QuantParams(params.scale, LOWEST)
            if activation == "relu6" and 255 * params.scale > 6 * (1 + 1e-6):
                value = self._activated(self.round(value, params), "relu6")
        self.store(node.output, self.quantize(value, params))

    def move(self, node: Node, value: str, like: str | None = None) -> None:
        """Let a float value be the node's output that holds only values of a graph tensor `like`, else of its input."""
        if self.int8:
            self.store(node.output, self.quantize(value, self._stored[like or node.inputs[0]].params))
        else:
            self._values[node.output] = value

    def finish(self, embedding: str | None) -> bytes:
        """The file; its second output is the graph tensor `embedding`, when there is one."""
        outputs = {"output": (self.read(self.graph.output), self.graph.output_shape)}
        if embedding is not None:
            # Levels are read once more: a value that is an output as well must not stand between two integer kernels.
            value = self.dequantize(self._stored[embedding]) if self.int8 else self.read(embedding)
            outputs["embedding"] = (value, self.graph.shapes[embedding])
        return self.model.finish(self.graph.input_shape, outputs)

    def _activated(self, value: str, activation: str | None) -> str:
        if activation == "relu":
            return self.emit("Relu", [value])
        return self.emit("Clip", [value, self.number(0), self.number(6)]) if activation == "relu6" else value

    def _grid(self, params: QuantParams) -> list[str]:
        scale = self.model.constant(np.array(params.scale, np.float32))
        return [scale, self.model.constant(_unsigned(np.array(params.zero_point)))]


def _unsigned(levels: NDArray[np.signedinteger]) -> NDArray[np.uint8]:
    return np.asarray(levels.astype(np.int16) + _OFFSET).astype(np.uint8)
