"""The arithmetic of the int8 scheme on float tensors: parameters from ranges, and rounding that lets gradients through.

"Fake" quantization gives the float value that the integer stands for, so a float kernel computes what the integer
kernel will. The gradient of rounding is taken as one inside the range and zero outside (straight-through estimator,
Bengio et al. 2013; Jacob et al. 2018, section 3). Everything stays on the tensors' device: nothing here waits for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SCALE = 1e-9  # keeps products of two scales far from the smallest normal float32
_BIAS_LIMIT = 2.0**30  # half of int32, the other half is left to the sum of products


def affine(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32) of int8 tensors that span low..high, widened to hold 0.

    Args:
        low, high: range ends, any common shape. A tensor that was only ever 0 counts as 0..1: its scale must still be
            of a size that the multipliers of its readers can express.
    """
    low, high = low.detach().clamp(max=0.0), high.detach().clamp(min=0.0)
    width = torch.where(high > low, high - low, 1.0)
    scale = (width / 255).clamp_min(MIN_SCALE)
    zero_point = (-128 - torch.round(low / scale)).clamp(-128, 127).to(torch.int32)
    return scale, zero_point


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Values of x, any shape, on the int8 grid of a scalar scale and zero point; saturating."""
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)


def fake_quantize_average(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """As `fake_quantize`, for averages of a few int8 levels, whose ties TFLite rounds away from level 0.

    Ties are common there: one in four for a 2 by 2 window.
    """
    level = (x / scale + zero_point).detach()
    return fake_quantize(x + level.sign() * (scale / 1024), scale, zero_point)


def fake_quantize_constant(value: Tensor) -> Tensor:
    """The constant operand of an add or mul node on the int8 grid of its own range."""
    return fake_quantize(value, *affine(value.amin(), value.amax()))


def weight_scale(weight: Tensor, bias: Tensor, input_scale: Tensor, bits: int) -> Tensor:
    """Scale (O,) of symmetric weights, one per output channel, that also keeps the bias inside int32.

    A channel whose weights are almost zero would get a scale so small that bias / (input scale * weight scale)
    overflows; its scale is raised until the bias takes half of the int32 range.

    Args:
        weight: (O, ...).
        bias: (O,).
        input_scale: scalar.
        bits: width of the weights; 8 gives -127..127.
    """
    peak = weight.detach().abs().flatten(1).amax(1) / weight_limit(bits)
    floor = bias.detach().abs() / (input_scale * _BIAS_LIMIT)
    return torch.maximum(peak, floor).clamp_min(MIN_SCALE)


def weight_limit(bits: int) -> int:
    """The largest level of symmetric weights: 127 for 8 bits."""
    return int(2 ** (bits - 1)) - 1


def fake_quantize_weight(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Weights (O, ...) on the grid of their channel's scale (O,)."""
    limit = weight_limit(bits)
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -limit, limit)


def fake_quantize_bias(bias: Tensor, grid: Tensor) -> Tensor:
    """Bias (O,) in whole steps of grid (O,) = input scale * weight scale."""
    return bias + (torch.round(bias / grid) * grid - bias).detach()
