"""Cards and states of every release are still read, and mean the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgehone_agent.watch import Watcher
from edgehone_agent.watch.state import Saved
from edgehone_agent.wire.card import Card

FOLDER = Path(__file__).parent / "golden"
VERSIONS = sorted(file.stem.split("-")[1] for file in FOLDER.glob("card-*.bin"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_card_and_a_state_of_an_older_release_are_read(version: str) -> None:
    card = Card.from_bytes((FOLDER / f"card-{version}.bin").read_bytes())
    assert (card.model_digest, card.kind, card.input_shape, card.embedding_size) == (
        "c0" * 32,
        "classification",
        (2, 5),
        12,
    )
    evidence = Watcher(card, (FOLDER / f"state-{version}.bin").read_bytes()).evidence()
    assert (evidence["rows"], evidence["nodes"]) == (600, 2)
    assert all(sum(row["counts"]) == 600 for row in evidence["channels"])
    assert json.dumps(evidence)


def test_version_1_is_written_as_it_always_was() -> None:
    content = (FOLDER / "card-1.bin").read_bytes()
    assert Card.from_bytes(content).to_bytes() == content
    state = (FOLDER / "state-1.bin").read_bytes()
    assert Saved.from_bytes(state).to_bytes() == state
