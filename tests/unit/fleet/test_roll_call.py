"""What is kept of the fleet between two steps is what a look at every node would say, whatever changed meanwhile."""

from __future__ import annotations

import random
from dataclasses import fields

import pytest
from sqlalchemy import Connection, delete, insert, update

from edgehone.fleet.cohorts import put_cohort
from edgehone.fleet.nodes import describe, set_state
from edgehone.fleet.observed import NodeView
from edgehone.fleet.releases import load_offers
from edgehone.fleet.roll_call import RollCall
from edgehone.fleet.rollout import RolloutPlan
from edgehone.fleet.rollouts import _calls, advance, find_rollout, start
from edgehone.fleet.views import node_views
from edgehone.records.database import Database
from edgehone.records.tables import node, release
from edgehone.testing.databases import database, database_url, dialect  # noqa: F401  fixtures
from edgehone.testing.fleets import FakeFleet, FakeNode, Model
from edgehone.testing.stored_fleets import StoredFleet
from edgehone_agent.errors import StateError
from edgehone_agent.wire.manifest import Fit

ME = "person:ada"


@pytest.fixture
def world(database: Database) -> StoredFleet:  # noqa: F811
    nodes = [FakeNode(f"{n:03}", tags={"site": "abc"[n % 3]}) for n in range(12)]
    made = StoredFleet(database, FakeFleet(nodes))
    made.fleet.models[2] = Model()
    made.publish(2)
    made.beat()
    return made


def flat(view: NodeView) -> dict[str, object]:
    known = {one.name: getattr(view, one.name) for one in fields(NodeView)}
    return known | {"has": [view.has(n) for n in (1, 2, 3)], "refused": [view.refused(n) for n in (1, 2, 3)]}


def read(calls: RollCall, conn: Connection, now_s: float) -> list[int]:
    """Refresh until everybody is known; of how many nodes each time."""
    found = [calls.refresh(conn, now_s)]
    while not calls.whole:
        found.append(calls.refresh(conn, now_s))
    return found


def compare(world: StoredFleet, calls: RollCall, watched: tuple[str, ...] = ("001",)) -> None:
    with world.database.read() as conn:
        offers = load_offers(conn)[0][("digits", 2)]
        read(calls, conn, world.now_s)
        kept = calls.views("r", "digits", offers, world.now_s, online_s=180.0, watched=watched)
        whole = node_views(conn, "digits", offers, world.now_s)
        assert sorted(map(flat, kept), key=lambda one: str(one["id"])) == list(map(flat, whole))


@pytest.mark.parametrize("page", [5, 1000])
def test_it_sees_what_a_look_at_everybody_sees(world: StoredFleet, page: int) -> None:
    rng, calls = random.Random(page), RollCall(page)
    compare(world, calls)
    ids = sorted(world.fleet.nodes)
    for number in range(25):
        for id in ids:
            if rng.random() < 0.2:
                world.fleet.nodes[id].on = not world.fleet.nodes[id].on
            if rng.random() < 0.1:
                world.fleet.nodes[id].version = rng.choice([None, 1, 2])
        world.heartbeats()
        world.now_s += rng.choice([1.0, 20.0, 20.0, 200.0, -500.0])
        if page > 12 or number % 5 == 4:  # of a large fleet, what people do is seen at the next look at everybody
            with world.database.write() as conn:
                one, other = rng.sample(ids, 2)
                describe(conn, one, name=None, tags={"site": rng.choice("abcd")}, actor=ME, now_s=world.now_s)
                if number == 14:
                    set_state(conn, other, "revoked", "", actor=ME, now_s=world.now_s)
                    conn.execute(delete(node).where(node.c.id == one))
                    ids.remove(one)
                    del world.fleet.nodes[one]
                elif rng.random() < 0.5:
                    state = rng.choice(["quarantined", "active"])
                    conn.execute(update(node).where(node.c.id == other, node.c.state != "revoked").values(state=state))
            world.now_s += 60.0
        if number == 7:
            with world.database.write() as conn:
                put_cohort(conn, "digits/a", "digits", tags={"site": "a"}, actor=ME, now_s=world.now_s)
        if number == 12:
            with world.database.write() as conn:
                fit = Fit(machines=("aarch64",), runtimes=("litert",)).to_json()
                conn.execute(update(release).where(release.c.version == 2).values(fit=fit))
        compare(world, calls, tuple(rng.sample(ids, 3)))


