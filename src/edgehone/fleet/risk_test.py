"""Bets on counts: whether a share is above or below a limit, and whether one model errs more often than another.

Each function returns the log of an e-value: capital that grew from 1 by betting against a hypothesis, one bet per row.
While the hypothesis holds nobody gains on average, so the chance that the capital *ever* reaches 1/a is at most a
(Ville's inequality; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024). So the
counts may be looked at after every heartbeat, and the first look that shows enough decides. PROOF = 20 makes that 1 in
20.

A bet multiplies its capital by a factor that depends only on whether the row was wrong, so counts are enough. Several
stakes run side by side and their mean counts, which is a bet as well. Where a quantity is not known (the old model's
true risk, on which rows two models erred both), the smallest capital over all its values is taken: never too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROOF = 20.0
LOG_PROOF = math.log(PROOF)

_STAKES = np.array([0.05, 0.1, 0.2, 0.4, 0.8, 0.95])
_BOLD = np.array([0.05, 0.15, 0.4, 0.8])  # relative to the limit, as in `edgehone_agent.watch.risk`
_STEPS = 400  # in which the old model's unknown risk is searched


@dataclass(frozen=True)
class Count:
    """Labelled rows, and how many of them were wrong."""

    rows: int
    wrong: int

    def __add__(self, other: Count) -> Count:
        return Count(self.rows + other.rows, self.wrong + other.wrong)


def log_above(count: Count, limit: float) -> float:
    """Evidence that the share of wrong rows is above a limit in [0, 1); log of an e-value against "at most"."""
    stakes = _BOLD / max(limit, 0.05)
    right = count.rows - count.wrong
    return _mean(count.wrong * np.log1p(stakes * (1 - limit)) + right * np.log1p(-stakes * limit))


@dataclass(frozen=True)
class Comparison:
    """Logs of two e-values: against "the new one is worse by the margin or more", and against "it is not"."""

    no_worse: float
    worse: float


def compare(new: Count, old: Count, margin: float) -> Comparison:
    """Two models on different rows: does the new one err at most `margin` more often than the old one?

    For every possible risk p of the old model, one bet says "the new one is below p + margin" and another "the old one
    is above p"; if p is right and the new one is worse, neither gains. Their product, smallest over p, is the evidence.
    p is cut into intervals, and each bet is taken at the end of the interval where it has less.

    Args:
        new, old: labels of rows that were drawn alike.
        margin: in [0, 1).
    """
    edges = np.linspace(0.0, 1.0 - margin, _STEPS + 1)
    low, high = edges[:-1], edges[1:]
    good = _below(new, low + margin) + _above(old, high)
    bad = _above(new, high + margin) + _below(old, low)
    return Comparison(float(good.min()), float(bad.min()))


def compare_paired(rows: int, new_wrong: int, old_wrong: int, margin: float, both_wrong: int = 0) -> Comparison:
    """Two models on the same rows: does the new one err at most `margin` more often than the old one?

    Rows on which both erred, or neither, say nothing about which is better; only the others are bet on. A node that
    does not count the rows on which both erred gives 0: the fewer they are, the less a bet has, so that is safe.

    Args:
        rows: labelled rows that both answered.
        new_wrong, old_wrong: of these.
        margin: in [0, 1).
        both_wrong: of these, at least so many.
    """
    both = min(max(both_wrong, new_wrong + old_wrong - rows, 0), new_wrong, old_wrong)
    new_only, old_only = new_wrong - both, old_wrong - both
    same = rows - new_only - old_only
    brave, safe = _STAKES / (1 - margin), _STAKES / (1 + margin)  # what the worst row leaves of the capital is the same
    good = new_only * np.log1p(brave * (margin - 1)) + old_only * np.log1p(brave * (margin + 1))
    bad = new_only * np.log1p(safe * (1 - margin)) + old_only * np.log1p(-safe * (1 + margin))
    return Comparison(_mean(good + same * np.log1p(brave * margin)), _mean(bad + same * np.log1p(-safe * margin)))


def _above(count: Count, limit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log capital of bets on "above", by limit; falls as the limit rises."""
    up, down = np.log1p(np.outer(_STAKES, 1 - limit)), np.log1p(-np.outer(_STAKES, limit))
    return _means(count.wrong * up + (count.rows - count.wrong) * down)


def _below(count: Count, limit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log capital of bets on "below", by limit; rises with the limit."""
    down, up = np.log1p(-np.outer(_STAKES, 1 - limit)), np.log1p(np.outer(_STAKES, limit))
    return _means(count.wrong * down + (count.rows - count.wrong) * up)


def _means(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(stakes, N) log capitals to the log of their means (N,)."""
    means: NDArray[np.float64] = np.logaddexp.reduce(logs, axis=0) - math.log(len(logs))
    return means


def _mean(logs: NDArray[np.float64]) -> float:
    return float(_means(logs[:, None])[0])
