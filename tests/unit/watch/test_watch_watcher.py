"""The watcher from outside: rows in, level and evidence out, across restarts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone_agent.errors import InputError, StateError
from edgehone_agent.watch import Watcher, bets, merge
from edgehone_agent.watch.state import MAX_STATE_BYTES, Saved
from edgehone_agent.wire.card import Card

from .conftest import DIGEST, rows_of


def test_a_change_raises_the_level_and_is_named(table_card: Card) -> None:
    watcher = Watcher(table_card, seed=1)
    watcher.observe(*rows_of(10, 1_500))
    assert watcher.level <= 1
    watcher.observe(*rows_of(11, 1_500, shift=0.4))
    assert watcher.level == 3
    evidence = watcher.evidence()
    assert json.loads(json.dumps(evidence)) == evidence
    assert evidence["tolerant"]["direction"] == "higher"
    assert evidence["tolerant"]["channel"].startswith(("input 0", "projection", "output"))
    assert (evidence["rows"], evidence["effective_rows"], evidence["correlation_left"]) == (3_000, 3_000, 0.0)
    assert evidence["levels"][1]["first_row"] > 1_500
    assert evidence["levels"][1]["most_false_alarms"] == pytest.approx(0.03)
    assert (evidence["model"], evidence["card"]) == (DIGEST, table_card.digest)
    first = evidence["channels"][0]
    assert sum(first["counts"]) == 3_000
    assert first["log_e"]["exact"] > 10


def test_the_reference_error_is_the_card_s_however_often_it_is_asked_for(
    table_card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, asked = bets.reference_error(table_card.edges, table_card.counts), []
    real = bets.reference_error
    monkeypatch.setattr(bets, "reference_error", lambda edges, counts: asked.append(1) or real(edges, counts))
    watcher = Watcher(table_card, seed=1)
    for seed in (10, 11):
        watcher.observe(*rows_of(seed, 100))
        assert watcher.evidence()["reference_error"] == wanted
    assert asked == [1]


def test_rows_one_by_one_are_rows_in_a_batch(table_card: Card) -> None:
    x, y = rows_of(12, 200, shift=0.3)
    batch, single = Watcher(table_card, seed=1), Watcher(table_card, seed=1)
    batch.observe(x, y)
    for row in range(len(x)):
        single.observe(x[row : row + 1] if row % 2 else x[row], y[row : row + 1] if row % 2 else y[row])
    a, b = batch.evidence(), single.evidence()
    assert [c["counts"] for c in a["channels"]] == [c["counts"] for c in b["channels"]]
    assert a["index"] == pytest.approx(b["index"], rel=1e-5)


def test_what_a_caller_does_with_its_arrays_afterwards_does_not_matter(table_card: Card) -> None:
    x, y = rows_of(13, 10)
    one, two = Watcher(table_card, seed=1), Watcher(table_card, seed=1)
    one.observe(x.copy(), y.copy())
    two.observe(x, y)
    x[:], y[:] = 1e9, 1e9
    assert one.to_bytes() == two.to_bytes()


def test_a_restart_changes_nothing(table_card: Card) -> None:
    x, y = rows_of(14, 700, shift=0.3)
    through, restarted = Watcher(table_card, seed=5), Watcher(table_card, seed=5)
    for start in range(0, 700, 100):
        through.observe(x[start : start + 100], y[start : start + 100])
        restarted.observe(x[start : start + 100], y[start : start + 100])
        saved = restarted.to_bytes()
        assert len(saved) <= MAX_STATE_BYTES
        restarted = Watcher(table_card, saved)
        assert restarted.to_bytes() == saved
    assert restarted.to_bytes() == through.to_bytes()
    assert restarted.level == through.level > 0


def test_nodes_flip_their_own_coins(table_card: Card) -> None:
    a, b = Watcher(table_card), Watcher(table_card)
    assert Saved.from_bytes(a.to_bytes()).state.seed != Saved.from_bytes(b.to_bytes()).state.seed


def test_only_one_row_in_a_gap_is_looked_at(table_card: Card) -> None:
    x, y = rows_of(15, 1_000)
    watcher = Watcher(replace(table_card, gap=7), seed=1)
    for cut in (3, 100, 1, 400, 496):
        watcher.observe(x[:cut], y[:cut])
        x, y = x[cut:], y[cut:]
    evidence = watcher.evidence()
    assert (evidence["rows"], evidence["rows_looked_at"], evidence["gap"]) == (1_000, 143, 7)
    denser = Watcher(table_card, seed=1, gap=10)
    denser.observe(*rows_of(15, 1_000))
    assert denser.evidence()["rows_looked_at"] == 100


def test_a_sensor_that_stops_is_noticed_as_missing(table_card: Card) -> None:
    watcher = Watcher(table_card, seed=1)
    x, y = rows_of(16, 200)
    x[:, 3] = np.nan
    watcher.observe(x, y)
    assert watcher.level == 3
    assert watcher.evidence()["channels"][3]["missing"] == 200


def test_a_darker_picture_is_noticed() -> None:
    rng = np.random.default_rng(2)
    pictures = rng.random((1_500, 1, 8, 8)).astype(np.float32) * rng.uniform(0.5, 1, (1_500, 1, 1, 1))
    y, hidden = pictures.reshape(1_500, 64)[:, :10] * 3, pictures.reshape(1_500, 64)
    card = build_card(pictures[:1_000], y[:1_000], hidden[:1_000], kind="classification", model_digest=DIGEST)
    watcher = Watcher(card, seed=1)
    watcher.observe(pictures[1_000:1_400], y[1_000:1_400], hidden[1_000:1_400])
    assert watcher.level <= 1
    watcher.observe(pictures[1_400:] * 0.6, y[1_400:] * 0.6, hidden[1_400:] * 0.6)
    assert watcher.level == 3
    assert watcher.evidence()["exact"]["direction"] in ("lower", "lower tail")


def test_a_larger_tolerance_keeps_the_tolerant_variant_quiet(table_card: Card) -> None:
    watcher = Watcher(table_card, seed=1, tolerance=0.2)
    watcher.observe(*rows_of(17, 3_000, shift=0.4))  # 0.11 in units of the tolerance
    evidence = watcher.evidence()
    assert evidence["tolerant"]["index"] < 100
    assert evidence["exact"]["index"] > 1e6
    with pytest.raises(InputError, match="tolerance"):
        Watcher(table_card, tolerance=0.5)
    with pytest.raises(InputError, match="gap"):
        Watcher(table_card, gap=0)


def test_reset_starts_anew(table_card: Card) -> None:
    watcher = Watcher(table_card, seed=1)
    watcher.observe(*rows_of(18, 500, shift=1.0))
    assert watcher.level == 3
    watcher.reset()
    assert watcher.level == 0
    watcher.observe(*rows_of(19, 500))
    assert watcher.level <= 1
    assert watcher.evidence()["rows"] == 500


def test_a_state_of_another_card_or_a_damaged_one_is_refused(table_card: Card) -> None:
    watcher = Watcher(table_card, seed=1)
    watcher.observe(*rows_of(20, 100))
    saved = watcher.to_bytes()
    other = replace(table_card, tolerance=0.03)
    with pytest.raises(StateError, match="belongs to card"):
        Watcher(other, saved)
    with pytest.raises(InputError, match="cannot be merged"):
        merge(saved, Watcher(other, seed=1).to_bytes())
    for damaged in (
        b"",
        saved[:50],
        saved[:-1],
        saved + b"x",
        b"EHWS" + bytes(3_000),
        saved[:200] + b"\x7f" + saved[201:],
    ):
        with pytest.raises(StateError):
            Watcher(table_card, damaged)


def test_wrong_rows_are_refused_and_nothing_is_lost(table_card: Card) -> None:
    watcher = Watcher(table_card, seed=1)
    x, y = rows_of(21, 50)
    watcher.observe(x, y)
    with pytest.raises(InputError):
        watcher.observe(x[:, :2], y)
    watcher.observe(x[:0], y[:0])
    assert watcher.evidence()["rows"] == 50
