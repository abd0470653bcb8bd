"""The oracle's operators that compute: levels of the output before its zero point and saturation are applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgehone.graph._oracle_call import Call, Levels
from edgehone.graph._oracle_movement import pool_windows
from edgehone.graph.fixed_point import (
    Integers,
    exp_of_negative,
    high_multiply,
    multiply,
    quantize_multiplier,
    reciprocal_of_one_plus,
    round_half_away,
    rounding_shift,
)
from edgehone.graph.quantized import QuantizedWeights

Rounding = Literal["single", "double"]

_FLOAT32_EXACT = 2**24


def conv(call: Call, weights: QuantizedWeights) -> Integers:
    """Products summed in int32, then one multiplier per channel."""
    x, attrs = call.inputs[0], call.node.attrs
    planar = x if x.ndim == 4 else x[:, :, None, :]  # (N, C, L) → (N, C, 1, L)
    centred = planar.astype(np.float32) - np.float32(call.params[0].zero_point)
    padded = np.pad(centred, ((0, 0), (0, 0), *attrs["padding"]))
    sums = _correlate(padded, weights.values, attrs["stride"], attrs["dilation"], attrs["groups"])
    mantissa, shift = quantize_multiplier(_channel_factor(call, weights))
    scaled = multiply(sums + weights.bias[:, None, None], mantissa[:, None, None], shift[:, None, None])
    return scaled if x.ndim == 4 else scaled[:, :, 0]


def _correlate(
    x: NDArray[np.float32], weight: Levels, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Integers:
    """Exact sums of products by a float matrix product: (N, C, H, W), (O, C/g, kh, kw) → (N, O, oh, ow)."""
    outputs, _, kh, kw = weight.shape
    reach = (dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1)
    rows = weight.reshape(groups, outputs // groups, -1)
    largest = 255 * np.abs(rows.astype(np.int64)).sum(-1).max(initial=0)
    dtype = np.float32 if largest < _FLOAT32_EXACT else np.float64
    windows = sliding_window_view(x.astype(dtype), reach, axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]  # (N, C, oh, ow, kh, kw)
    n, channels, oh, ow = windows.shape[:4]
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, channels // groups * kh * kw, oh * ow)
    sums = np.matmul(rows.astype(dtype), columns)  # (N, g, O/g, oh * ow)
    return np.asarray(sums.reshape(n, outputs, oh, ow), np.int64)


def linear(call: Call, weights: QuantizedWeights, rounding: Rounding) -> Integers:
    """Products summed in int32, then one factor per channel: real in LiteRT, a multiplier in TFLite Micro."""
    products = call.centred().astype(np.float64) @ weights.values.T.astype(np.float64)  # exact: far below 2^53
    sums = products.astype(np.int64) + weights.bias
    factor = _channel_factor(call, weights)
    return multiply(sums, *quantize_multiplier(factor)) if rounding == "double" else round_half_away(sums * factor)


def _channel_factor(call: Call, weights: QuantizedWeights) -> NDArray[np.float64]:
    return np.asarray(call.params[0].scale * weights.scale.astype(np.float64) / call.output.scale, np.float64)


def _add(call: Call) -> Integers:
    a, b = call.centred(0), call.centred(1)
    return _sum(a, call.params[0].scale, -b if call.node.op == "sub" else b, call.params[1].scale, call.output.scale)


def _sum(a: Integers, a_scale: float, b: Integers, b_scale: float, scale: float) -> Integers:
    """Both terms on a common scale with 20 more bits, then down to the output's."""
    twice_larger = 2 * max(a_scale, b_scale)
    a = multiply(a << 20, *quantize_multiplier(a_scale / twice_larger))
    b = multiply(b << 20, *quantize_multiplier(b_scale / twice_larger))
    return multiply(a + b, *quantize_multiplier(twice_larger / (2.0**20 * scale)))


def _mul(call: Call) -> Integers:
    return _product(call.centred(0), call.params[0].scale, call.centred(1), call.params[1].scale, call.output.scale)


def _product(a: Integers, a_scale: float, b: Integers, b_scale: float, scale: float) -> Integers:
    factor = np.float32(a_scale) * np.float32(b_scale) / np.float32(scale)  # in float32, as TFLite
    return multiply(a * b, *quantize_multiplier(factor))


def _rescale(call: Call) -> Integers:
    return multiply(call.centred(), *quantize_multiplier(call.params[0].scale / call.output.scale))


def _relu(call: Call) -> Integers:
    """A product with 1; what is below 0 saturates."""
    return _product(call.centred(), call.params[0].scale, np.array(1), 1.0, call.output.scale)


