"""How every operator of the graph is written to .tflite: one function per operator, found in `OPERATORS`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from edgehone.exporters._flatbuffer import Table
from edgehone.exporters._tflite_layout import columns_to_file, file_axis, file_shape, positions, to_file
from edgehone.exporters._tflite_lowering import Lowering
from edgehone.exporters._tflite_model import ChannelParams, Data
from edgehone.exporters._tflite_padding import Line, plan
from edgehone.graph.ir import FUSED_ACTIVATIONS, FloatArray, Node
from edgehone.graph.quantized import QuantParams

_PADDING = {"SAME": 0, "VALID": 1}  # enum Padding
_ADD_RATIO = (2.0**-10, 2.0**8)  # of input scale to output scale, as XNNPACK takes it in an int8 ADD
_INT4_VERSION = {  # with 4-bit weights; LiteRT's reference kernels take depthwise ones without the 7 of `op_version.cc`
    "CONV_2D": 7,
    "DEPTHWISE_CONV_2D": 6,
    "FULLY_CONNECTED": 10,
}
_ACTIVATION = {None: 0, "relu": 1, "relu6": 3}  # enum ActivationFunctionType


def _weights(low: Lowering, node: Node) -> tuple[Data, Data, FloatArray | None]:
    """Weight in torch layout, bias (O), and the weight's scale per channel (O) in an int8 file."""
    if low.quantized is not None:
        integers = low.quantized.weights[node.output]
        return integers.values, integers.bias, integers.scale
    return low.graph.params[node.params["weight"]], low.graph.params[node.params["bias"]], None


def _parameters(low: Lowering, node: Node, weight: Data, axis: int = 0) -> list[int]:
    """The constant tensors of a weighted node, its weight given in the file's layout with channels along `axis`."""
    _, bias, scale = _weights(low, node)
    params = low.params(node.inputs[0])
    if scale is None or params is None:
        return [low.model.constant(weight), low.model.constant(bias)]
    return [
        low.model.constant(weight, ChannelParams(scale, axis), _stored_bits(low, node)),
        low.model.constant(bias, ChannelParams(np.float32(params.scale) * scale)),
    ]


def _stored_bits(low: Lowering, node: Node) -> int:
    """4 where the weights were rounded to so many; the format knows no other width below 8."""
    return 4 if low.quantized is not None and low.quantized.weights[node.output].bits == 4 else 8


def _version(low: Lowering, node: Node, operator: str, version: int = 1) -> int:
    return _INT4_VERSION[operator] if _stored_bits(low, node) == 4 else version


def _window(
    low: Lowering, node: Node, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1), same: bool = True
) -> tuple[int, Table]:
    """The tensor a sliding window reads, padded where it must be, and the window's padding and strides.

    `same` says whether what SAME does with padded places is what the operator means.
    """
    name = node.inputs[0]
    (_, height, width, _), (_, rows, columns, _) = (file_shape(low.graph.shapes[n]) for n in (name, node.output))
    (top, _), (left, _) = node.attrs["padding"]
    stride_h, stride_w = node.attrs["stride"]
    lines = (
        Line(height, rows, kernel[0], stride_h, dilation[0], top),
        Line(width, columns, kernel[1], stride_w, dilation[1], left),
    )
    padding = plan(lines, same)
    strides: dict[str, int] = {"stride_h": stride_h, "stride_w": stride_w}
    if isinstance(padding, str):
        return low.read(name), {**strides, "padding": _PADDING[padding]}
    if node.op == "max_pool" and not _is_non_negative(low, name):
        inside = all(amount < size for pair, size in zip(padding, kernel, strict=True) for amount in pair)
        low.require(inside, node, "with windows that lie in the padding alone")
        tensor = low.repeat_edges(name, padding)
    else:
        tensor = low.pad(name, ((0, 0), *padding, (0, 0)))
    return tensor, {**strides, "padding": _PADDING["VALID"]}


def _is_non_negative(low: Lowering, name: str) -> bool:
    """Whether a tensor is known to hold no value below 0."""
    node = low.producers.get(name)
    if node is None:
        return False
    if node.activation in FUSED_ACTIVATIONS or node.op in {"relu", "relu6", "sigmoid", "softmax"}:
        return True
    passes = node.op in {"max_pool", "avg_pool", "concat", "slice", "mean", "reshape", "transpose", "requantize"}
    return passes and all(_is_non_negative(low, source) for source in node.inputs)


