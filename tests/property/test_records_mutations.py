"""Damaged events, cards and files of a node's own: refused or put aside, and what served goes on.

Where a checksum guards the bytes, mutations are tried twice: as they are, and with the checksum made right again. What
is read then must be a value that is written and read as itself.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone.testing.bundles import Made, write_bundle
from edgehone.testing.faults import Tally, bent, damaged, mutations
from edgehone_agent.capture import Capture
from edgehone_agent.errors import BundleError, InputError, StateError
from edgehone_agent.feedback import KINDS, read_event
from edgehone_agent.node import Node
from edgehone_agent.serve.oip import parse_object
from edgehone_agent.watch.state import Saved
from edgehone_agent.watch.watcher import Watcher
from edgehone_agent.wire.card import Card

Record = Callable[[str, object], None]
EVENT = {
    "id": "e1", "prediction_id": "p1", "kind": "correct", "label": "cat", "annotator": "ann", "trust": 0.5, "time": 1e9,
    "note": {"deep": [1, 2.5, None, True, "text"]},
}  # fmt: skip
KEY = bytes(32)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder where syncing costs nothing; no power is cut here."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def card() -> Card:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2_000, 6)).astype(np.float32)
    return build_card(x, x.sum(1, keepdims=True), None, kind="regression", model_digest="5a" * 32)


def test_a_mutated_event_is_refused_or_is_an_event(record_property: Record) -> None:
    content, tally = json.dumps(EVENT).encode(), Tally()
    for seed in range(mutations(3000)):
        chance = random.Random(seed)
        changed = chance.choice([damaged, bent])(content, chance)
        try:
            found = parse_object(changed)  # as it comes over HTTP
            event = read_event(found)
        except InputError as error:
            assert str(error)
            tally.add("refused")
            continue
        assert json.loads(event.content) == found and event.kind in KINDS and event.id and event.prediction_id
        tally.add("unchanged" if found == EVENT else "an event")
    record_property("tally", tally.told())
    assert tally.outcomes["refused"] > tally.outcomes.total() / 3


def resealed(content: bytes) -> bytes:
    """With the checksum at its end made right."""
    return content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))


def refuses_or_keeps(
    content: bytes, read: Callable[[bytes], bytes], refusal: type[Exception], record_property: Record
) -> None:
    """Read mutations of bytes that end in a checksum, as they are and resealed."""
    tally = Tally()
    assert read(content) == content
    for seed in range(mutations(3000)):
        chance = random.Random(seed)
        changed = damaged(content, chance)
        for kind, sealed in (("", changed), (" though resealed", resealed(changed))):
            try:
                found = read(sealed)
                assert read(found) == found
            except refusal as error:
                assert str(error)
                tally.add(f"refused{kind}")
            else:
                assert kind or sealed == content
                tally.add("unchanged" if sealed == content else "another value, resealed")
    record_property("tally", tally.told())
    assert tally.outcomes["refused"] > mutations(3000) * 0.9


def test_a_mutated_card_is_refused_or_is_one(card: Card, record_property: Record) -> None:
    refuses_or_keeps(card.to_bytes(), lambda found: Card.from_bytes(found).to_bytes(), BundleError, record_property)


def test_a_mutated_state_of_the_watch_is_refused_or_is_one(card: Card, record_property: Record) -> None:
    watcher = Watcher(card)
    x = np.random.default_rng(1).standard_normal((500, 6)).astype(np.float32)
    watcher.observe(x, x.sum(1, keepdims=True))
    refuses_or_keeps(watcher.to_bytes(), lambda found: Saved.from_bytes(found).to_bytes(), StateError, record_property)


def test_a_deeply_nested_pointer_to_the_slots_stops_no_answer(memory: Path) -> None:
    made = write_bundle(memory / "1.bundle", version=1)
    with Node(memory / "n", tasks=["gestures"]) as node:
        node.install("gestures", made.path)
    (memory / "n" / "tasks" / "gestures" / "current.json").write_bytes(b"[" * 3000)
    with Node(memory / "n") as node:
        assert answering(node, [made]) == 1


def test_a_mutated_pointer_to_the_slots_stops_no_answer(memory: Path, record_property: Record) -> None:
    """A bundle that once passed here answers, and the next one can be installed."""
    made = [write_bundle(memory / f"{n}.bundle", version=n) for n in (1, 2, 3)]
    before, state, tally = memory / "before", memory / "state", Tally()
    with Node(before, tasks=["gestures"]) as node:
        for one in made[:2]:
            node.install("gestures", one.path)
    pointer = (before / "tasks" / "gestures" / "current.json").read_bytes()
    for seed in range(mutations(150)):
        chance = random.Random(seed)
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(before, state)
        changed = chance.choice([damaged, bent])(pointer, chance)
        (state / "tasks" / "gestures" / "current.json").write_bytes(changed)
        with Node(state) as node:
            version = answering(node, made)
            tally.add(f"version {version} answers")
            assert version in (1, 2), changed
            if seed % 5 == 0:
                node.install("gestures", made[2].path)
                assert answering(node, made) == 3
    record_property("tally", tally.told())
    assert tally.outcomes["version 2 answers"] > mutations(150) / 2, tally.told()


def answering(node: Node, made: list[Made]) -> int | None:
    """Which version answers; None when none does."""
    try:
        found = node.predict(made[0].x).tobytes()
    except StateError:
        return None
    return next(one.version for one in made if one.y.tobytes() == found)


def test_a_mutated_database_of_samples_is_put_aside_or_read(memory: Path, record_property: Record) -> None:
    before, folder, tally = memory / "before", memory / "c", Tally()
    x = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    with Capture(before, key=KEY, max_bytes=1_000_000, max_age_s=1e9) as capture:
        for i, row in enumerate(x):
            capture.offer(f"p{i}", "task", "digest", row, row[:3], i / 40, str(i % 4))
            capture.feedback({"id": f"e{i}", "prediction_id": f"p{i}", "kind": "confirm"})
    content = (before / "capture.sqlite").read_bytes()
    for seed in range(mutations(300)):
        chance = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        (folder / "capture.sqlite").write_bytes(damaged(content, chance))
        with Capture(folder, key=KEY, max_bytes=1_000_000, max_age_s=1e9) as capture:
            capture.feedback({"id": "new", "prediction_id": "p1", "kind": "confirm"})
            told: dict[str, Any] = capture.stats()
            aside = bool(told["put_aside"])
            capture.export(folder / "out")
        lines = [
            line for file in (folder / "out" / "feedback").glob("*.jsonl") for line in file.read_text().splitlines()
        ]
        events = [json.loads(line)["event"] for line in lines]
        assert {"id": "new", "prediction_id": "p1", "kind": "confirm"} in events
        assert all(event["id"] == "new" or event["kind"] == "confirm" for event in events)
        tally.add("put aside, and begun anew" if aside else f"read{'' if len(events) == 41 else ' in part'}")
    record_property("tally", tally.told())
    assert tally.outcomes["put aside, and begun anew"] > mutations(300) / 3
