"""Bad releases on 200 nodes: stopped while at most 5 % have them, and gone again within two heartbeats."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgehone.fleet.gates import Limits
from edgehone.fleet.rollout import CANARY, SHADOW, Rollout, RolloutPlan, begin, desired_for, step
from edgehone.testing.fleets import FakeFleet, FakeNode, Model

BEAT_S = 60.0
LIMITS = Limits(flip_rate=0.012, flip_rows=10_000)


@dataclass(frozen=True)
class Outcome:
    """How a rollout of version 2 went: where it ended, the most nodes that served it, and beats until all were back."""

    rollout: Rollout
    most: int
    beats_back: int


def roll_out(
    model: Model, *, plan: RolloutPlan, nodes: int = 200, labels: int = 0, seed: int = 0, beats: int = 200
) -> Outcome:
    fleet = FakeFleet(
        [FakeNode(f"{n:03}", tags={"site": "abcd"[n % 4]}) for n in range(nodes)], labels=labels, seed=seed
    )
    fleet.models[2] = model
    rollout, now_s, most, version = begin("r1", "digits", 2, {"digits": 1}, 0.0, plan=plan), 0.0, 0, 1
    back = -1
    for _ in range(beats):
        rollout, _ = step(rollout, fleet.views(now_s), now_s)
        if rollout.state == "done":
            version = 2
        if rollout.ended and back < 0:
            back = 0
        now = rollout
        fleet.beat(now_s, lambda node, now=now, version=version: desired_for(now, "digits", version, node.id))
        serving = sum(2 in node.served for node in fleet.nodes.values())
        if rollout.state != "done":
            most = max(most, serving)
        if back >= 0:
            if all(node.version == version for node in fleet.nodes.values()):
                return Outcome(rollout, most, back + 1)
            back += 1
        now_s += BEAT_S
    raise AssertionError(f"it did not end: {rollout.stage} {rollout.verdicts}")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("model", "plan", "labels", "gate"),
    [
        (Model(accuracy=0.85, flips=0.06), RolloutPlan(limits=LIMITS), 0, "agreement"),
        (Model(accuracy=0.85), RolloutPlan(shadow_rows=0, soak_s=3600, limits=LIMITS), 40, "risk"),
        (Model(latency_us=2000), RolloutPlan(limits=LIMITS), 0, "latency"),
        (Model(latency_us=2000), RolloutPlan(shadow_rows=0, limits=LIMITS), 0, "latency"),
        (Model(crash_on_load=True), RolloutPlan(limits=LIMITS), 0, "crashes"),
        (Model(crash_on_load=True), RolloutPlan(shadow_rows=0, limits=LIMITS), 0, "crashes"),
        (Model(crashes=1), RolloutPlan(shadow_rows=0), 0, "crashes"),
        (Model(memory_bytes=80 << 20), RolloutPlan(shadow_rows=0), 0, "memory"),
        (Model(watch_level=2), RolloutPlan(shadow_rows=0), 0, "drift"),
    ],
)
def test_it_is_stopped_at_the_canaries_and_everybody_is_back(
    model: Model, plan: RolloutPlan, labels: int, gate: str, seed: int
) -> None:
    outcome = roll_out(model, plan=plan, labels=labels, seed=seed)
    assert outcome.rollout.state == "rolled back"
    assert outcome.rollout.stage in (SHADOW, CANARY)
    assert outcome.rollout.why.startswith(f"{gate}: ")
    assert outcome.most <= 10
    assert outcome.beats_back <= 2


def test_a_release_that_hangs_its_node_is_stopped_when_the_others_are_still_heard() -> None:
    plan = RolloutPlan(shadow_rows=0, patience_s=600)
    fleet = FakeFleet(FakeNode(f"{n:03}") for n in range(100))
    fleet.models[2] = Model(hangs=True)
    rollout, now_s = begin("r1", "digits", 2, {"digits": 1}, 0.0, plan=plan), 0.0
    while not rollout.ended and now_s < 1e5:
        rollout, _ = step(rollout, fleet.views(now_s), now_s)
        now = rollout
        fleet.beat(now_s, lambda node, now=now: desired_for(now, "digits", 1, node.id))
        now_s += BEAT_S
    assert (rollout.state, rollout.stage) == ("rolled back", CANARY)
    assert rollout.why.startswith("silence: 5 of 5 nodes are silent")
    assert sum(2 in node.served for node in fleet.nodes.values()) == 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("labels", [0, 10])
def test_a_good_release_is_promoted(seed: int, labels: int) -> None:
    outcome = roll_out(Model(flips=0.012), plan=RolloutPlan(limits=LIMITS), labels=labels, seed=seed)
    assert (outcome.rollout.state, outcome.rollout.stage) == ("done", "stable")


def test_a_retrained_model_that_differs_much_passes_when_labels_show_that_it_is_better() -> None:
    plan = RolloutPlan(shadow_rows=2000, limits=LIMITS)
    fleet = FakeFleet((FakeNode(f"{n:03}") for n in range(40)), labels=50)
    fleet.models |= {1: Model(accuracy=0.6), 2: Model(accuracy=0.9, flips=0.3)}
    rollout, now_s = begin("r1", "digits", 2, {"digits": 1}, 0.0, plan=plan), 0.0
    while rollout.stage == SHADOW and not rollout.ended and now_s < 1e5:
        rollout, events = step(rollout, fleet.views(now_s), now_s)
        now = rollout
        fleet.beat(now_s, lambda node, now=now: desired_for(now, "digits", 1, node.id))
        now_s += BEAT_S
    assert rollout.stage == CANARY
    says = {verdict["gate"]: verdict["words"] for verdict in events[-1].detail["verdicts"]}
    assert says["agreement"].endswith("but labels show that it is no worse")
