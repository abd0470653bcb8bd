"""AdaRound: every weight rounded up or down as the layer's output asks, not to the nearest level (Nagel et al. 2020,
arXiv:2004.10568, section 3).

Each rounding is h in 0..1, a rectified sigmoid of a number that is learned (equation 23). The loss is the error of the
layer's output, its inputs rounded and its target that of the float layer (equation 25), and a term that drives every h
to 0 or 1, more steeply as time goes (equation 24). Layers are learned in order.

The error is taken before the activation. It is then a quadratic form of the weights, and the second moments of the
layer's inputs say all about it: a step costs a matrix product of the size of the weight, however many examples there
are, and no chance is involved but which places of large pictures are looked at. The best bias for given weights follows
from the means and is set with them. In the end single roundings are turned over, the best of each channel first, as
long as that lowers the error: a hundred steps and this reach a lower error than a thousand steps alone.

The result is written into the twin's weights, as multiples of their scale: rounded to nearest they stay what they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgehone.graph.fake_quant import weight_limit
from edgehone.graph.ir import WEIGHTED, Node
from edgehone.graph.kernels import run_node
from edgehone.graph.twin import Pair, Twin

_LOW, _HIGH = -0.1, 1.1  # the sigmoid is stretched to these and cut to 0..1 (section 3.3)
_PLACES = 8192  # input windows per layer that the moments are taken over


@dataclass(frozen=True)
class Learning:
    """How rounding is learned.

    Attributes:
        steps: of Adam, per layer.
        rate: of Adam.
        weight: of the term that drives roundings to 0 or 1, against a channel's error over what chance costs.
        warm: share of the steps without that term.
        start, end: its exponent, from flat to steep.
    """

    steps: int = 100
    rate: float = 0.1
    weight: float = 2.0
    warm: float = 0.2
    start: float = 20.0
    end: float = 2.0


def round_adaptively(twin: Twin, x: Tensor, learning: Learning | None = None, seed: int = 0) -> None:
    """Change the weights and biases of a calibrated twin to what gives the float layers' outputs on x (N, *input).

    A layer whose parameters another node uses too is left as it is; so is a channel that is no better for it.

    Args:
        twin: in "quantized" mode.
        x: inputs to learn on.
        learning: how.
        seed: of the choice of windows.

    Raises:
        DataError: the twin is not calibrated.
    """
    learning = learning or Learning()
    uses = Counter(key for node in twin.graph.nodes for key in node.params.values())
    generator = torch.Generator().manual_seed(seed)
    for pair in twin.side_by_side(x):
        node = pair.node
        if node.op in WEIGHTED and all(uses[key] == 1 for key in node.params.values()):
            _round_layer(twin, pair, learning, generator)


class _Moments(NamedTuple):
    """Of a layer's rounded inputs and float outputs: means, and products about them.

    inputs (g, K, 1), outputs (g, O/g, 1), squares (g, K, K), products (g, O/g, K).
    """

    inputs: Tensor
    outputs: Tensor
    squares: Tensor
    products: Tensor

    def error(self, weight: Tensor) -> Tensor:
        """Mean squared error (g, O/g) of weights (g, O/g, K) under their best bias, up to a constant."""
        return ((weight @ self.squares - 2 * self.products) * weight).sum(2)


class _Grid(NamedTuple):
    """Levels of weights (g, O/g, K): rounded down, the rest above it in 0..1, which may be chosen, and the scale."""

    floor: Tensor
    rest: Tensor
    free: Tensor
    scale: Tensor
    limit: int

    def weight(self, up: Tensor) -> Tensor:
        """Real weights for roundings in 0..1."""
        levels = (self.floor + torch.where(self.free, up, self.rest)).clamp(-self.limit, self.limit)
        return levels * self.scale


@torch.no_grad()
def _round_layer(twin: Twin, pair: Pair, learning: Learning, generator: torch.Generator) -> None:
    node = pair.node
    moments = _moments(pair, generator)
    weight, bias = (twin.network.tensor(node.params[role]) for role in ("weight", "bias"))
    grid = _grid(weight, twin.weight_scales(node), twin.bits[node.output], len(moments.squares))
    nearest = (grid.rest > 0.5).to(weight.dtype)
    before = moments.error(grid.weight(nearest))
    learned = _polish(grid, moments, _learn(grid, moments, learning))
    better = moments.error(grid.weight(learned)) < before
    chosen = grid.weight(torch.where(better[:, :, None], learned, nearest))
    weight.copy_(chosen.reshape(weight.shape))
    fitted = (moments.outputs - chosen @ moments.inputs).reshape(bias.shape)
    bias.copy_(torch.where(grid.free.any(2).reshape(bias.shape), fitted, bias))


def _grid(weight: Tensor, scale: Tensor, bits: int, groups: int) -> _Grid:
    """The peak of a channel stays: it carries the scale. A channel whose scale its bias dictates is not touched."""
    limit = weight_limit(bits)
    rows = weight.detach().reshape(groups, weight.shape[0] // groups, -1)  # (O, I/g, kh, kw) → (g, O/g, K)
    scales = scale.view(groups, -1, 1)
    position = rows / scales
    carries = position.abs() >= limit - 1e-3
    free = ~carries & carries.any(2, keepdim=True)
    floor = torch.where(free, position.floor(), position.round()).clamp(-limit, limit)
    return _Grid(floor, torch.where(free, position - floor, 0.0), free, scales, limit)


def _learn(grid: _Grid, moments: _Moments, learning: Learning) -> Tensor:
    """Roundings, 0 or 1, of the shape of the weights."""
    hidden = torch.logit(((grid.rest - _LOW) / (_HIGH - _LOW)).clamp(1e-4, 1 - 1e-4))
    power = torch.diagonal(moments.squares, dim1=1, dim2=2).sum(1)[:, None, None]
    unit = (grid.scale.square() / 12 * power).clamp_min(torch.finfo(hidden.dtype).tiny)  # (g, O/g, 1)
    mean, square = torch.zeros_like(hidden), torch.zeros_like(hidden)
    count = hidden.shape[2]
    for step in range(learning.steps):
        sigmoid = torch.sigmoid(hidden)
        stretched = sigmoid * (_HIGH - _LOW) + _LOW
        up = stretched.clamp(0, 1)
        slope = torch.where((stretched > 0) & (stretched < 1), sigmoid * (1 - sigmoid) * (_HIGH - _LOW), 0.0)
        gradient = 2 * (grid.weight(up) @ moments.squares - moments.products) * grid.scale / unit
        gradient = (gradient + _pull(up, step / learning.steps, learning) / count) * slope
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.001)
        corrected = (square / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-12)
        hidden -= learning.rate / (1 - 0.9 ** (step + 1)) * mean / corrected
    return (torch.sigmoid(hidden) > 0.5).to(hidden.dtype)


def _polish(grid: _Grid, moments: _Moments, up: Tensor) -> Tensor:
    """Turn over roundings (0 or 1) one by one, in all channels at once, until no single one lowers the error."""
    up = up.clone()
    turn = torch.where(up > 0.5, -1.0, 1.0)
    allowed = grid.free & ((grid.floor + up + turn).abs() <= grid.limit)
    move = torch.where(allowed, turn * grid.scale, 0.0)  # (g, O/g, K), what turning each over adds to its weight
    slope = grid.weight(up) @ moments.squares - moments.products
    power = torch.diagonal(moments.squares, dim1=1, dim2=2)[:, None]
    group = torch.arange(len(up))[:, None]
    for _ in range(up.shape[2]):
        gain, best = (move * (2 * slope + move * power)).min(2, keepdim=True)
        lowers = gain < 0
        if not lowers.any():
            break
        slope += torch.where(lowers, move.gather(2, best), 0.0) * moments.squares[group, best[:, :, 0]]
        up.scatter_(2, best, torch.where(lowers, 1 - up.gather(2, best), up.gather(2, best)))
        move.scatter_(2, best, torch.where(lowers, -move.gather(2, best), move.gather(2, best)))
    return up


def _pull(up: Tensor, time: float, learning: Learning) -> Tensor:
    """Gradient of 1 - |2h - 1|^b by h (equation 24); b falls along a half cosine from `start` to `end`."""
    if time < learning.warm:
        return torch.zeros_like(up)
    part = torch.tensor((time - learning.warm) / (1 - learning.warm))
    power = float(learning.end + 0.5 * (learning.start - learning.end) * (1 + torch.cos(part * torch.pi)))
    away = 2 * up - 1
    return -2 * learning.weight * power * away.sign() * away.abs() ** (power - 1)


def _moments(pair: Pair, generator: torch.Generator) -> _Moments:
    node = pair.node
    outputs = run_node(replace(node, activation=None), pair.exact, pair.params)
    groups = node.attrs["groups"] if node.op == "conv" else 1
    y = outputs.flatten(2) if outputs.dim() > 2 else outputs[:, :, None]  # (N, O, places)
    count, places = y.shape[0], y.shape[2]
    kept = min(places, -(-_PLACES // count))
    chosen = torch.randperm(places, generator=generator)[:kept]
    y = y[:, :, chosen].transpose(0, 1).reshape(groups, y.shape[1] // groups, -1)  # (g, O/g, N * kept)
    x = _windows(node, pair.rounded[0], pair.params["weight"], chosen)
    x = x.transpose(0, 1).reshape(groups, x.shape[1] // groups, -1)  # (g, K, N * kept)
    x_mean, y_mean = x.mean(2, keepdim=True), y.mean(2, keepdim=True)
    x, y = x - x_mean, y - y_mean
    transposed = x.transpose(1, 2)
    return _Moments(x_mean, y_mean, x @ transposed / x.shape[2], y @ transposed / x.shape[2])


def _windows(node: Node, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """What a layer multiplies its weights with: (N, C * kh * kw, places) at the chosen places of its output."""
    if node.op == "linear":
        return x[:, :, None]
    planar = x if x.dim() == 4 else x.unsqueeze(2)  # (N, C, L) → (N, C, 1, L)
    (top, bottom), (left, right) = node.attrs["padding"]
    padded = F.pad(planar, (left, right, top, bottom))
    kernel, stride, dilation = (tuple(v) for v in (weight.shape[2:], node.attrs["stride"], node.attrs["dilation"]))
    parts = [F.unfold(part, kernel, dilation, 0, stride)[:, :, chosen] for part in torch.split(padded, 16)]
    return torch.cat(parts)
