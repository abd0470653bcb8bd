"""Reads the nodes of an ONNX model in order: computes what depends on constants and shapes alone, hands on the rest.

Constants are computed by onnx's own reference evaluator, so every operator and type is right without code of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgehone.errors import EdgehoneError, NetworkError, UnsupportedOperatorError
from edgehone.graph.ir import Graph
from edgehone.importers._draft import Draft
from edgehone.importers._onnx_file import STANDARD, OnnxFile, damaged, first_line, place_of
from edgehone.importers._onnx_hints import GENERAL, HINTS
from edgehone.importers._onnx_layers import LAYERS
from edgehone.importers._onnx_op import Constant, Op, Translated, Translator, Value
from edgehone.importers._onnx_pointwise import POINTWISE
from edgehone.importers._onnx_resize import RESIZES
from edgehone.importers._onnx_shapes import SHAPES

TRANSLATORS: dict[str, Translator] = {**LAYERS, **POINTWISE, **SHAPES, **RESIZES}

# What a file with contradictory nodes makes numpy, torch and the reference evaluator raise.
NONSENSE = (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
_CHANCE = ("Random", "Bernoulli", "Multinomial")
_SAME_VALUES = frozenset(
    ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "DequantizeLinear")
)
_GROWS = frozenset(("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "OneHot", "Resize", "Upsample", "EyeLike"))
_MOST_VALUES = 1 << 24  # of a computed constant


def read_model(file: OnnxFile) -> Graph:
    """The graph of a float model, not yet simplified.

    Raises:
        UnsupportedOperatorError: an operator, or a use of it, that the graph does not hold.
        ModelFileError: nodes that contradict themselves.
        NetworkError: the answer does not depend on the input.
    """
    refuse_unknown(file)
    walk = _Walk(file)
    for node in file.model.graph.node:
        walk.read(node)
    answer = walk.values.get(file.output)
    if not isinstance(answer, str):
        raise NetworkError("the network's answer does not depend on its input", where=str(file.path))
    return walk.draft.graph(file.input, answer)


def refuse_unknown(file: OnnxFile) -> None:
    """Return when every operator has a translator or might compute a constant.

    Raises:
        UnsupportedOperatorError: a control flow, another domain, or an operator that has a hint.
    """
    for node in file.model.graph.node:
        place = place_of(node)
        flow = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        if node.domain not in STANDARD:
            what, do = f"of {node.domain} is not an operator of the graph", HINTS.get(node.op_type, GENERAL)
        elif flow or node.op_type.startswith(_CHANCE):
            what, do = "is not an operator of the graph", HINTS.get(node.op_type, HINTS["If" if flow else "Random"])
        else:
            continue
        raise UnsupportedOperatorError(f"{node.op_type} {what}", where=place, do=do)


@dataclass
class _Walk:
    """Values of everything read so far, by the file's names."""

    file: OnnxFile
    draft: Draft = field(default_factory=Draft)
    values: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values[self.file.input] = self.draft.input(self.file.input, self.file.shape)
        for tensor in self.file.model.graph.initializer:
            try:
                array = numpy_helper.to_array(tensor)
            except NONSENSE as error:
                raise damaged(self.file.path, error, tensor.name) from error
            self.values[tensor.name] = Constant(array, tensor.name, stored=True)

    def read(self, node: NodeProto) -> None:
        """Translate one node."""
        place = place_of(node)
        try:
            op = self._op(node, place)
            result = self._result(node, op)
        except EdgehoneError:
            raise
        except NONSENSE as error:
            raise damaged(self.file.path, error, f"{node.op_type} {place!r}") from error
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(op.outputs, results, strict=False):
            if name:
                self.values[name] = value

    def _op(self, node: NodeProto, place: str) -> Op:
        unknown = [name for name in node.input if name and name not in self.values]
        if unknown:
            raise UnsupportedOperatorError(
                f"{node.op_type} reads {unknown[0]!r}, a result that is not supported or that nothing writes",
                where=place,
                do=GENERAL,
            )
        inputs = [self.values[name] if name else None for name in node.input]
        attrs = {attribute.name: _python(attribute) for attribute in node.attribute}
        outputs = list(node.output) or [place]
        return Op(node.op_type, self.file.opset, place, inputs, outputs, attrs, self.file.batch, self.draft)

    def _result(self, node: NodeProto, op: Op) -> Translated:
        tensors = [value for value in op.inputs if isinstance(value, str)]
        if op.kind in ("Shape", "Size") and tensors:
            return self._known_shape(op)
        if not tensors:
            return self._computed(node, op)
        if op.kind not in TRANSLATORS:
            raise op.refuse("is not an operator of the graph", HINTS.get(op.kind, GENERAL))
        return TRANSLATORS[op.kind](op)

    def _known_shape(self, op: Op) -> Constant:
        shape = (op.batch, *op.shape()[1:])
        if op.kind == "Size":
            return Constant(np.array(prod(shape), np.int64), op.outputs[0], stored=False)
        picked = shape[slice(op.attrs.get("start", 0), op.attrs.get("end"))]
        return Constant(np.array(picked, np.int64), op.outputs[0], stored=False)

    def _computed(self, node: NodeProto, op: Op) -> tuple[Constant, ...]:
        """Results of a node all of whose inputs are constants."""
        constants = {name: value for name, value in zip(node.input, op.inputs, strict=True) if name}
        feeds = {name: value.array for name, value in constants.items() if isinstance(value, Constant)}
        if op.kind in _GROWS:
            _check_growth(op, list(feeds.values()))
        arrays = _evaluated(node, op, feeds)
        first = next(iter(constants.values()), None)
        if op.kind in _SAME_VALUES and isinstance(first, Constant) and first.stored:
            return (Constant(np.asarray(arrays[0]), first.name, stored=True),)
        stored = op.kind == "Constant"
        return tuple(Constant(np.asarray(array), name, stored) for name, array in zip(op.outputs, arrays, strict=False))


