"""What of the core's answers counts, what a node does about it, and when it says so."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgehone_agent.errors import InputError, UnfitError
from edgehone_agent.fit import NodeFacts
from edgehone_agent.slot_rules import Failure, Placed, SlotState, Trial
from edgehone_agent.updates import plan_shadow, plan_wanted
from edgehone_agent.uplink.beat import compose, news, next_wait_s
from edgehone_agent.uplink.desired import PATIENCE, Mind, hear, learning_of, load_mind, save_mind
from edgehone_agent.verify import Delta, Release
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Desired, Heartbeat, HeartbeatAnswer, Labelled, Learning, read, write

FACTS = NodeFacts("x86_64", ("litert",), 10**9)


def answer(time_s: float = 1.0, **desired: Desired) -> HeartbeatAnswer:
    return HeartbeatAnswer(nonce="0" * 32, time_s=time_s, interval_s=60.0, desired=desired)


def test_a_newer_wish_counts_and_one_that_is_not_named_stays() -> None:
    first = hear(Mind(), answer(digits=Desired(1, serial=4), other=Desired(7, serial=4)))
    assert first.changed == ("digits", "other")
    second = hear(first.mind, answer(digits=Desired(2, serial=5)))
    assert second.changed == ("digits",)
    assert {name: wish.version for name, wish in second.mind.desired.items()} == {"digits": 2, "other": 7}
    assert hear(second.mind, answer(digits=Desired(2, serial=9))).changed == ()  # counted up elsewhere


def test_an_old_answer_is_passed_over_until_the_core_keeps_to_it() -> None:
    mind = hear(Mind(), answer(1.0, digits=Desired(2, serial=5))).mind
    for n in range(PATIENCE - 1):
        heard = hear(mind, answer(10.0 + n, digits=Desired(1, serial=4)))
        assert heard.mind.desired["digits"].version == 2 and heard.flags == ("old_answer",)
        mind = heard.mind
    replayed = hear(mind, answer(10.0, digits=Desired(1, serial=4)))  # the same answer again is no further sign
    assert replayed.mind.desired["digits"].version == 2
    heard = hear(mind, answer(20.0, digits=Desired(1, serial=4)))
    assert heard.mind.desired["digits"].version == 1 and heard.flags == ("core_set_back",)
    assert hear(heard.mind, answer(21.0, digits=Desired(1, serial=4))).flags == ()


def test_what_was_said_last_is_there_after_a_start_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "mind.json"
    assert load_mind(file) == Mind()
    mind = hear(Mind(), answer(digits=Desired(3, ("a", "b"), shadow=4, serial=5))).mind
    save_mind(file, mind)
    assert load_mind(file) == mind
    file.write_bytes(file.read_bytes()[:-3])
    assert load_mind(file) == Mind()


def release(version: int, member: str, rank: int = 0, **more: Any) -> Release:
    name = f"{member}{version}"
    values = {"fit": Fit(runtimes=("litert",)), "deltas": ()} | more
    return Release("t", f"t/{name}.bundle", version, member, name, 100, rank, **values)


OFFERED = (release(3, "a"), release(3, "b", 1), release(2, "a"), release(2, "b", 1), release(1, "a"))


@pytest.mark.parametrize(
    ("current", "previous", "wanted", "taken", "why"),
    [
        (None, None, None, None, "not said yet"),
        (None, None, Desired(2), "a2", "take version 2"),
        (None, None, Desired(2, ("b", "a")), "b2", "take version 2"),
        (None, None, Desired(9), None, "does not offer"),
        (("a2", 2), None, Desired(None), None, "wants nothing else"),
        (("a2", 2), None, Desired(2, ("a",)), None, "up to date"),
        (("a2", 2), None, Desired(2, ("b",)), "b2", "take version 2"),
        (("a2", 2), None, Desired(3), "a3", "take version 3"),
        (("a3", 3), ("a2", 2), Desired(1), None, "not the last good one"),
        (("a3", 3), None, Desired(2), None, "not the last good one"),
    ],
)
def test_only_what_the_core_wants_is_taken(
    current: Any, previous: Any, wanted: Desired | None, taken: str | None, why: str
) -> None:
    state = SlotState(current and Placed("a", *current), previous and Placed("b", *previous))
    plan = plan_wanted(OFFERED, state, FACTS, wanted, highest=3)
    assert (plan.release and plan.release.sha256, plan.goes_back) == (taken, False)
    assert why in plan.why
    assert (plan.flag == "cannot_go_back") == ("last good" in why)


def test_going_back_failures_thieves_and_misfits() -> None:
    state = SlotState(Placed("a", "a3", 3), Placed("b", "a2", 2))
    plan = plan_wanted(OFFERED, state, FACTS, Desired(2), highest=3)
    assert plan.goes_back and plan.release is None
    failed = replace(state, current=None, failed=(Failure("a3", 3, "slow"),))
    plan = plan_wanted(OFFERED, failed, FACTS, Desired(3, ("a", "b")))
    assert plan.release is not None and plan.release.sha256 == "b3"
    both = replace(failed, failed=(*failed.failed, Failure("b3", 3, "slow")))
    assert "failed here before" in plan_wanted(OFFERED, both, FACTS, Desired(3)).why
    thief = SlotState(Placed("a", "zz", 9_000_000))
    plan = plan_wanted(OFFERED, thief, FACTS, Desired(3), highest=3)
    assert plan.disowns and plan.release is not None and plan.release.version == 3
    huge = (release(3, "a", fit=Fit(runtimes=("litert",), memory_bytes=10**12)),)
    with pytest.raises(UnfitError, match="no member of version 3 fits"):
        plan_wanted(huge, SlotState(), FACTS, Desired(3))
    delta = Delta("a2", "p", "d", 10)
    plan = plan_wanted((release(3, "a", deltas=(delta,)),), SlotState(Placed("a", "a2", 2)), FACTS, Desired(3))
    assert plan.delta == delta


def test_a_shadow_is_what_the_core_names_and_never_beside_a_trial() -> None:
    state = SlotState(Placed("a", "a2", 2))
    assert plan_shadow(OFFERED, state, FACTS, Desired(2, ("b",), shadow=3)) == OFFERED[1]
    for wanted in (None, Desired(2), Desired(2, shadow=9), Desired(2, shadow=2, members=("a",))):
        found = plan_shadow(OFFERED, state, FACTS, wanted)
        assert found is None or found.sha256 != "a2"
    assert plan_shadow(OFFERED, replace(state, trial=Trial("a2", 2)), FACTS, Desired(2, shadow=3)) is None
    assert plan_shadow(OFFERED, SlotState(), FACTS, Desired(2, shadow=3)) is None


def test_waits_are_spread_grow_with_failures_and_end_at_four_intervals() -> None:
    rng = random.Random(0)
    calm = [next_wait_s(60.0, 0, rng) for _ in range(1000)]
    assert 48 <= min(calm) < 50 and 70 < max(calm) <= 72
    means = [sum(next_wait_s(60.0, n, rng) for _ in range(2000)) / 2000 for n in range(1, 12)]
    assert means[0] == pytest.approx(5, rel=0.1) and means[1] == pytest.approx(10, rel=0.1)
    assert means[-1] == pytest.approx(240, rel=0.1) and means == sorted(means[:6]) + means[6:]
    assert next_wait_s(60.0, 10**9, rng) <= 360


def test_a_status_becomes_a_heartbeat_that_the_core_reads() -> None:
    task = {
        "ready": True, "fault": "bad \udce9 name", "failed": [{"digest": "a" * 64, "version": 2, "why": "x" * 999}] * 9,
        "trial": {"deaths": 1}, "swaps": 2, "roll_backs": 1, "digest": "b" * 64, "version": 3, "member": "w1",
        "latency_us": 12.5, "watch": {"level": 2}, "predictions": 7,
        "risk": {"level": None, "drawn": {"rows": 3, "wrong": 1}, "sent": {"rows": 2, "wrong": 2}},
        "shadow": {"digest": "c" * 64, "version": 4, "rows": 9, "disagreements": 1, "latency_us": 3.0, "fault": None,
                   "labelled": {"rows": 2, "wrong": 1, "champion_wrong": 1, "both_wrong": 1}},
    }  # fmt: skip
    empty = {"ready": False, "fault": None, "failed": [], "trial": None, "swaps": 0, "roll_backs": 0}
    status = {"fault": "full", "tasks": {"digits": task, **{f"t{n}": {**task} for n in range(20)}, "new": empty}}
    beat = compose(
        status, nonce=None, now_s=5.0, facts=FACTS, floors={"digits": 3, "gone": 1}, disk_free_bytes=9, flags=("a",)
    )  # fmt: skip
    body = write(beat)
    assert len(body) <= 64 << 10
    told = read(Heartbeat, body)
    one = told.tasks["digits"]
    assert (one.watch_level, one.risk_level, one.crashes, one.version) == (2, 0, 1, 3)
    assert one.labelled is not None and (one.labelled.rows, one.labelled.wrong) == (5, 3)
    assert one.shadow is not None and one.shadow.labelled == Labelled(2, 1, 1, 1)
    assert told.tasks["new"].digest is None and told.floors == {"digits": 3} and told.flags[0] == "a"
    moved = {**status, "tasks": {**status["tasks"], "digits": {**task, "watch": {"level": 3}}}}
    assert news(status) != news(moved) and news(status) == news({**status, "fault": None})


def test_what_a_node_learns_goes_out_with_the_heartbeat_and_an_old_core_passes_it_over() -> None:
    empty = {"ready": False, "fault": None, "failed": [], "trial": None, "swaps": 0, "roll_backs": 0}
    told = {"kind": "statistics", "rows": 64, "state": "active", "why": "gain 2", "fault": None, "judged": {"rows": 0}}
    status = {"fault": None, "tasks": {"digits": empty | {"learn": told}, "other": empty}}
    beat = compose(status, nonce=None, now_s=5.0, facts=FACTS, floors={}, disk_free_bytes=None)
    found = read(Heartbeat, write(beat)).tasks
    assert found["digits"].learn == Learning("statistics", 64, "active", "gain 2") and found["other"].learn is None
    dropped = {**status, "tasks": {**status["tasks"], "digits": empty | {"learn": told | {"state": "dropped"}}}}
    assert news(status) != news(dropped)
    with pytest.raises(InputError, match="state"):
        read(Heartbeat, write(beat).replace(b'"active"', b'"odd"'))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, ("statistics", 0.1)), ({"learn": ""}, (None, 0.1)),
        ({"learn": "last-layer", "label_error": 0}, ("last-layer", 0)),
        ({"learn": "a newer way", "label_error": 0.2}, (None, 0.2)),
        ({"learn": 7, "label_error": True}, ("statistics", 0.1)),
        ({"label_error": 0.6}, ("statistics", 0.1)), ({"label_error": float("nan")}, ("statistics", 0.1)),
    ],
)  # fmt: skip
def test_the_core_says_what_to_learn_and_the_settings_where_it_is_silent(
    policy: dict[str, Any], expected: tuple[str | None, float]
) -> None:
    assert learning_of(policy, "statistics", 0.1) == expected
