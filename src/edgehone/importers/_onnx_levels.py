"""QuantizeLinear and DequantizeLinear taken out of an ONNX model: a float model that computes what levels stood for.

- Levels of an activation are the float that was quantized. Where a file reads them on another grid than it wrote them,
  a Mul and an Add say the same.
- A quantizer drops a ReLU whose work the lowest level does: where levels start at 0 and the value may be negative, the
  ReLU comes back; as a Clip where they end at 6 or 1 (ReLU6, hard sigmoid).
- DequantizeLinear of a constant stays: the walk computes it, like any constant.
- Operators that only move values may work on levels. All others that do are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgehone.errors import EdgehoneError, UnsupportedOperatorError
from edgehone.importers._onnx_file import OnnxFile, damaged, place_of
from edgehone.importers._onnx_hints import HINTS

_MOVES = frozenset(
    (
        *("Identity", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Pad", "MaxPool"),
        *("Gather", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "Concat", "GlobalMaxPool"),
    )
)
_KEEPS_BOUNDS = _MOVES | {"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceMax", "Dropout"}
_UNIT = frozenset(("Sigmoid", "Softmax", "HardSigmoid"))
_LEVELS: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
}
_NONSENSE = (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, RuntimeError)
_FREE = (-math.inf, math.inf)
_DO = HINTS["QuantizeLinear"]


def without_levels(file: OnnxFile) -> OnnxFile:
    """The file with a float model; the same file when it holds no levels.

    Raises:
        UnsupportedOperatorError: an operator that computes with levels, or a grid per channel of an activation.
        ModelFileError: nodes that contradict themselves.
    """
    if not any(node.op_type == "QuantizeLinear" for node in file.model.graph.node):
        return file
    removal = _Removal(file)
    for node in file.model.graph.node:
        place = place_of(node)
        try:
            removal.read(node, place)
        except EdgehoneError:
            raise
        except _NONSENSE as error:
            raise damaged(file.path, error, f"{node.op_type} {place!r}") from error
    output_range = removal.ranges.get(file.output)
    return replace(file, model=removal.model(), input_range=removal.input_range, output_range=output_range)


@dataclass(frozen=True)
class _Grid:
    """What levels of an activation stand for."""

    scale: float
    zero_point: int
    lowest: int
    highest: int

    @property
    def bottom(self) -> float:
        return (self.lowest - self.zero_point) * self.scale

    @property
    def top(self) -> float:
        return (self.highest - self.zero_point) * self.scale


@dataclass
class _Removal:
    """The float model so far.

    Attributes:
        floats: name in the file → name of the float value it stands for.
        grids: of the names that are levels.
        bounds: least and largest value that a float may have, where known.
        ranges: least and largest value of what levels are read into.
    """

    file: OnnxFile
    nodes: list[NodeProto] = field(default_factory=list)
    floats: dict[str, str] = field(default_factory=dict)
    grids: dict[str, _Grid] = field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    input_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.constants: dict[str, TensorProto] = {t.name: t for t in self.file.model.graph.initializer}
        self.added: list[TensorProto] = []
        self.fixed = set(self.constants)

    def model(self) -> ModelProto:
        """The float model, with the output under its old name."""
        model = ModelProto()
        model.CopyFrom(self.file.model)
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.added)
        output = self.floats.get(self.file.output, self.file.output)
        if output != self.file.output:
            model.graph.node.append(helper.make_node("Identity", [output], [self.file.output], "answer"))
        return model

    def read(self, node: NodeProto, place: str) -> None:
        """Take over one node."""
        if all(name in self.fixed or not name for name in node.input):
            self._take_constant(node)
        elif node.op_type == "QuantizeLinear":
            self._quantize(node, place)
        elif node.op_type == "DequantizeLinear":
            self._dequantize(node, place)
        else:
            self._take(node, place)

    def _take_constant(self, node: NodeProto) -> None:
        self.fixed.update(node.output)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            self.constants[node.output[0]] = node.attribute[0].t
        self.nodes.append(node)

    def _array(self, name: str, place: str) -> np.ndarray[Any, Any]:
        if name not in self.constants:
            raise UnsupportedOperatorError("QuantizeLinear has a grid that is computed", where=place, do=_DO)
        return numpy_helper.to_array(self.constants[name])

    def _grid(self, node: NodeProto, place: str) -> _Grid:
        scale = self._array(node.input[1], place)
        point = node.input[2] if len(node.input) > 2 else ""
        dtype: int = self.constants[point].data_type if point in self.constants else TensorProto.UINT8
        if not point:
            dtype = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), dtype)
        if scale.size != 1 or dtype not in _LEVELS:
            raise UnsupportedOperatorError(
                f"{node.op_type} has a grid per channel, or a type of level, that is not supported", where=place, do=_DO
            )
        zero_point = int(self._array(point, place).astype(np.int64).ravel()[0]) if point else 0
        return _Grid(float(scale.ravel()[0]), zero_point, *_LEVELS[dtype])

    def _quantize(self, node: NodeProto, place: str) -> None:
        grid = self._grid(node, place)
        name = self._float(node.input[0], place)
        low, high = self.bounds.get(name, _FREE)
        if name == self.file.input:
            self.input_range = (grid.bottom, grid.top)
        elif grid.zero_point == grid.lowest and low < 0:
            ends = [top for top in (6.0, 1.0) if math.isclose(grid.top, top, rel_tol=1e-5) and high > top]
            name = self._clipped(name, ends[0] if ends else None)
        self.floats[node.output[0]] = name
        self.grids[node.output[0]] = grid

    def _clipped(self, name: str, top: float | None) -> str:
        if top is None:
            result = self._add("Relu", name, "relu")
        elif self.file.opset < 11:
            result = self._add("Clip", name, "relu", min=0.0, max=top)
        else:
            ends = [self._number(value) for value in (0.0, top)]
            result = self._add("Clip", name, "relu", *ends)
        self.bounds[result] = (0.0, math.inf if top is None else top)
        return result

    def _dequantize(self, node: NodeProto, place: str) -> None:
        name = node.input[0]
        if name not in self.grids:
            raise UnsupportedOperatorError("DequantizeLinear reads what is no level", where=place, do=_DO)
        wrote, reads = self.grids[name], self._grid(node, place)
        value = self.floats[name]
        scale = reads.scale / wrote.scale
        shift = (wrote.zero_point - reads.zero_point) * reads.scale
        if not math.isclose(scale, 1.0, rel_tol=1e-6):
            value = self._add("Mul", value, "scaled", self._number(scale))
        if shift:
            value = self._add("Add", value, "moved", self._number(shift))
        self.floats[node.output[0]] = value
        self.ranges[node.output[0]] = (reads.bottom, reads.top)

    def _take(self, node: NodeProto, place: str) -> None:
        """An operator that stays; its inputs are floats now."""
        levels = {name: self.grids[name] for name in node.input if name in self.grids}
        copy = NodeProto()
        copy.CopyFrom(node)
        if levels:
            self._check_moves(node, place, levels)
            grid = next(iter(levels.values()))
            self.grids.update(dict.fromkeys(node.output, grid))
            if node.op_type == "Pad":
                self._unquantize_padding(copy, grid, place)
        for index, name in enumerate(copy.input):
            copy.input[index] = self.floats.get(name, name)
        self._note_bounds(copy, place)
        for name in node.output:
            self.floats[name] = name
        self.nodes.append(copy)

    def _check_moves(self, node: NodeProto, place: str, levels: dict[str, _Grid]) -> None:
        others = [name for name in node.input if name and name not in levels and name not in self.fixed]
        joins = node.op_type == "Concat" and any(name not in levels for name in node.input)
        if node.op_type not in _MOVES or others or joins or len(set(levels.values())) > 1:
            raise UnsupportedOperatorError(f"{node.op_type} computes with levels", where=place, do=_DO)

    def _unquantize_padding(self, node: NodeProto, grid: _Grid, place: str) -> None:
        """What a Pad of levels puts in, as a float."""
        given = len(node.input) > 2 and bool(node.input[2])
        level = int(self._array(node.input[2], place).astype(np.int64).ravel()[0]) if given else 0
        value = self._number((level - grid.zero_point) * grid.scale)
        rest = list(node.input[3:])
        names = [*list(node.input[:2]), value, *rest]
        del node.input[:]
        node.input.extend(names)

    def _note_bounds(self, node: NodeProto, place: str) -> None:
        kind = node.op_type
        if kind == "Relu":
            found = (0.0, math.inf)
        elif kind in _UNIT:
            found = (0.0, 1.0)
        elif kind == "Clip":
            found = self._clip_bounds(node, place)
        elif kind == "LeakyRelu" and any(a.name == "alpha" and a.f == 0 for a in node.attribute):
            found = (0.0, math.inf)
        elif kind in _KEEPS_BOUNDS:
            known = [self.bounds.get(name, _FREE) for name in node.input if name and name not in self.fixed]
            lowest, highest = min(low for low, _ in known), max(high for _, high in known)
            found = (min(lowest, 0.0), max(highest, 0.0)) if kind == "Pad" else (lowest, highest)
        else:
            return
        self.bounds.update(dict.fromkeys(node.output, found))

    def _clip_bounds(self, node: NodeProto, place: str) -> tuple[float, float]:
        ends: dict[str, float] = {a.name: a.f for a in node.attribute if a.type == AttributeProto.FLOAT}
        for name, role in zip(node.input[1:], ("min", "max"), strict=False):
            if name in self.constants:
                ends[role] = float(self._array(name, place).ravel()[0])
        return ends.get("min", -math.inf), ends.get("max", math.inf)

    def _float(self, name: str, place: str) -> str:
        if name in self.grids:
            raise UnsupportedOperatorError("QuantizeLinear reads levels", where=place, do=_DO)
        return self.floats.get(name, name)

    def _number(self, value: float) -> str:
        name = f"edgehone.number.{len(self.added)}"
        self.added.append(numpy_helper.from_array(np.array(value, np.float32), name))
        self.fixed.add(name)
        return name

    def _add(self, kind: str, source: str, part: str, *constants: str, **attributes: Any) -> str:
        name = f"{source}.{part}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [source, *constants], [name], name, **attributes))
        return name
