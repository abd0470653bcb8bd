"""How each operator of the graph is written in ONNX. One function per operator, or per kind of operator.

Where ONNX Runtime has no integer kernel for an operator of an int8 file, it is written with operators that have one;
the table in `onnx.py` says how. A rank-3 tensor (N, C, L) stays one: ONNX has one-dimensional windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgehone.errors import UnsupportedOperatorError
from edgehone.exporters._onnx_lowering import LOWEST, Lowering
from edgehone.exporters._onnx_model import Attribute
from edgehone.graph.ir import Node
from edgehone.graph.kernels import run_node
from edgehone.graph.quantized import QuantParams

_LEVELS_OF_ONE = QuantParams(1 / 255, LOWEST)  # 0..1
_LEVELS_OF_MINUS_ONE = QuantParams(1 / 255, 127)  # -1..0


def _spatial(low: Lowering, node: Node, *pairs: str) -> list[list[Any]]:
    """Attributes (h, w) of a node, as far as its tensors have these axes."""
    rank = len(low.graph.shapes[node.inputs[0]]) - 2
    return [list(node.attrs[name][-rank:]) for name in pairs]


def _pads(low: Lowering, node: Node) -> list[int]:
    """All paddings before, then all after."""
    (padding,) = _spatial(low, node, "padding")
    return [before for before, _ in padding] + [after for _, after in padding]


def _weights(low: Lowering, node: Node) -> list[str]:
    """Weight and bias of a weighted node, in torch layout but for the height of a one-dimensional weight."""
    flat = node.op == "conv" and len(low.graph.shapes[node.inputs[0]]) == 3
    if low.quantized is None:
        weight, bias = (low.graph.params[node.params[role]] for role in ("weight", "bias"))
        return [low.model.constant(weight[:, :, 0] if flat else weight), low.model.constant(bias)]
    integers = low.quantized.weights[node.output]
    levels = integers.values[:, :, 0] if flat else integers.values  # (O, I/g, 1, k) → (O, I/g, k)
    bias_scale = np.float32(low.stored(node.inputs[0]).params.scale) * integers.scale
    return [low.channels(levels, integers.scale), low.channels(integers.bias, bias_scale)]


def _conv(low: Lowering, node: Node) -> None:
    strides, dilations = _spatial(low, node, "stride", "dilation")
    value = low.emit(
        "Conv",
        [low.read(node.inputs[0]), *_weights(low, node)],
        strides=strides,
        dilations=dilations,
        pads=_pads(low, node),
        group=node.attrs["groups"],
    )
    low.write(node, value, node.activation)


def _linear(low: Lowering, node: Node) -> None:
    value = low.emit("Gemm", [low.read(node.inputs[0]), *_weights(low, node)], transB=1)
    low.write(node, value, node.activation)


def _arithmetic(operator: str) -> Callable[[Lowering, Node], None]:
    def write(low: Lowering, node: Node) -> None:
        inputs = [low.read(name) for name in node.inputs]
        if "value" in node.params and low.quantized is None:
            inputs.append(low.model.constant(low.graph.params[node.params["value"]]))
        elif low.quantized is not None and node.output in low.quantized.constants:
            constant = low.quantized.constants[node.output]
            inputs.append(low.constant(constant.values, constant.params))
        low.write(node, low.emit(operator, inputs), node.activation)

    return write


def _sub(low: Lowering, node: Node) -> None:
    """In an int8 file as a + (-1) * b; the product only mirrors levels, so it is exact."""
    first, second = (low.read(name) for name in node.inputs)
    if low.int8:
        params = low.stored(node.inputs[1]).params
        mirrored = QuantParams(params.scale, -1 - params.zero_point)
        minus = low.round(low.emit("Mul", [second, low.rounded_number(-1, _LEVELS_OF_MINUS_ONE)]), mirrored)
        value = low.emit("Add", [first, minus])
    else:
        value = low.emit("Sub", [first, second])
    low.write(node, value, node.activation)


def _unary(operator: str, **attributes: Attribute) -> Callable[[Lowering, Node], None]:
    def write(low: Lowering, node: Node) -> None:
        low.write(node, low.emit(operator, [low.read(node.inputs[0])], **attributes))

    return write


def _leaky_relu(low: Lowering, node: Node) -> None:
    low.write(node, low.emit("LeakyRelu", [low.read(node.inputs[0])], alpha=float(node.attrs["slope"])))


def _clamp(low: Lowering, node: Node) -> None:
    """ReLU and ReLU6 that stand alone; in an int8 file by the table look-up of a leaky ReLU with slope 0."""
    x = low.read(node.inputs[0])
    low.write(node, low.emit("LeakyRelu", [x], alpha=0.0) if low.int8 else x, node.op)


def _requantize(low: Lowering, node: Node) -> None:
    """Nothing in front of a concat, whose kernel takes any parameters; else a leaky ReLU with slope 1."""
    source = node.inputs[0]
    if all(reader.op == "concat" for reader in low.readers[node.output]):
        low.store(node.output, low.stored(source))
    else:
        low.write(node, low.emit("LeakyRelu", [low.read(source)], alpha=1.0))


def _hard_swish(low: Lowering, node: Node) -> None:
    """x * clip(x / 6 + 1/2, 0, 1); in an int8 file the clip is that of levels that saturate.

    One level of the gate is 1/255, so the product is right to less than one level of the output.
    """
    x = low.read(node.inputs[0])
    if not low.int8:
        low.write(node, low.emit("HardSwish", [x]))
        return
    sixth = low.dequantize(low.stored(node.inputs[0]), 1 / 6)
    half = low.rounded_number(0.5, QuantParams(0.5 / 255, LOWEST))
    gate = low.round(low.emit("Add", [sixth, half]), _LEVELS_OF_ONE)
    low.write(node, low.emit("Mul", [x, gate]))


def _tanh(low: Lowering, node: Node) -> None:
    """In an int8 file as 2 * sigmoid(2 * x) - 1, whose factors and difference are scales and a zero point."""
    source = node.inputs[0]
    if low.quantized is None:
        low.write(node, low.emit("Tanh", [low.read(source)]))
        return
    sigmoid = low.emit("Sigmoid", [low.dequantize(low.stored(source), 2.0)])
    levels = low.quantize(sigmoid, QuantParams(1 / 256, LOWEST))
    low.store(node.output, levels._replace(params=low.quantized.tensors[node.output]))


def _concat(low: Lowering, node: Node) -> None:
    low.write(node, low.emit("Concat", [low.read(name) for name in node.inputs], axis=node.attrs["axis"]))


def _slice(low: Lowering, node: Node) -> None:
    bounds = [low.integers([node.attrs[name]]) for name in ("start", "stop", "axis", "step")]
    low.move(node, low.emit("Slice", [low.read(node.inputs[0]), *bounds]))


def _pad(low: Lowering, node: Node) -> None:
    """In an int8 file on the levels themselves: ONNX Runtime has an integer kernel, but replaces no float one by it."""
    source, real = node.inputs[0], float(node.attrs["value"])
    pads = low.integers([pair[side] for side in (0, 1) for pair in node.attrs["pads"]])  # all before, then all after
    if low.quantized is None:
        low.move(node, low.emit("Pad", [low.read(source), pads, low.number(real)]))
        return
    stored, params = low.stored(source), low.quantized.tensors[node.output]
    if real != 0 and stored.params != params:
        stored = low.quantize(low.emit("LeakyRelu", [low.read(source)], alpha=1.0), params)
    levels = low.emit("Pad", [stored.levels, pads, low.level(real, stored.params)])
    low.store(node.output, stored._replace(levels=levels))


def _windowed(operator: str, low: Lowering, node: Node, **attributes: Attribute) -> str:
    """A pool over the node's input."""
    kernel, strides = _spatial(low, node, "kernel", "stride")
    pads = _pads(low, node)
    if any(amount >= size for amount, size in zip(pads, kernel * 2, strict=True)):
        raise UnsupportedOperatorError(
            f"{node.op} with windows that lie in the padding alone is not an operator of .onnx",
            where=node.module,
            do="pad by less than the window's size",
        )
    x = low.read(node.inputs[0])
    return low.emit(operator, [x], kernel_shape=kernel, strides=strides, pads=pads, **attributes)


