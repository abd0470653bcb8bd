"""Levels come on and go off as stated; sums do not depend on how rows are cut into calls."""

from __future__ import annotations

import numpy as np
import pytest

from edgehone_agent.watch.levels import THRESHOLDS, Levels, grow


def test_a_level_comes_on_above_and_goes_off_far_below() -> None:
    levels = Levels()
    levels.follow(np.array([1.0, 1_050.0, 1_200.0, 500.0]), 0)
    assert (levels.level, levels.alarms, levels.first_row) == (1, [1, 0, 0], [3, 0, 0])
    levels.follow(np.array([150.0, 2_000.0]), 4)
    assert (levels.level, levels.alarms) == (1, [1, 0, 0])  # never was at 100: the same alarm
    levels.follow(np.array([99.0, 5.0]), 6)
    assert levels.level == 0
    levels.follow(np.array([2e6, 3e6, 50.0, 1.2e5]), 8)
    assert (levels.level, levels.alarms, levels.first_row) == (2, [3, 2, 1], [3, 9, 9])


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_following_in_pieces_is_following_at_once(cut: int) -> None:
    indices = np.exp(np.cumsum(np.random.default_rng(0).standard_normal(3_000)))
    whole, pieces = Levels(), Levels()
    whole.follow(indices, 0)
    for start in range(0, len(indices), cut):
        pieces.follow(indices[start : start + cut], start)
    assert whole == pieces
    assert whole.alarms[0] > 0


def test_stakes_grow_alike_however_rows_are_cut() -> None:
    factors = np.random.default_rng(1).uniform(0.5, 9, (500, 3, 2)).astype(np.float32)
    at_once, bit_by_bit = np.zeros((3, 2), dtype=np.float32), np.zeros((3, 2), dtype=np.float32)
    grow(at_once, factors, 0)
    for row in range(len(factors)):
        grow(bit_by_bit, factors[row : row + 1], row)
    assert at_once.tobytes() == bit_by_bit.tobytes()
    assert np.isfinite(at_once).all()


def test_false_alarms_stay_within_the_bound() -> None:
    rng = np.random.default_rng(2)
    rows, runs = 20_000, 40
    factors = (1 + 0.8 * rng.choice([-1.0, 1.0], (rows, runs))).astype(np.float32)  # a fair game
    history = grow(np.zeros(runs, dtype=np.float32), factors, 0)
    alarms = 0
    for run in range(runs):
        levels = Levels()
        levels.follow(history[:, run].astype(np.float64), 0)
        alarms += levels.alarms[0]
    expected = rows * runs / THRESHOLDS[0]
    assert 0.1 * expected < alarms < expected + 3 * expected**0.5
