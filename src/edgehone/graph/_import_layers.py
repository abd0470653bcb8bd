"""Importers of layers with weights and of pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgehone.graph._builder import Call, Importer, Value, pair

if TYPE_CHECKING:
    from edgehone.graph.ir import FloatArray, Shape

Padding = tuple[tuple[int, int], tuple[int, int]]


def _spatial(call: Call, source: str, spatial: int) -> tuple[int, int]:
    """(height, width) of a batched input with that many spatial axes."""
    shape = call.shape_of(source)
    if len(shape) != spatial + 2:
        raise call.refuse(
            f"gets a tensor of {len(shape)} axes, batch included, where it needs {spatial + 2}",
            "keep the batch as the first axis and the channels as the second",
        )
    return (1, shape[2]) if spatial == 1 else (shape[2], shape[3])


def _conv(call: Call) -> Value:
    spatial = 1 if call.operator == "conv1d" else 2
    source = call.tensor("input")
    _spatial(call, source, spatial)
    dilation = pair(call.args["dilation"], spatial, 1)

    def as_2d(weight: FloatArray) -> FloatArray:
        return weight[:, :, None, :] if spatial == 1 else weight  # (O, I/g, k) → (O, I/g, 1, k)

    weight = call.weight("weight", as_2d)
    bias = call.weight("bias")
    padding = call.args["padding"]
    if padding == "valid":
        padding = 0
    if padding == "same":
        # torch puts the odd one out behind (torch.nn.functional.conv2d, padding="same")
        kernel = call.builder.params[str(weight)].shape[2:]
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides: Padding = ((totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2))
    else:
        height, width = pair(padding, spatial, 0)
        sides = ((height, height), (width, width))
    attrs = {
        "stride": pair(call.args["stride"], spatial, 1),
        "padding": sides,
        "dilation": dilation,
        "groups": call.args["groups"],
    }
    return call.emit("conv", (source,), call.shape, attrs=attrs, params=call.parameters(weight=weight, bias=bias))


def _linear(call: Call) -> Value:
    source = call.tensor("input")
    if len(call.shape_of(source)) != 2:
        raise call.refuse(
            "works on more than one axis of features", "flatten first, or use a 1x1 convolution over channels"
        )
    params = call.parameters(weight=call.weight("weight"), bias=call.weight("bias"))
    return call.emit("linear", (source,), call.shape, params=params)


def _matmul(call: Call) -> Value:
    source, role = (call.args["self"], "other" if call.operator == "matmul" else "mat2")
    if not isinstance(source, str) or isinstance(call.args[role], str) or len(call.shape_of(source)) != 2:
        raise call.refuse("of two tensors is not supported (attention)", "use convolutions or linear layers")
    if call.args[role].dim() != 2:
        raise call.refuse("needs a matrix of (features in, features out)", "use nn.Linear")
    weight = call.weight(role, lambda matrix: np.ascontiguousarray(matrix.T))
    return call.emit("linear", (source,), call.shape, params=call.parameters(weight=weight))


def _addmm(call: Call) -> Value:
    args = call.args
    if not isinstance(args["mat1"], str) or isinstance(args["mat2"], str) or (args["beta"], args["alpha"]) != (1, 1):
        raise call.refuse("is known only as a linear layer", "use nn.Linear")
    weight = call.weight("mat2", lambda matrix: np.ascontiguousarray(matrix.T))
    outputs = call.shape[1]
    bias = call.weight("self", lambda array: np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (outputs,))))
    return call.emit("linear", (args["mat1"],), call.shape, params=call.parameters(weight=weight, bias=bias))


def _batch_norm(call: Call) -> Value:
    if call.args["training"] or call.args["running_mean"] is None:
        raise call.refuse(
            "uses the statistics of the batch also in evaluation", "build it with track_running_stats=True"
        )
    params = call.parameters(
        weight=call.weight("weight"),
        bias=call.weight("bias"),
        mean=call.weight("running_mean"),
        variance=call.weight("running_var"),
    )
    # A cumulative average (momentum=None) is exported as 0, which would never learn; torch's default takes its place.
    attrs = {"eps": float(call.args["eps"]), "momentum": float(call.args["momentum"]) or 0.1}
    return call.emit("batch_norm", (call.tensor("input"),), call.shape, attrs=attrs, params=params)


def _overhang(size: int, result: int, kernel: int, stride: int, padding: int) -> int:
    """Places behind the padded input that the last window of a ceil_mode pooling needs."""
    return max(0, (result - 1) * stride + kernel - size - 2 * padding)


def _pool(call: Call) -> Value:
    spatial = 1 if call.operator.endswith("1d") else 2
    source = call.tensor("self")
    size = _spatial(call, source, spatial)
    kernel = pair(call.args["kernel_size"], spatial, 1)
    stride = pair(call.args["stride"] or call.args["kernel_size"], spatial, 1)
    padding = pair(call.args["padding"], spatial, 0)
    if pair(call.args.get("dilation", 1), spatial, 1) != (1, 1):
        raise call.refuse("with dilation is not supported", "use a dilation of 1")
    result = (1, *call.shape[2:]) if spatial == 1 else call.shape[2:]
    extra = [_overhang(*each) for each in zip(size, result, kernel, stride, padding, strict=True)]
    sides: Padding = ((padding[0], padding[0] + extra[0]), (padding[1], padding[1] + extra[1]))
    attrs: dict[str, object] = {"kernel": kernel, "stride": stride, "padding": sides}
    if call.operator.startswith("max"):
        return call.emit("max_pool", (source,), call.shape, attrs=attrs)
    if call.args.get("divisor_override") is not None:
        raise call.refuse("with divisor_override is not supported", "multiply the result instead")
    counted = bool(call.args["count_include_pad"]) and padding != (0, 0)
    if counted and extra != [0, 0]:
        # torch counts the padding but not the overhang: pad first, then an average that counts no padding.
        source = _pad_with_zeros(call, source, padding, spatial)
        attrs["padding"], counted = ((0, extra[0]), (0, extra[1])), False
    attrs["count_include_pad"] = counted
    return call.emit("avg_pool", (source,), call.shape, attrs=attrs)


def _pad_with_zeros(call: Call, source: str, padding: tuple[int, int], spatial: int) -> str:
    pads = ((0, 0), (0, 0), *((amount, amount) for amount in padding[2 - spatial :]))
    shape: Shape = tuple(n + a + b for n, (a, b) in zip(call.shape_of(source), pads, strict=True))
    return call.emit("pad", (source,), shape, part="pad", attrs={"pads": pads, "value": 0.0})


def _adaptive_pool(call: Call) -> Value:
    spatial = 1 if call.operator.endswith("1d") else 2
    source = call.tensor("self")
    size = _spatial(call, source, spatial)
    wanted = list(call.args["output_size"])
    result = (1, wanted[0]) if spatial == 1 else (wanted[0], wanted[1])
    if any(n % m for n, m in zip(size, result, strict=True)):
        raise call.refuse(
            f"from {size[2 - spatial :]} to {result[2 - spatial :]} needs windows of unequal size",
            "choose a size that divides the input's, or 1",
        )
    shape = (*call.shape_of(source)[:2], *result[2 - spatial :])
    kernel = (size[0] // result[0], size[1] // result[1])
    attrs = {"kernel": kernel, "stride": kernel, "padding": ((0, 0), (0, 0))}
    if "max" in call.operator:
        return call.emit("max_pool", (source,), shape, attrs=attrs), None
    if result == (1, 1):
        axes = tuple(range(2, 2 + spatial))
        return call.emit("mean", (source,), shape, attrs={"axes": axes, "keepdim": True})
    return call.emit("avg_pool", (source,), shape, attrs=attrs | {"count_include_pad": False})


def _axes_of(call: Call, source: str) -> tuple[int, ...]:
    """The reduced axes of mean, sum or amax: some or all of the spatial ones."""
    rank = len(call.shape_of(source))
    given = call.args["dim"]
    axes = tuple(sorted(call.axis(a, rank) for a in ([given] if isinstance(given, int) else given or range(rank))))
    if axes[0] < 2 or rank not in (3, 4):
        raise call.refuse("works over other axes than the spatial ones", "reduce over height and width, or length")
    return axes


def _kernel_over(call: Call, source: str, axes: tuple[int, ...]) -> tuple[int, int]:
    shape = call.shape_of(source)
    kernel = [n if axis in axes else 1 for axis, n in enumerate(shape)][2:]
    return (1, kernel[0]) if len(kernel) == 1 else (kernel[0], kernel[1])


def _reduce(call: Call) -> Value:
    source = call.tensor("self")
    axes, keepdim = _axes_of(call, source), bool(call.args["keepdim"])
    shape = call.shape_of(source)
    count = int(np.prod([shape[axis] for axis in axes]))
    kept: Shape = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    kernel = _kernel_over(call, source, axes)
    attrs = {"kernel": kernel, "stride": kernel, "padding": ((0, 0), (0, 0))}
    if call.operator == "amax":
        part = "" if keepdim else "pool"
        pooled = call.emit("max_pool", (source,), kept, part=part, attrs=attrs)
    elif len(axes) == len(shape) - 2:
        part = "mean" if call.operator == "sum" else ""
        result = kept if keepdim else kept[:2]
        mean = call.emit("mean", (source,), result, part=part, attrs={"axes": axes, "keepdim": keepdim})
        return call.arithmetic("mul", mean, float(count)) if part else mean
    else:
        if call.operator == "sum":
            source = call.arithmetic("mul", source, float(count), part="count")
        part = "" if keepdim else "pool"
        pooled = call.emit("avg_pool", (source,), kept, part=part, attrs=attrs | {"count_include_pad": False})
    return pooled if keepdim else call.emit("reshape", (pooled,), call.shape, attrs={"shape": call.shape})


LAYERS: dict[str, Importer] = {
    "conv1d": _conv,
    "conv2d": _conv,
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "max_pool1d": _pool,
    "max_pool2d": _pool,
    "avg_pool1d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool1d": _adaptive_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool1d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "mean": _reduce,
    "sum": _reduce,
    "amax": _reduce,
}
