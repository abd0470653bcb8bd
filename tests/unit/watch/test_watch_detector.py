"""The detector: ranks are what they claim to be, cuts do not matter, changes are found and named."""

from __future__ import annotations

import numpy as np
import pytest

from edgehone_agent.watch.channels import Channels, bins_of
from edgehone_agent.watch.coins import coins
from edgehone_agent.watch.detector import Detector, State
from edgehone_agent.wire.card import Card

from .conftest import rows_of


def bins(card: Card, seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    return bins_of(Channels(card).values(*rows_of(seed, n, shift)), card.edges)


def run(card: Card, *parts: np.ndarray, seed: int = 1) -> State:
    state = State.fresh(len(card.channels), seed)
    detector = Detector(card, state)
    for part in parts:
        detector.update(part)
    return state


def test_ranks_are_smoothed_conformal_ranks(table_card: Card) -> None:
    rows = bins(table_card, 1, 150)
    detector = Detector(table_card, State.fresh(len(table_card.channels), 9))
    ranks = np.concatenate([detector._ranks(rows[:64])])
    coin = coins(9, 0, 64, len(table_card.channels))
    for channel in (0, len(table_card.channels) - 1):
        pool = np.repeat(np.arange(table_card.counts.shape[1]), table_card.counts[channel]).tolist()
        for row in range(64):
            value = rows[row, channel]
            less, equal = sum(v < value for v in pool), sum(v == value for v in pool) + 1
            expected = (less + coin[row, channel] * equal) / (len(pool) + 1)
            assert ranks[row, channel] == pytest.approx(expected, abs=1e-6)
            pool.append(value)


def test_counts_are_those_of_the_rows(table_card: Card) -> None:
    rows = bins(table_card, 2, 333)
    state = run(table_card, rows)
    assert state.rows == 333
    for channel, column in enumerate(rows.T):
        assert (state.counts[channel] == np.bincount(column, minlength=state.counts.shape[1])).all()


@pytest.mark.parametrize("cut", [1, 37, 64, 65])
def test_the_cut_into_calls_changes_no_bit(table_card: Card, cut: int) -> None:
    rows = bins(table_card, 3, 400, shift=0.5)
    whole = run(table_card, rows)
    pieces = run(table_card, *(rows[start : start + cut] for start in range(0, len(rows), cut)))
    assert whole.stakes.tobytes() == pieces.stakes.tobytes()
    assert (whole.counts == pieces.counts).all()
    assert (whole.steps == pieces.steps).all()
    assert whole.levels == pieces.levels


def test_coins_are_uniform_and_can_be_replayed() -> None:
    first = coins(7, 0, 5_000, 32)
    assert (coins(7, 1_000, 10, 32) == first[1_000:1_010]).all()
    assert abs(first.mean() - 0.5) < 0.005
    assert np.abs(np.corrcoef(first[:, :4].T) - np.eye(4)).max() < 0.08
    assert not (coins(8, 0, 10, 32) == first[:10]).any()
    assert first[0, 0] == pytest.approx(0.431740808, abs=1e-9)  # the same numbers on every machine, for ever


def test_nothing_happens_while_nothing_changes(table_card: Card) -> None:
    alarms = np.zeros(3)
    for seed in range(10):
        alarms += run(table_card, bins(table_card, 100 + seed, 5_000), seed=seed).levels.alarms
    assert alarms[0] <= 50 + 3 * 50**0.5  # at most one in 1,000 of 50,000 rows on average
    assert alarms[1] <= 2
    assert alarms[2] == 0


def test_a_shift_is_found_soon_and_by_both_variants(table_card: Card) -> None:
    before, after = bins(table_card, 4, 2_000), bins(table_card, 5, 1_000, shift=0.5)
    state = run(table_card, before, after)
    assert state.levels.level == 3
    assert 2_000 < state.levels.first_row[1] < 2_300
    assert (state.stakes.mean(2).max(1) > 1e6).all()


def test_the_level_goes_off_when_the_change_is_over(table_card: Card) -> None:
    state = run(table_card, bins(table_card, 6, 60, shift=2.0))
    assert state.levels.level == 3
    Detector(table_card, state).update(bins(table_card, 7, 6_000))
    assert state.levels.level == 0


def test_neighbours_that_resemble_each_other_are_noticed(table_card: Card) -> None:
    rows = bins(table_card, 8, 2_000)
    assert run(table_card, rows).correlation() == 0.0
    assert run(table_card, np.repeat(rows[:1_000], 2, axis=0)).correlation() == pytest.approx(0.5, abs=0.1)
    shifted = bins(table_card, 9, 2_000, shift=0.25)
    assert run(table_card, rows, shifted).correlation() == 0.0  # a change is no resemblance
