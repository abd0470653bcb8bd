"""Translators of ONNX activations and arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone.importers._onnx_op import Constant, Op, Translated, Translator, Value

_BY_CONSTANTS = "multiply or divide by constants"


def _activation(name: str) -> Translator:
    def translate(op: Op) -> str:
        return op.emit(name, op.tensor())

    return translate


def _same(op: Op) -> Value:
    return op.inputs[0]


def _cast(op: Op) -> str:
    names = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
    if op.attrs.get("to") not in names:
        raise op.refuse("converts to another type than float", "end the network at the scores, before class ids")
    return op.tensor()


def _dropout(op: Op) -> str:
    if op.setting("training_mode", 2, default=False):
        raise op.refuse("drops also in evaluation", "export the network in evaluation mode")
    if any(op.outputs[1:]):
        raise op.refuse("gives its mask", "export the network in evaluation mode")
    return op.emit("dropout", op.tensor(), attrs={"rate": float(op.setting("ratio", 1, default=0.5))})


def _leaky_relu(op: Op) -> str:
    slope = float(op.attrs.get("alpha", 0.01))
    if slope in (0.0, 1.0):
        return op.emit("relu", op.tensor()) if slope == 0 else op.tensor()
    return op.emit("leaky_relu", op.tensor(), attrs={"slope": slope})


def _prelu(op: Op) -> str:
    """slope * x + (1 - slope) * relu(x), where slopes differ by channel."""
    slope = op.constant(1, "slopes")
    if slope is None:
        raise op.refuse("has no slope", "export the file again")
    source, array = op.tensor(), op.floats(slope)
    if array.size == 1:
        return op.emit("leaky_relu", source, attrs={"slope": float(array.ravel()[0])})
    rest = Constant(1 - array, f"{slope.name}.rest", stored=False)
    line = op.arithmetic("mul", source, Constant(array, slope.name, stored=False), part="line")
    bend = op.arithmetic("mul", op.emit("relu", source, part="relu"), rest, part="bend")
    return op.emit("add", line, bend)


def _softmax(op: Op) -> str:
    """Over the only axis, besides the batch, that is longer than 1."""
    source, shape = op.tensor(), op.shape()
    rank = len(shape)
    axis = op.axis(int(op.attrs.get("axis", -1 if op.version >= 13 else 1)), rank)
    over = [axis] if op.version >= 13 else range(axis, rank)
    if any(n != 1 for i, n in enumerate(shape) if i > 0 and i not in over):
        raise op.refuse("is supported over all values of an example", "end the network at the scores before it")
    if rank == 2:
        return op.emit("softmax", source)
    flat = op.reshape(source, (1, int(np.prod(shape))), part="flat")
    return op.reshape(op.emit("softmax", flat, part="softmax"), shape)


def _clip(op: Op) -> str:
    return clamp(op, op.tensor(), _bound(op, "min", 1), _bound(op, "max", 2))


def _bound(op: Op, name: str, index: int) -> float | None:
    value = op.setting(name, index)
    if isinstance(value, list):
        raise op.refuse("has bounds that are not numbers", "use one number as each bound")
    return None if value is None or abs(value) > 1e30 else float(value)


def clamp(op: Op, source: str, low: float | None, high: float | None) -> str:
    """Bounds other than (0, none) and (0, 6) become an exact relu or relu6 of shifted and scaled values."""
    if low is None and high is None:
        return source
    if low is None and high is not None:  # min(x, high) = high - relu(high - x)
        gap = op.arithmetic("add", op.arithmetic("mul", source, -1.0, part="negative"), high, part="gap")
        back = op.arithmetic("mul", op.emit("relu", gap, part="relu"), -1.0, part="back")
        return op.arithmetic("add", back, high)
    low = low or 0.0
    if high is not None and high <= low:
        raise op.refuse(f"to {low}..{high} is a constant", "give it a lower bound below its upper bound")
    scale = 1.0 if high is None else (high - low) / 6
    if low:
        source = op.arithmetic("add", source, -low, part="low")
    if scale != 1:
        source = op.arithmetic("mul", source, 1 / scale, part="scale")
    clipped = op.emit("relu" if high is None else "relu6", source, part="" if scale == 1 and not low else "relu")
    if scale != 1:
        clipped = op.arithmetic("mul", clipped, scale, part="back" if low else "")
    return op.arithmetic("add", clipped, low) if low else clipped


def _hard_sigmoid(op: Op) -> str:
    """clip(alpha * x + beta, 0, 1) = relu6(6 * alpha * x + 6 * beta) / 6."""
    alpha, beta = float(op.attrs.get("alpha", 0.2)), float(op.attrs.get("beta", 0.5))
    scaled = op.arithmetic("mul", op.tensor(), 6 * alpha, part="scale")
    moved = op.arithmetic("add", scaled, 6 * beta, part="add")
    return op.arithmetic("mul", op.emit("relu6", moved, part="relu6"), 1 / 6)


def _swish(op: Op) -> str:
    if op.attrs.get("alpha", 1.0) != 1:
        raise op.refuse("with another factor than 1 is not supported", "use SiLU")
    return op.emit("silu", op.tensor())


def _two_tensors(op: Op, name: str, first: str, second: str, part: str = "") -> str:
    ranks = len(op.draft.shapes[first]), len(op.draft.shapes[second])
    if ranks[0] != ranks[1]:
        raise op.refuse(
            f"of tensors with {ranks[0]} and {ranks[1]} axes aligns the batch with another axis",
            "reshape them to the same number of axes, batch first",
        )
    return op.emit(name, first, second, part=part)


def _computed(op: Op, array: NDArray[Any]) -> Constant:
    """A constant computed from another one."""
    return Constant(array, f"{op.outputs[0]}.value", stored=False)


def _of_two(name: str) -> Translator:
    """Add and Mul."""

    def translate(op: Op) -> str:
        first, second = op.inputs
        if isinstance(first, str) and isinstance(second, str):
            return _two_tensors(op, name, first, second)
        source, constant = (first, second) if isinstance(first, str) else (second, first)
        return op.arithmetic(name, str(source), constant)  # type: ignore[arg-type]  # one of the two is a tensor

    return translate


def _sub(op: Op) -> str:
    first, second = op.inputs
    if isinstance(first, str) and isinstance(second, str):
        return _two_tensors(op, "sub", first, second)
    if isinstance(second, Constant):
        return op.arithmetic("add", op.tensor(), _computed(op, -op.floats(second)))
    negative = op.arithmetic("mul", op.tensor(1), -1.0, part="negative")
    return op.arithmetic("add", negative, first)  # type: ignore[arg-type]  # a constant, since the other is a tensor


def _div(op: Op) -> str:
    divisor = op.inputs[1]
    if not isinstance(op.inputs[0], str) or not isinstance(divisor, Constant):
        raise op.refuse("by what the network computes is not supported", _BY_CONSTANTS)
    return op.arithmetic("mul", op.tensor(), _computed(op, 1 / op.floats(divisor).astype(np.float64)))


def _neg(op: Op) -> str:
    return op.arithmetic("mul", op.tensor(), -1.0)


def _pow(op: Op) -> str:
    if op.setting("exponent", 1) not in (2, [2]):
        raise op.refuse("is supported for the exponent 2 alone", "multiply the tensor with itself")
    return op.emit("mul", op.tensor(), op.tensor())


def _sum(op: Op) -> Translated:
    total = op.inputs[0]
    for index, value in enumerate(op.inputs[1:], 1):
        part = "" if index == len(op.inputs) - 1 else f"{index}"
        if isinstance(total, str) and isinstance(value, str):
            total = _two_tensors(op, "add", total, value, part)
        elif isinstance(total, str) and isinstance(value, Constant):
            total = op.arithmetic("add", total, value, part=part)
        elif isinstance(value, str) and isinstance(total, Constant):
            total = op.arithmetic("add", value, total, part=part)
        else:
            raise op.refuse("of several constants is not supported", "add constants outside the network")
    return total


def _extreme(op: Op) -> str:
    """Max or Min of a tensor and a number."""
    tensors = [value for value in op.inputs if isinstance(value, str)]
    numbers = [value for value in op.inputs if isinstance(value, Constant) and value.array.size == 1]
    if len(tensors) != 1 or len(numbers) != 1 or len(op.inputs) != 2:
        raise op.refuse("is supported of a tensor and a number", "use ReLU, Clip or max pooling")
    bound = float(op.floats(numbers[0]).ravel()[0])
    return clamp(op, tensors[0], bound, None) if op.kind == "Max" else clamp(op, tensors[0], None, bound)


POINTWISE: dict[str, Translator] = {
    "Relu": _activation("relu"),
    "HardSwish": _activation("hard_swish"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Identity": _same,
    "Cast": _cast,
    "Dropout": _dropout,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Softmax": _softmax,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Swish": _swish,
    "Add": _of_two("add"),
    "Mul": _of_two("mul"),
    "Sub": _sub,
    "Div": _div,
    "Neg": _neg,
    "Pow": _pow,
    "Sum": _sum,
    "Max": _extreme,
    "Min": _extreme,
}
