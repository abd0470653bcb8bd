"""The arithmetic of low-rank factors: a weight as a product of smaller ones, and how large its rank is.

Factors are balanced: along every rank the two weights that meet there have equal norms, which keeps per-tensor int8
activations between them fine-grained (cross-layer equalisation, Nagel et al. 2019, arXiv:1906.04721, section 4.1; exact
here, since nothing stands between the factors). Arithmetic is float64 inside, float32 outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from edgehone.graph.ir import FloatArray, Shape

DoubleArray = NDArray[np.float64]

_ROUNDS = 5  # of alternating least squares; the core stops moving after two or three
_GRID = 200  # noise levels tried before the best is refined: the objective has several valleys


Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """One way to write a weight (O, F) or (O, I, kh, kw) as a product.

    Attributes:
        sides: the matrices of a weight whose ranks are what can be chosen.
        shapes: shape of a weight, ranks → shapes of the factors, first one first.
        factors: weight, ranks → the factors. At the ranks `full` they multiply out exactly.
    """

    sides: Callable[[FloatArray], tuple[DoubleArray, ...]]
    shapes: Callable[[Shape, Ranks], list[Shape]]
    factors: Callable[[FloatArray, Ranks], list[FloatArray]]


def full(sides: tuple[DoubleArray, ...]) -> Ranks:
    """The highest ranks of the sides of a weight."""
    return tuple(min(side.shape) for side in sides)


def _matrix(weight: FloatArray) -> tuple[DoubleArray]:
    """(I * kh, O * kw), or (F, O) of a linear layer."""
    if weight.ndim == 2:
        return (weight.T.astype(np.float64),)
    outputs, inputs, height, width = weight.shape
    return (weight.transpose(1, 2, 0, 3).reshape(inputs * height, outputs * width).astype(np.float64),)


def _pair(shape: Shape, ranks: Ranks) -> list[Shape]:
    (rank,) = ranks
    if len(shape) == 2:
        return [(rank, shape[1]), (shape[0], rank)]
    outputs, inputs, height, width = shape
    return [(rank, inputs, height, 1), (outputs, rank, 1, width)]


def _svd(weight: FloatArray, ranks: Ranks) -> list[FloatArray]:
    """The best two factors of a rank, kh x 1 before 1 x kw."""
    ((side,), (rank,)) = _matrix(weight), ranks
    left, values, right = np.linalg.svd(side, full_matrices=False)
    root = np.sqrt(values[:rank])
    first, second = (left[:, :rank] * root).T, right[:rank].T * root  # (R, I * kh), (O * kw, R)
    if weight.ndim == 4:
        outputs, inputs, height, width = weight.shape
        first = first.reshape(rank, inputs, height, 1)
        second = second.reshape(outputs, width, rank).swapaxes(1, 2).reshape(outputs, rank, 1, width)
    return [np.ascontiguousarray(factor, np.float32) for factor in (first, second)]


def _unfoldings(weight: FloatArray) -> tuple[DoubleArray, DoubleArray]:
    """By input channels, (I, O * kh * kw), and by output channels, (O, I * kh * kw)."""
    by_input = weight.swapaxes(0, 1).reshape(weight.shape[1], -1)
    return by_input.astype(np.float64), weight.reshape(len(weight), -1).astype(np.float64)


def _triple(shape: Shape, ranks: Ranks) -> list[Shape]:
    first, last = ranks
    return [(first, shape[1], 1, 1), (last, first, *shape[2:]), (shape[0], last, 1, 1)]


def _tucker(weight: FloatArray, ranks: Ranks) -> list[FloatArray]:
    """Three factors: 1x1, the core kh x kw, 1x1.

    Started from the singular vectors of both unfoldings (HOSVD) and improved in turns (HOOI, De Lathauwer et al. 2000).
    """
    whole = weight.astype(np.float64)
    inputs, outputs = (_leading(side, rank) for side, rank in zip(_unfoldings(weight), ranks, strict=True))
    for _ in range(_ROUNDS):
        narrowed = np.einsum("oihw,os->ishw", whole, outputs)
        inputs = _leading(narrowed.reshape(len(narrowed), -1), ranks[0])  # (I, Ri)
        narrowed = np.einsum("oihw,ir->orhw", whole, inputs)
        outputs = _leading(narrowed.reshape(len(narrowed), -1), ranks[1])  # (O, Ro)
    core = np.einsum("oihw,ir,os->srhw", whole, inputs, outputs, optimize=True)
    first, core = _balanced(inputs.T[:, :, None, None], core)
    core, last = _balanced(core, outputs[:, :, None, None])
    return [np.ascontiguousarray(factor, np.float32) for factor in (first, core, last)]


SPATIAL = Form(_matrix, _pair, _svd)
"""kh x 1, 1 x kw (spatial SVD, Jaderberg et al. 2014, arXiv:1405.3866, scheme 2); of a linear layer two linear ones."""

TUCKER = Form(_unfoldings, _triple, _tucker)
"""1x1, kh x kw, 1x1 (Tucker-2, Kim et al. 2016, arXiv:1511.06530); ranks of the input and the output channels."""


def energy_rank(rows: DoubleArray, share: float) -> int:
    """The smallest rank that keeps a share, 0 to 1, of the sum of squared singular values; at least 1."""
    energy = np.linalg.svd(rows, compute_uv=False) ** 2
    kept = np.cumsum(energy)
    return 1 + int(np.searchsorted(kept, share * kept[-1] * (1 - 1e-12)))


def vbmf_rank(rows: DoubleArray) -> int:
    """The rank that is no noise: empirical variational Bayesian matrix factorization, solved analytically; at least 1.

    Nakajima, Sugiyama, Babacan, Tomioka 2013 (JMLR 14, 1-37, theorem 2 and corollary 2), with the closed-form
    threshold of Nakajima et al. 2015 (JMLR 16, 3757-3811, section 3); noise of one size is assumed in all entries.
    """
    values = np.linalg.svd(rows, compute_uv=False)
    short, long = sorted(rows.shape)
    peak = float(values[0])
    if peak == 0 or short == 1:
        return 1
    squares = (values / peak) ** 2  # (short,); scaled, so that any weight is handled alike
    alpha = short / long
    tau = 2.5129 * np.sqrt(alpha)
    edge = (1 + tau) * (1 + alpha / tau)  # squared values below edge * long * noise are noise
    first = min(int(np.ceil(short / (1 + alpha))) - 1, short - 1)  # the rank is at most this
    lowest = max(squares[first] / (long * edge), squares[first:].mean() / long, 1e-14)
    highest = max(squares.sum() / (short * long), lowest)

    def free_energy(log_noise: float) -> float:
        scaled = np.maximum(squares / (long * np.exp(log_noise)), 1e-300)
        signal, noise = scaled[scaled > edge], scaled[scaled <= edge]
        root = np.sqrt((signal - (1 + alpha)) ** 2 - 4 * alpha)
        tau_of = 0.5 * (signal - (1 + alpha) + root)
        of_signal = signal - tau_of + np.log((tau_of + 1) / signal) + alpha * np.log(tau_of / alpha + 1)
        return float((noise - np.log(noise)).sum() + of_signal.sum())

    grid = np.linspace(np.log(lowest), np.log(highest), _GRID)
    best = int(np.argmin([free_energy(point) for point in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    found = grid[best]
    if bounds[1] > bounds[0]:
        found = minimize_scalar(free_energy, bounds=bounds, method="bounded").x
    return max(1, int((squares > edge * long * np.exp(found)).sum()))


def _leading(rows: DoubleArray, rank: int) -> DoubleArray:
    """The leading left singular vectors of (N, M), as (N, rank); `rank` may be above M."""
    return np.asarray(np.linalg.eigh(rows @ rows.T)[1][:, ::-1][:, :rank])


def _balanced(first: DoubleArray, second: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Two factors scaled so that along the rank between them, (R, ...) and (O, R, ...), their norms are equal."""
    before = np.sqrt((first**2).sum((1, 2, 3)))
    after = np.sqrt((second**2).sum((0, 2, 3)))
    scale = np.sqrt(np.divide(after, before, out=np.ones_like(after), where=(before > 0) & (after > 0)))
    return first * scale[:, None, None, None], second / scale[:, None, None]
