"""A graph on its way into a .tflite model: which tensor of the file holds which tensor of the graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edgehone.errors import UnsupportedOperatorError
from edgehone.exporters._flatbuffer import Table
from edgehone.exporters._tflite_layout import (
    MAX_RANK,
    Positions,
    Transpose,
    as_transpose,
    file_shape,
    indices,
    positions,
)
from edgehone.exporters._tflite_model import ModelWriter
from edgehone.graph.ir import Graph, Node, Shape
from edgehone.graph.quantized import QuantizedGraph, QuantParams

Pads = tuple[tuple[int, int], ...]

MOVES = frozenset({"reshape", "transpose"})


class Move(NamedTuple):
    """A tensor that is only a rearrangement of another: its torch index i holds torch index `order[i]` of `source`."""

    source: str
    order: Positions


@dataclass
class Lowering:
    """The state of writing one graph, as float32 or, with the integers of `quantized`, as int8.

    A reshape or transpose whose readers can all take its rearrangement upon themselves (another move, or a linear
    layer, whose weight columns are free to stand in any order) is not written at all but kept in `moves`.
    """

    graph: Graph
    quantized: QuantizedGraph | None
    output_name: str
    embedding: str | None = None
    model: ModelWriter = field(default_factory=ModelWriter)
    moves: dict[str, Move] = field(default_factory=dict)
    _index: dict[str, int] = field(default_factory=dict)
    _padded: dict[tuple[object, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.producers = self.graph.producers()
        self._readers = self.graph.consumers()

    @property
    def int8(self) -> bool:
        """Whether activations are int8."""
        return self.quantized is not None

    def params(self, name: str) -> QuantParams | None:
        """Quantization of a graph tensor; None in a float file."""
        return None if self.quantized is None else self.quantized.tensors[name]

    def read(self, name: str) -> int:
        """The file's tensor that holds a graph tensor."""
        return self._index[name]

    def write(self, name: str) -> int:
        """A new tensor of the file for a graph tensor."""
        called = {self.graph.output: self.output_name, self.embedding: "embedding"}.get(name, "")
        self._index[name] = self.scratch(name, file_shape(self.graph.shapes[name]), called)
        return self._index[name]

    def bind(self, name: str, tensor: int) -> None:
        """Let an existing tensor of the file hold a graph tensor."""
        self._index[name] = tensor

    def scratch(self, like: str, shape: Shape, name: str = "") -> int:
        """A tensor in the quantization of a graph tensor, in any shape of the file."""
        return self.model.tensor(shape, "int8" if self.int8 else "float32", self.params(like), name=name)

    def emit(
        self, operator: str, inputs: list[int], output: int, options: Table | None = None, version: int = 1
    ) -> None:
        """Append an operator; see `ModelWriter.operator`."""
        self.model.operator(operator, inputs, output, options, int8=self.int8, version=version)

    def integers(self, values: object) -> int:
        """A constant int32 tensor: axes, shapes, paddings."""
        return self.model.constant(np.asarray(values, np.int32))

    def pad(self, name: str, pads: Pads, value: float = 0.0, output: int | None = None) -> int:
        """A graph tensor with `value` around it; the same padding twice is written once.

        Args:
            name: the graph tensor.
            pads: (before, after) for every axis of the file.
            value: of the new places.
            output: the tensor to write, when it exists.
        """
        key = (name, pads, value)
        if output is None and key in self._padded:
            return self._padded[key]
        shape = tuple(b + s + a for s, (b, a) in zip(file_shape(self.graph.shapes[name]), pads, strict=True))
        target = self.scratch(name, shape) if output is None else output
        inputs = [self.read(name), self.integers(pads)]
        if value == 0:
            self.emit("PAD", inputs, target)
        else:
            params = self.params(name)
            filler = np.full(1, value, np.float32)
            constant = self.model.constant(params.quantize(filler) if params else filler, params)
            self.emit("PADV2", [*inputs, constant], target)
        self._padded[key] = target
        return target

    def repeat_edges(self, name: str, pads: Pads) -> int:
        """A picture with its outermost rows and columns repeated, ((top, bottom), (left, right)) times.

        A max pool over it gives what one over -infinity gives as long as no window lies in the padding alone. XNNPACK
        takes these slices and concats, and does not take a PADV2.
        """
        tensor, shape = self.read(name), list(file_shape(self.graph.shapes[name]))
        for axis, (before, after) in enumerate(pads, 1):
            if before or after:
                first = [self._cut(name, tensor, shape, axis, 0)] * before if before else []
                last = [self._cut(name, tensor, shape, axis, shape[axis] - 1)] * after if after else []
                shape[axis] += before + after
                parts, tensor = [*first, tensor, *last], self.scratch(name, tuple(shape))
                self.emit("CONCATENATION", parts, tensor, {"axis": axis})
        return tensor

    def _cut(self, like: str, tensor: int, shape: list[int], axis: int, start: int) -> int:
        """One row or column of a picture."""
        begin, end, steps = [0] * len(shape), list(shape), [1] * len(shape)
        begin[axis], end[axis] = start, start + 1
        cut = self.scratch(like, tuple(e - b for b, e in zip(begin, end, strict=True)))
        self.emit("STRIDED_SLICE", [tensor, *(self.integers(v) for v in (begin, end, steps))], cut)
        return cut

    def move(self, node: Node, step: Positions) -> None:
        """Write a reshape or transpose, or leave it to its readers.

        Args:
            node: the node.
            step: the torch index of its input at every torch index of its output.
        """
        source, order = node.inputs[0], step
        if source in self.moves:
            first = self.moves[source]
            if self._route(first.source, node.output, first.order[step]) is None:
                self._rearrange(source, first)
            else:
                source, order = first.source, first.order[step]
        move = Move(source, order)
        readers = self._readers[node.output]
        if node.output != self.graph.output and readers and all(r.op in MOVES or r.op == "linear" for r in readers):
            self.moves[node.output] = move
        else:
            self._rearrange(node.output, move)

    def _route(self, source: str, result: str, order: Positions) -> list[Transpose] | None:
        """The transposes between two graph tensors: one, or two that meet in torch order; None when neither does."""
        start, end = self.graph.shapes[source], self.graph.shapes[result]
        direct = as_transpose(positions(start)[order[indices(end)]], file_shape(start))
        if direct is not None:
            return [direct]
        to_torch = as_transpose(positions(start)[order], file_shape(start))
        from_torch = as_transpose(indices(end), end)
        return None if to_torch is None or from_torch is None else [to_torch, from_torch]

    def _rearrange(self, result: str, move: Move) -> None:
        route = self._route(move.source, result, move.order) or []
        shape = file_shape(self.graph.shapes[move.source])
        target = file_shape(self.graph.shapes[result])
        steps: list[tuple[Shape, tuple[int, ...] | None]] = []  # shapes to reach, by a permutation or by reshaping
        for transpose in route:
            if transpose.keeps_order():
                continue
            if transpose.shape != shape:
                steps.append((transpose.shape, None))
            steps.append((transpose.result, transpose.perm))
            shape = transpose.result
        if shape != target or (not steps and result == self.graph.output):
            steps.append((target, None))
        self.moves.pop(result, None)
        tensor = self.read(move.source)
        for number, (reached, perm) in enumerate(steps, 1):
            following = self.write(result) if number == len(steps) else self.scratch(result, reached)
            if perm is None:
                self.emit("RESHAPE", [tensor, self.integers(reached)], following, {"new_shape": reached})
            else:
                self.emit("TRANSPOSE", [tensor, self.integers(perm)], following)
            tensor = following
        self.bind(result, tensor)

    def require(self, possible: bool, node: Node, what: str, do: str = "") -> None:
        """Refuse a node unless `possible`. Raises UnsupportedOperatorError: the operator, its module and `what`."""
        if not possible:
            raise UnsupportedOperatorError(f"{node.op} {what} cannot be written to .tflite", where=node.module, do=do)

    def require_rank(self, node: Node) -> None:
        """Refuse what computes with tensors of more than four axes. Raises UnsupportedOperatorError."""
        rank = max(len(self.graph.shapes[name]) for name in (*node.inputs, node.output))
        self.require(
            rank <= MAX_RANK, node, f"of a tensor with {rank} axes", "only reshape and transpose may have more"
        )
