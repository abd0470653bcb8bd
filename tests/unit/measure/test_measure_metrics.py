"""Every metric against scikit-learn, plain and weighted, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from edgehone.errors import DataError
from edgehone.measure.metrics import METRICS, metric_called, predictions
from edgehone.task import METRICS as TASK_METRICS


def example(name: str, seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if name in ("accuracy", "balanced-accuracy"):
        targets = rng.choice(4, n, p=[0.6, 0.2, 0.15, 0.05])
        return np.eye(4)[targets] + rng.normal(0, 0.6, (n, 4)), targets
    if name == "auc":
        targets = rng.integers(0, 2, n)
        return np.round(targets + rng.normal(0, 1, n), 1), targets  # rounding makes ties
    targets = rng.normal(3, 2, (n, 2))
    return targets + rng.normal(0, 0.5, (n, 2)), targets


ORACLE: dict[str, Any] = {
    "accuracy": lambda y, t, w: sk.accuracy_score(t, y.argmax(1), sample_weight=w),
    "balanced-accuracy": lambda y, t, w: sk.balanced_accuracy_score(t, y.argmax(1), sample_weight=w),
    "r2": lambda y, t, w: sk.r2_score(t, y, sample_weight=w),
    "mae": lambda y, t, w: sk.mean_absolute_error(t, y, sample_weight=w),
    "rmse": lambda y, t, w: np.sqrt(sk.mean_squared_error(t, y, sample_weight=w)),
    "auc": lambda y, t, w: sk.roc_auc_score(t, y, sample_weight=w),
}


def test_every_metric_of_a_task_is_known() -> None:
    assert set(METRICS) == {name for names in TASK_METRICS.values() for name in names} == set(ORACLE)


@pytest.mark.parametrize("name", ORACLE)
def test_value_equals_scikit_learn(name: str) -> None:
    outputs, targets = example(name)
    assert METRICS[name].value(outputs, targets) == pytest.approx(ORACLE[name](outputs, targets, None), abs=1e-12)


@pytest.mark.parametrize("name", ORACLE)
def test_weights_count_examples(name: str) -> None:
    outputs, targets = example(name)
    rng = np.random.default_rng(1)
    weights = rng.multinomial(len(targets), np.full(len(targets), 1 / len(targets)), size=5).astype(float)
    expected = [ORACLE[name](outputs, targets, row) for row in weights]
    np.testing.assert_allclose(METRICS[name].weighted(outputs, targets, weights), expected, atol=1e-12)


def test_a_perfect_answer_is_the_best_value() -> None:
    for name, metric in METRICS.items():
        outputs, targets = example(name)
        perfect = np.eye(4)[targets] if outputs.shape == (200, 4) else targets
        best, other = metric.value(perfect, targets), metric.value(outputs, targets)
        assert (best > other) == metric.higher_is_better, name


def test_a_constant_target_has_no_variance_to_explain() -> None:
    targets = np.full(5, 2.0)
    assert METRICS["r2"].value(targets, targets) == 1
    assert METRICS["r2"].value(targets + 1, targets) == 0


def test_one_column_is_a_logit() -> None:
    np.testing.assert_array_equal(predictions(np.array([[-0.1], [0.2], [3.0]])), [0, 1, 1])
    np.testing.assert_array_equal(predictions(np.array([[0.1, 0.9], [0.2, 0.1]])), [1, 0])


@pytest.mark.parametrize(
    ("name", "outputs", "targets", "said"),
    [
        ("accuracy", np.zeros((3, 2)), np.zeros(4, int), "do not belong"),
        ("accuracy", np.zeros((0, 2)), np.zeros(0, int), "no examples"),
        ("accuracy", np.full((3, 2), np.nan), np.zeros(3, int), "NaN"),
        ("mae", np.zeros((3, 2)), np.zeros((3, 1)), "do not belong"),
        ("auc", np.zeros(3), np.zeros(3), "both kinds"),
        ("auc", np.zeros(3), np.array([0, 1, 2]), "labels 0"),
        ("auc", np.zeros((3, 2)), np.array([0, 1, 1]), "one score per example"),
    ],
)
def test_nonsense_is_refused(name: str, outputs: np.ndarray, targets: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        METRICS[name].value(outputs, targets)


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(DataError) as caught:
        metric_called("vibes")
    assert "balanced-accuracy" in caught.value.do