def _max_pool(low: Lowering, node: Node) -> None:
    low.move(node, _windowed("MaxPool", low, node))


def _avg_pool(low: Lowering, node: Node) -> None:
    counts = int(node.attrs["count_include_pad"])
    low.write(node, _windowed("AveragePool", low, node, count_include_pad=counts))


def _mean(low: Lowering, node: Node) -> None:
    value = low.emit("GlobalAveragePool", [low.read(node.inputs[0])])  # (N, C, ...) → (N, C, 1, ...)
    low.write(node, value)
    if not node.attrs["keepdim"]:
        low.move(node, low.emit("Flatten", [low.read(node.output)]), like=node.output)  # → (N, C)


def _reshape(low: Lowering, node: Node) -> None:
    x, shape = low.read(node.inputs[0]), node.attrs["shape"]
    if len(shape) == 2:
        low.move(node, low.emit("Flatten", [x]))  # (N, ...) → (N, F)
        return
    low.move(node, low.emit("Reshape", [x, low.integers([0, *shape[1:]])]))  # 0 keeps the batch


def _transpose(low: Lowering, node: Node) -> None:
    low.move(node, low.emit("Transpose", [low.read(node.inputs[0])], perm=list(node.attrs["perm"])))


def _resize(low: Lowering, node: Node) -> None:
    """By factors, since sizes would tell the batch, and naming the axes confuses ONNX Runtime's optimizer."""
    if node.attrs["mode"] == "nearest":
        _resize_nearest(low, node)
        return
    before, after = low.graph.shapes[node.inputs[0]], low.graph.shapes[node.output]
    factors = [float(_factor(n, m)) for n, m in zip(before, after, strict=True)]
    places = "align_corners" if node.attrs["align_corners"] else "half_pixel"
    value = _resized(low, node, factors, "linear", coordinate_transformation_mode=places)
    if low.quantized is None:
        low.write(node, value)
        return
    # ONNX Runtime 1.20 resizes levels that mean the same before and after, and truncates where it should round.
    params = low.quantized.tensors[node.output]
    apart = float(np.nextafter(np.float32(params.scale), np.float32(np.inf)))
    low.store(node.output, low.quantize(value, QuantParams(apart, params.zero_point)))


