"""Databases of captured samples that are damaged: which acknowledged events come back, and what is said."""

from __future__ import annotations

import json
import logging
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehone_agent._capture_salvage import SAVED, rows_of
from edgehone_agent.capture import Capture

KEY, OTHER_KEY = b"k" * 32, b"another key of 32 bytes ........"
EVENTS = 120
PAGE_BYTES = 4096


def opened(folder: Path, key: bytes = KEY) -> Capture:
    return Capture(folder, key=key, max_bytes=8 << 20, max_age_s=1e6)


def event(number: int, kind: str = "confirm", **more: Any) -> dict[str, Any]:
    note = "x" * (30_000 if number % 40 == 7 else 100)  # some do not fit into a page
    return {"id": f"e{number}", "prediction_id": f"p{number}", "kind": kind, "note": note, **more}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples, events, a deleted sample, and a part of the events exported."""
    folder = tmp_path_factory.mktemp("sound")
    with opened(folder / "c") as capture:
        x = np.random.default_rng(0).random(200).astype(np.float32)
        for number in range(60):
            capture.offer(f"p{number}", "task", "d" * 64, x, x[:4], 0.5, "a")
        for number in range(40):
            capture.feedback(event(number))
        capture.feedback({"id": "d", "prediction_id": "p500", "kind": "delete"})
        capture.export(folder / "exported")
        for number in range(40, EVENTS):
            capture.feedback(event(number))
    return folder / "c"


def copied(sound: Path, folder: Path, damage: Callable[[bytearray], Any]) -> Path:
    """The folder with a damaged database."""
    folder.mkdir()
    content = bytearray((sound / "capture.sqlite").read_bytes())
    damage(content)
    (folder / "capture.sqlite").write_bytes(content)
    return folder


def events_in(folder: Path) -> dict[str, tuple[Any, ...]]:
    with sqlite3.connect(folder / "capture.sqlite") as connection:
        found = connection.execute("SELECT id, prediction_id, kind, received, exported FROM feedback ORDER BY row")
        events = {row[0]: row[1:] for row in found}
    connection.close()
    return events


def header(content: bytearray) -> None:
    content[:100] = os.urandom(100)


def first_page(content: bytearray) -> None:
    content[:PAGE_BYTES] = os.urandom(PAGE_BYTES)


def roots(content: bytearray) -> None:
    """Every inner page of a tree: what leads to the rows."""
    for start in range(0, len(content), PAGE_BYTES):
        if content[start] in (2, 5):
            content[start] = 99
    content[20] = 77


def test_rows_are_read_as_the_library_reads_them(sound: Path) -> None:
    with sqlite3.connect(sound / "capture.sqlite") as connection:
        expected = {
            columns: connection.execute(f"SELECT * FROM {table} ORDER BY row").fetchall()
            for table, columns in (("feedback", 9), ("sample", 11), ("gone", 3), ("answer", 7))
        }
    connection.close()
    assert len(expected[9]) == EVENTS + 1 and len(expected[3]) == len(expected[7]) + 1 == 61
    found: dict[int, list[Any]] = {columns: [] for columns in expected}
    for number, row in rows_of(sound / "capture.sqlite"):
        if len(row) in found:
            found[len(row)].append((number, *row[1:]))
    assert {columns: sorted(rows) for columns, rows in found.items()} == expected


def test_what_is_in_the_log_only_is_read_too(tmp_path: Path) -> None:
    with opened(tmp_path / "c") as capture:
        for number in range(20):
            capture.feedback(event(number))
        files = {file.name: file.read_bytes() for file in (tmp_path / "c").iterdir()}
    assert len(files["capture.sqlite-wal"]) > 50_000
    (tmp_path / "d").mkdir()
    for name, content in files.items():
        (tmp_path / "d" / name).write_bytes(content if name.endswith("wal") else b"\x99" * len(content))
    found = {row[1] for _, row in rows_of(tmp_path / "d" / "capture.sqlite") if len(row) == 9}
    assert found == {f"e{number}" for number in range(20)}


@pytest.mark.parametrize("damage", [header, first_page, roots])
def test_all_events_come_back_when_only_the_way_to_them_is_gone(
    sound: Path, tmp_path: Path, damage: Callable[[bytearray], Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(sound, tmp_path / "c", damage)
    with caplog.at_level(logging.ERROR, "edgehone_agent.capture"), opened(folder) as capture:
        capture.feedback(event(41))  # known: taken before the damage
        capture.flush()
        stats = capture.stats()
        (said,) = stats["put_aside"]
        assert said.startswith("capture.sqlite.aside-1: ") and "121 events of feedback were saved" in said
        assert (stats["feedback"], stats["feedback_saved"], stats["feedback_lost"]) == (EVENTS + 1, EVENTS + 1, 0)
        assert any("121 events" in record.message for record in caplog.records)
        for id in ("p500", "p3"):
            capture.offer(id, "t", "d", np.zeros(4), np.zeros(2), 0.5, "a")
        capture.flush()
        assert capture.stats()["samples"] == 0  # neither the deleted one nor the exported one comes back
        assert capture.export(tmp_path / "out")["feedback"] == EVENTS - 40
        told = capture.feedback({"id": "late", "prediction_id": "p50", "kind": "correct", "label": "a"})
        assert not told.is_first  # e50 was
    assert list(events_in(folder))[: EVENTS + 1] == list(events_in(sound))
    assert json.loads((folder / f"capture.sqlite.aside-1{SAVED}").read_text()) == {
        "events": EVENTS + 1, "sealed": 0, "missing": 0,
    }  # fmt: skip
    lines = [json.loads(t) for f in (tmp_path / "out" / "feedback").glob("*") for t in f.read_text().splitlines()]
    assert [line["event"] for line in lines] == [event(number) for number in range(40, EVENTS)]
    with opened(folder) as capture:
        capture.flush()
        assert capture.stats()["put_aside"] == [] and capture.stats()["feedback_saved"] == 0


def test_a_damaged_page_takes_its_own_events_along_and_that_is_counted(sound: Path, tmp_path: Path) -> None:
    before = events_in(sound)
    for seed in range(6):
        rng = random.Random(seed)

        def some_pages(content: bytearray, rng: random.Random = rng) -> None:
            pages = rng.sample(range(len(content) // PAGE_BYTES), 5)
            for page in pages:
                content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = rng.randbytes(PAGE_BYTES)
            content[0] = 0  # so that it is not used as it is

        folder = copied(sound, tmp_path / str(seed), some_pages)
        with opened(folder) as capture:
            capture.flush()
            stats = capture.stats()
        after = events_in(folder)
        assert after.items() <= before.items() and list(after) == [id for id in before if id in after]
        lost = len(before) - len(after)
        assert lost <= 5 * 40  # most rows of a page: exported events are short
        assert stats["feedback_saved"] == len(after) > 0
        tail = list(before)[::-1].index(list(after)[-1]) + list(before).index(next(iter(after)))
        assert stats["feedback_lost"] >= lost - tail


def test_a_file_that_was_cut_gives_what_is_left(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path / "c", lambda content: content.__delitem__(slice(len(content) // 2, None)))
    with opened(folder) as capture:
        capture.flush()
        assert len(capture.stats()["put_aside"]) == 1
    assert events_in(folder).items() <= events_in(sound).items()


def test_a_cut_between_saving_and_saying_so_takes_nothing_twice(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path / "c", header)
    with opened(folder) as capture:
        capture.flush()
    (folder / f"capture.sqlite.aside-1{SAVED}").unlink()
    with opened(folder) as capture:
        capture.feedback(event(EVENTS))
        assert (capture.stats()["feedback"], capture.stats()["feedback_saved"]) == (EVENTS + 2, 0)
    assert (folder / f"capture.sqlite.aside-1{SAVED}").exists()


def test_with_the_right_key_again_nothing_is_lost(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path / "c", lambda content: None)
    with opened(folder, OTHER_KEY) as capture:
        capture.feedback(event(1_000))
        (said,) = capture.stats()["put_aside"]
        assert "another key" in said and "80 do not open" in said
        assert capture.stats()["feedback_lost"] == 80
    with opened(folder) as capture:
        capture.flush()
        found = capture.stats()
    assert set(events_in(folder)) >= set(events_in(sound)), found


def test_of_another_kind_of_file_nothing_is_taken(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with sqlite3.connect(tmp_path / "c" / "capture.sqlite") as connection:
        connection.execute("CREATE TABLE theirs (a, b, c, d, e, f, g, h, i)")
        connection.execute("INSERT INTO theirs VALUES (1, 'a', 'b', 'confirm', 1.0, 9, x'00', 1, 0)")
    connection.close()
    with opened(tmp_path / "c") as capture:
        capture.flush()
        assert capture.stats()["feedback"] == 0 and len(capture.stats()["put_aside"]) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=30), end=st.integers(0, 1 << 20)
)
def test_no_bytes_break_the_reader(sound: Path, tmp_path: Path, changes: list[tuple[int, int]], end: int) -> None:
    content = bytearray((sound / "capture.sqlite").read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    for page in range(0, len(content), PAGE_BYTES):  # let what is damaged be looked at
        content[page] = content[page] if page % 3 else 13
    file = tmp_path / "any"
    file.write_bytes(content[: end % len(content)])
    assert sum(1 for _ in rows_of(file)) < 100_000


def test_a_database_from_before_answers_were_remembered_is_used_on(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path / "c", lambda content: None)
    with sqlite3.connect(folder / "capture.sqlite") as connection:
        connection.execute("DROP TABLE answer")
    connection.close()
    with opened(folder) as capture:
        told = capture.feedback({"id": "n", "prediction_id": "p600", "kind": "confirm"})
        assert told.is_first and not told.is_captured and capture.stats()["put_aside"] == []