def _leaky_relu(call: Call) -> Integers:
    source, target = np.float32(call.params[0].scale), np.float32(call.output.scale)
    x, slope = call.centred(), np.float32(call.node.attrs["slope"])
    below = np.sign(slope).astype(np.int64) * multiply(x, *quantize_multiplier(np.abs(source * slope / target)))
    return np.where(x >= 0, multiply(x, *quantize_multiplier(source / target)), below)


def _mean(call: Call) -> Integers:
    """One multiplication by scale / count: the count goes into the mantissa."""
    axes = tuple(call.node.attrs["axes"])
    sums = call.centred().sum(axes, keepdims=call.node.attrs["keepdim"])
    count = int(np.prod([call.inputs[0].shape[axis] for axis in axes]))
    mantissa, shift = (int(v) for v in quantize_multiplier(call.params[0].scale / call.output.scale))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    return multiply(sums, np.array((mantissa << extra) // count), np.array(shift - extra))


def _table(function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[Call], Integers]:
    """A function of one int8 value, by a table of float32 results."""

    def look_up(call: Call) -> Integers:
        levels = np.arange(-128, 128) - call.params[0].zero_point
        real = function((np.float32(call.params[0].scale) * levels.astype(np.float32)).astype(np.float64))
        results = round_half_away(real.astype(np.float32) * np.float32(1 / np.float32(call.output.scale)))
        return results[call.inputs[0].astype(np.int64) + 128]

    return look_up


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)


def _hard_swish(call: Call) -> Integers:
    """x * (relu6(x + 3) * 1/6) in three steps, with levels of 6/255 and 1/255 in between; by a table."""
    x, scale = np.arange(-128, 128) - call.params[0].zero_point, call.params[0].scale
    six, one, three, sixth = (float(np.float32(value)) for value in (6 / 255, 1 / 255, 3 / 127, 1 / 6 / 127))
    shifted = np.clip(_sum(x, scale, np.array(127), three, six), 0, 255)
    gate = np.clip(_product(shifted, six, np.array(127), sixth, one), 0, 255)
    return _product(x, scale, gate, one, call.output.scale)[call.inputs[0].astype(np.int64) + 128]


def _avg_pool(call: Call) -> Integers:
    """Where every place counts, a convolution with weights of 64 / (64 * places); else a sum over a count."""
    x, attrs, zero_point = call.inputs[0], call.node.attrs, call.params[0].zero_point
    if attrs["count_include_pad"] or not any(map(any, attrs["padding"])):
        sums = pool_windows(x, attrs, zero_point).astype(np.int64) - zero_point
        weight = float(np.float32(1 / (64 * attrs["kernel"][0] * attrs["kernel"][1])))
        factor = call.params[0].scale * weight / call.output.scale
        return multiply(64 * sums.sum((-2, -1)), *quantize_multiplier(factor))
    counts = pool_windows(np.ones_like(x[:1, :1]), attrs, 0).sum((-2, -1), dtype=np.int64)
    levels = pool_windows(x, attrs, 0).sum((-2, -1), dtype=np.int64)
    return np.asarray(np.sign(levels) * ((np.abs(levels) + counts // 2) // counts) - zero_point, np.int64)


def _softmax(call: Call) -> Integers:
    """exp and reciprocal in fixed point: differences as Q5, sums as Q12, output as Q0 of 8 bits."""
    mantissa, shift = quantize_multiplier(min(call.params[0].scale * 2.0**26, 2.0**31 - 1))
    lowest = -np.floor(31.0 * 2.0**26 / 2.0 ** int(shift))
    x = call.inputs[0].astype(np.int64)
    difference = x - x.max(-1, keepdims=True)
    counted = difference >= lowest
    exponentials = exp_of_negative(high_multiply(np.where(counted, difference, 0) << shift, mantissa))
    total = np.where(counted, rounding_shift(exponentials, 12), 0).sum(-1, keepdims=True)
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)  # leading zeros of 32 bits
    inverse = reciprocal_of_one_plus((total << headroom) - 2**31)
    share = rounding_shift(high_multiply(exponentials, inverse), 12 - headroom + 31 - 8)
    return np.where(counted, share, 0)


COMPUTING: Mapping[str, Callable[[Call], Integers]] = {
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "relu": _relu,
    "relu6": _relu,
    "leaky_relu": _leaky_relu,
    "hard_swish": _hard_swish,
    "sigmoid": _table(_sigmoid),
    "tanh": _table(np.tanh),
    "softmax": _softmax,
    "mean": _mean,
    "avg_pool": _avg_pool,
    "requantize": _rescale,
}