def _conv(low: Lowering, node: Node) -> None:
    weight, _, _ = _weights(low, node)
    channels = low.graph.shapes[node.inputs[0]][1]
    dilation = node.attrs["dilation"]
    x, options = _window(low, node, (weight.shape[2], weight.shape[3]), dilation)
    groups = node.attrs["groups"]
    options = {
        **options,
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "activation": _ACTIVATION[node.activation],
    }
    if groups == channels > 1:
        weight = weight.transpose(1, 2, 3, 0)  # (O, 1, kh, kw) → (1, kh, kw, O)
        inputs = [x, *_parameters(low, node, weight, axis=3)]
        options = {**options, "depth_multiplier": weight.shape[3] // channels}
        low.emit("DEPTHWISE_CONV_2D", inputs, low.write(node.output), options, _version(low, node, "DEPTHWISE_CONV_2D"))
    else:
        weight = weight.transpose(0, 2, 3, 1)  # (O, I/g, kh, kw) → (O, kh, kw, I/g)
        version = _version(low, node, "CONV_2D", 6 if groups > 1 else 1)
        low.emit("CONV_2D", [x, *_parameters(low, node, weight)], low.write(node.output), options, version)


def _linear(low: Lowering, node: Node) -> None:
    weight, _, _ = _weights(low, node)
    source = node.inputs[0]
    if source in low.moves:
        source, order = low.moves[source]
        order = positions(low.graph.shapes[source])[order]
        weight = columns_to_file(weight, order)
    inputs = [low.read(source), *_parameters(low, node, weight)]
    version = _version(low, node, "FULLY_CONNECTED")
    low.emit("FULLY_CONNECTED", inputs, low.write(node.output), {"activation": _ACTIVATION[node.activation]}, version)


def _arithmetic(operator: str) -> Callable[[Lowering, Node], None]:
    def write(low: Lowering, node: Node) -> None:
        ranks = {len(low.graph.shapes[name]) for name in node.inputs}
        low.require(len(ranks) == 1, node, "of tensors with different numbers of axes", "reshape one of them first")
        inputs = [low.read(name) for name in node.inputs]
        if "value" in node.params:
            if low.quantized is None:
                inputs.append(low.model.constant(to_file(low.graph.params[node.params["value"]])))
            else:
                constant = low.quantized.constants[node.output]
                inputs.append(low.model.constant(to_file(constant.values), constant.params))
        low.emit(operator, inputs, low.write(node.output), {"activation": _ACTIVATION[node.activation]})

    return write


def _unary(operator: str, options: Callable[[Node], Table] | None = None) -> Callable[[Lowering, Node], None]:
    def write(low: Lowering, node: Node) -> None:
        low.emit(operator, [low.read(node.inputs[0])], low.write(node.output), options(node) if options else None)

    return write


def _softmax(low: Lowering, node: Node) -> None:
    rank = len(low.graph.shapes[node.inputs[0]])
    low.require(rank == 2, node, f"of a tensor with {rank} axes", "flatten the tensor first")
    low.emit("SOFTMAX", [low.read(node.inputs[0])], low.write(node.output), {"beta": 1.0})


def _concat(low: Lowering, node: Node) -> None:
    axis = file_axis(node.attrs["axis"], len(low.graph.shapes[node.output]))
    low.emit("CONCATENATION", [low.read(name) for name in node.inputs], low.write(node.output), {"axis": axis})


def _slice(low: Lowering, node: Node) -> None:
    shape = low.graph.shapes[node.inputs[0]]
    end = list(file_shape(shape))
    begin, step = [0] * len(end), [1] * len(end)
    axis = file_axis(node.attrs["axis"], len(shape))
    begin[axis], end[axis], step[axis] = node.attrs["start"], node.attrs["stop"], node.attrs["step"]
    inputs = [low.read(node.inputs[0]), *(low.integers(values) for values in (begin, end, step))]
    low.emit("STRIDED_SLICE", inputs, low.write(node.output))


def _pad(low: Lowering, node: Node) -> None:
    name = node.inputs[0]
    shape = low.graph.shapes[name]
    pads = [(0, 0)] * len(file_shape(shape))
    for axis, (before, after) in enumerate(node.attrs["pads"]):
        pads[file_axis(axis, len(shape))] = (before, after)
    low.pad(name, tuple(pads), float(node.attrs["value"]), low.write(node.output))


def _max_pool(low: Lowering, node: Node) -> None:
    height, width = node.attrs["kernel"]
    x, options = _window(low, node, (height, width))
    low.emit("MAX_POOL_2D", [x], low.write(node.output), {**options, "filter_height": height, "filter_width": width})


def _avg_pool(low: Lowering, node: Node) -> None:
    """In a float file, and where padded places do not count, as it is; else as a depthwise convolution.

    AVERAGE_POOL_2D never counts what SAME pads. XNNPACK does not take it in int8; the convolution with weights
    1 / (height * width), which int8 holds exactly, is faster and counts padded places. Levels of 64 keep the reference
    kernels, which round the product twice, from rounding 0.25 up to 1 as they do with levels of 1.
    """
    height, width = node.attrs["kernel"]
    counts = node.attrs["count_include_pad"] or not any(map(any, node.attrs["padding"]))
    params = low.params(node.inputs[0])
    x, options = _window(low, node, (height, width), same=params is not None or not counts)
    if not counts or params is None:
        explicit = x != low.read(node.inputs[0])
        low.require(counts or not explicit, node, "that leaves out padding which TensorFlow Lite places elsewhere")
        options = {**options, "filter_height": height, "filter_width": width}
        low.emit("AVERAGE_POOL_2D", [x], low.write(node.output), options)
        return
    channels = low.graph.shapes[node.output][1]
    scale = np.full(channels, 1 / (64 * height * width), np.float32)
    weight = low.model.constant(np.full((1, height, width, channels), 64, np.int8), ChannelParams(scale, axis=3))
    bias = low.model.constant(np.zeros(channels, np.int32), ChannelParams(np.float32(params.scale) * scale))
    low.emit("DEPTHWISE_CONV_2D", [x, weight, bias], low.write(node.output), {**options, "depth_multiplier": 1})


def _clamp(operator: str) -> Callable[[Lowering, Node], None]:
    """ReLU and ReLU6 that stand alone; in an int8 file as a product with 1 and a fused activation.

    XNNPACK does not take RELU and RELU6 in int8, and the RELU6 of runtimes for microcontrollers ignores that input and
    output may have different scales.
    """

    def write(low: Lowering, node: Node) -> None:
        x = low.read(node.inputs[0])
        if low.int8:
            one = low.model.constant(np.ones(1, np.int8), QuantParams(1.0, 0))
            low.emit("MUL", [x, one], low.write(node.output), {"activation": _ACTIVATION[node.op]})
        else:
            low.emit(operator, [x], low.write(node.output))

    return write


def _hard_swish(low: Lowering, node: Node) -> None:
    """x * ReLU6(x + 3) / 6; in an int8 file by these three operators, since XNNPACK does not take HARD_SWISH in int8.

    One level of the gate is 1/255, so the product is right to less than one level of the output. Where x is so large or
    small that XNNPACK does not take the ADD either, nothing is gained and the operator stays whole.
    """
    x, params = low.read(node.inputs[0]), low.params(node.inputs[0])
    shifted = QuantParams(float(np.float32(6 / 255)), -128)
    if params is None or not _ADD_RATIO[0] <= params.scale / shifted.scale < _ADD_RATIO[1]:
        low.emit("HARD_SWISH", [x], low.write(node.output))
        return
    shape = file_shape(low.graph.shapes[node.output])
    sum_ = low.model.tensor(shape, "int8", shifted)
    gate = low.model.tensor(shape, "int8", QuantParams(float(np.float32(1 / 255)), -128))
    three, sixth = (
        low.model.constant(np.full(1, 127, np.int8), QuantParams(float(np.float32(value / 127)), 0))
        for value in (3, 1 / 6)
    )
    low.emit("ADD", [x, three], sum_, {"activation": _ACTIVATION["relu6"]})
    low.emit("MUL", [sum_, sixth], gate)
    low.emit("MUL", [x, gate], low.write(node.output))


def _mean(low: Lowering, node: Node) -> None:
    inputs = [low.read(node.inputs[0]), low.integers([1, 2])]
    low.emit("MEAN", inputs, low.write(node.output), {"keep_dims": node.attrs["keepdim"]})


def _resize(low: Lowering, node: Node) -> None:
    operator = "RESIZE_BILINEAR" if node.attrs["mode"] == "bilinear" else "RESIZE_NEAREST_NEIGHBOR"
    options: Table = {"align_corners": node.attrs["align_corners"], "half_pixel_centers": node.attrs["half_pixel"]}
    inputs = [low.read(node.inputs[0]), low.integers(node.attrs["size"])]
    low.emit(operator, inputs, low.write(node.output), options, version=3 if any(options.values()) else 1)


def _reshape(low: Lowering, node: Node) -> None:
    low.move(node, np.arange(prod(low.graph.shapes[node.output])))


def _transpose(low: Lowering, node: Node) -> None:
    shape = low.graph.shapes[node.inputs[0]]
    low.move(node, np.arange(prod(shape)).reshape(shape).transpose(node.attrs["perm"]).reshape(-1))


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    "conv": _conv,
    "linear": _linear,
    "add": _arithmetic("ADD"),
    "mul": _arithmetic("MUL"),
    "sub": _arithmetic("SUB"),
    "relu": _clamp("RELU"),
    "relu6": _clamp("RELU6"),
    "hard_swish": _hard_swish,
    "sigmoid": _unary("LOGISTIC"),
    "tanh": _unary("TANH"),
    "leaky_relu": _unary("LEAKY_RELU", lambda node: {"alpha": node.attrs["slope"]}),
    "softmax": _softmax,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": _mean,
    "resize": _resize,
    "reshape": _reshape,
    "transpose": _transpose,
    "requantize": _unary("QUANTIZE"),
}
