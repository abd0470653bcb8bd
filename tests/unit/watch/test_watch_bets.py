"""The bets: a fair game on uniform ranks, and a reference error that holds."""

from __future__ import annotations

import numpy as np
import pytest

from edgehone_agent.watch import bets
from edgehone_agent.wire.card import BINS, LEVELS


def test_no_bet_wins_on_uniform_ranks() -> None:
    u = ((np.arange(200_000) + 0.5) / 200_000).astype(np.float32)[:, None]
    factors = bets.exact_factors(u)
    assert factors.shape == (len(u), 1, bets.BETS)
    assert factors.mean(0, dtype=np.float64)[0] == pytest.approx(np.ones(bets.BETS), abs=1e-4)
    assert factors.min() > 0
    assert factors.max() < 17  # what `levels.grow` counts on


def test_every_direction_wins_on_its_own_change() -> None:
    u = np.random.default_rng(0).random(20_000)
    moved = {
        "higher": u**0.8, "lower": 1 - (1 - u) ** 0.8,
        "wider": 0.5 + np.sign(u - 0.5) * 0.5 * np.abs(2 * u - 1) ** 0.7,
        "narrower": 0.5 + np.sign(u - 0.5) * 0.5 * np.abs(2 * u - 1) ** 1.4,
        "upper tail": np.where(u < 0.02, 0.9995, u), "lower tail": np.where(u < 0.02, 0.0005, u),
    }  # fmt: skip
    for name, ranks in moved.items():
        growth = np.log(bets.exact_factors(ranks[:, None].astype(np.float32))[:, 0]).mean(0)
        assert bets.DIRECTIONS[bets.DIRECTION[growth.argmax()]] == name
        assert growth.max() > 0


def normal_card(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of a standard normal channel, and counts of `rows` others."""
    edges = np.quantile(rng.standard_normal(100_000), LEVELS)[None].astype(np.float32)
    return edges, counts_of(edges, rng.standard_normal(rows))


def counts_of(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    bins = 1 + np.searchsorted(edges[0], values.astype(np.float32), side="right")
    return np.bincount(bins, minlength=BINS)[None].astype(np.uint16)


def test_tolerant_bets_lose_while_the_field_is_within_the_tolerance() -> None:
    rng = np.random.default_rng(1)
    edges, counts = normal_card(rng, 20_000)
    factors = bets.tolerant_factors(edges, counts, 0.03)
    assert (factors > 0).all()
    for shift in (0.0, 0.05, -0.05):  # 0.05 sd is |P(field > validation) - 1/2| = 0.014
        field = counts_of(edges, rng.standard_normal(60_000) + shift)[0]
        assert (field @ factors[0] / field.sum() < 1).all()
    field = counts_of(edges, rng.standard_normal(60_000) + 0.25)[0]  # 0.07
    assert (field @ factors[0] / field.sum())[:2].min() > 1


def test_the_reference_error_holds_and_shrinks_with_rows() -> None:
    rng = np.random.default_rng(2)
    largest = {}
    for rows in (100, 1_000, 20_000):
        errors = []
        for _ in range(40):
            edges, counts = normal_card(rng, rows)
            truth = counts_of(edges, rng.standard_normal(60_000))
            small, exact = bets.tolerant_factors(edges, counts, 0.0), truth[0] / truth.sum()
            assert (exact @ small[0] < 1).all()  # no bet wins where nothing changed
            errors.append(bets.reference_error(edges, counts))
        largest[rows] = max(errors)
    assert largest[20_000] < largest[1_000] / 3 < largest[100] / 6
    assert largest[1_000] < 1.4 * 0.289 * 4.0 / np.sqrt(1_000)  # near the normal approximation, 4 standard errors


def test_values_that_many_rows_share_are_one_wide_bin() -> None:
    edges = np.zeros((1, len(LEVELS)), dtype=np.float32)  # a constant channel
    counts = np.zeros((1, BINS), dtype=np.uint16)
    counts[0, -1] = 1000
    factors = bets.tolerant_factors(edges, counts, 0.02)
    assert (factors[0, -1] < 1).all()  # the value it always had wins nothing
    assert factors[0, 1].max() > 1.3  # one below it does
    assert factors[0, 0].max() > 1.3  # and a missing one
