"""What is remembered between looks is what a fresh reading would give, whatever came in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update

from edgehone.loop.said import Heard, read_said
from edgehone.loop.trust import POISONED, Said, Suspect
from edgehone.records.database import Database
from edgehone.records.tables import feedback, node, sample

LABELS = ("air", "methane")
NODES = ("a", "b")


def fill(database: Database) -> None:
    with database.write() as conn:
        for table in (feedback, sample, node):
            conn.execute(delete(table))
        for name in NODES:
            conn.execute(
                insert(node).values(
                    id=name, name=name, tags={}, state="active", why="", facts={}, enrolled_s=0.0, status={}, beats=0
                )
            )


def add_sample(conn: Any, name: str, id: str) -> None:
    conn.execute(
        insert(sample).values(
            node=name, id=id, task="gas", digest="d" * 64, time_s=0.0, received_s=0.0, share="uniform", propensity=0.1,
            informativeness=0.0, stratum="0", answer=[0.9, 0.1], blob="f" * 64, size_bytes=10,
        )
    )  # fmt: skip


def say(conn: Any, number: int, name: str, prediction: str, received_s: float, *, of: str = "") -> None:
    conn.execute(
        insert(feedback).values(
            node=name, id=f"e{number}", task="gas", prediction=prediction, kind="correct", label=LABELS[number % 2],
            value=None, annotator=f"x{number % 3}", trust=1.0, time_s=float(number), received_s=received_s,
            content={"share": "uniform", "node": of}, quarantined=None,
        )
    )  # fmt: skip


def sorted_(said: list[Said]) -> list[Any]:
    return [(one, sorted(votes, key=lambda vote: (vote.sender, vote.event))) for one, votes in said]


STEPS = st.lists(
    st.tuples(st.sampled_from(["sample", "word", "core", "late", "aside", "node"]), st.integers(0, 7)),
    min_size=1,
    max_size=14,
)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_remembered_and_fresh_are_the_same(database: Database, steps: list[tuple[str, int]]) -> None:
    fill(database)
    heard, samples, now_s = Heard(), set(), 1000.0
    for number, (what, which) in enumerate(steps):
        name, id, now_s = NODES[which % 2], f"p{which}", now_s + 100.0
        with database.write() as conn:
            if what == "sample" and (name, id) not in samples:
                samples.add((name, id))
                add_sample(conn, name, id)
            elif what in ("word", "late"):
                say(conn, number, name, id, now_s - (500.0 if what == "late" else 0.0))
            elif what == "core":
                say(conn, number, "core", id, now_s, of=name)
            elif what == "aside":
                heard.put_aside(conn, [Suspect("annotator", f"x{which % 3}", 9, 9, 0.1, 20.0, f"{POISONED}all wrong")])
            elif what == "node":
                state = "quarantined" if which % 2 else "active"
                conn.execute(update(node).where(node.c.id == name).values(state=state))
        with database.read() as conn:
            found = heard.read(conn, "gas", LABELS)
            assert sorted_(found) == sorted_(read_said(conn, "gas", LABELS))


def test_only_what_is_new_is_read(database: Database) -> None:
    fill(database)
    heard = Heard()
    with database.write() as conn:
        for number in range(4):
            add_sample(conn, "a", f"p{number}")
            say(conn, number, "a", f"p{number}", 1000.0)
        first = heard.read(conn, "gas", LABELS)
        say(conn, 9, "a", "p1", 1001.0)
        second = heard.read(conn, "gas", LABELS)
        assert [len(votes) for _, votes in second] == [1, 2, 1, 1]
        assert all(one is two for (one, _), (two, _) in zip(first, second, strict=True))  # they were not read again
        third = heard.read(conn, "gas", ("other", "names"))  # labels mean something else now
    assert third[0][1][0].label is None
