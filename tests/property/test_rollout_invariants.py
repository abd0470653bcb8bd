"""A rollout on random fleets: never more touched than allowed, always an end, everybody where their cohort is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone.fleet.canaries import most
from edgehone.fleet.rollout import (
    CANARY,
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

BEAT_S = 60.0
PLAN = RolloutPlan(shadow_rows=100, shadow_s=600, soak_s=120, patience_s=600)
BAD = {
    "crash": Model(crash_on_load=True),
    "slow": Model(latency_us=2500.0),
    "fat": Model(memory_bytes=90 << 20),
    "unstable": Model(crashes=1),
    "alarmed": Model(watch_level=3),
    "hangs": Model(hangs=True),
}


@dataclass
class World:
    """A fleet with the core beside it."""

    fleet: FakeFleet
    rollout: Rollout
    versions: dict[str, int | None]  # of the cohorts
    now_s: float = 1000.0
    events: list[Event] = field(default_factory=list)

    def beat(self) -> None:
        """The core steps, then every node that is on has a heartbeat."""
        self.step()
        current = self.rollout
        self.fleet.beat(self.now_s, lambda node: desired_for(current, node.cohort, self.versions[node.cohort], node.id))
        self.now_s += BEAT_S

    def step(self) -> None:
        views = self.fleet.views(self.now_s)
        before, (after, events) = self.rollout, step(self.rollout, views, self.now_s)
        assert step(before, views, self.now_s) == (after, events)
        assert step(after, views, self.now_s) == (after, ())
        assert Rollout.from_json(json.loads(json.dumps(after.to_json()))) == after
        if after.state == "done":
            self.versions = dict.fromkeys(after.before, after.version)
        self.rollout = after
        self.events += events

    def until_ended(self, beats: int) -> None:
        for _ in range(beats):
            if self.rollout.ended:
                return
            self.beat()
        if self.rollout.ended:
            return
        raise AssertionError(f"no end after {beats} heartbeats: {self.rollout}")


def world(nodes: list[FakeNode], model: Model, plan: RolloutPlan = PLAN, seed: int = 0) -> World:
    fleet = FakeFleet(nodes, seed=seed)
    fleet.models[2] = model
    cohorts = {node.cohort: 1 for node in nodes} or {"digits": 1}
    made = World(fleet, begin(f"r{seed}", "digits", 2, cohorts, 1000.0, plan=plan), dict(cohorts))
    for _ in range(2):
        fleet.beat(made.now_s, lambda node: desired_for(None, node.cohort, 1, node.id))
        made.now_s += BEAT_S
    return made


@st.composite
def fleets(draw: st.DrawFn) -> list[FakeNode]:
    count = draw(st.integers(1, 41))
    return [
        FakeNode(
            f"{number:03}",
            tags={"site": draw(st.sampled_from("abc"))},
            cohort=draw(st.sampled_from(["digits", "digits/north"])),
            on=draw(st.sampled_from([True, True, True, False])),
            speed=draw(st.sampled_from([0.5, 1.0, 4.0])),
        )
        for number in range(count)
    ]


def touched(made: World) -> int:
    return sum(2 in node.served for node in made.fleet.nodes.values())


@given(nodes=fleets(), kind=st.sampled_from(sorted(BAD)), data=st.data(), shadow=st.sampled_from([0, 100]))
@settings(max_examples=30, deadline=None)
def test_a_release_that_fails_as_canary_touches_no_more_than_the_canaries(
    nodes: list[FakeNode], kind: str, data: st.DataObject, shadow: int
) -> None:
    plan = RolloutPlan(shadow_rows=shadow, shadow_s=600, soak_s=120, patience_s=600)
    made = world(nodes, BAD[kind], plan)
    chance = data.draw(st.sampled_from([0, 5, 20]), "how often a node goes off or on, per cent")
    for _ in range(40):
        flip = data.draw(st.sets(st.sampled_from(sorted(made.fleet.nodes)), max_size=chance * len(nodes) // 100))
        for id in flip:
            made.fleet.nodes[id].on = not made.fleet.nodes[id].on
        made.beat()
        assert touched(made) <= most(plan.canary_share, plan.canary_least, len(nodes)) or made.rollout.stage not in (
            "shadow",
            CANARY,
        )
        if made.rollout.ended:
            break
    if made.rollout.state == "rolled back" and made.rollout.stage in ("shadow", CANARY):
        assert touched(made) <= most(plan.canary_share, plan.canary_least, len(nodes))


@given(nodes=fleets(), model=st.sampled_from([Model(), *BAD.values()]), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_it_ends_and_everybody_converges_when_they_are_back(nodes: list[FakeNode], model: Model, seed: int) -> None:
    made = world(nodes, model, seed=seed)
    for node in nodes[: seed % (len(nodes) + 1)]:
        node.on = False
    for number in range(15):
        made.beat()
        for index, node in enumerate(nodes):  # some come and go
            if (index * 7 + number * 3 + seed) % 11 == 0:
                node.on = not node.on
    for node in nodes:
        node.on = True
    for _ in range(120):
        if model.hangs:
            for node in nodes:
                node.on = node.version != 2
        if made.rollout.ended:
            break
        made.beat()
    made.until_ended(0)
    for node in nodes:  # somebody has pulled the plug and put it in again
        node.on = True
    for _ in range(3):
        made.beat()
    wanted = 2 if made.rollout.state == "done" else 1
    assert made.versions == dict.fromkeys(made.versions, wanted)
    assert {node.version for node in nodes if 2 not in node.failed or wanted == 1} <= {wanted}
    if model == Model():  # a canary that is told and falls silent alone counts against it, rightly or not
        assert made.rollout.state == "done" or made.rollout.why.startswith(("silence", "patience"))


@given(nodes=fleets(), jumps=st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=4), good=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_clock_that_jumps_leaves_no_dead_state(nodes: list[FakeNode], jumps: list[float], good: bool) -> None:
    made = world(nodes, Model() if good else BAD["crash"])
    for node in nodes:
        node.on = True
    for jump in jumps:
        made.beat()
        made.now_s = max(2000.0, made.now_s + jump)
    made.until_ended(150)
    made.beat()
    made.beat()
    if not good:
        assert all(node.version == 1 for node in nodes)


@given(nodes=fleets(), acts=st.lists(st.sampled_from(["pause", "resume", "abort", "beat", "beat"]), max_size=20))
@settings(max_examples=20, deadline=None)
def test_people_may_pause_resume_and_abort_at_any_time(nodes: list[FakeNode], acts: list[str]) -> None:
    made = world(nodes, Model())
    for act in acts:
        state, stage = made.rollout.state, made.rollout.stage
        if act == "beat":
            made.beat()
            if state == "paused":
                assert (made.rollout.state, made.rollout.stage) == (state, stage)
        elif act == "pause" and state == "running":
            made.rollout = pause(made.rollout, made.now_s)
        elif act == "resume" and state == "paused":
            made.rollout = resume(made.rollout, made.now_s)
        elif act == "abort" and not made.rollout.ended:
            made.rollout = abort(made.rollout, made.now_s, "enough")
    if made.rollout.state == "paused":
        made.rollout = resume(made.rollout, made.now_s)
    for node in nodes:
        node.on = True
    made.until_ended(120)
    made.beat()
    made.beat()
    wanted = 2 if made.rollout.state == "done" else 1
    assert {node.version for node in nodes} == {wanted}
