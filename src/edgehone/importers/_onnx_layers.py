"""Translators of ONNX layers with weights, of pooling and of reductions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgehone.graph.ir import FloatArray, Shape
from edgehone.importers._onnx_op import Constant, Op, Translator

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
_RESIZED = "use Resize by 2 followed by a convolution"
_LAYERS_ONLY = "use convolutions and linear layers with fixed weights"


def _spatial(op: Op) -> tuple[int, ...]:
    """Sizes of the spatial axes: one or two."""
    shape = op.shape()
    if len(shape) not in (3, 4):
        raise op.refuse(
            f"works on {len(shape) - 2} spatial axes",
            "use 1-D or 2-D layers, for example with the third axis moved to the channels",
        )
    return shape[2:]


def _two(values: Sequence[int], fill: int) -> Pair:
    """One or two numbers as (height, width); one dimension counts as height `fill`."""
    numbers = [int(value) for value in values]
    return (fill, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _sides(op: Op, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[Pair]:
    """Padding before and after each spatial axis."""
    sizes, mode = _spatial(op), op.attrs.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return [(0, 0)] * len(sizes)
    if mode == "NOTSET":
        pads = op.attrs.get("pads", [0] * 2 * len(sizes))
        sides = list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
        if min(pads, default=0) < 0:
            raise op.refuse("has a negative padding", "slice the tensor instead")
        return sides
    sides = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        less, more = total // 2, total - total // 2
        sides.append((less, more) if mode == "SAME_UPPER" else (more, less))
    return sides


def _padding(sides: Sequence[Pair]) -> Padding:
    return ((0, 0), sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def _module(op: Op, weight: Constant) -> str:
    """Path of the layer that a weight belongs to, where its name says so."""
    stem = weight.name.removesuffix(".weight")
    return stem if stem not in ("", weight.name) else op.place


def _weight(op: Op, index: int = 1) -> Constant:
    found = op.constant(index, "weights")
    if found is None:
        raise op.refuse("has no weights", "export the file again")
    return found


def _conv(op: Op) -> str:
    sizes = _spatial(op)
    weight, bias = _weight(op), op.constant(2, "weights")
    kernel = weight.array.shape[2:]
    if len(kernel) != len(sizes):
        raise op.refuse(f"has weights of shape {weight.array.shape}", "export the file again")
    strides, dilations = (op.attrs.get(name, [1] * len(sizes)) for name in ("strides", "dilations"))
    attrs = {
        "stride": _two(strides, 1),
        "dilation": _two(dilations, 1),
        "padding": _padding(_sides(op, kernel, strides, dilations)),
        "groups": int(op.attrs.get("group", 1)),
    }

    def as_2d(array: FloatArray) -> FloatArray:
        return array[:, :, None, :] if len(sizes) == 1 else array  # (O, I/g, k) → (O, I/g, 1, k)

    params = {"weight": op.keep(weight, as_2d), "bias": op.keep(bias) if bias is not None else None}
    return op.emit("conv", op.tensor(), attrs=attrs, params=params, module=_module(op, weight))


def _conv_transpose(op: Op) -> str:
    """Windows that lie side by side: a 1x1 convolution to all places of a window, then depth to space."""
    sizes, weight, bias = _spatial(op), _weight(op), op.constant(2, "weights")
    outputs, *kernel = weight.array.shape[1:]
    ones = [1] * len(sizes)
    apart = op.attrs.get("strides", ones) == kernel and op.attrs.get("dilations", ones) == ones
    if not apart or any(op.attrs.get("pads", [])) or any(op.attrs.get("output_padding", [])):
        raise op.refuse("with windows that overlap is not an operator of the graph", _RESIZED)
    if op.attrs.get("group", 1) != 1 or "output_shape" in op.attrs or op.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        raise op.refuse("with groups or a size of its own is not an operator of the graph", _RESIZED)
    places, inputs = prod(kernel), weight.array.shape[0]

    def by_place(array: FloatArray) -> FloatArray:
        return np.ascontiguousarray(np.moveaxis(array, 0, -1).reshape(outputs * places, inputs, 1, 1))

    params = {
        "weight": op.keep(weight, by_place),
        "bias": op.keep(bias, lambda array: np.repeat(array, places)) if bias is not None else None,
    }
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1}
    deep = op.emit("conv", op.tensor(), part="deep", attrs=attrs, params=params, module=_module(op, weight))
    split = op.reshape(deep, (1, outputs, *kernel, *sizes), part="split")  # (1, O, kh, kw, H, W)
    order = (0, 1, 3, 2) if len(sizes) == 1 else (0, 1, 4, 2, 5, 3)
    turned = op.transpose(split, order, part="turned")  # → (1, O, H, kh, W, kw)
    return op.reshape(turned, (1, outputs, *(n * k for n, k in zip(sizes, kernel, strict=True))))


def _gemm(op: Op) -> str:
    """alpha * A * B + beta * C, where B and C are constants and A has one row per example."""
    if isinstance(op.inputs[0], Constant) or op.attrs.get("transA", 0):
        raise op.refuse("multiplies a constant by what the network computes", _LAYERS_ONLY)
    weight, bias = _weight(op), op.constant(2, "weights")
    alpha, beta = (np.float32(op.attrs.get(name, 1.0)) for name in ("alpha", "beta"))

    def by_output(array: FloatArray) -> FloatArray:
        return np.ascontiguousarray(alpha * (array if op.attrs.get("transB", 0) else array.T))

    weight_key = op.keep(weight, by_output)
    outputs = op.draft.params[weight_key].shape[0]

    def per_output(array: FloatArray) -> FloatArray:
        return np.ascontiguousarray(np.broadcast_to(beta * array.reshape(-1), (outputs,)))

    params = {"weight": weight_key, "bias": op.keep(bias, per_output) if bias is not None else None}
    return op.emit("linear", op.tensor(), params=params, module=_module(op, weight))


def _matmul(op: Op) -> str:
    """A linear layer; over the last of three or four axes as a 1x1 convolution between two transposes."""
    if all(isinstance(value, str) for value in op.inputs):
        raise op.refuse("of two tensors is not an operator of the graph", "attention is not supported; " + _LAYERS_ONLY)
    if isinstance(op.inputs[0], Constant):
        raise op.refuse("multiplies a constant by what the network computes", _LAYERS_ONLY)
    weight, shape = _weight(op), op.shape()
    if weight.array.ndim < 2 or prod(weight.array.shape[:-2]) != 1:
        raise op.refuse(f"has weights of shape {weight.array.shape}", _LAYERS_ONLY)
    inputs, outputs = weight.array.shape[-2:]
    rank, module = len(shape), _module(op, weight)

    def by_output(array: FloatArray) -> FloatArray:
        places = (1,) * (2 if rank > 2 else 0)
        return np.ascontiguousarray(array.reshape(inputs, outputs).T.reshape(outputs, inputs, *places))

    params = {"weight": op.keep(weight, by_output)}
    if rank == 2:
        return op.emit("linear", op.tensor(), params=params, module=module)
    if rank not in (3, 4):
        raise op.refuse(f"works on {rank} axes", _LAYERS_ONLY)
    ahead = op.transpose(op.tensor(), (0, rank - 1, *range(1, rank - 1)), part="ahead")  # → (1, F, places)
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1}
    mixed = op.emit("conv", ahead, part="mixed", attrs=attrs, params=params, module=module)
    return op.transpose(mixed, (0, *range(2, rank), 1))


def _batch_norm(op: Op) -> str:
    if op.attrs.get("training_mode", 0):
        raise op.refuse("uses the statistics of the batch", "export the network in evaluation mode")
    arrays = [op.constant(index, "parameters") for index in range(1, 5)]
    roles = dict(zip(("weight", "bias", "mean", "variance"), arrays, strict=True))
    params = {role: op.keep(constant) for role, constant in roles.items() if constant is not None}
    # ONNX counts the share of the old statistics, the graph that of the newest batch.
    attrs = {
        "eps": float(op.attrs.get("epsilon", 1e-5)),
        "momentum": round(1 - float(op.attrs.get("momentum", 0.9)), 6),
    }
    return op.emit("batch_norm", op.tensor(), attrs=attrs, params=params, module=_module(op, _weight(op)))


def _overhang(op: Op, size: int, kernel: int, stride: int, sides: Pair) -> int:
    """Places behind the padded input that the last window needs where the number of windows is rounded up."""
    if not op.attrs.get("ceil_mode", 0):
        return 0
    span = size + sum(sides)
    count = -(-(span - kernel) // stride) + 1
    if (count - 1) * stride >= size + sides[0]:  # a window that would start in the padding behind is left out
        count -= 1
    return max(0, (count - 1) * stride + kernel - span)


def _pool(op: Op) -> str:
    if any(op.outputs[1:]):
        raise op.refuse("tells where the largest values were", "leave its second output unused")
    sizes, kernel = _spatial(op), op.attrs["kernel_shape"]
    ones = [1] * len(sizes)
    stride = op.attrs.get("strides", ones)
    if any(each != 1 for each in op.attrs.get("dilations", ones)):
        raise op.refuse("with dilation is not supported", "use a dilation of 1")
    sides = _sides(op, kernel, stride, ones)
    extra = [_overhang(op, *each) for each in zip(sizes, kernel, stride, sides, strict=True)]
    wide = [(a, b + more) for (a, b), more in zip(sides, extra, strict=True)]
    attrs: dict[str, object] = {"kernel": _two(kernel, 1), "stride": _two(stride, 1), "padding": _padding(wide)}
    if op.kind == "MaxPool":
        return op.emit("max_pool", op.tensor(), attrs=attrs)
    source, counted = op.tensor(), bool(op.attrs.get("count_include_pad", 0)) and any(map(any, sides))
    if counted and any(extra):
        # The padding counts but not the overhang: pad first, then an average that counts no padding.
        pads = ((0, 0), (0, 0), *sides)
        source = op.emit("pad", source, part="pad", attrs={"pads": pads, "value": 0.0})
        attrs["padding"], counted = _padding([(0, more) for more in extra]), False
    return op.emit("avg_pool", source, attrs=attrs | {"count_include_pad": counted})


def _global_pool(op: Op) -> str:
    sizes = _spatial(op)
    if op.kind == "GlobalAveragePool":
        return op.emit("mean", op.tensor(), attrs={"axes": tuple(range(2, 2 + len(sizes))), "keepdim": True})
    kernel = _two(sizes, 1)
    return op.emit("max_pool", op.tensor(), attrs={"kernel": kernel, "stride": kernel, "padding": ((0, 0), (0, 0))})


def _reduce(op: Op) -> str:
    """Means, sums and maxima over some or all of the axes behind the channels, wherever the channels are."""
    source, shape = op.tensor(), op.shape()
    rank, keepdim = len(shape), bool(op.attrs.get("keepdims", 1))
    given = op.setting("axes", 1)
    if not given and op.attrs.get("noop_with_empty_axes", 0):
        return source
    axes = sorted(op.axis(axis, rank) for axis in (given or range(rank)))
    if rank not in (3, 4):
        raise op.refuse("works over the channels", "reduce over height and width, or length")
    if axes[0] == 1:
        rest = [axis for axis in range(1, rank) if axis not in axes]
        if len(rest) != 1:
            raise op.refuse("works over the channels", "reduce over height and width, or length")
        source = op.transpose(source, (0, *rest, *axes), part="ahead")
        axes_now = list(range(2, rank))
    else:
        axes_now = axes
    kept: Shape = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    result = kept if keepdim else tuple(n for axis, n in enumerate(shape) if axis not in axes)
    count = prod(shape[axis] for axis in axes)
    if op.kind == "ReduceSum":
        source = op.arithmetic("mul", source, float(count), part="count")
    reduced = _reduced(op, source, axes_now)
    return reduced if op.draft.shapes[reduced] == result else op.reshape(reduced, result)


def _reduced(op: Op, source: str, axes: Sequence[int]) -> str:
    """The mean or maximum over spatial axes, which stay with a size of 1."""
    shape = op.draft.shapes[source]
    if op.kind != "ReduceMax" and len(axes) == len(shape) - 2:
        return op.emit("mean", source, part="mean", attrs={"axes": tuple(axes), "keepdim": True})
    kernel = _two([n if axis in axes else 1 for axis, n in enumerate(shape)][2:], 1)
    attrs: dict[str, object] = {"kernel": kernel, "stride": kernel, "padding": ((0, 0), (0, 0))}
    if op.kind == "ReduceMax":
        return op.emit("max_pool", source, part="pool", attrs=attrs)
    return op.emit("avg_pool", source, part="pool", attrs=attrs | {"count_include_pad": False})


LAYERS: dict[str, Translator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "ReduceMax": _reduce,
}
