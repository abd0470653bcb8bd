"""Since when a node alarms, and which readings a cohort's drift reference is made of."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select, update

from edgehone.loop import baseline
from edgehone.loop.baseline import Place, alarms_since, can_be_named, moved, readings
from edgehone.loop.dataset import Readings
from edgehone.records.database import Database
from edgehone.records.tables import evidence, node, sample

TASK, DIGEST = "gas", "d" * 64


def add_node(conn: Any, name: str, ahead_s: float = 0.0) -> None:
    conn.execute(
        insert(node).values(
            id=name, name=name, tags={}, state="active", why="", facts={"clock_skew_s": ahead_s}, enrolled_s=0.0,
            status={}, beats=0,
        )
    )  # fmt: skip


def add_samples(conn: Any, name: str, times: range, **values: Any) -> list[str]:
    """Readings of a node at these times; their blobs."""
    found = [f"{name}{time}".ljust(64, "0") for time in times]
    row = {
        "node": name, "task": TASK, "digest": DIGEST, "share": "uniform", "propensity": 0.1, "informativeness": 0.0,
        "stratum": "0", "answer": [1.0], "size_bytes": 10, "received_s": 0.0,
    }  # fmt: skip
    rows = [
        {**row, "id": f"{blob}{values.get('share', '')}", "time_s": float(time), "blob": blob, **values}
        for time, blob in zip(times, found, strict=True)
    ]
    conn.execute(insert(sample), rows)
    return found


def report(conn: Any, name: str, *levels: int, digest: str = DIGEST) -> None:
    for number, level in enumerate(levels):
        conn.execute(
            insert(evidence).values(
                node=name, task=TASK, digest=digest, received_s=100.0 + number, watch_level=level, risk_level=0, rows=1,
                content={},
            )
        )  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "since_s"),
    [((0, 2, 3, 2), 101.0), ((2, 0, 2), 102.0), ((2, 2, 1), None), ((), None), ((3,), 100.0)],
)
def test_a_node_alarms_since_the_last_row_of_alarms(
    database: Database, levels: tuple[int, ...], since_s: float | None
) -> None:
    with database.write() as conn:
        add_node(conn, "a")
        report(conn, "a", *levels)
        report(conn, "a", 3, digest="e" * 64)  # about another bundle
        assert alarms_since(conn, "a", TASK, DIGEST, 2) == since_s


def test_a_cohort_has_moved_when_most_of_it_alarms() -> None:
    def places(cohort: str, *since_s: float | None) -> list[Place]:
        return [Place(f"{cohort}{number}", cohort, one) for number, one in enumerate(since_s)]

    found = moved([*places("a", 1.0, 2.0, None), *places("b", 1.0, None), *places("c", 1.0), *places("d", None)])
    assert found == {"a", "c"}


def test_the_readings_are_those_since_the_alarm_evenly(database: Database) -> None:
    with database.write() as conn:
        for name, ahead_s in (("a", 0.0), ("b", 1000.0), ("c", 0.0), ("z", 0.0)):
            add_node(conn, name, ahead_s)
        a = add_samples(conn, "a", range(90, 130))
        b = add_samples(conn, "b", range(1090, 1120))  # its clock is ahead
        c = add_samples(conn, "c", range(90, 103))
        add_samples(conn, "a", range(130, 140), share="informative")
        add_samples(conn, "z", range(90, 130))
        places = [Place("a", "north", 100.0), Place("b", "north", 105.0), Place("c", "north"), Place("z", "south")]
        found = readings(conn, TASK, places)
        assert list(found) == ["north"] and found["north"].from_s == 100.0
        assert set(found["north"].blobs) == {*a[10:], *b[15:], *c[10:]}
        assert found["north"].blobs[-3:] == (c[-1], b[-1], a[-1])  # the newest of each at the end
        conn.execute(update(sample).where(sample.c.blob == a[-1]).values(blob=None))
        assert a[-1] not in readings(conn, TASK, places)["north"].blobs
        assert readings(conn, TASK, places, only=["south"]) == {}


def test_of_many_the_newest_of_all_nodes_stay(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MOST_READINGS", 6)
    with database.write() as conn:
        for name in ("a", "b"):
            add_node(conn, name)
        a, b = add_samples(conn, "a", range(100, 200)), add_samples(conn, "b", range(100, 104))
        found = readings(conn, TASK, [Place("a", "north", 1.0), Place("b", "north", 1.0)])
    assert set(found["north"].blobs) == {*a[-3:], *b[-3:]}


def test_a_cohort_keeps_its_own_reference(database: Database) -> None:
    """What it was made of may be gone from the table; it stays as long as there is nothing newer."""
    old = tuple(f"{number:064x}" for number in range(5))
    own = {"north": Readings(50.0, old)}
    with database.write() as conn:
        add_node(conn, "a")
        new = add_samples(conn, "a", range(40, 60))
        calm, loud = [Place("a", "north")], [Place("a", "north", 55.0)]
        assert readings(conn, TASK, calm, own=own) == {"north": Readings(50.0, (*old, *new[10:]))}
        assert readings(conn, TASK, loud, own=own) == {"north": Readings(55.0, tuple(new[15:]))}
        # it has moved on, but this round is about another cohort: nothing of the other world comes in
        assert readings(conn, TASK, loud, own=own, only=["south"]) == {"north": Readings(50.0, old)}
        assert conn.execute(select(sample.c.id)).first() is not None


@pytest.mark.parametrize(("name", "good"), [("north", True), ("a.b_c-1", True), ("a/b", False), ("-a", False)])
def test_names_that_a_bundle_can_hold(name: str, good: bool) -> None:
    assert can_be_named(name) is good
