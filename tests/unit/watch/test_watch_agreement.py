"""Two models beside each other: when answers differ, and when that is more than before."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgehone_agent.errors import InputError, StateError
from edgehone_agent.watch import Agreement


def scores(classes: np.ndarray) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[classes]


def pair(seed: int, rows: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 4, rows)
    return scores(classes), scores((classes + (rng.random(rows) < rate)) % 4)


def test_classes_differ_when_another_is_highest() -> None:
    y = np.array([[0.6, 0.4], [0.5, 0.5], [0.1, 0.9], [np.nan, 1.0]])
    other = np.array([[0.51, 0.49], [0.4, 0.6], [0.2, 0.8], [0.0, 1.0]])
    found = Agreement("classification", baseline=0.0).observe(y, other)
    np.testing.assert_array_equal(found, [False, True, False, True])


def test_one_score_differs_across_the_cut() -> None:
    y, other = np.array([[0.4], [0.6], [-1.0]]), np.array([[0.6], [0.9], [0.4]])
    np.testing.assert_array_equal(Agreement("classification", baseline=0.0).observe(y, other), [True, False, False])
    logits = Agreement("classification", baseline=0.0, cut=0.0)
    np.testing.assert_array_equal(logits.observe(y, other), [False, False, True])


def test_numbers_differ_beyond_the_step() -> None:
    y = np.array([[1.0, 2.0], [1.0, 2.0], [np.inf, 0.0], [np.inf, 0.0], [np.nan, 0.0]], np.float32)
    other = np.array([[1.25, 2.0], [1.0, 2.5], [np.inf, 0.0], [5.0, 0.0], [np.nan, 0.0]], np.float32)
    found = Agreement("regression", baseline=0.0, step=0.25).observe(y, other)
    np.testing.assert_array_equal(found, [False, True, False, True, True])
    pictures = np.zeros((2, 1, 3, 3)), np.ones((2, 1, 3, 3))
    np.testing.assert_array_equal(Agreement("anomaly", baseline=0.0, step=1.0).observe(*pictures), [False, False])


def test_as_often_as_before_is_quiet_and_more_often_is_found() -> None:
    alarms, rows = np.zeros(3), []
    for seed in range(20):
        agreement = Agreement("classification", baseline=0.02, rows=5_000)
        agreement.observe(*pair(seed, 5_000, 0.02))
        alarms += agreement.evidence()["alarms"]
        agreement.observe(*pair(100 + seed, 3_000, 0.08))
        assert agreement.level == 3
        rows.append(agreement.evidence()["first_row"][1] - 5_000)
    assert alarms[0] <= 20 * 5 and alarms[1:].sum() <= 1
    assert np.median(rows) <= 400 and min(rows) > 0


def test_a_restart_changes_nothing_and_other_settings_are_refused() -> None:
    through, restarted = (Agreement("classification", baseline=0.02) for _ in range(2))
    for seed in range(5):
        through.observe(*pair(seed, 100, 0.3))
        restarted.observe(*pair(seed, 100, 0.3))
        saved = restarted.to_bytes()
        restarted = Agreement("classification", baseline=0.02)
        restarted.restore(saved)
    assert restarted.to_bytes() == through.to_bytes() and restarted.evidence() == through.evidence()
    assert json.loads(json.dumps(through.evidence())) == through.evidence()
    for other in (
        Agreement("classification", baseline=0.03),
        Agreement("classification", baseline=0.02, cut=0.0),
        Agreement("regression", baseline=0.02),
    ):
        with pytest.raises(StateError):
            other.restore(saved)
    for damaged in (b"", saved[:-1], saved[:10]):
        with pytest.raises(StateError):
            Agreement("classification", baseline=0.02).restore(damaged)


def test_what_cannot_be_compared_is_refused() -> None:
    agreement = Agreement("classification", baseline=0.0)
    for y, other in ((np.zeros((2, 3)), np.zeros((3, 3))), (np.zeros(3), np.zeros(3))):
        with pytest.raises(InputError):
            agreement.observe(y, other)
    assert agreement.evidence()["rows"] == 0
    for make in (
        lambda: Agreement("other", baseline=0.0),
        lambda: Agreement("regression", baseline=0.0, step=-1.0),
        lambda: Agreement("regression", baseline=2.0),
    ):
        with pytest.raises(InputError):
            make()
