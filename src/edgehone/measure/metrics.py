"""What each metric means. One function per metric, over weighted examples.

A metric takes outputs, targets and weights (B, n), one row per resample with the number of times each example counts
in it, and returns (B,) values. With weights of one it is the plain metric; a bootstrap of thousands of resamples is a
few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import DataError

Floats = NDArray[np.float64]
Weighted = Callable[[NDArray[Any], NDArray[Any], Floats], Floats]


@dataclass(frozen=True)
class Metric:
    """One way to judge outputs against targets.

    Attributes:
        name: as in `edgehone.task.METRICS`.
        higher_is_better: whether more is better.
        relative: a drop is the relative change in percent, because the metric has the target's unit; otherwise it is
            the absolute change in percentage points.
        by_class: resamples keep the number of examples of every class, which the metric is conditional on.
        weighted: the function described in the module docstring.
    """

    name: str
    higher_is_better: bool
    relative: bool
    by_class: bool
    weighted: Weighted

    def value(self, outputs: NDArray[Any], targets: NDArray[Any]) -> float:
        """The metric of one set of examples.

        Args:
            outputs: classification: (n, classes) scores; regression: (n,) or (n, k) values; anomaly: (n,) scores,
                higher is more anomalous.
            targets: class ids (n,), values of the outputs' shape, or 0 normal / 1 anomalous (n,).

        Raises:
            DataError: no examples, shapes that do not fit, or (auc) one of the two kinds is missing.
        """
        outputs, targets = check_pair(outputs, targets)
        return float(self.weighted(outputs, targets, np.ones((1, len(targets))))[0])


def metric_called(name: str) -> Metric:
    """The metric of that name. Raises DataError for a name that is not known."""
    if name not in METRICS:
        raise DataError(f"there is no metric called {name!r}", do=f"choose one of: {', '.join(METRICS)}")
    return METRICS[name]


def check_pair(outputs: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays of equal length. Raises DataError when there are none, or lengths or NaN make no sense."""
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if outputs.ndim == 0 or targets.ndim == 0 or len(outputs) != len(targets):
        raise DataError(f"outputs of shape {outputs.shape} do not belong to targets of shape {targets.shape}")
    if not len(targets):
        raise DataError("there are no examples to judge", do="give a split that holds some")
    if not np.isfinite(outputs).all():
        raise DataError("the outputs hold NaN or infinite values", do="look for an overflow inside the network")
    return outputs, targets


def predictions(outputs: NDArray[Any]) -> NDArray[np.int64]:
    """Class ids (n,) from scores (n, classes); a single column is a logit, above 0 means class 1."""
    flat = outputs.reshape(len(outputs), -1)
    return (flat[:, 0] > 0).astype(np.int64) if flat.shape[1] == 1 else flat.argmax(axis=1)


def errors(outputs: NDArray[Any], targets: NDArray[Any]) -> Floats:
    """Output minus target, (n, k). Raises DataError when their sizes differ."""
    given, wanted = (array.reshape(len(array), -1).astype(np.float64) for array in (outputs, targets))
    if given.shape != wanted.shape:
        raise DataError(f"outputs of shape {outputs.shape} do not belong to targets of shape {targets.shape}")
    return given - wanted


def _mean(weights: Floats, values: Floats) -> Floats:
    """Weighted means (B,) of per-example values (n,)."""
    return np.asarray((weights @ values) / weights.sum(axis=1))


def _accuracy(outputs: NDArray[Any], targets: NDArray[Any], weights: Floats) -> Floats:
    right = (predictions(outputs) == targets.reshape(-1)).astype(np.float64)
    return _mean(weights, right)


def _balanced_accuracy(outputs: NDArray[Any], targets: NDArray[Any], weights: Floats) -> Floats:
    """Mean over the classes that occur of the share of their examples that is right."""
    classes, ids = np.unique(targets.reshape(-1), return_inverse=True)
    member = np.eye(len(classes))[ids]  # (n, classes)
    right = member * (predictions(outputs) == targets.reshape(-1))[:, None]
    recalls = (weights @ right) / (weights @ member)  # (B, classes)
    return np.asarray(recalls.mean(axis=1))


def _mae(outputs: NDArray[Any], targets: NDArray[Any], weights: Floats) -> Floats:
    return _mean(weights, np.abs(errors(outputs, targets)).mean(axis=1))


def _rmse(outputs: NDArray[Any], targets: NDArray[Any], weights: Floats) -> Floats:
    return np.sqrt(_mean(weights, np.square(errors(outputs, targets)).mean(axis=1)))


def _r2(outputs: NDArray[Any], targets: NDArray[Any], weights: Floats) -> Floats:
    """Coefficient of determination, the mean over output columns. A constant column counts 1 if matched, else 0."""
    wanted = targets.reshape(len(targets), -1).astype(np.float64)
    wanted = wanted - wanted.mean(axis=0)  # a shift changes nothing, and keeps the squares below exact
    total = weights.sum(axis=1, keepdims=True)
    missed = weights @ np.square(errors(outputs, targets))  # (B, k)
    spread = weights @ np.square(wanted) - np.square(weights @ wanted) / total
    constant = spread <= 1e-12 * total
    explained = 1 - missed / np.where(constant, 1, spread)
    return np.asarray(np.where(constant, (missed == 0).astype(np.float64), explained).mean(axis=1))


def _auc(outputs: NDArray[Any], targets: NDArray[Any], weights: Floats) -> Floats:
    """Area under the ROC curve as the Mann-Whitney statistic: P(anomalous > normal), ties count half."""
    scores, truth = outputs.reshape(-1), targets.reshape(-1)
    if len(scores) != len(truth):
        raise DataError(f"the area under the curve needs one score per example, got outputs {outputs.shape}")
    if not np.isin(truth, (0, 1)).all() or len(np.unique(truth)) < 2:
        raise DataError(
            "the area under the curve needs labels 0 (normal) and 1 (anomalous), and both kinds",
            do="add examples of the kind that is missing",
        )
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # first of each run of equal scores
    sorted_weights, anomalous = weights[:, order], truth[order] == 1
    positive = np.add.reduceat(sorted_weights * anomalous, starts, axis=1)  # (B, runs)
    negative = np.add.reduceat(sorted_weights * ~anomalous, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    return np.asarray(wins / (positive.sum(axis=1) * negative.sum(axis=1)))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", higher_is_better=True, relative=False, by_class=False, weighted=_accuracy),
        Metric("balanced-accuracy", higher_is_better=True, relative=False, by_class=True, weighted=_balanced_accuracy),
        Metric("r2", higher_is_better=True, relative=False, by_class=False, weighted=_r2),
        Metric("mae", higher_is_better=False, relative=True, by_class=False, weighted=_mae),
        Metric("rmse", higher_is_better=False, relative=True, by_class=False, weighted=_rmse),
        Metric("auc", higher_is_better=True, relative=False, by_class=True, weighted=_auc),
    )
}
