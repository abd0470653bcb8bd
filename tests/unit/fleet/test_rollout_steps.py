"""One step at a time: who is waited for, who is not, and what ends a rollout that nobody can judge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgehone.errors import InputError
from edgehone.fleet.canaries import most, spread
from edgehone.fleet.observed import NodeView, position
from edgehone.fleet.rollout import (
    CANARY,
    LAST_PATIENCE,
    SHADOW,
    STABLE,
    Event,
    Rollout,
    RolloutPlan,
    abort,
    begin,
    desired_for,
    pause,
    resume,
    step,
)
from edgehone.testing.fleets import FakeFleet, FakeNode, Model
from edgehone_agent.errors import StateError
from edgehone_agent.wire.uplink import Desired

BEAT_S = 60.0
PLAN = RolloutPlan(shadow_rows=0, soak_s=120, patience_s=600)


class Play:
    """A rollout of version 2 on a fleet, beat by beat."""

    def __init__(self, count: int = 20, plan: RolloutPlan = PLAN, model: Model | None = None, **node: object) -> None:
        self.fleet = FakeFleet(FakeNode(f"{n:03}", **node) for n in range(count))  # type: ignore[arg-type]
        self.fleet.models[2] = model or Model()
        self.now_s, self.version, self.events = 0.0, 1, list[Event]()
        self.rollout = begin("r1", "digits", 2, {"digits": 1}, 0.0, plan=plan)
        self.fleet.beat(0.0, lambda node: Desired(node.version))

    @property
    def nodes(self) -> list[FakeNode]:
        return list(self.fleet.nodes.values())

    @property
    def canaries(self) -> list[FakeNode]:
        return [self.fleet.nodes[id] for id in sorted(self.rollout.canary_ids)]

    def core(self) -> Rollout:
        self.rollout, events = step(self.rollout, self.fleet.views(self.now_s), self.now_s)
        self.events += events
        return self.rollout

    def beat(self, beats: int = 1) -> Rollout:
        for _ in range(beats):
            self.core()
            now = self.rollout
            self.version = 2 if now.state == "done" else 1
            self.fleet.beat(self.now_s, lambda node, now=now: desired_for(now, "digits", self.version, node.id))
            self.now_s += BEAT_S
        return self.rollout


def test_canaries_that_went_off_before_they_were_told_are_replaced() -> None:
    play = Play(42)
    play.now_s = 30.0
    first = play.core().canary_ids
    for node in play.canaries:
        node.on = False
    play.now_s += 200.0
    play.fleet.beat(play.now_s, lambda node: Desired(1))
    second = play.core().canary_ids
    assert len(first) == len(second) == 2 and not first & second


def test_canaries_that_were_told_are_not_replaced() -> None:
    play = Play(40)
    play.beat()
    first = play.rollout.canary_ids
    for node in play.canaries:
        node.on = False
    play.beat(6)
    assert (play.rollout.state, play.rollout.canary_ids) == ("running", first)


def test_a_paused_rollout_holds_and_its_time_counts_for_nothing() -> None:
    play = Play()
    play.beat(2)
    play.rollout = pause(play.rollout, play.now_s)
    assert play.beat(50).stage == CANARY
    assert play.rollout.state == "paused"
    play.rollout = resume(play.rollout, play.now_s)
    assert play.core().stage == CANARY  # it has not been watched for long enough
    assert play.beat(4).stage == "stage 1"


def test_a_gate_acts_while_it_is_paused() -> None:
    play = Play(model=Model(crashes=1))
    play.beat()
    play.rollout = pause(play.rollout, play.now_s)
    assert play.beat(2).state == "rolled back"


def test_nodes_that_do_not_take_it_are_left_behind_after_the_patience() -> None:
    play = Play(60, replace(PLAN, canary_share=0.1))
    play.beat()
    slow = play.canaries[0]
    slow.version, slow.quarantined = 1, True  # the fake leaves what it has; the core does not know why
    views = [replace(view, quarantined=False) for view in play.fleet.views(play.now_s)]
    assert step(play.rollout, views, play.now_s)[0].ready_s is None
    while play.rollout.stage == CANARY and play.now_s < 2000:
        views = [replace(view, quarantined=False) for view in play.fleet.views(play.now_s)]
        play.rollout, _ = step(play.rollout, views, play.now_s)
        now = play.rollout
        play.fleet.beat(play.now_s, lambda node, now=now: desired_for(now, "digits", 1, node.id))
        play.now_s += BEAT_S
    assert play.rollout.stage == "stage 1"
    assert PLAN.patience_s + PLAN.soak_s <= play.rollout.stage_since_s <= PLAN.patience_s + PLAN.soak_s + 2 * BEAT_S


def test_a_stage_whose_nodes_all_fell_silent_goes_on_without_them() -> None:
    play = Play(8, replace(PLAN, stages=(0.5, 1.0)))
    while play.beat().stage != "stage 2":
        assert play.now_s < 5000
    for watched in play.rollout.witnesses:
        play.fleet.nodes[watched.node].on = False
    assert play.rollout.witnesses
    play.beat(15)
    assert play.rollout.state == "done"


def test_it_goes_back_when_nobody_takes_it() -> None:
    play = Play()
    play.core()
    for _ in range(12):  # told, and there, and nothing happens
        play.fleet.beat(play.now_s, lambda _: Desired(1))
        play.now_s += BEAT_S
        play.core()
    assert play.rollout.why == "patience: no node took it within 600 s"


def test_it_goes_back_when_its_canaries_were_taken_away() -> None:
    play = Play()
    play.beat(2)
    for node in play.canaries:
        node.quarantined = True
    play.beat(12)
    assert play.rollout.why == "patience: the nodes that were to try it first are gone"


def test_it_goes_back_when_every_node_refused_the_version_before() -> None:
    play = Play(3, failed=(2,))
    assert play.core().why == "patience: every node that is there has tried it before and gone back"


def test_canaries_that_stay_away_with_their_whole_site_do_not_hold_it_up_for_ever() -> None:
    play = Play(40, model=Model(hangs=True))
    play.beat()
    for node in play.nodes[:-1]:
        node.on = False
    late = next(node for node in play.nodes if node.id not in play.rollout.canary_ids)
    while not play.rollout.ended:
        assert play.now_s < (LAST_PATIENCE + 2) * PLAN.patience_s
        for node in play.nodes:
            node.on = False
        late.on = play.now_s > 2 * PLAN.patience_s  # one comes back, which was never compared with
        play.rollout = replace(play.rollout, others=tuple(o for o in play.rollout.others if o.node != late.id))
        play.beat()
    assert play.rollout.why == "patience: the nodes that were to try it first do not come back"


def test_without_a_node_the_cohorts_simply_move_on() -> None:
    play = Play(0)
    assert play.core().state == "running"
    play.now_s = PLAN.patience_s
    assert (play.core().state, play.rollout.stage) == ("done", STABLE)


def test_nodes_that_have_it_already_need_no_canary() -> None:
    play = Play(3, version=2)
    assert play.core().state == "done"


def test_the_first_release_of_a_task_has_no_shadow_and_nothing_to_go_back_to() -> None:
    play = Play(20, RolloutPlan(soak_s=60, patience_s=600), model=Model(crash_on_load=True), version=None)
    assert play.core().stage == CANARY
    assert play.beat(3).state == "rolled back"
    assert desired_for(play.rollout, "digits", None, "000") == Desired(None)


def test_shadow_and_canary_are_the_same_nodes() -> None:
    play = Play(40, replace(PLAN, shadow_rows=100))
    play.core()
    one, other = play.canaries[0].id, next(n.id for n in play.nodes if n.id not in play.rollout.canary_ids)
    assert play.rollout.stage == SHADOW
    assert desired_for(play.rollout, "digits", 1, one) == Desired(1, shadow=2, rollout="r1")
    assert desired_for(play.rollout, "digits", 1, other) == Desired(1)
    before = play.rollout.canary_ids
    while play.beat().stage == SHADOW:
        assert play.now_s < 2000
    assert (play.rollout.stage, play.rollout.canary_ids) == (CANARY, before)
    assert desired_for(play.rollout, "digits", 1, one) == Desired(2, rollout="r1")
    assert desired_for(play.rollout, "digits/other", 1, one) == Desired(1)


def test_nodes_that_cannot_go_back_are_named() -> None:
    play = Play()
    play.beat(3)
    stuck = play.canaries[0]
    stuck.previous = None  # its other slot was needed for something else
    play.rollout = abort(play.rollout, play.now_s, "enough")
    play.beat(12)
    assert play.events[-1].what == "stranded"
    assert play.events[-1].detail["nodes"] == [stuck.id]
    count = len(play.events)
    play.beat(5)
    assert len(play.events) == count


def test_a_clock_that_was_set_back_starts_the_step_anew() -> None:
    play = Play()
    play.now_s = 1e6
    play.fleet.beat(play.now_s, lambda node: Desired(node.version))
    assert play.beat(4).ready_s is not None
    play.now_s = 1000.0
    while play.beat().state != "done":
        assert play.now_s < 1000.0 + 4 * (PLAN.soak_s + 5 * BEAT_S)


def test_a_node_that_is_back_after_a_month_takes_what_its_cohort_has() -> None:
    play = Play()
    away = play.nodes[3]
    away.on = False
    play.now_s = 1000.0
    play.fleet.beat(play.now_s, lambda node: Desired(node.version))
    while play.beat().state != "done":
        assert play.now_s < 1e4
    play.now_s += 30 * 86_400
    away.on = True
    play.beat()
    assert {node.version for node in play.nodes} == {2}


def test_canaries_are_spread_over_kinds_and_come_from_the_canary_channel_first() -> None:
    views = [
        NodeView(f"{n:03}", "lab" if n % 10 == 0 else "field", True, 0.0, tags={"site": "abcd"[n % 4]})
        for n in range(100)
    ]
    chosen = spread("r1", views, 6)
    assert len({(view.cohort, view.tags["site"]) for view in chosen}) == 6
    assert chosen == spread("r1", reversed(views), 6)
    assert {view.cohort for view in spread("r1", views, 6, first=["lab"])} == {"lab"}
    assert [view.id for view in spread("r2", views, 6)] != [view.id for view in chosen]
    assert (most(0.05, 1, 200), most(0.05, 1, 39), most(0.05, 1, 3), most(0.05, 2, 1)) == (10, 1, 1, 1)
    places = [position("r1", str(n)) for n in range(4000)]
    assert 0.23 < sum(place < 0.25 for place in places) / 4000 < 0.27


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": ()},
        {"stages": (0.5, 0.4, 1.0)},
        {"stages": (0.5,)},
        {"canary_share": 0.0},
        {"canary_least": 0},
        {"soak_s": -1.0},
        {"patience_s": 0.0},
        {"shadow_rows": -1},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        RolloutPlan(**wrong)  # type: ignore[arg-type]


def test_what_is_stored_and_damaged_is_said() -> None:
    stored = begin("r1", "digits", 2, {"digits": 1}, 0.0).to_json()
    assert Rollout.from_json({**stored, "of a newer version": 1}) == Rollout.from_json(stored)
    for damaged in ({**stored, "canaries": [7]}, {**stored, "plan": {}} | {"canaries": None}, {}):
        with pytest.raises((StateError, InputError)):
            Rollout.from_json(damaged)


def test_what_has_ended_cannot_be_steered() -> None:
    ended = abort(begin("r1", "digits", 2, {"digits": 1}, 0.0), 1.0, "enough")
    for act in (pause, resume):
        with pytest.raises(InputError, match="the rollout is aborted"):
            act(ended, 2.0)
    with pytest.raises(InputError, match="cannot be aborted"):
        abort(ended, 2.0, "again")


@pytest.mark.parametrize("comes_back", [True, False])
def test_who_had_it_and_was_away_when_it_ended_is_waited_for_as_long_as_the_patience(comes_back: bool) -> None:
    play = Play()
    play.beat(2)
    (canary,) = play.canaries
    assert canary.version == 2
    canary.on, canary.previous = False, None  # it has no old model any more
    play.beat(4)
    play.rollout = abort(play.rollout, play.now_s, "enough")
    play.beat(3)
    assert not play.rollout.settled
    canary.on = comes_back
    play.beat(10)
    assert play.rollout.settled
    words = play.events[-1].detail["words"]
    if comes_back:
        assert play.events[-1].what == "stranded" and words.startswith("1 nodes did not go back")
    else:
        assert words == "every node that is there is off version 2; 1 that had it are away"
