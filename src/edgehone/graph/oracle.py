"""The witness: a quantized graph computed in pure numpy integers, as the TFLite reference kernels define it.

What a runtime returns is judged against this. The arithmetic is that of LiteRT's reference kernels
(`OpResolverType.BUILTIN_REF`), checked there operator by operator:

    operator                                        against the LiteRT reference kernels
    conv, linear, add, mul, sub, requantize         equal
    relu, relu6, leaky_relu, hard_swish             equal
    mean, max_pool, avg_pool, softmax               equal
    concat, slice, pad, reshape, transpose          equal (values only move)
    resize, nearest and bilinear                    equal
    sigmoid, tanh                                   equal up to the float exp and tanh of the C library: 1 LSB at most

Operators that int8 kernels lack are computed as the .tflite file spells them: a lone relu is a product with 1, a
hard_swish an add and two products, an avg_pool in which every place counts a depthwise convolution.

TFLite Micro rounds twice in linear layers where LiteRT rounds once (`rounding="double"`), and computes sigmoid and
tanh in fixed point (1 LSB). XNNPACK rounds differently in most operators (1 LSB).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgehone.errors import DataError
from edgehone.graph._oracle_arithmetic import COMPUTING, Rounding, conv, linear
from edgehone.graph._oracle_call import Call, Levels
from edgehone.graph._oracle_movement import MOVING
from edgehone.graph.fixed_point import round_half_away
from edgehone.graph.ir import Node
from edgehone.graph.quantized import QuantizedGraph, QuantParams

_CHUNK_VALUES = 2**17  # of the largest tensor, per pass: keeps the int64 temporaries in the cache


def run(quantized: QuantizedGraph, x: Levels, *, rounding: Rounding = "single") -> Levels:
    """Output levels for input levels.

    Args:
        quantized: the graph and its integers.
        x: (N, *input) int8, torch layout.
        rounding: of linear layers: "single" as LiteRT, "double" as TFLite Micro.

    Returns:
        (N, *output) int8, torch layout.

    Raises:
        DataError: x is not int8 or has another shape than the graph's input.
    """
    _check(quantized, x)
    last_read = {name: position for position, node in enumerate(quantized.graph.nodes) for name in node.inputs}
    largest = max(int(np.prod(shape)) for shape in quantized.graph.shapes.values())
    step = max(1, _CHUNK_VALUES // largest)
    outputs = []
    for first in range(0, max(len(x), 1), step):
        values = {quantized.graph.input: x[first : first + step]}
        for position, node in enumerate(quantized.graph.nodes):
            values[node.output] = _run_node(quantized, node, values, rounding)
            for name in node.inputs:
                if last_read[name] == position and name != quantized.graph.output:
                    values.pop(name, None)
        outputs.append(values[quantized.graph.output])
    return np.concatenate(outputs)


def run_all(quantized: QuantizedGraph, x: Levels, *, rounding: Rounding = "single") -> dict[str, Levels]:
    """Levels of every tensor by name, the input included. Arguments and errors as `run`."""
    _check(quantized, x)
    values = {quantized.graph.input: x}
    for node in quantized.graph.nodes:
        values[node.output] = _run_node(quantized, node, values, rounding)
    return values


def _check(quantized: QuantizedGraph, x: Levels) -> None:
    shape = quantized.graph.input_shape
    if x.dtype != np.int8 or x.shape[1:] != shape[1:]:
        raise DataError(
            f"the oracle takes int8 of shape (N, {', '.join(map(str, shape[1:]))}), not {x.dtype} of shape {x.shape}",
            do="quantize the input with the parameters of the graph's input tensor",
        )


def _run_node(quantized: QuantizedGraph, node: Node, values: Mapping[str, Levels], rounding: Rounding) -> Levels:
    inputs = [values[name] for name in node.inputs]
    params = [quantized.tensors[name] for name in node.inputs]
    if node.output in quantized.constants:
        constant = quantized.constants[node.output]
        inputs.append(constant.values)
        params.append(constant.params)
    call = Call(node, inputs, params, quantized.tensors[node.output])
    if node.op in MOVING:
        return MOVING[node.op](call)
    if node.op == "conv":
        computed = conv(call, quantized.weights[node.output])
    elif node.op == "linear":
        computed = linear(call, quantized.weights[node.output], rounding)
    else:
        computed = COMPUTING[node.op](call)
    low, high = _activation_range(node, call.output)
    return np.clip(computed + call.output.zero_point, low, high).astype(np.int8)


def _activation_range(node: Node, output: QuantParams) -> tuple[int, int]:
    activation = node.op if node.op in ("relu", "relu6") else node.activation
    low = output.zero_point if activation else -128
    if activation != "relu6":
        return low, 127
    six = round_half_away(np.float32(6) / np.float32(output.scale))
    return low, min(127, output.zero_point + int(six))


__all__ = ["Levels", "Rounding", "run", "run_all"]
