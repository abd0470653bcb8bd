"""Channels: the numbers that are watched, and what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone_agent.errors import InputError
from edgehone_agent.watch.channels import Channels, bins_of, sign_matrix
from edgehone_agent.wire.card import LEVELS, MISSING, Card

from .conftest import DIGEST, rows_of

RNG = np.random.default_rng(1)


def named(card: Card, values: np.ndarray) -> dict[str, np.ndarray]:
    return {channel.name: column for channel, column in zip(card.channels, values.T, strict=True)}


@pytest.fixture(scope="module")
def pictures() -> tuple[Card, np.ndarray, np.ndarray, np.ndarray]:
    x = RNG.random((120, 3, 6, 6)).astype(np.float32)
    y, hidden = RNG.standard_normal((120, 4)).astype(np.float32), RNG.standard_normal((120, 30)).astype(np.float32)
    return build_card(x, y, hidden, kind="classification", model_digest=DIGEST), x, y, hidden


def test_pictures_are_measured_as_named(pictures: tuple[Card, np.ndarray, np.ndarray, np.ndarray]) -> None:
    card, x, y, hidden = pictures
    found = named(card, Channels(card).values(x, y, hidden))
    share = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    expected = {
        "input mean": x.mean((1, 2, 3)), "input spread": x.std((1, 2, 3)), "input minimum": x.min((1, 2, 3)),
        "input maximum": x.max((1, 2, 3)), "input roughness": np.abs(np.diff(x, axis=3)).mean((1, 2, 3)),
        "input mean of plane 2": x[:, 2].mean((1, 2)), "confidence": share.max(1),
        "entropy": -(share * np.log(share)).sum(1), "predicted class": y.argmax(1),
        "projection 5": hidden @ sign_matrix(0, 30, 16)[:, 5],
    }  # fmt: skip
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name


def test_the_distance_is_mahalanobis(table_card: Card) -> None:
    x, y = rows_of(0, 4_000)
    found = named(table_card, Channels(table_card).values(x, y))["distance"]
    z = (x - table_card.center) / table_card.scale
    precision = table_card.whitening.astype(np.float64) @ table_card.whitening.T
    assert found == pytest.approx(np.einsum("ni,ij,nj->n", z, precision, z), rel=1e-3)
    assert found.mean() == pytest.approx(6, rel=0.1)  # chi-squared with 6 degrees


def test_bins_are_between_edges_and_missing_is_bin_0() -> None:
    edges = np.arange(len(LEVELS), dtype=np.float32)[None]
    values = np.array([[-1.0], [0.0], [0.5], [18.0], [np.inf], [-np.inf], [np.nan]], dtype=np.float32)
    assert bins_of(values, edges)[:, 0].tolist() == [1, 2, 2, 20, 20, 1, MISSING]


def test_a_missing_reading_is_missing_in_all_that_needs_it(table_card: Card) -> None:
    x, y = rows_of(1, 3)
    x[1, 2] = np.nan
    found = named(table_card, Channels(table_card).values(x, y))
    assert np.isnan(found["input 2"]).tolist() == [False, True, False]
    assert np.isnan(found["distance"]).tolist() == [False, True, False]
    assert not np.isnan(found["input 1"]).any()


def test_one_example_needs_no_batch_axis(table_card: Card) -> None:
    x, y = rows_of(2, 1)
    assert (Channels(table_card).values(x[0], y[0]) == Channels(table_card).values(x, y)).all()


def test_wrong_shapes_are_refused(pictures: tuple[Card, np.ndarray, np.ndarray, np.ndarray]) -> None:
    card, x, y, hidden = pictures
    channels = Channels(card)
    for arrays, message in [
        ((x[:, :1], y, hidden), "an input of shape"),
        ((x, y[:, :2], hidden), "an answer of shape"),
        ((x, y, hidden[:, :2]), "an embedding of shape"),
        ((x, y, None), "none was given"),
        ((x, y[:5], hidden), "do not belong together"),
    ]:
        with pytest.raises(InputError, match=message):
            channels.values(*arrays)


def test_projections_depend_on_the_seed_alone() -> None:
    assert (sign_matrix(3, 50, 8) == sign_matrix(3, 50, 8)).all()
    assert not (sign_matrix(3, 50, 8) == sign_matrix(4, 50, 8)).all()
    assert np.square(sign_matrix(3, 50, 8)).sum(0) == pytest.approx(np.ones(8))
    assert np.abs(sign_matrix(3, 2_000, 8).sum(0)).max() < 4.5  # as many of either sign, up to chance