def test_of_a_large_fleet_a_page_is_read_and_those_that_were_heard_of(world: StoredFleet) -> None:
    calls = RollCall(5)
    with world.database.read() as conn:
        assert read(calls, conn, world.now_s) == [5, 5, 2]
        assert calls.refresh(conn, world.now_s + 6.0) == 0  # the first page again
    world.now_s += 6.0
    with world.database.write() as conn:
        seen = {"seen_s": world.now_s, "beats": node.c.beats + 1}
        conn.execute(update(node).where(node.c.id == "003").values(**seen))
        conn.execute(update(node).where(node.c.id.in_(["004", "011"])).values(state="quarantined"))
    with world.database.read() as conn:
        assert calls.refresh(conn, world.now_s) == 1  # 003, which was heard of; the page is that of 005
        assert calls.refresh(conn, world.now_s + 1.0) == 1  # the page of 011
        assert calls.refresh(conn, world.now_s + 2.0) == 1  # that of 004
    with world.database.write() as conn:
        conn.execute(update(node).where(node.c.id.in_(["001", "002"])).values(state="quarantined"))
    with world.database.read() as conn:
        assert calls.refresh(conn, world.now_s + 60.0) == 2  # who calls seldom gets everybody
    with world.database.write() as conn:
        conn.execute(update(node).where(node.c.id.in_(["001", "002"])).values(state="active"))
    with world.database.read() as conn:
        assert calls.refresh(conn, world.now_s - 900.0) == 2  # and so does a clock that was set back


@pytest.mark.parametrize("page", [3, 4, 6, 12, 13])
def test_nobody_is_lost_between_pages(world: StoredFleet, page: int) -> None:
    calls = RollCall(page)
    with world.database.read() as conn:
        assert sum(read(calls, conn, world.now_s)) == 12
    with world.database.write() as conn:
        conn.execute(delete(node).where(node.c.id.in_(["000", "011"])))
        values = {"tags": {}, "state": "active", "why": "", "facts": {}, "status": {}, "enrolled_s": 1.0}
        conn.execute(insert(node).values(id="0055", name="new", **values))
    for _ in range(12):
        with world.database.read() as conn:
            calls.refresh(conn, world.now_s)
    assert sorted(calls._nodes) == sorted([*(f"{n:03}" for n in range(1, 11)), "0055"])


def test_nothing_is_decided_from_a_part_of_a_fleet(world: StoredFleet) -> None:
    _calls[world.database] = RollCall(5)
    start(world.database, "digits", 2, now_s=world.now_s, actor=ME, id="r1")
    for _ in range(2):
        assert advance(world.database, world.now_s) == []
        with world.database.read() as conn:
            assert not find_rollout(conn, "r1").canaries
    happened = advance(world.database, world.now_s)
    assert [one.event.what for one in happened] == ["canaries"]
    assert happened[0].event.detail["words"] == "1 of 12 online nodes try it first"


def test_a_row_that_cannot_be_read_leaves_its_node_out_and_no_other(world: StoredFleet) -> None:
    calls = RollCall(5)
    with world.database.write() as conn:
        for id, status in (("001", {"digits": {"version": "x"}}), ("002", [1]), ("003", {"digits": {"failed": [1]}})):
            conn.execute(update(node).where(node.c.id == id).values(status=status))
        conn.execute(update(node).where(node.c.id == "004").values(status={"digits": {"version": 1, "ready": "?"}}))
    with world.database.read() as conn:
        offers = load_offers(conn)[0][("digits", 2)]
        read(calls, conn, world.now_s)
        kept = calls.views("r", "digits", offers, world.now_s, online_s=180.0, watched=("004", "005"))
        assert sorted(view.id for view in kept) == ["000", *(f"{n:03}" for n in range(5, 12))]
        odd = calls.views("r", "digits", offers, world.now_s, online_s=180.0)
        assert not next(view for view in odd if view.id == "004").status.ready


def test_views_need_a_call_and_nothing_is_kept_when_there_is_nothing_to_do(world: StoredFleet) -> None:
    with pytest.raises(StateError, match="not called"):
        RollCall().views("r", "digits", (), 1.0, online_s=1.0)
    start(
        world.database, "digits", 2, now_s=world.now_s, actor=ME, id="r1", plan=RolloutPlan(shadow_rows=0, soak_s=60.0)
    )
    advance(world.database, world.now_s)
    calls = _calls[world.database]
    assert len(calls._nodes) == 12 and list(calls._shown) == ["r1"]
    while True:
        world.beat()
        with world.database.read() as conn:
            if find_rollout(conn, "r1").settled:
                break
    advance(world.database, world.now_s)
    assert not calls._nodes and not calls._shown


@pytest.mark.parametrize("model", [Model(), Model(crash_on_load=True)])
def test_a_rollout_goes_the_same_way_in_a_large_fleet(world: StoredFleet, model: Model) -> None:
    _calls[world.database] = RollCall(5)
    world.fleet.models[2] = model
    start(
        world.database, "digits", 2, now_s=world.now_s, actor=ME, id="r1", plan=RolloutPlan(shadow_rows=0, soak_s=60.0)
    )
    for _ in range(200):
        world.beat()
        with world.database.read() as conn:
            if find_rollout(conn, "r1").settled:
                break
    with world.database.read() as conn:
        assert find_rollout(conn, "r1").state == ("done" if model == Model() else "rolled back")
    for _ in range(2):
        world.beat()
    assert {one.version for one in world.fleet.nodes.values()} == ({2} if model == Model() else {1})
