"""Importers of activations and arithmetic."""

from __future__ import annotations

from torch import Tensor

from edgehone.graph._builder import Call, Importer, Value
from edgehone.graph.ir import FloatArray


def _activation(op: str) -> Importer:
    def importer(call: Call) -> Value:
        source = call.tensor("self")
        return call.emit(op, (source,), call.shape_of(source))

    return importer


def _leaky_relu(call: Call) -> Value:
    return call.emit(
        "leaky_relu", (call.tensor("self"),), call.shape, attrs={"slope": float(call.args["negative_slope"])}
    )


def _prelu(call: Call) -> Value:
    weight = call.args["weight"]
    if not isinstance(weight, Tensor) or weight.numel() != 1:
        raise call.refuse("with a slope per channel is not supported", "use nn.PReLU() with one slope, or LeakyReLU")
    return call.emit("leaky_relu", (call.tensor("self"),), call.shape, attrs={"slope": float(weight)})


def _softmax(call: Call) -> Value:
    source = call.tensor("self")
    if len(call.shape_of(source)) != 2 or call.axis(call.args["dim"], 2) != 1:
        raise call.refuse(
            "is supported over the last of two axes, batch included", "flatten the logits to (N, classes)"
        )
    return call.emit("softmax", (source,), call.shape)


def _dropout(call: Call) -> Value:
    if call.args["train"]:
        raise call.refuse("drops also in evaluation", "pass training=self.training, or use nn.Dropout")
    return call.emit("dropout", (call.tensor("input"),), call.shape, attrs={"rate": float(call.args["p"])})


def _clamp(call: Call) -> Value:
    """Bounds other than (0, none) and (0, 6) become an exact relu or relu6 of shifted and scaled values."""
    source, shape = call.tensor("self"), call.shape
    low, high = (call.args.get(role) for role in _BOUNDS[call.operator])
    if isinstance(low, str | Tensor) or isinstance(high, str | Tensor):
        raise call.refuse("with tensors as bounds is not supported", "use numbers as bounds")
    if low is None:
        if high is None:
            return source
        # min(x, high) = high - relu(high - x)
        negative = call.arithmetic("mul", source, -1.0, part="negative")
        relu = call.emit("relu", (call.arithmetic("add", negative, high, part="gap"),), shape, part="relu")
        return call.arithmetic("add", call.arithmetic("mul", relu, -1.0, part="back"), high)
    if high is not None and high <= low:
        raise call.refuse(f"to {low}..{high} is a constant", "give it a lower bound below its upper bound")
    moved = call.arithmetic("add", source, -low, part="low") if low else source
    if high is None:
        return _clipped(call, "relu", moved, 1.0, low)
    return _clipped(call, "relu6", moved, (high - low) / 6, low)


def _clipped(call: Call, op: str, source: str, scale: float, low: float) -> Value:
    """low + scale * op(source / scale), without the parts that do nothing."""
    if scale != 1:
        source = call.arithmetic("mul", source, 1 / scale, part="scale")
    source = call.emit(op, (source,), call.shape, part=op if scale != 1 or low else "")
    if scale != 1:
        source = call.arithmetic("mul", source, scale, part="back" if low else "")
    return call.arithmetic("add", source, low) if low else source


_BOUNDS = {
    "clamp": ("min", "max"),
    "clip": ("min", "max"),
    "clamp_min": ("min", "-"),
    "clamp_max": ("-", "max"),
    "hardtanh": ("min_val", "max_val"),
}


def _hard_sigmoid(call: Call) -> Value:
    moved = call.arithmetic("add", call.tensor("self"), 3.0, part="add")
    return call.arithmetic("mul", call.emit("relu6", (moved,), call.shape, part="relu6"), 1 / 6)


def _two_tensors(call: Call, op: str, first: str, second: str) -> Value:
    ranks = len(call.shape_of(first)), len(call.shape_of(second))
    if ranks[0] != ranks[1]:
        raise call.refuse(
            f"of tensors with {ranks[0]} and {ranks[1]} axes aligns the batch with another axis",
            "reshape them to the same number of axes, batch first",
        )
    return call.emit(op, (first, second), call.shape)


def _negated(array: FloatArray) -> FloatArray:
    return -array


def _sum(call: Call, first: Value, second: Value, sign: int) -> Value:
    """first + sign * alpha * second."""
    alpha = sign * call.args.get("alpha", 1)
    if isinstance(second, str) and alpha not in (1, -1):
        second, alpha = call.arithmetic("mul", second, float(alpha), part="alpha"), 1
    if isinstance(first, str) and isinstance(second, str):
        return _two_tensors(call, "add" if alpha == 1 else "sub", first, second)
    if isinstance(first, str):
        change = None if alpha == 1 else lambda array: array * alpha
        return call.arithmetic("add", first, _constant(second), change=change)
    if not isinstance(second, str):
        raise call.refuse("of constants only cannot be placed", "compute constants outside forward")
    if alpha == -1:
        second = call.arithmetic("mul", second, -1.0, part="negative")
    return call.arithmetic("add", second, _constant(first))


def _constant(value: Value | float) -> Tensor | float:
    return value if isinstance(value, Tensor) else float(value)  # type: ignore[arg-type]  # numbers come from torch


def _add(call: Call) -> Value:
    return _sum(call, call.args["self"], call.args["other"], 1)


def _sub(call: Call) -> Value:
    return _sum(call, call.args["self"], call.args["other"], -1)


def _rsub(call: Call) -> Value:
    return _sum(call, call.args["other"], call.args["self"], -1)


def _mul(call: Call) -> Value:
    first, second = call.args["self"], call.args["other"]
    if isinstance(first, str) and isinstance(second, str):
        return _two_tensors(call, "mul", first, second)
    source, constant = (first, second) if isinstance(first, str) else (second, first)
    return call.arithmetic("mul", source, _constant(constant))


def _div(call: Call) -> Value:
    if not isinstance(call.args["self"], str) or isinstance(call.args["other"], str):
        raise call.refuse("by a tensor that depends on the input is not supported", "multiply or divide by constants")
    if call.args.get("rounding_mode") is not None:
        raise call.refuse("with rounding is not supported", "divide without rounding_mode")
    return call.arithmetic("mul", call.args["self"], _constant(call.args["other"]), change=lambda array: 1 / array)


def _neg(call: Call) -> Value:
    return call.arithmetic("mul", call.tensor("self"), -1.0)


def _square(call: Call) -> Value:
    source = call.tensor("self")
    if call.args.get("exponent", 2) != 2:
        raise call.refuse("is supported for the exponent 2 alone", "multiply the tensor with itself")
    return call.emit("mul", (source, source), call.shape)


POINTWISE: dict[str, Importer] = {
    "relu": _activation("relu"),
    "relu6": _activation("relu6"),
    "hardswish": _activation("hard_swish"),
    "silu": _activation("silu"),
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "hardsigmoid": _hard_sigmoid,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "softmax": _softmax,
    "dropout": _dropout,
    "feature_dropout": _dropout,
    **dict.fromkeys(_BOUNDS, _clamp),
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "square": _square,
    "pow": _square,
}