def _evaluated(node: NodeProto, op: Op, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    if op.kind == "Unsqueeze" and "axes" in op.attrs:  # onnx 1.23 evaluates the form of operator set 13 alone
        return [np.expand_dims(feeds[node.input[0]], tuple(op.attrs["axes"]))]
    try:
        with np.errstate(all="ignore"):
            arrays: list[Any] = list(ReferenceEvaluator(node, opsets={"": op.version}).run(None, feeds))
    except (NotImplementedError, TypeError) as error:  # a form of the operator that onnx does not evaluate
        raise op.refuse(f"of constants cannot be computed: {first_line(error)}", GENERAL) from error
    if not all(isinstance(array, np.ndarray | np.generic) for array in arrays):
        raise op.refuse("gives something else than tensors", GENERAL)
    return arrays


def _check_growth(op: Op, arrays: list[NDArray[Any]]) -> None:
    """Refuse to compute constants of nonsensical size from a few numbers."""
    numbers = [array for array in arrays if array.size <= 64 and array.dtype.kind in "iuf"]
    sizes = [array.astype(np.float64) for array in numbers]
    if op.kind == "Range" and len(sizes) == 3:
        start, limit, delta = (float(size.ravel()[0]) for size in sizes)
        most = abs((limit - start) / delta) if delta else np.inf
    else:
        most = max((float(np.prod(np.maximum(np.abs(size), 1))) for size in sizes), default=1.0)
        most *= max((array.size for array in arrays), default=1) if op.kind in ("Tile", "Resize", "Upsample") else 1
    if not most <= _MOST_VALUES:
        raise op.refuse("computes a constant that is too large", "export the file again")


def _python(attribute: onnx.AttributeProto) -> Any:
    """An attribute's value; text as str."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Iterable):
        return [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in value]
    return value


__all__ = ["NONSENSE", "TRANSLATORS", "read_model", "refuse_unknown"]
