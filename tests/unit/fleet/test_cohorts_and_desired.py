"""Cohorts and what nodes are told: only signed releases that fit, nothing to the quarantined, no stale answer."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, update

from edgehone.errors import InputError
from edgehone.fleet import orders, serial
from edgehone.fleet.cohorts import Cohort, cohort_of, load_cohorts, put_cohort, remove_cohort, set_versions
from edgehone.fleet.desired import current_plan, desired_state, told
from edgehone.fleet.heartbeat import Asking, Wish
from edgehone.fleet.nodes import set_state
from edgehone.fleet.rollout import RolloutPlan
from edgehone.fleet.rollouts import advance, start
from edgehone.records.database import Database
from edgehone.records.tables import node, release, setting
from edgehone.testing.databases import database, database_url, dialect  # noqa: F401  fixtures
from edgehone.testing.fleets import FakeFleet, FakeNode, Model
from edgehone.testing.stored_fleets import FACTS, StoredFleet, digest_of
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Desired, TaskStatus, Wants

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
        assert wish.policy == {"digits": {"adapt": True, "context": "digits"}, "speech": {"context": "speech"}}
        assert (wish.desired["digits"].version, wish.desired["speech"].version) == (1, None)
        assert wish.desired["digits"] == desired_state(conn, "a", 7.0)["digits"]


def asking(world: StoredFleet, id: str, now_s: float, *tasks: str) -> Wish:
    with world.database.read() as conn:
        row = conn.execute(select(node).where(node.c.id == id)).one()
        status = TaskStatus(digest_of(1), 1, "w8-int8", ready=True)
        return told(conn, Asking(id, row.state, row.tags, row.facts, dict.fromkeys(tasks, status), now_s))


def test_what_the_loop_sets_for_a_task_is_merged_into_the_policy_of_each_cohort(world: StoredFleet) -> None:
    with world.database.write() as conn:
        north = {"tags": {"site": "north"}, "actor": ME, "now_s": 6.0}
        put_cohort(conn, "digits/north", "digits", policy={"latency_us": 9, "learn": "", "context": "x"}, **north)
    assert asking(world, "a", 7.0, "digits").policy["digits"]["learn"] == ""
    with world.database.write() as conn:
        orders.tell(conn, "digits", {"learn": "statistics", "label_error": 0.1}, 8.0)
    learn = {"learn": "statistics", "label_error": 0.1}
    assert asking(world, "a", 9.0, "digits").policy == {"digits": {"latency_us": 9, **learn, "context": "digits/north"}}
    assert asking(world, "b", 9.0, "digits", "speech").policy == {
        "digits": {**learn, "context": "digits"}, "speech": {"context": "speech"},
    }  # fmt: skip
    with world.database.write() as conn:
        orders.tell(conn, "digits", {}, 10.0)
    assert asking(world, "b", 11.0, "digits").policy == {"digits": {"context": "digits"}}


def test_readings_are_asked_for_from_the_cohorts_that_are_named_until_the_time_is_over(world: StoredFleet) -> None:
    with world.database.write() as conn:
        put_cohort(conn, "digits/north", "digits", tags={"site": "north"}, actor=ME, now_s=6.0)
        orders.collect(conn, "digits", 200, 100.0, 7.0, ["digits/north"])
        orders.collect(conn, "speech", 5, 200.0, 7.0)
    both = asking(world, "a", 8.0, "digits", "speech")
    assert (both.wants, both.until_s) == ({"digits": Wants(samples=200), "speech": Wants(samples=5)}, 100.0)
    assert asking(world, "b", 8.0, "digits").wants == {}
    late = asking(world, "a", 100.0, "digits", "speech")
    assert (late.wants, late.until_s) == ({"speech": Wants(samples=5)}, 200.0)
    with world.database.write() as conn:
        set_state(conn, "a", "quarantined", "odd", actor=ME, now_s=world.now_s)
    assert asking(world, "a", 8.0, "digits").wants == {}
    with world.database.write() as conn:
        orders.collect(conn, "speech", 0, 0.0, 9.0)
        assert [*orders.load_orders(conn)[1]] == ["digits"]


@pytest.mark.parametrize(
    "value", [{"samples": "many", "until_s": 1}, {"samples": 1}, {"samples": 1, "until_s": 1, "cohorts": "all"}, [1]]
)
def test_orders_that_cannot_be_read_are_left_out(world: StoredFleet, value: object) -> None:
    with world.database.write() as conn:
        for key in ("wants:digits", "told:digits"):
            conn.execute(insert(setting).values(key=key, value=value, changed_s=1.0))
        serial.bump(conn, 7.0)
    wish = asking(world, "b", 0.5, "digits")
    assert (wish.wants, wish.desired["digits"].version) == ({}, 1)


def test_a_new_node_is_told_the_tasks_that_its_tags_bring_it(world: StoredFleet) -> None:
    with world.database.write() as conn:
        put_cohort(conn, "digits/north", "digits", tags={"site": "north"}, actor=ME, now_s=6.0)
        put_cohort(conn, "speech/north", "speech", tags={"site": "north"}, actor=ME, now_s=6.0)  # nothing is out yet
    fresh = asking(world, "a", 7.0)
    assert {task: wanted.version for task, wanted in fresh.desired.items()} == {"digits": 1}
    assert fresh.desired["digits"].members == ("w8-int8",)
    assert fresh.policy == {"digits": {"context": "digits/north"}}
    assert asking(world, "b", 7.0).desired == {}  # nothing but the task's own cohort would fit it
    with world.database.write() as conn:
        conn.execute(update(node).where(node.c.id == "a").values(facts={**FACTS, "machine": "aarch64"}))
    assert asking(world, "a", 7.0).desired == {}  # which no release fits


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
