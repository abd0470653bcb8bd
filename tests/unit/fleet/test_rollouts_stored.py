"""Rollouts in a real database: carried on step by step, safe to be cut off, and refused where they make no sense."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
from sqlalchemy import func, select, update

from edgehone.errors import InputError
from edgehone.fleet import rollouts
from edgehone.fleet.cohorts import load_cohorts, put_cohort, set_versions
from edgehone.fleet.rollout import RolloutPlan
from edgehone.fleet.rollouts import advance, find_rollout, list_events, list_rollouts, start
from edgehone.records.audit import page
from edgehone.records.database import Database, open_database
from edgehone.records.tables import node, release, rollout, rollout_event
from edgehone.testing.databases import database, database_url, dialect  # noqa: F401  fixtures
from edgehone.testing.fleets import FakeFleet, FakeNode, Model
from edgehone.testing.stored_fleets import StoredFleet

PLAN = RolloutPlan(shadow_rows=100, shadow_s=600, soak_s=60, patience_s=600)
ME = "person:ada"


@pytest.fixture
def world(database: Database) -> StoredFleet:  # noqa: F811
    nodes = [FakeNode(f"{n:03}", tags={"site": "ns"[n % 2]}) for n in range(21)]
    made = StoredFleet(database, FakeFleet(nodes))
    made.fleet.models[2] = Model()
    made.publish(2)
    for _ in range(2):
        made.beat()
    return made


def begin(world: StoredFleet, version: int = 2, **options: object) -> rollouts.Rollout:
    return start(world.database, "digits", version, now_s=world.now_s, actor=ME, plan=PLAN, **options)  # type: ignore[arg-type]


def current(world: StoredFleet, id: str) -> rollouts.Rollout:
    with world.database.read() as conn:
        return find_rollout(conn, id)


def until_ended(world: StoredFleet, id: str, beats: int = 60) -> rollouts.Rollout:
    for _ in range(beats):
        world.beat()
        if current(world, id).ended:
            return current(world, id)
    raise AssertionError(f"it did not end: {current(world, id)}")


def test_a_good_release_reaches_the_whole_fleet_and_every_step_is_on_record(world: StoredFleet) -> None:
    begun = begin(world, id="r1", round="round 7")
    serials = []
    while not current(world, "r1").ended:
        world.beat()
        serials.append(max(told.serial for told in world.told.values()))
    world.beat()
    assert current(world, "r1").state == "done"
    assert {one.version for one in world.fleet.nodes.values()} == {2}
    assert {(told.version, told.rollout, told.members) for told in world.told.values()} == {(2, None, ("w8-int8",))}
    assert serials == sorted(serials) and serials[-1] > serials[0]
    with world.database.read() as conn:
        assert [(one.name, one.version) for one in load_cohorts(conn)] == [("digits", 2)]
        events = [event.what for event in list_events(conn, "r1")]
        assert events == ["started", "canaries", "step", "step", "step", "step", "done"]
        actions = [entry.action for entry in page(conn, subject="r1")][::-1]
        row = conn.execute(select(rollout)).one()
    assert actions == ["rollout.start", "rollout.canaries", *["rollout.step"] * 4, "rollout.done"]
    assert (row.state, row.stage, row.round, row.before) == ("done", "stable", "round 7", None)
    assert row.ended_s == current(world, "r1").ended_s
    assert begun.before == {"digits": None}


def test_a_bad_one_goes_back_and_the_next_begins_at_once(world: StoredFleet) -> None:
    with world.database.write() as conn:
        put_cohort(conn, "digits", "digits", tags={}, actor=ME, now_s=1.0)
        set_versions(conn, "digits", ["digits"], 1, 1.0)
    world.fleet.models[2] = Model(crash_on_load=True)
    begin(world, id="r1")
    ended = until_ended(world, "r1")
    assert (ended.state, ended.stage) == ("rolled back", "shadow")
    world.fleet.models[3] = Model()
    world.publish(3)
    begin(world, 3, id="r2")
    assert until_ended(world, "r2").state == "done"
    with world.database.read() as conn:
        assert [event.what for event in list_events(conn, "r1")][-2:] == ["rolled back", "reverted"]


def test_asking_again_at_once_changes_nothing(world: StoredFleet) -> None:
    begin(world, id="r1")
    assert advance(world.database, world.now_s)
    with world.database.read() as conn:
        before = conn.execute(select(func.count()).select_from(rollout_event)).scalar()
    assert advance(world.database, world.now_s) == []
    with world.database.read() as conn:
        assert conn.execute(select(func.count()).select_from(rollout_event)).scalar() == before


def test_a_canary_that_comes_back_while_it_is_replaced_is_not_replaced(
    world: StoredFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, id="r1")
    advance(world.database, world.now_s)
    canaries = current(world, "r1").canary_ids
    for id in canaries:  # they fall silent before they are told
        world.fleet.nodes[id].on = False
    world.now_s += 1000.0
    world.heartbeats()
    real = rollouts.machine.step

    def step_and_hear(*args: object) -> object:
        result = real(*args)  # type: ignore[arg-type]
        with world.database.write() as conn:
            conn.execute(update(node).where(node.c.id.in_(canaries)).values(seen_s=world.now_s))
        return result

    monkeypatch.setattr(rollouts.machine, "step", step_and_hear)
    assert advance(world.database, world.now_s) == []
    monkeypatch.undo()
    advance(world.database, world.now_s)
    assert current(world, "r1").canary_ids == canaries


def test_people_pause_resume_and_abort(world: StoredFleet) -> None:
    begin(world, id="r1")
    world.beat()
    rollouts.pause(world.database, "r1", now_s=world.now_s, actor=ME)
    for _ in range(12):
        world.beat()
    assert (current(world, "r1").state, current(world, "r1").stage) == ("paused", "shadow")
    rollouts.resume(world.database, "r", now_s=world.now_s, actor=ME)
    world.beat()
    assert current(world, "r1").stage == "canary"
    world.beat()
    ended = rollouts.abort(world.database, "r1", now_s=world.now_s, actor=ME, why="the wrong labels")
    assert (ended.state, ended.why) == ("aborted", "the wrong labels")
    with pytest.raises(InputError, match="the rollout is aborted and cannot be paused"):
        rollouts.pause(world.database, "r1", now_s=world.now_s, actor=ME)
    with world.database.read() as conn:
        actions = [(entry.actor, entry.action) for entry in page(conn, subject="r1")]
    assert [action for actor, action in actions if actor == ME] == [
        "rollout.abort", "rollout.resume", "rollout.pause", "rollout.start"
    ]  # fmt: skip
    with pytest.raises(InputError, match="version 2 was given up: the wrong labels"):
        begin(world)


def test_what_makes_no_sense_is_refused_and_nothing_is_written(world: StoredFleet) -> None:
    with pytest.raises(InputError, match="no version 9 of 'digits'"):
        begin(world, 9)
    with pytest.raises(InputError, match="north is no cohort of 'digits'"):
        begin(world, cohorts=["north"])
    begin(world, id="r1")
    with pytest.raises(InputError, match="version 2 is being rolled out there"):
        begin(world)
    with pytest.raises(InputError, match="no rollout has this id"):
        current(world, "x")
    with world.database.read() as conn:
        assert [one.id for one in list_rollouts(conn)] == ["r1"]
    world.fleet.models[3] = Model()
    world.publish(3)
    begin(world, 3, id="r2", supersede=True)
    assert current(world, "r1").why == "superseded by version 3"
    assert until_ended(world, "r2").state == "done"
    with pytest.raises(InputError, match="version 3 is not higher than 3"):
        begin(world, 3)


def test_a_release_that_the_registry_takes_back_ends_its_rollout(world: StoredFleet) -> None:
    begin(world, id="r1")
    world.beat()
    with world.database.write() as conn:
        conn.execute(update(release).where(release.c.version == 2).values(revoked_s=world.now_s))
    world.beat()
    assert (current(world, "r1").state, current(world, "r1").why) == (
        "aborted", "the registry has taken the release back"
    )  # fmt: skip


def _advance_for_ever(url: str, now_s: float) -> None:
    opened = open_database(url)
    while True:
        advance(opened, now_s)
        now_s += 30.0


def test_a_core_that_is_killed_at_any_moment_goes_on(tmp_path: object) -> None:
    from pathlib import Path

    from edgehone.testing.databases import new_url

    url = new_url("sqlite", Path(str(tmp_path)))
    opened = open_database(url)
    world = StoredFleet(opened, FakeFleet([FakeNode(f"{n:03}") for n in range(10)]))
    world.fleet.models[2] = Model()
    world.publish(2)
    world.beat()
    start(opened, "digits", 2, now_s=world.now_s, actor=ME, plan=PLAN, id="r1")
    spawn = multiprocessing.get_context("spawn")
    for number in range(3):
        process = spawn.Process(target=_advance_for_ever, args=(url, world.now_s))
        process.start()
        time.sleep(1.0 + 0.07 * number)  # somewhere in a step
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        world.now_s += 120.0
        world.heartbeats()
    assert until_ended(world, "r1").ended
    with opened.read() as conn:
        events = [(event.what, event.detail.get("to")) for event in list_events(conn, "r1")]
    steps = [event for event in events if event[0] == "step"]
    assert len(set(steps)) == len(steps)
    opened.close()
