"""What a card is built from: channels for each kind of task, the split of rows, the autocorrelation gap."""

from __future__ import annotations

import numpy as np
import pytest

from edgehone.bundle.card import MIN_ROWS, autocorrelation_gap, build_card
from edgehone_agent.errors import InputError
from edgehone_agent.wire.card import MISSING, Card, Origin

from .conftest import DIGEST, rows_of

RNG = np.random.default_rng(0)


def build(x: np.ndarray, y: np.ndarray, hidden: np.ndarray | None = None, kind: str = "classification") -> Card:
    return build_card(x, y, hidden, kind=kind, model_digest=DIGEST)


def origins(card: Card) -> dict[str, int]:
    return {o.name: card.count(o) for o in Origin if card.count(o)}


def test_a_picture_is_watched_by_statistics_and_its_embedding() -> None:
    card = build(RNG.random((200, 3, 8, 8)), RNG.standard_normal((200, 10)), RNG.standard_normal((200, 40)))
    assert origins(card) == {
        "MEAN": 1, "SPREAD": 1, "LOWEST": 1, "HIGHEST": 1, "ROUGHNESS": 1, "PLANE": 3, "PROJECTION": 16,
        "DISTANCE": 1, "CONFIDENCE": 1, "ENTROPY": 1, "PREDICTED": 1,
    }  # fmt: skip
    assert (card.embedding_size, len(card.center), card.probabilities) == (40, 16, False)
    assert Card.from_bytes(card.to_bytes()).to_bytes() == card.to_bytes()


def test_a_table_is_watched_feature_by_feature() -> None:
    card = build(RNG.standard_normal((200, 5)), RNG.standard_normal((200, 2)), kind="regression")
    assert origins(card) == {"FEATURE": 5, "PROJECTION": 8, "DISTANCE": 1, "OUTPUT": 2}
    assert [c.name for c in card.channels[:2]] == ["input 0", "input 1"]


def test_an_autoencoder_is_watched_by_its_error_and_a_long_reading_by_statistics() -> None:
    x = RNG.standard_normal((200, 1, 50))
    card = build(x, x + 0.1, kind="anomaly")
    assert origins(card) == {
        "MEAN": 1, "SPREAD": 1, "LOWEST": 1, "HIGHEST": 1, "ROUGHNESS": 1, "DISTANCE": 1, "RECONSTRUCTION": 1,
    }  # fmt: skip
    assert Card.from_bytes(card.to_bytes()).to_bytes() == card.to_bytes()
    assert origins(build(RNG.standard_normal((200, 50)), RNG.random((200, 1)), kind="anomaly"))["OUTPUT"] == 1


def test_the_same_rows_give_the_same_bytes() -> None:
    x, y = rows_of(1, 500)
    assert build(x, y, kind="regression").to_bytes() == build(x, y, kind="regression").to_bytes()
    other = build_card(x, y, None, kind="regression", model_digest=DIGEST, seed=1)
    assert other.to_bytes() != build(x, y, kind="regression").to_bytes()


def test_counted_rows_are_two_thirds_and_not_those_of_the_edges() -> None:
    x, y = rows_of(2, 3_000)
    card = build(x, y, kind="regression")
    assert (card.rows, card.gap) == (2_000, 1)
    assert (card.counts.sum(1) == 2_000).all()
    body = card.counts[:, 4:18]  # the bins of a sixteenth each
    assert body.mean() == pytest.approx(125, abs=10)
    assert body.std() > 8  # counts of the edges' own rows would be 125 each


def test_probabilities_are_told_from_scores() -> None:
    share = RNG.dirichlet(np.ones(4), 100).astype(np.float32)
    x = RNG.standard_normal((100, 3))
    assert build(x, share).probabilities
    assert build(x, np.round(share * 256) / 256).probabilities  # int8 answers
    assert not build(x, share * 2).probabilities
    assert build(x, share[:, :1]).probabilities
    assert not build(x, share[:, :1] - 0.5).probabilities


@pytest.mark.parametrize(("phi", "low", "high"), [(0.0, 1, 1), (0.5, 4, 7), (0.9, 22, 60)])
def test_the_gap_follows_the_autocorrelation(phi: float, low: int, high: int) -> None:
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((20_000, 4)) * np.sqrt(1 - phi**2)
    x = noise.copy()
    for row in range(1, len(x)):
        x[row] += phi * x[row - 1]
    gap, correlation = autocorrelation_gap(x.astype(np.float32))
    assert low <= gap <= high
    assert correlation == pytest.approx(phi, abs=0.05)
    card = build(x, x[:, :1], kind="regression")
    assert low <= card.gap <= high
    assert card.rows == pytest.approx(20_000 / card.gap * 2 / 3, abs=2)


def test_rows_in_no_order_of_time_are_not_thinned() -> None:
    x = np.repeat(RNG.standard_normal((50, 3)), 20, axis=0)
    assert build(x, x[:, :1], kind="regression").gap > 1
    assert build_card(x, x[:, :1], None, kind="regression", model_digest=DIGEST, in_order=False).gap == 1


def test_constant_missing_and_infinite_values_are_taken() -> None:
    x, y = rows_of(4, 600)
    x[:, 0] = 3.0
    x[::2, 1] = np.nan
    x[:, 2] = np.nan
    x[0, 3], x[1, 3] = np.inf, -np.inf
    card = Card.from_bytes(build(x, y, kind="regression").to_bytes())
    assert card.counts[0, -1] == card.rows  # the constant
    assert 0.4 * card.rows < card.counts[1, MISSING] < 0.6 * card.rows
    assert card.counts[2, MISSING] == card.rows


def test_what_cannot_be_a_card_is_refused() -> None:
    x, y = rows_of(5, 200)
    refused = [
        ({"x": x[: MIN_ROWS - 1], "y": y[: MIN_ROWS - 1]}, "too few"),
        ({"y": y[:100]}, "do not belong together"),
        ({"embedding": x[:10]}, "do not belong together"),
        ({"kind": "poetry"}, "poetry"),
        ({"model_digest": "abc"}, "sha256"),
        ({"tolerance": -1.0}, "tolerance"),
    ]
    for change, message in refused:
        arguments = {"x": x, "y": y, "embedding": None, "kind": "regression", "model_digest": DIGEST} | change
        with pytest.raises(InputError, match=message):
            build_card(**arguments)
