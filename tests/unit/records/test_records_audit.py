"""The audit log is read by page, by actor, by subject and by action."""

from __future__ import annotations

import pytest

from edgehone.errors import InputError
from edgehone.records import audit
from edgehone.records.audit import Entry
from edgehone.records.database import Database


@pytest.fixture
def log(database: Database) -> Database:
    with database.write() as connection:
        for number in range(30):
            audit.record(
                connection, now_s=100.0 + number, actor=f"person:{'ab'[number % 2]}",
                action=("node.enrol", "node.revoke", "nodes.list")[number % 3], subject=f"n{number % 5}",
                detail={"number": number},
            )  # fmt: skip
    return database


def numbers(entries: list[Entry]) -> list[int]:
    return [entry.detail["number"] for entry in entries]


def test_an_entry_says_all_of_it(database: Database) -> None:
    with database.write() as connection:
        audit.record(connection, now_s=1.5, actor="core", action="core.start", subject="core")
        assert audit.page(connection) == [Entry(1, 1.5, "core", "core.start", "core", {})]


def test_pages_follow_each_other_without_gap_or_double(log: Database) -> None:
    found: list[int] = []
    before = None
    with log.read() as connection:
        while entries := audit.page(connection, rows=7, before=before):
            found += numbers(entries)
            before = entries[-1].id
        assert found == list(range(29, -1, -1))
        assert audit.count(connection) == 30


def test_a_page_stays_itself_while_the_log_grows(log: Database) -> None:
    with log.read() as connection:
        first = audit.page(connection, rows=5)
        second = audit.page(connection, rows=5, before=first[-1].id)
    with log.write() as connection:
        audit.record(connection, now_s=0.0, actor="core", action="late", subject="x", detail={"number": 99})
        assert audit.page(connection, rows=5, before=first[-1].id) == second


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"actor": "person:a"}, [n for n in range(29, -1, -1) if n % 2 == 0]),
        ({"subject": "n3"}, [28, 23, 18, 13, 8, 3]),
        ({"subject": "n3", "actor": "person:b"}, [23, 13, 3]),
        ({"action": "node.enrol", "rows": 2}, [27, 24]),
        ({"action": "node."}, [n for n in range(29, -1, -1) if n % 3 != 2]),
        ({"action": "node"}, []),
        ({"action": "%."}, []),
        ({"actor": "'; DROP TABLE audit; --"}, []),
        ({"rows": 0}, []),
    ],
)
def test_only_what_was_asked_for(log: Database, options: dict[str, object], expected: list[int]) -> None:
    with log.read() as connection:
        assert numbers(audit.page(connection, **options)) == expected  # type: ignore[arg-type]


def test_a_deed_that_is_taken_back_leaves_no_entry(log: Database) -> None:
    with pytest.raises(LookupError), log.write() as connection:
        audit.record(connection, now_s=0.0, actor="core", action="x", subject="x")
        raise LookupError
    with log.read() as connection:
        assert audit.count(connection) == 30


def test_what_cannot_be_kept_is_refused(database: Database) -> None:
    with pytest.raises(InputError, match="no JSON"), database.write() as connection:
        audit.record(connection, now_s=0.0, actor="core", action="x", subject="x", detail={"x": object()})