def _resize_nearest(low: Lowering, node: Node) -> None:
    """A resize where whole places are repeated, else a look-up: only so is every place the one torch takes."""
    name = node.inputs[0]
    sizes = low.graph.shapes[name][2:]
    sources = _sources(node, sizes)
    factors = [len(source) // size for source, size in zip(sources, sizes, strict=True)]
    places = [np.arange(size) for size in sizes]
    if all(map(np.array_equal, sources, map(np.repeat, places, factors))):
        modes: dict[str, Attribute] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        low.move(node, _resized(low, node, [1, 1, *factors], "nearest", **modes))
        return
    for axis, source in enumerate(sources, 2):
        low.move(node, low.emit("Gather", [low.read(name), low.integers(source)], axis=axis), like=name)
        name = node.output


def _resized(low: Lowering, node: Node, factors: Sequence[float], mode: str, **attributes: Attribute) -> str:
    scales = low.model.constant(np.array(factors, np.float32))
    return low.emit("Resize", [low.read(node.inputs[0]), "", scales], mode=mode, **attributes)


def _factor(before: int, after: int) -> np.float32:
    """The factor that ONNX rounds down to the size wanted."""
    factor = np.float32(after) / np.float32(before)
    return factor if int(np.float32(before) * factor) == after else np.nextafter(factor, np.float32(np.inf))


def _sources(node: Node, sizes: Sequence[int]) -> list[NDArray[np.intp]]:
    """For every spatial axis, the place that each place of a resize's output is a copy of."""
    places = torch.arange(prod(sizes), dtype=torch.float32).view(1, 1, *sizes)
    taken = run_node(node, [places], {})[0, 0].numpy().astype(np.intp)  # (H', W') or (L')
    by_axis = np.unravel_index(taken, sizes)
    return [np.moveaxis(index, axis, 0).reshape(taken.shape[axis], -1)[:, 0] for axis, index in enumerate(by_axis)]


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    "conv": _conv,
    "linear": _linear,
    "add": _arithmetic("Add"),
    "mul": _arithmetic("Mul"),
    "sub": _sub,
    "relu": _clamp,
    "relu6": _clamp,
    "hard_swish": _hard_swish,
    "sigmoid": _unary("Sigmoid"),
    "tanh": _tanh,
    "leaky_relu": _leaky_relu,
    "softmax": _unary("Softmax", axis=-1),
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": _mean,
    "reshape": _reshape,
    "transpose": _transpose,
    "resize": _resize,
    "requantize": _requantize,
}
