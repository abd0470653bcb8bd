"""Risk: losses of labelled rows, and disagreement of two models."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgehone_agent.errors import InputError, StateError
from edgehone_agent.watch import RiskDetector


def losses(seed: int, n: int, rate: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < rate).astype(np.float32)


def test_an_error_rate_that_stays_is_quiet() -> None:
    alarms = np.zeros(3)
    for seed in range(30):
        detector = RiskDetector("error", baseline=0.1, tolerance=0.0)
        detector.observe(losses(seed, 5_000, 0.1))
        alarms += detector.evidence()["alarms"]
    assert alarms[0] <= 150 + 3 * 150**0.5
    assert alarms[1] <= 3
    assert alarms[2] <= 1


def test_an_error_rate_that_rises_is_found_and_within_the_tolerance_it_is_not() -> None:
    detector = RiskDetector("error", baseline=0.1, tolerance=0.01)
    detector.observe(losses(1, 4_000, 0.1))
    detector.observe(losses(2, 4_000, 0.15))
    assert detector.level == 3
    evidence = detector.evidence()
    assert 4_000 < evidence["first_row"][1] < 5_500
    assert evidence["mean"] == pytest.approx(0.125, abs=0.01)
    assert json.loads(json.dumps(evidence)) == evidence
    calm = RiskDetector("error", baseline=0.1, tolerance=0.06)
    calm.observe(losses(2, 4_000, 0.15))
    assert calm.level <= 1


def test_a_baseline_from_few_rows_is_trusted_less() -> None:
    few, many, given = (RiskDetector("error", baseline=0.1, rows=n, tolerance=0.0) for n in (100, 100_000, 0))
    assert few.limit > 0.18 > 0.11 > many.limit > given.limit == pytest.approx(0.1)
    assert RiskDetector("error", baseline=0.0, rows=1_000, tolerance=0.0).limit == pytest.approx(0.0069, abs=1e-3)


def test_the_baseline_bound_holds() -> None:
    rng = np.random.default_rng(3)
    wrong = sum(
        RiskDetector("error", baseline=float(rng.binomial(300, 0.2)) / 300, rows=300, tolerance=0.0).limit < 0.2
        for _ in range(2_000)
    )
    assert wrong <= 8  # at most one in a thousand on average


def test_disagreement_from_nothing_is_found_at_once() -> None:
    agreement = RiskDetector("disagreement", baseline=0.0, tolerance=0.01)
    agreement.observe(np.zeros(500))
    agreement.observe(np.ones(12))
    assert agreement.level == 3


def test_a_restart_changes_nothing() -> None:
    stream = losses(4, 3_000, 0.14)
    through = RiskDetector("error", baseline=0.1)
    restarted = RiskDetector("error", baseline=0.1)
    for part in np.split(stream, 10):
        through.observe(part)
        restarted.observe(part)
        saved = restarted.to_bytes()
        restarted = RiskDetector("error", baseline=0.1)
        restarted.restore(saved)
    assert restarted.to_bytes() == through.to_bytes()
    assert restarted.level == through.level > 0


def test_other_settings_and_damage_are_refused() -> None:
    saved = RiskDetector("error", baseline=0.1).to_bytes()
    for content in (b"", saved[:-1], b"XXXX" + saved[4:], saved[:-4] + b"\x00\x00\xc0\x7f"):
        with pytest.raises(StateError):
            RiskDetector("error", baseline=0.1).restore(content)
    with pytest.raises(StateError):
        RiskDetector("error", baseline=0.2).restore(saved)


def test_what_is_no_loss_is_refused() -> None:
    detector = RiskDetector("error", baseline=0.1)
    for bad in ([0.5, 1.5], [-0.1], [float("nan")]):
        with pytest.raises(InputError):
            detector.observe(np.array(bad))
    detector.observe(np.array([]))
    assert detector.evidence()["rows"] == 0
    with pytest.raises(InputError):
        RiskDetector("error", baseline=1.2)


def as_labelled(seed: int, n: int, error: float, label_error: float, classes: int) -> np.ndarray:
    """Which of `n` rows people call wrong: they name one of the other classes, by chance, in a share of the rows."""
    rng = np.random.default_rng(seed)
    shift = rng.integers(1, classes, (2, n))
    answered = np.where(rng.random(n) < error, shift[0], 0)  # 0 is right
    said = np.where(rng.random(n) < label_error, shift[1], 0)
    return (answered != said).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 10])
def test_wrong_labels_that_are_known_of_do_not_ring_and_a_real_rise_does(classes: int) -> None:
    alarms = 0
    for seed in range(20):
        told = RiskDetector("error", baseline=0.1, label_error=0.1, two_classes=classes == 2)
        told.observe(as_labelled(seed, 5_000, 0.1, 0.1, classes))
        alarms += told.evidence()["alarms"][1]
        told.observe(as_labelled(seed + 100, 3_000, 0.3, 0.1, classes))
        assert told.level == 3
    assert alarms <= 1  # 100,000 rows
    untold = RiskDetector("error", baseline=0.1)
    untold.observe(as_labelled(0, 5_000, 0.1, 0.1, classes))
    assert untold.level == 3  # else the first half of this test could not fail


def test_the_limit_is_that_of_what_people_say() -> None:
    two = RiskDetector("error", baseline=0.2, tolerance=0.0, label_error=0.1, two_classes=True)
    more = RiskDetector("error", baseline=0.2, tolerance=0.0, label_error=0.1)
    assert two.limit == pytest.approx(0.2 * 0.9 + 0.8 * 0.1) and more.limit == pytest.approx(1 - 0.8 * 0.9)
    assert more.evidence()["label_error"] == pytest.approx(0.1)
    with pytest.raises(InputError):
        RiskDetector("error", baseline=0.2, label_error=0.6)


def test_a_state_goes_on_with_its_own_share_of_wrong_labels_only() -> None:
    def made(label_error: float) -> RiskDetector:
        return RiskDetector("error", baseline=0.1, label_error=label_error)

    first = made(0.1)
    first.observe(losses(3, 700, 0.3))
    other = made(0.1)
    other.restore(first.to_bytes())
    assert other.to_bytes() == first.to_bytes() and other.evidence() == first.evidence()
    for wrong in (made(0.0), made(0.2)):
        with pytest.raises(StateError):
            wrong.restore(first.to_bytes())
    for damaged in (first.to_bytes()[:-1], first.to_bytes() + b"\0", first.to_bytes()[:-5] + b"\0\0\0\0\0"):
        with pytest.raises(StateError):
            other.restore(damaged)
