"""Paired drops: published values, an independent solver, and coverage by simulation with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from edgehone.errors import DataError
from edgehone.measure.drop import accuracy_drop, mcnemar_p_value, paired_drop, tango_interval
from edgehone.record import DropRecord


def outcomes(worse: int, better: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Booleans (n,) of two files, with `worse` examples only the first got right and `better` only the second."""
    original, candidate = np.zeros(n, bool), np.zeros(n, bool)
    original[:worse] = True
    candidate[worse : worse + better] = True
    original[worse + better :] = candidate[worse + better :] = True
    return original, candidate


def test_tango_reproduces_a_published_interval() -> None:
    # Fagerland, Lydersen, Laake 2014, airway hyper-responsiveness (Bentur et al. 2009): 1 and 7 discordant of 21;
    # difference -0.286, Tango asymptotic score interval -0.517 to -0.026.
    low, high = tango_interval(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def test_tango_without_any_change_is_the_closed_form() -> None:
    z2 = 1.959963984540054**2
    for n in (1, 30, 10_000):
        assert tango_interval(0, 0, n) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)))


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 3000), data=st.data())
def test_tango_is_the_set_of_differences_the_score_test_keeps(n: int, data: st.DataObject) -> None:
    worse = data.draw(st.integers(0, n))
    better = data.draw(st.integers(0, n - worse))
    low, high = tango_interval(worse, better, n)
    assert -1 <= low <= (worse - better) / n <= high <= 1

    def score(difference: float) -> float:
        # The restricted likelihood maximised on a grid of one unknown, without its closed form.
        p_better = np.linspace(max(0, -difference) + 1e-9, min(1, (1 - difference) / 2 + 0.0) - 1e-9, 20_001)
        p_better = p_better[p_better > 0]
        rest = np.clip(1 - 2 * p_better - difference, 1e-300, None)
        likelihood = (
            worse * np.log(p_better + difference) + better * np.log(p_better) + (n - worse - better) * np.log(rest)
        )
        best = p_better[likelihood.argmax()]
        return (worse - better - n * difference) / np.sqrt(n * (2 * best + difference - difference**2))

    if low > -0.999 and (worse, better) != (0, 0):
        assert score(low) == pytest.approx(1.96, abs=0.02)
    if high < 0.999 and (worse, better) != (0, 0):
        assert score(high) == pytest.approx(-1.96, abs=0.02)


@settings(max_examples=100, deadline=None)
@given(worse=st.integers(0, 60), better=st.integers(0, 60))
def test_mirrored_outcomes_mirror_the_interval(worse: int, better: int) -> None:
    low, high = tango_interval(worse, better, 150)
    mirrored = tango_interval(better, worse, 150)
    assert (-high, -low) == pytest.approx(mirrored, abs=1e-7)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar_p_value(0, 0) == 1
    assert mcnemar_p_value(1, 7) == pytest.approx(2 * binom.cdf(1, 8, 0.5))
    assert mcnemar_p_value(5, 5) == 1


def test_accuracy_drop_says_everything() -> None:
    drop = accuracy_drop(*outcomes(30, 10, 1000))
    assert (drop.value_pp, drop.n, drop.worse, drop.better) == (2.0, 1000, 30, 10)
    assert drop.low_pp < 2.0 < drop.high_pp
    assert drop.p_value == pytest.approx(2 * binom.cdf(10, 40, 0.5))
    assert "Tango" in drop.method


@pytest.mark.parametrize(("n", "p_worse", "p_better"), [(300, 0.04, 0.02), (1000, 0.01, 0.005), (100, 0.02, 0.02)])
def test_accuracy_interval_covers_as_often_as_it_says(n: int, p_worse: float, p_better: float) -> None:
    rng = np.random.default_rng(11)
    counts = rng.multinomial(n, [p_worse, p_better, 1 - p_worse - p_better], size=1500)
    cache = {pair: tango_interval(*pair, n) for pair in {(int(w), int(b)) for w, b, _ in counts}}
    truth = p_worse - p_better
    covered = np.mean([low <= truth <= high for low, high in (cache[int(w), int(b)] for w, b, _ in counts)])
    assert 0.935 <= covered <= 0.985


def draw(metric: str, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of an original and a slightly worse candidate that err alike, and targets."""
    if metric == "auc":
        targets = (np.arange(n) % 4 == 0).astype(int)
        original = 1.5 * targets + rng.normal(0, 1, n)
        return original, original + rng.normal(0, 0.5, n), targets
    if metric == "balanced-accuracy":
        targets = np.arange(n) % 3
        original = 1.5 * np.eye(3)[targets] + rng.normal(0, 0.8, (n, 3))
        return original, original + rng.normal(0, 0.4, (n, 3)), targets
    targets = rng.normal(0, 2, n)
    original = targets + rng.normal(0, 0.5, n)
    return original, original + rng.normal(0, 0.2, n), targets


@pytest.mark.parametrize("metric", ["balanced-accuracy", "r2", "mae", "rmse", "auc"])
def test_bootstrap_interval_covers_as_often_as_it_says(metric: str) -> None:
    rng = np.random.default_rng(5)
    truth = paired_drop(metric, *draw(metric, rng, 200_000), resamples=2).value_pp
    drops = [paired_drop(metric, *draw(metric, rng, 200), resamples=300) for _ in range(200)]
    covered = np.mean([drop.low_pp <= truth <= drop.high_pp for drop in drops])
    assert 0.89 <= covered <= 0.99  # 95 %, give or take three standard errors of 200 runs and the percentile's bias
    assert np.mean([drop.value_pp for drop in drops]) == pytest.approx(truth, abs=0.2 * abs(truth) + 0.05)


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy", "r2", "mae", "rmse", "auc"])
def test_a_worse_candidate_has_a_positive_drop_and_equal_ones_none(metric: str) -> None:
    original, candidate, targets = (
        draw("balanced-accuracy", np.random.default_rng(0), 600)
        if metric == "accuracy"
        else draw(metric, np.random.default_rng(0), 600)
    )
    drop = paired_drop(metric, original, candidate, targets)
    assert isinstance(drop, DropRecord)
    assert drop.low_pp <= drop.value_pp <= drop.high_pp
    assert drop.value_pp > 0
    assert (drop.worse is None) == (metric == "auc")
    gain = paired_drop(metric, candidate, original, targets)
    assert gain.value_pp < 0
    none = paired_drop(metric, original, original, targets)
    assert none.value_pp == 0 and none.p_value == 1
    assert none.worse in (0, None) and none.better in (0, None)


def test_mae_drops_by_percent_of_the_original() -> None:
    targets = np.zeros(4)
    drop = paired_drop("mae", np.full(4, 2.0), np.full(4, 2.5), targets)
    assert drop.value_pp == pytest.approx(25)
    assert "percent" in drop.method
    with pytest.raises(DataError, match="no percentage"):
        paired_drop("mae", targets, np.ones(4), targets)


def test_seeds_repeat() -> None:
    data = draw("auc", np.random.default_rng(0), 100)
    assert paired_drop("auc", *data, seed=3) == paired_drop("auc", *data, seed=3)
    assert paired_drop("auc", *data, seed=3) != paired_drop("auc", *data, seed=4)


def test_what_is_not_paired_is_refused() -> None:
    with pytest.raises(DataError):
        paired_drop("accuracy", np.zeros((3, 2)), np.zeros((4, 2)), np.zeros(3, int))
    with pytest.raises(DataError):
        paired_drop("accuracy", np.zeros((3, 2)), np.zeros((3, 5)), np.zeros(3, int))
    with pytest.raises(DataError):
        tango_interval(5, 6, 10)
