"""The arithmetic of the int8 scheme on float tensors: parameters from ranges, and rounding that lets gradients through.

"Fake" quantization gives the float value that the integer stands for, so a float kernel computes what the integer
kernel will. The gradient of rounding is taken as one inside the range and zero outside (straight-through estimator,
Bengio et al. 2013; Jacob et al. 2018, section 3).
"""

from __future__ import annotations

from typing import Any

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


class _Round(torch.autograd.Function):
    """Saturate, round, pass the gradient of what did not saturate.

    Ten times faster on a CPU than `torch.fake_quantize_per_tensor_affine`, whose kernel is not vectorised there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.passing = (scale * (-128.5 - zero_point), scale * (127.5 - zero_point))
        saturated = x.clamp(scale * (-128 - zero_point), scale * (127 - zero_point))
        return saturated.div_(scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.passing), None, None


def fake_quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Values of x, any shape, on an int8 grid; saturating."""
    rounded: Tensor = _Round.apply(x, scale, zero_point)  # type: ignore[no-untyped-call]
    return rounded


def fake_quantize_constant(value: Tensor) -> Tensor:
    """The constant operand of an add or mul node on the int8 grid of its own range."""
    scale, zero_point = affine(value.amin(), value.amax())
    return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, -128, 127)


def weight_scale(weight: Tensor, bias: Tensor, input_scale: float, bits: int) -> Tensor:
    """Scale (O,) of symmetric weights, one per output channel, that also keeps the bias inside int32.

    A channel whose weights are almost zero would get a scale so small that bias / (input scale * weight scale)
    overflows; its scale is raised until the bias takes half of the int32 range.

    Args:
        weight: (O, ...).
        bias: (O,).
        input_scale: of the node's input.
        bits: width of the weights; 8 gives -127..127.
    """
    peak = weight.detach().abs().flatten(1).amax(1) / weight_limit(bits)
    floor = bias.detach().abs() / (input_scale * _BIAS_LIMIT)
    return torch.maximum(peak, floor).clamp_min(MIN_SCALE)


def weight_limit(bits: int) -> int:
    """The largest level of symmetric weights: 127 for 8 bits."""
    return int(2 ** (bits - 1)) - 1


def clip_to_levels(weight: Tensor, bits: int) -> Tensor:
    """Weights (O, ...) cut, channel by channel, to the range whose rounding and cutting errors together are smallest.

    With 4 bits the largest weight is often an outlier that makes the levels of all others coarse.
    """
    limit, rows = weight_limit(bits), weight.detach().flatten(1)
    peak = rows.abs().amax(1, keepdim=True).clamp_min(MIN_SCALE)
    best, least = peak.clone(), torch.full_like(peak, torch.inf)
    for share in torch.linspace(1.0, 0.4, 31).tolist():
        step = peak * share / limit
        error = ((rows / step).round().clamp(-limit, limit) * step - rows).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, peak * share, best), torch.minimum(error, least)
    return torch.maximum(torch.minimum(rows, best), -best).reshape(weight.shape)


def fake_quantize_weight(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Weights (O, ...) on the grid of their channel's scale (O,)."""
    limit = weight_limit(bits)
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -limit, limit)


def fake_quantize_bias(bias: Tensor, grid: Tensor) -> Tensor:
    """Bias (O,) in whole steps of grid (O,) = input scale * weight scale."""
    return bias + (torch.round(bias / grid) * grid - bias).detach()
