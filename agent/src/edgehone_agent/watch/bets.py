"""The bets: what is staked on each row, and how much a reference of finite size may err.

A channel's values are cut into bins at quantiles of the validation data, so a value becomes a rank u in (0, 1) that is
uniform while nothing changes. A bet names a way in which ranks may move (up, down, apart, together, into a tail) and
multiplies its stake by `1 + size * gain(u)`. The gain has mean zero on uniform ranks: nobody wins on average while
nothing changes, and that is all the proof needs (e-detectors: Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric
framework for sequential change detection", 2024; ranks from bin counts: Vovk's smoothed conformal p-values).

Bin 0 is for missing values (NaN) and ranks below every other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.wire.card import BINS, LEVELS

Floats = NDArray[np.float64]

DIRECTIONS = ("higher", "lower", "wider", "narrower", "upper tail", "lower tail")
DIRECTION = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5])
"""(BETS,) index into DIRECTIONS."""
BETS = len(DIRECTION)
CARD_FAILURE = 1e-3
"""Chance, over the draw of the validation rows, that any reference error of a card is larger than stated."""

_GAIN = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 3])  # location, spread, upper tail, lower tail
_SIGN = np.array([1, 1, -1, -1, 1, 1, -1, -1, 1, 1])
_SIZE = np.array([0.35, 1.0, 0.35, 1.0, 0.5, 1.3, 0.4, 1.0, 7.5, 7.5])
_TOLERANT_SIZE = np.array([0.35, 1.0, 0.35, 1.0, 0.5, 1.3, 0.4, 1.0, 3.0, 3.0])
_TOLERANCE = np.array([1.0, 1.0, 0.25, 0.25])  # of the four gains, in units of the card's tolerance
_TAIL_FROM = np.array([0.9375, 0.99, 0.999])  # where the upper-tail gain steps up, and to what
_TAIL_GAIN = np.array([0.05, 0.3, 1.0])
_TAIL_STEP = np.diff(_TAIL_GAIN, prepend=0.0)
_TAIL_MEAN = float(_TAIL_STEP @ (1 - _TAIL_FROM))
_STAKES = np.geomspace(0.9, 0.9 / 64, 13)  # of the confidence bound, relative to the most that can be staked

_MATRIX = np.zeros((4, BETS), dtype=np.float32)
_MATRIX[_GAIN, np.arange(BETS)] = _SIGN * _SIZE


def exact_factors(u: NDArray[np.float32]) -> NDArray[np.float32]:
    """What every bet multiplies its stake by: ranks (N, channels) to (N, channels, BETS), mean 1 on uniform ranks."""
    gains = np.empty((4, *u.shape), dtype=np.float32)
    np.subtract(u, np.float32(0.5), out=gains[0])
    np.multiply(gains[0], gains[0], out=gains[1])
    gains[1] *= 4
    gains[1] -= np.float32(1 / 3)
    for gain, rank in ((gains[2], u), (gains[3], 1 - u)):
        gain[...] = -_TAIL_MEAN
        for start, step in zip(_TAIL_FROM, _TAIL_STEP, strict=True):
            gain += (rank > np.float32(start)) * np.float32(step)
    factors: NDArray[np.float32] = gains.reshape(4, -1).T @ _MATRIX
    factors += 1
    return factors.reshape(*u.shape, BETS)


def tolerant_factors(edges: NDArray[np.float32], counts: NDArray[np.uint16], tolerance: float) -> Floats:
    """The same from a frozen reference, by bin: `1 + size * (gain - its validation mean - allowance)`.

    The allowance is the tolerance or, where the reference is too small for it, the reference error: an upper bound of
    how far the gain's true mean may be above its validation mean. So the mean is at most 1 as long as the field stays
    within the tolerance of the validation rows, and (but for one card in 1 / CARD_FAILURE) as long as nothing changes.

    Args:
        edges: (channels, BINS - 2), rising.
        counts: (channels, BINS) of the validation rows, not those that the edges come from.
        tolerance: in units of |P(field > validation) - 1/2|.

    Returns:
        (channels, BINS, BETS), all above zero.
    """
    gains = _signed(_bin_gains(edges))  # (channels, 6, BINS)
    means = np.einsum("cgb,cb->cg", gains, counts / counts.sum(1, keepdims=True))
    allowed = np.maximum(tolerance * _TOLERANCE[_KIND], reference_errors(gains, means, counts))
    net = gains - (means + allowed)[..., None]
    size = np.minimum(_TOLERANT_SIZE, 0.9 / np.maximum(-net.min(2), 1e-9)[:, _WHICH])  # a factor is never below 0.1
    factors: Floats = 1 + size[:, None, :] * net[:, _WHICH].transpose(0, 2, 1)
    return factors


_PAIRS = sorted({(int(gain), int(sign)) for gain, sign in zip(_GAIN, _SIGN, strict=True)})
_KIND = np.array([gain for gain, _ in _PAIRS])
_WHICH = np.array([_PAIRS.index((int(gain), int(sign))) for gain, sign in zip(_GAIN, _SIGN, strict=True)])


def _signed(gains: Floats) -> Floats:
    """(channels, 4, BINS) to one row for each gain and sign that is bet on: (channels, 6, BINS)."""
    signs = np.array([sign for _, sign in _PAIRS])
    result: Floats = gains[:, _KIND] * signs[:, None]
    return result


def _bin_gains(edges: NDArray[np.float32]) -> Floats:
    """The mean of each gain over the ranks that a bin stands for: (channels, 4, BINS). Depends on the edges alone.

    Edges that coincide (a value that many rows have) make one wide bin of those they close.
    """
    channels = len(edges)
    levels = np.concatenate([[0.0], LEVELS, [1.0]])
    first = np.zeros((channels, BINS - 1), dtype=np.int64)  # of a bin's lower edge, the first that equals it
    for k in range(2, BINS - 1):
        first[:, k] = np.where(edges[:, k - 1] == edges[:, k - 2], first[:, k - 1], k)
    first[:, 1] = 1
    low, high = levels[first], np.broadcast_to(levels[1:], first.shape)
    inside = (_integrals(high) - _integrals(low)) / (high - low)  # (4, channels, BINS - 1)
    missing = np.broadcast_to(_gains_at_zero()[:, None, None], (4, channels, 1))
    result: Floats = np.concatenate([missing, inside], axis=2).transpose(1, 0, 2)
    return result


def _integrals(u: Floats) -> Floats:
    """Integrals from 0 to u of the four gains; the tails without their means, which cancel."""
    upper = _TAIL_STEP @ np.maximum(u[..., None] - _TAIL_FROM, 0).swapaxes(-1, -2)
    lower = _TAIL_STEP @ np.minimum(u[..., None], 1 - _TAIL_FROM).swapaxes(-1, -2)
    return np.stack([u * (u - 1) / 2, (2 * u - 1) ** 3 / 6 + 1 / 6 - u / 3, upper, lower])


def _gains_at_zero() -> Floats:
    return np.array([-0.5, 2 / 3, 0.0, 1.0])


def reference_errors(gains: Floats, means: Floats, counts: NDArray[np.uint16]) -> Floats:
    """How far each gain's true mean may be above its mean on the validation rows: (channels, gains).

    A betting confidence bound (Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", 2024):
    the smallest mean m against which betting on `m - gain` would have multiplied the stake by
    channels * gains / CARD_FAILURE. Valid for any sample size; it holds for all channels and gains of a card at once.

    Args:
        gains: (channels, gains, BINS).
        means: (channels, gains) on the validation rows.
        counts: (channels, BINS).
    """
    wanted = np.log(gains.shape[0] * gains.shape[1] / CARD_FAILURE) + np.log(len(_STAKES))
    highest = gains.max(2)
    low, high = means, highest.copy()
    stakes = _STAKES[:, None, None]
    for _ in range(30):
        middle = (low + high) / 2
        stake = stakes / np.maximum(highest - middle, 1e-9)
        net = middle[..., None] - gains  # (channels, gains, BINS)
        growth = np.log1p(np.maximum(stake[..., None] * net, -0.999))  # (stakes, channels, gains, BINS)
        log_capital = np.einsum("scgb,cb->scg", growth, counts.astype(np.float64))
        enough = np.logaddexp.reduce(log_capital, axis=0) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    result: Floats = np.maximum(high - means, 0)
    return result


def reference_error(edges: NDArray[np.float32], counts: NDArray[np.uint16]) -> float:
    """The largest reference error of a location gain over the channels: the smallest tolerance that the rows allow."""
    gains = _signed(_bin_gains(edges))
    means = np.einsum("cgb,cb->cg", gains, counts / counts.sum(1, keepdims=True))
    return float(reference_errors(gains, means, counts)[:, _KIND == 0].max())
