"""The decision table, row by row; the guards; and benign drift that must never lead to a round."""

from __future__ import annotations

from typing import Any

import pytest

from edgehone.loop.diagnosis import diagnose
from edgehone.loop.policy import DAY_S, LoopPolicy
from edgehone.loop.sight import LabelSight, NodeSight, Sight, fault_of
from edgehone_agent.wire.card import BINS

NOW_S = 1_800_000_000.0
POLICY = LoopPolicy("gas", "gas", "family", ("int8",), schedule_days=30.0)
ENOUGH: dict[str, Any] = {"usable": 300, "new": 100, "baseline": 0.1}
FLAT = LabelSight(**ENOUGH, audited=400, audited_wrong=40)
DROPPED = LabelSight(**ENOUGH, audited=400, audited_wrong=140)
UNKNOWN = LabelSight(**ENOUGH, audited=10, audited_wrong=5)


def node(number: int, **values: Any) -> NodeSight:
    return NodeSight(f"n{number}", values.pop("cohort", "gas"), **values)


def drifted(number: int, **values: Any) -> NodeSight:
    return node(number, watch_level=2, channel="input 0", direction="higher", **values)


QUIET = [node(number) for number in range(4, 9)]
FLEET = [drifted(number) for number in range(1, 9)]
NORTH = [drifted(1, cohort="north"), drifted(2, cohort="north"), *QUIET]
OUTPUT = {"watch_level": 2, "channel": "confidence", "is_output": True}

TABLE = [
    # nodes, labels, more of the sight, (answer, scope, word of the reason)
    ([drifted(1, fault="input 3 stands still"), *QUIET], FLAT, {}, ("quarantine", "node", "sensor fault")),
    ([drifted(n, fault="input 3 stands still") for n in range(6)], FLAT, {}, ("re-baseline", "fleet", "have not")),
    ([node(1, risk_level=2), *QUIET], UNKNOWN, {}, ("retrain", "node", "more errors")),
    ([node(n, risk_level=2) for n in range(6)], FLAT, {}, ("retrain", "fleet", "more errors")),
    (FLEET, DROPPED, {}, ("retrain", "fleet", "audited answers were wrong")),
    (NORTH, DROPPED, {}, ("retrain", "cohort", "audited")),
    ([drifted(1), *QUIET], FLAT, {}, ("adapt", "node", "statistics")),
    ([drifted(1), *QUIET], UNKNOWN, {}, ("adapt", "node", "no drop is shown")),
    (FLEET, FLAT, {}, ("re-baseline", "fleet", "no new model")),
    (NORTH, FLAT, {}, ("re-baseline", "cohort", "north")),
    (FLEET, UNKNOWN, {}, ("collect", "fleet", "10 audited labels")),
    ([node(1, **OUTPUT), *QUIET], FLAT, {}, ("nothing", "node", "errors have not")),
    ([node(n, **OUTPUT) for n in range(6)], FLAT, {}, ("re-baseline", "fleet", "answered")),
    (QUIET, LabelSight(**ENOUGH, corrected=200), {}, ("retrain", "task", "200 answers were corrected")),
    (QUIET, LabelSight(**ENOUGH, unknown={"ozone": 20}), {}, ("nothing", "task", "new study")),
    (QUIET, FLAT, {"since_s": NOW_S - 31 * DAY_S}, ("retrain", "task", "31 days")),
    (QUIET, FLAT, {"asked": "person:ann"}, ("retrain", "task", "person:ann asked")),
    # guards
    (FLEET, DROPPED, {"ended_s": NOW_S - 60}, ("nothing", "fleet", "the next may begin in")),
    (FLEET, DROPPED, {"rounds_this_week": 14}, ("nothing", "fleet", "budget")),
    (FLEET, DROPPED, {"is_running": True}, ("nothing", "fleet", "runs already")),
    (QUIET, FLAT, {"asked": "person:ann", "ended_s": NOW_S - 60, "rounds_this_week": 14}, ("retrain", "task", "ann")),
    (
        FLEET, LabelSight(usable=59, baseline=0.1, audited=400, audited_wrong=140, short={"smoke": 3}), {},
        ("collect", "fleet", "smoke: 3"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "labels", "more", "wanted"), TABLE)
def test_every_row(
    nodes: list[NodeSight], labels: LabelSight, more: dict[str, Any], wanted: tuple[str, str, str]
) -> None:
    found = diagnose(Sight("gas", NOW_S, tuple(nodes), labels, **more), POLICY)
    assert [(one.answer, one.scope) for one in found] == [wanted[:2]], found
    assert wanted[2] in found[0].why and found[0].evidence


def test_nothing_is_nothing() -> None:
    assert diagnose(Sight("gas", NOW_S, tuple(QUIET), FLAT, since_s=NOW_S), POLICY) == ()


def test_several_reasons_make_one_round() -> None:
    labels = LabelSight(**ENOUGH, corrected=500, audited=400, audited_wrong=140)
    found = diagnose(Sight("gas", NOW_S, tuple(FLEET), labels, since_s=NOW_S - 99 * DAY_S), POLICY)
    assert [one.answer for one in found] == ["retrain"]
    assert "audited" in found[0].why and "500 answers" in found[0].why and "99 days" in found[0].why


def test_one_sick_node_beside_a_drop() -> None:
    found = diagnose(Sight("gas", NOW_S, (drifted(1, fault="input 3 is missing"), *FLEET[1:]), DROPPED), POLICY)
    assert sorted(one.answer for one in found) == ["quarantine", "retrain"]


def test_a_task_that_learns_on_nodes_is_not_retrained() -> None:
    policy = LoopPolicy("gas", "gas", "family", ("int8",), where="statistics")
    assert [one.answer for one in diagnose(Sight("gas", NOW_S, tuple(FLEET), DROPPED), policy)] == ["adapt"]


def test_benign_drift_for_three_years_never_retrains() -> None:
    """Inputs drift for ever and errors stay what they were (17.3 % against 17.1 to 17.5 %): no round, ever."""
    policy = LoopPolicy("work", "work", "family", ("int8",), tolerance=0.01)
    answers = set()
    for day in range(3 * 365):
        rows = 60 + 190 * day
        share = 0.171 + 0.004 * (day % 7) / 6
        labels = LabelSight(usable=5000, new=100, baseline=0.173, audited=rows, audited_wrong=round(share * rows))
        nodes = tuple(drifted(n) for n in range(1 + day % 8)) + tuple(QUIET)
        answers |= {one.answer for one in diagnose(Sight("work", NOW_S + day * DAY_S, nodes, labels), policy)}
    assert answers == {"adapt", "re-baseline"}


def channel(counts: dict[int, int], name: str = "input 2", log_e: float = 50.0) -> dict[str, Any]:
    return {"channel": name, "counts": [counts.get(index, 0) for index in range(BINS)], "log_e_all_rows": log_e}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (channel({5: 500}), "stands still"),
        (channel({0: 300, 4: 200}), "missing"),
        (channel({BINS - 1: 500}), ""),  # it has moved out of the range, as a darker picture does
        (channel({5: 400, 6: 100}), ""),
        (channel({5: 40}), ""),  # too few rows
        (channel({5: 500}, log_e=1.0), ""),  # that is what it was like in validation
        (channel({5: 500}, name="confidence"), ""),
        ({"channel": "input 1", "counts": "many"}, ""),
    ],
)
def test_sensor_faults(found: dict[str, Any], words: str) -> None:
    fault = fault_of({"channels": [found]})
    assert (words in fault) if words else fault == ""
