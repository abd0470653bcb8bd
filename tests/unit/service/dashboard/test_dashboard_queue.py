"""The label queue asks the database, SQLite and PostgreSQL: what waits, what was said, what was erased."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from edgehone.records.blobs import open_blobs
from edgehone.records.database import Database
from edgehone.records.tables import feedback, node, sample
from edgehone.service.dashboard import queue
from edgehone.testing.databases import database, database_url, dialect

__all__ = ["database", "database_url", "dialect"]

TASK, ONE, TWO = "digits", "00000001", "00000002"


def fill(conn: Connection, blob: str) -> None:
    """Two nodes with the same prediction ids: p0 to p3 each, the later the more informative."""
    for id in (ONE, TWO):
        conn.execute(
            insert(node).values(
                id=id, name=id, tags={}, state="active", why="", facts={}, enrolled_s=0.0, status={}, beats=0
            )
        )
        rows: list[dict[str, Any]] = [
            {"node": id, "id": f"p{at}", "task": TASK, "digest": "a" * 64, "time_s": 1.0, "received_s": 1.0,
             "share": "uniform", "propensity": 0.1, "informativeness": at / 10, "stratum": "", "answer": [0.2, 0.8],
             "blob": blob, "size_bytes": 1}
            for at in range(4)
        ]  # fmt: skip
        conn.execute(insert(sample), rows)


def say(conn: Connection, node: str, id: str, event: int, kind: str = "confirm", **more: str) -> bool:
    given = {"label": "", "value": "", "person": "ada", **more}
    return queue.answer(conn, node=node, id=id, event=f"{event:024x}", kind=kind, now_s=10.0 + event, **given)


def waiting(conn: Connection) -> list[tuple[str, str]]:
    return [(row.node, row.id) for row in queue.waiting(conn, TASK, limit=100)]


def test_what_is_said_about_one_node_says_nothing_of_another(database: Database, tmp_path: Path) -> None:
    blob = open_blobs(str(tmp_path)).put(b"reading")
    with database.write() as conn:
        fill(conn, blob)
        order = [(id, f"p{at}") for at in (3, 2, 1, 0) for id in (ONE, TWO)]
        assert waiting(conn) == order
        assert say(conn, ONE, "p3", 1)
        assert say(conn, TWO, "p2", 2, "correct", label="seven")
        assert not say(conn, TWO, "p2", 2, "correct", label="seven")
        assert waiting(conn) == [one for one in order if one not in ((ONE, "p3"), (TWO, "p2"))]
    with database.read() as conn:
        assert [(one.kind, one.annotator) for one in queue.said_about(conn, ONE, "p3")] == [("confirm", "ada")]
        assert queue.said_about(conn, TWO, "p3") == []
        assert queue.last_of(conn, TASK, "ada") == (TWO, "p2")
        assert queue.progress(conn, TASK, "ada") == queue.Progress(6, 2, 2)
        assert queue.progress(conn, TASK, "bob") == queue.Progress(6, 2, 0)
        after = queue.find(conn, ONE, "p2")
        assert [(row.node, row.id) for row in queue.waiting(conn, TASK, after=after, limit=2)] == [
            (ONE, "p1"), (TWO, "p1"),
        ]  # fmt: skip


def test_a_word_on_the_node_and_an_erased_reading_wait_no_more(database: Database, tmp_path: Path) -> None:
    blob = open_blobs(str(tmp_path)).put(b"reading")
    with database.write() as conn:
        fill(conn, blob)
        event = {
            "node": TWO, "id": "e1", "task": TASK, "prediction": "p3", "kind": "correct", "label": "one", "value": None,
            "annotator": "", "trust": 1.0, "time_s": 1.0, "received_s": 1.0, "content": {}, "quarantined": None,
        }  # fmt: skip
        conn.execute(insert(feedback).values(**event))
        assert say(conn, ONE, "p2", 1, "delete")
        assert waiting(conn)[:3] == [(ONE, "p3"), (TWO, "p2"), (ONE, "p1")]
        assert conn.execute(select(sample.c.blob).where(sample.c.node == ONE, sample.c.id == "p2")).scalar() is None
        assert queue.last_of(conn, TASK, "ada") is None  # what was erased is not labelled again
