"""Heartbeats as values: nonces, floors, clocks, swaps, and what the core would like to have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert, select

from edgehone.fleet.heartbeat import (
    EVIDENCE_AT_LEAST_S,
    EVIDENCE_EVERY_S,
    Arrived,
    Known,
    Wish,
    judge,
    take,
    wants,
)
from edgehone.records.database import Database
from edgehone.records.tables import node, served
from edgehone_agent.errors import TrustError
from edgehone_agent.wire.uplink import Desired, Heartbeat, HeartbeatAnswer, TaskStatus, Wants

A, B = "a" * 64, "b" * 64
NOW_S = 1_800_000_000.0
NEW = Known("active", None, {}, {}, 0)


def beat(nonce: str | None = None, **more: Any) -> Heartbeat:
    return Heartbeat(**({"nonce": nonce, "sent_s": NOW_S, "agent": "0.1.0"} | more))


def status(digest: str = A, version: int = 1, **more: Any) -> TaskStatus:
    return TaskStatus(digest=digest, version=version, member="w8", ready=True, **more)


def after(*beats: Heartbeat, known: Known = NEW) -> Known:
    for k, one in enumerate(beats):
        known = judge(known, one, NOW_S, f"{k + 1:016x}").known
    return known


def test_the_first_heartbeat_needs_no_nonce_and_the_next_brings_the_answers() -> None:
    known = after(beat(), beat("1".zfill(16)), beat("2".zfill(16)))
    assert known.nonce == "3".zfill(16)
    assert known.beats == 3
    assert not {"wrong_nonces", "lost_nonces"} & set(known.facts)


def test_a_lost_answer_is_no_fault_however_often() -> None:
    known = after(beat(), beat("1".zfill(16)), *[beat("1".zfill(16))] * 5)
    assert "wrong_nonces" not in known.facts


def test_two_nodes_that_take_turns_show_at_the_third_heartbeat() -> None:
    known = after(beat(), beat("1".zfill(16)))  # 2 is out
    verdict = judge(known, beat("1".zfill(16)), NOW_S, "3".zfill(16))  # the clone has the one before
    assert "wrong_nonces" not in verdict.known.facts
    verdict = judge(verdict.known, beat("2".zfill(16)), NOW_S, "4".zfill(16))
    assert verdict.known.facts["wrong_nonces"] == 1
    assert [action for action, _ in verdict.events] == ["node.nonce"]


def test_a_nonce_that_is_wrong_is_recorded_once_an_hour_and_counted_always() -> None:
    known, events = after(beat()), 0
    for k in range(5):
        verdict = judge(known, beat("f" * 16), NOW_S + 60 * k, f"{k + 9:016x}")
        known, events = verdict.known, events + len(verdict.events)
    assert (known.facts["wrong_nonces"], events) == (5, 1)
    assert len(judge(known, beat("f" * 16), NOW_S + 4000, "9" * 16).events) == 1


def test_a_node_that_lost_its_nonce_is_counted_apart() -> None:
    assert after(beat(), beat()).facts["lost_nonces"] == 1


def test_floors_never_fall_and_a_fall_is_recorded() -> None:
    known = after(beat(floors={"digits": 4, "speech": 1}))
    verdict = judge(known, beat(known.nonce, floors={"digits": 2}), NOW_S, "9" * 16)
    assert verdict.known.facts["floors"] == {"digits": 4, "speech": 1}
    assert verdict.events == (("node.floor-fell", {"task": "digits", "kept": 4, "reported": 2}),)


def test_facts_keep_what_a_heartbeat_leaves_out() -> None:
    known = after(beat(facts={"machine": "arm"}, flags=("disk-full",)), beat("1".zfill(16), sent_s=NOW_S - 90))
    assert known.facts["machine"] == "arm"
    assert known.facts["flags"] == []
    assert known.facts["clock_skew_s"] == -90


@pytest.mark.parametrize(
    ("before", "now", "swaps"),
    [
        ({}, {"digits": status()}, [("digits", A, "first report")]),
        ({"digits": status()}, {"digits": status()}, []),
        ({"digits": status()}, {"digits": status(B, 2)}, [("digits", B, "swapped")]),
        ({"digits": status(B, 2)}, {"digits": status(A, 1, roll_backs=1)}, [("digits", A, "rolled back")]),
        ({"digits": status()}, {"digits": TaskStatus(fault="gone")}, [("digits", None, "swapped")]),
        ({"digits": status()}, {}, [("digits", None, "no longer reported")]),
        ({"digits": TaskStatus()}, {}, []),
    ],
)
def test_other_bytes_are_noticed(before: dict[str, Any], now: dict[str, Any], swaps: list[Any]) -> None:
    known = after(beat(tasks=before))
    found = judge(known, beat(known.nonce, tasks=now), NOW_S, "9" * 16).swaps
    assert [(swap.task, swap.digest, swap.why) for swap in found] == swaps


@pytest.mark.parametrize(
    ("old", "new", "age_s", "wanted"),
    [
        (0, 0, None, True),
        (0, 0, 60.0, False),
        (0, 0, EVIDENCE_AT_LEAST_S, True),
        (0, 2, 60.0, True),
        (2, 2, 60.0, False),
        (2, 2, EVIDENCE_EVERY_S, True),
        (2, 0, 60.0, True),
    ],
)
def test_evidence_is_wanted_when_a_level_moves_and_now_and_then(old: int, new: int, age_s: Any, wanted: bool) -> None:
    facts = {} if age_s is None else {"evidence_s": {"digits": NOW_S - age_s}}
    known = replace(NEW, facts=facts, status={"digits": status(watch_level=old).to_json()})
    assert wants(beat(tasks={"digits": status(watch_level=new)}), known, NOW_S)["digits"].evidence is wanted
    assert not wants(beat(tasks={"digits": TaskStatus()}), known, NOW_S)["digits"].evidence


@pytest.fixture
def database(database: Database) -> Database:
    with database.write() as conn:
        for k, state in enumerate(("active", "quarantined", "revoked")):
            conn.execute(
                insert(node).values(
                    id=f"{k:016x}", name=f"node {k}", tags={"site": "north"}, state=state, why="", facts={},
                    enrolled_s=NOW_S, status={}, beats=0,
                )
            )  # fmt: skip
    return database


def test_many_are_taken_together_each_with_its_own_answer(database: Database) -> None:
    asked = []

    def wishes(conn: Any, asking: Any) -> Wish:
        asked.append(asking)
        more = {"digits": Wants(samples=500), "speech": Wants(samples=5)}
        return Wish({"digits": Desired(version=3)}, {"digits": {"adapt": False}}, more)

    arrived = [Arrived(f"{k:016x}", beat(tasks={"digits": status()}), NOW_S) for k in (0, 1, 2, 3)]
    with database.write() as conn:
        answers = take(conn, arrived, wishes, 60.0)
    first, second, third, fourth = answers
    assert isinstance(first, HeartbeatAnswer)
    assert isinstance(second, HeartbeatAnswer)
    assert (first.node_state, second.node_state) == ("active", "quarantined")
    assert first.desired["digits"].version == 3
    assert first.wants == {"digits": Wants(True, 500), "speech": Wants(samples=5)}  # more, never less
    assert isinstance(third, TrustError)
    assert isinstance(fourth, TrustError)
    assert [(one.state, one.tags, sorted(one.tasks)) for one in asked] == [
        ("active", {"site": "north"}, ["digits"]), ("quarantined", {"site": "north"}, ["digits"]),
    ]  # fmt: skip


def test_two_heartbeats_of_one_node_in_one_batch_follow_each_other(database: Database) -> None:
    id = "0".zfill(16)
    beats = [
        beat(tasks={"digits": status()}),
        beat(tasks={"digits": status(B, 2)}),
        beat(tasks={"digits": status(B, 2)}),
    ]
    with database.write() as conn:
        take(conn, [Arrived(id, one, NOW_S + k) for k, one in enumerate(beats)], lambda *_: Wish(), 60.0)
    with database.read() as conn:
        row = conn.execute(select(node).where(node.c.id == id)).one()
        rows = conn.execute(select(served.c.digest, served.c.from_s, served.c.to_s).order_by(served.c.id)).all()
    assert (row.beats, row.seen_s, row.facts["lost_nonces"]) == (3, NOW_S + 2, 2)
    assert [tuple(one) for one in rows] == [(A, NOW_S, NOW_S + 1), (B, NOW_S + 1, None)]
