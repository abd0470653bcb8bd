"""The paired drop: how much a candidate lost against the original, judged on the same examples.

A drop is positive when the candidate is worse. Accuracy, balanced accuracy, area under the curve and r2 drop by
percentage points (100 x the difference); errors that carry the target's unit (mae, rmse) by percent of the original's
value. "Holds the budget" means that the bad end, `high_pp`, does.

Accuracy: Tango's score interval for the difference of paired proportions (T. Tango, "Equivalence test and confidence
interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17, 1998, 891-908),
which keeps its coverage when few answers change (Fagerland, Lydersen, Laake, Statistics in Medicine 33, 2014,
2850-2875), and the exact McNemar p-value. Other metrics: percentile bootstrap over examples, drawn for both files at
once; metrics that are conditional on the class are resampled within it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import DataError
from edgehone.measure.metrics import Floats, Metric, check_pair, errors, metric_called, predictions
from edgehone.record import DropRecord

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal
_CHUNK = 2_000_000  # weights held at once


def paired_drop(
    metric: str,
    original: NDArray[Any],
    candidate: NDArray[Any],
    targets: NDArray[Any],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> DropRecord:
    """Drop of a candidate against the original with its 95 % interval.

    Args:
        metric: a name of `edgehone.task.METRICS`.
        original, candidate: outputs of both for the same examples in the same order, as the metric takes them.
        targets: class ids, values, or 0 / 1 for anomalies.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: shapes that do not fit, no examples, or a relative drop of an original whose error is 0.
    """
    chosen = metric_called(metric)
    original, targets = check_pair(original, targets)
    candidate, targets = check_pair(candidate, targets)
    if original.shape != candidate.shape:
        raise DataError(f"outputs of shapes {original.shape} and {candidate.shape} are not of the same examples")
    if metric == "accuracy":
        truth = targets.reshape(-1)
        return accuracy_drop(predictions(original) == truth, predictions(candidate) == truth)
    return _bootstrap_drop(chosen, original, candidate, targets, resamples, seed)


def accuracy_drop(original_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> DropRecord:
    """Drop in accuracy from which examples each got right, (n,) booleans.

    Raises:
        DataError: no examples, or lengths that differ.
    """
    original_right, candidate_right = check_pair(original_right, candidate_right)
    worse = int((original_right & ~candidate_right).sum())
    better = int((~original_right & candidate_right).sum())
    n = len(original_right)
    low, high = tango_interval(worse, better, n)
    return DropRecord(
        value_pp=100 * (worse - better) / n,
        low_pp=100 * low,
        high_pp=100 * high,
        method="paired difference, Tango score interval; exact McNemar p-value",
        n=n,
        worse=worse,
        better=better,
        p_value=mcnemar_p_value(worse, better),
    )


def mcnemar_p_value(worse: int, better: int) -> float:
    """Exact two-sided McNemar p-value from the two counts of changed outcomes; 1 when nothing changed."""
    from scipy.stats import binomtest

    changed = worse + better
    return float(binomtest(worse, changed, 0.5).pvalue) if changed else 1.0


def tango_interval(worse: int, better: int, n: int) -> tuple[float, float]:
    """95 % score interval of (worse - better) / n, both ends within -1 … 1 (Tango 1998, equations 9 to 14).

    Raises:
        DataError: counts that do not fit into n.
    """
    from scipy.optimize import brentq

    if n < 1 or worse < 0 or better < 0 or worse + better > n:
        raise DataError(f"{worse} worse and {better} better cannot come from {n} examples")

    def score(difference: float) -> float:
        """The score statistic of the hypothesis that the true difference is `difference`; falls as it rises."""
        # The likelihood's root for the probability of "better" under the hypothesis.
        b = -worse - better + (2 * n - worse + better) * difference
        c = -better * difference * (1 - difference)
        root = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * root + difference * (1 - difference))
        excess = worse - better - n * difference
        if variance <= 1e-12 * n:
            return math.copysign(math.inf, excess) if abs(excess) > 1e-9 * n else 0.0
        return excess / math.sqrt(variance)

    def end(level: float, edge: float) -> float:
        """Where the score equals `level`, between the estimate and the edge of what is possible."""
        estimate = (worse - better) / n
        if abs(estimate - edge) < 1e-12:
            return edge
        inner, outer = score(estimate) - level, score(edge) - level
        if not math.isfinite(outer):
            edge -= math.copysign(1e-9, edge)
            outer = score(edge) - level
        if inner * outer > 0:
            return edge
        return float(brentq(lambda difference: score(difference) - level, estimate, edge, xtol=1e-10))

    return end(_Z, -1.0), end(-_Z, 1.0)


def _bootstrap_drop(
    metric: Metric,
    original: NDArray[Any],
    candidate: NDArray[Any],
    targets: NDArray[Any],
    resamples: int,
    seed: int,
) -> DropRecord:
    n = len(targets)
    value = float(_drops(metric, original, candidate, targets, np.ones((1, n)))[0])
    rng = np.random.default_rng(seed)
    strata = np.unique(targets.reshape(-1), return_inverse=True)[1] if metric.by_class else np.zeros(n, np.int64)
    drops: list[Floats] = []
    chunk = max(1, _CHUNK // n)
    for start in range(0, resamples, chunk):
        weights = _resample_weights(strata, min(chunk, resamples - start), rng)
        drops.append(_drops(metric, original, candidate, targets, weights))
    every = np.concatenate(drops)
    low, high = np.quantile(every, [0.025, 0.975])
    # Two-sided: how often the resampled drop lies on the other side of zero, never less than one resample can tell.
    p_value = 2 * min((np.sum(every <= 0) + 1), (np.sum(every >= 0) + 1)) / (resamples + 1)
    worse, better = _changes(metric, original, candidate, targets)
    unit = "relative change in percent" if metric.relative else "difference in points"
    within = " within classes" if metric.by_class else ""
    return DropRecord(
        value_pp=value,
        low_pp=float(low),
        high_pp=float(high),
        method=f"paired bootstrap{within}, {resamples} resamples, {unit}",
        n=n,
        worse=worse,
        better=better,
        p_value=min(1.0, float(p_value)),
    )


def _drops(
    metric: Metric, original: NDArray[Any], candidate: NDArray[Any], targets: NDArray[Any], weights: Floats
) -> Floats:
    """Drop (B,) of every resample."""
    before = metric.weighted(original, targets, weights)
    after = metric.weighted(candidate, targets, weights)
    change = before - after if metric.higher_is_better else after - before
    if not metric.relative:
        return 100 * change
    if (before == 0).any():
        raise DataError(f"the original's {metric.name} is 0, so no percentage of it exists", do="judge by r2 instead")
    return 100 * change / before


def _resample_weights(strata: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Floats:
    """How often each example is drawn, (B, n), drawing within each stratum as many as it has."""
    weights = np.zeros((resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        share = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), share, size=resamples)
    return weights


def _changes(
    metric: Metric, original: NDArray[Any], candidate: NDArray[Any], targets: NDArray[Any]
) -> tuple[int | None, int | None]:
    """How many examples got worse and better; None for the area under the curve, which ranks pairs of examples."""
    if metric.name == "auc":
        return None, None
    if metric.name == "balanced-accuracy":
        truth = targets.reshape(-1)
        before, after = ((predictions(outputs) != truth).astype(float) for outputs in (original, candidate))
    else:
        before, after = (np.abs(errors(outputs, targets)).mean(axis=1) for outputs in (original, candidate))
    return int((after > before).sum()), int((after < before).sum())
