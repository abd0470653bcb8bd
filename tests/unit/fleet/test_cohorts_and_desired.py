"""Cohorts and what nodes are told: only signed releases that fit, nothing to the quarantined, no stale answer."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from edgehone.errors import InputError
from edgehone.fleet import serial
from edgehone.fleet.cohorts import Cohort, cohort_of, load_cohorts, put_cohort, remove_cohort, set_versions
from edgehone.fleet.desired import current_plan, desired_state, told
from edgehone.fleet.heartbeat import Asking
from edgehone.fleet.nodes import set_state
from edgehone.fleet.rollout import RolloutPlan
from edgehone.fleet.rollouts import advance, start
from edgehone.records.database import Database
from edgehone.records.tables import node, release
from edgehone.testing.databases import database, database_url, dialect  # noqa: F401  fixtures
from edgehone.testing.fleets import FakeFleet, FakeNode, Model
from edgehone.testing.stored_fleets import FACTS, StoredFleet
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Desired, TaskStatus

ME = "person:ada"


@pytest.fixture
def world(database: Database) -> StoredFleet:  # noqa: F811
    made = StoredFleet(database, FakeFleet([FakeNode("a", tags={"site": "north"}), FakeNode("b", version=None)]))
    with database.write() as conn:
        set_versions(conn, "digits", ["digits"], 1, 5.0)
    made.beat()
    return made


def ask(world: StoredFleet, id: str) -> Desired | None:
    with world.database.read() as conn:
        return desired_state(conn, id, world.now_s).get("digits")


def test_the_most_specific_cohort_wins_then_the_first_by_name() -> None:
    cohorts = [
        Cohort("z", "digits", {"site": "north"}),
        Cohort("y", "digits", {"site": "north", "camera": "2"}),
        Cohort("x", "digits", {"camera": "2", "lens": "wide"}),
        Cohort("a", "speech", {"site": "north"}),
    ]

    def name(**tags: str) -> str:
        return cohort_of(cohorts, "digits", tags).name

    assert name(site="north") == "z"
    assert name(site="north", camera="2") == "y"
    assert name(site="north", camera="2", lens="wide") == "x"
    assert name(site="south") == "digits"
    assert cohort_of([], "digits", {}) == Cohort("digits", "digits")


def test_a_new_cohort_begins_where_its_nodes_are_and_may_be_taken_away(world: StoredFleet) -> None:
    with world.database.write() as conn:
        made = put_cohort(conn, "digits/north", "digits", tags={"site": "north"}, channel="canary", actor=ME, now_s=6.0)
        assert (made.version, made.channel) == (1, "canary")
        again = put_cohort(conn, "digits/north", "digits", tags={"site": "n"}, policy={"a": 1}, actor=ME, now_s=7.0)
        assert (again.version, again.tags, again.policy, again.channel) == (1, {"site": "n"}, {"a": 1}, "stable")
    with pytest.raises(InputError, match="another cohort has this name or these tags"), world.database.write() as conn:
        put_cohort(conn, "digits/south", "digits", tags={"site": "n"}, actor=ME, now_s=8.0)
    with pytest.raises(InputError, match="is no cohort"), world.database.write() as conn:
        put_cohort(conn, "di gits", "digits", tags={}, actor=ME, now_s=8.0)
    with world.database.write() as conn:
        remove_cohort(conn, "digits/north", actor=ME, now_s=9.0)
        assert [one.name for one in load_cohorts(conn)] == ["digits"]
    with pytest.raises(InputError, match="there is no such cohort"), world.database.write() as conn:
        remove_cohort(conn, "digits/north", actor=ME, now_s=9.0)


def test_cohorts_stay_as_they_are_while_a_rollout_runs(world: StoredFleet) -> None:
    world.publish(2)
    start(world.database, "digits", 2, now_s=world.now_s, actor=ME)
    with pytest.raises(InputError, match="a rollout of 'digits' runs"), world.database.write() as conn:
        put_cohort(conn, "digits/north", "digits", tags={"site": "north"}, actor=ME, now_s=6.0)
    with pytest.raises(InputError, match="a rollout of 'digits' runs"), world.database.write() as conn:
        remove_cohort(conn, "digits", actor=ME, now_s=6.0)


def test_a_node_is_told_its_cohorts_version_with_the_members_that_fit(world: StoredFleet) -> None:
    world.publish(1, "w2-int8", rank=1)
    world.publish(1, "arm", rank=2, fit=Fit(machines=("aarch64",), runtimes=("litert",)).to_json())
    for id in "ab":
        found = ask(world, id)
        assert found is not None
        assert (found.version, found.members, found.shadow, found.rollout) == (1, ("w8-int8", "w2-int8"), None, None)


def test_nothing_is_named_that_was_taken_back_or_fits_nobody(world: StoredFleet) -> None:
    with world.database.write() as conn:
        conn.execute(update(node).where(node.c.id == "a").values(facts={**FACTS, "runtimes": ["onnxruntime"]}))
    assert ask(world, "a") == Desired(None, serial=ask(world, "b").serial)  # type: ignore[union-attr]
    assert ask(world, "b").version == 1  # type: ignore[union-attr]
    with world.database.write() as conn:
        conn.execute(update(release).values(revoked_s=world.now_s))
        serial.bump(conn, world.now_s)
    assert ask(world, "b").version is None  # type: ignore[union-attr]


def test_a_release_that_does_not_fit_a_node_leaves_it_at_its_cohorts_version(world: StoredFleet) -> None:
    world.fleet.models[2] = Model()
    world.publish(2, fit=Fit(machines=("aarch64",), runtimes=("litert",)).to_json())
    with world.database.write() as conn:
        conn.execute(update(node).where(node.c.id == "b").values(facts={**FACTS, "machine": "aarch64"}))
    start(world.database, "digits", 2, now_s=world.now_s, actor=ME, plan=RolloutPlan(shadow_rows=0, canary_share=1.0))
    advance(world.database, world.now_s)
    with world.database.read() as conn:
        assert current_plan(conn).rollouts["digits"][0].canary_ids == {"b"}
    assert ask(world, "a").version == 1  # type: ignore[union-attr]
    assert ask(world, "b").version == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("state", ["quarantined", "revoked"])
def test_a_node_that_is_not_active_is_told_nothing(world: StoredFleet, state: str) -> None:
    with world.database.write() as conn:
        set_state(conn, "a", state, "odd", actor=ME, now_s=world.now_s)
    assert ask(world, "a") is None
    assert ask(world, "b") is not None
    assert ask(world, "nobody") is None
    with world.database.read() as conn:
        row = conn.execute(select(node).where(node.c.id == "a")).one()
        asking = Asking("a", row.state, row.tags, row.facts, {"digits": TaskStatus()}, world.now_s)
        assert told(conn, asking).desired == {}


def test_a_heartbeat_is_told_what_it_asks_for_with_its_cohorts_policy(world: StoredFleet) -> None:
    with world.database.write() as conn:
        put_cohort(conn, "digits", "digits", tags={}, policy={"adapt": True}, actor=ME, now_s=6.0)
        row = conn.execute(select(node).where(node.c.id == "a")).one()
        asking = Asking("a", row.state, row.tags, row.facts, {"digits": TaskStatus(), "speech": TaskStatus()}, 7.0)
        wish = told(conn, asking)
        assert wish.policy == {"digits": {"adapt": True}, "speech": {}}
        assert (wish.desired["digits"].version, wish.desired["speech"].version) == (1, None)
        assert wish.desired["digits"] == desired_state(conn, "a", 7.0)["digits"]


def test_a_change_that_is_taken_back_leaves_no_stale_answer(world: StoredFleet) -> None:
    world.publish(2)
    with pytest.raises(RuntimeError), world.database.write() as conn:
        set_versions(conn, "digits", ["digits"], 2, 6.0)
        assert desired_state(conn, "a", 7.0)["digits"].version == 2
        raise RuntimeError
    assert ask(world, "a").version == 1  # type: ignore[union-attr]
    with world.database.write() as conn:  # takes the number that the change above had
        put_cohort(conn, "digits/x", "digits", tags={"x": "y"}, actor=ME, now_s=8.0)
        assert desired_state(conn, "a", 8.0)["digits"].version == 1
    before = ask(world, "a")
    with world.database.write() as conn:
        set_versions(conn, "digits", ["digits"], 2, 9.0)
    after = ask(world, "a")
    assert before is not None and after is not None
    assert (after.version, after.serial > before.serial) == (2, True)
