"""Policies are read strictly; the gate judges by the bad end; a round goes only where it may."""

from __future__ import annotations

from typing import Any

import pytest

from edgehone.errors import InputError
from edgehone.fleet import serial
from edgehone.fleet.orders import load_orders
from edgehone.loop import round as machine
from edgehone.loop.gate import flips, judge, judge_same
from edgehone.loop.policy import LoopPolicy, list_policies, load_policy, read_policy, save_policy
from edgehone.loop.round import PHASES, Round
from edgehone.records.database import Database
from edgehone_agent.errors import StateError

LEAST = {"source": "gas.py", "study": "family", "members": ["int8"]}
POLICY = read_policy("gas", LEAST)


def test_a_policy_comes_back_as_it_was(database: Database) -> None:
    policy = read_policy("gas", {**LEAST, "approve": "auto", "rollout": {"stages": [0.5, 1.0], "soak_s": 1}})
    with database.write() as conn:
        save_policy(conn, policy, actor="person:ann", now_s=1.0)
    with database.read() as conn:
        assert load_policy(conn, "gas") == policy and list_policies(conn) == [policy]
        assert load_policy(conn, "other") is None
    assert policy.plan().stages == (0.5, 1.0)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epsilom_pp": 1}, "epsilom_pp"),
        ({"members": "int8"}, "members"),
        ({"members": []}, "members"),
        ({"approve": "maybe"}, "approve"),
        ({"where": "moon"}, "where"),
        ({"min_labels": 1.5}, "min_labels"),
        ({"min_labels": True}, "min_labels"),
        ({"epsilon_pp": "1"}, "epsilon_pp"),
        ({"epsilon_pp": float("nan")}, "epsilon_pp"),
        ({"flip_limit": 1.5}, "flip_limit"),
        ({"held_share": 0}, "held_share"),
        ({"held_share": 1}, "held_share"),
        ({"risk_level": 4}, "drift_level"),
        ({"task": "other"}, "task"),
        ({"rollout": {"speed": 1}}, "rollout"),
        ({"rollout": {"stages": [0.5]}}, "stages"),
        ({"latency_ratio": 0.5}, "latency_ratio"),
        ({"study": ""}, "study"),
        ({"label_error": 0.51}, "label_error"),
        ({"node_learning": "everything"}, "node_learning"),
        ({"node_learning": "statistics", "where": "last-layer"}, "node_learning"),
        ({"card_readings": 59}, "card_readings"),
        ({"rate": 0}, "rate"),
        ({"rate": 10.1}, "rate"),
        ({"rate": "fast"}, "rate"),
        ({"share": 0.91}, "share"),
        ({"share": -0.1}, "share"),
        ({"collect_s": -1}, "collect_s"),
    ],
)
def test_what_is_wrong_with_a_policy_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as error:
        read_policy("gas", {**LEAST, **change})
    assert word in str(error.value)


@pytest.mark.parametrize(
    ("change", "learn"),
    [
        ({}, ""),
        ({"where": "statistics"}, "statistics"),
        ({"node_learning": "last-layer", "label_error": 0.1}, "last-layer"),
    ],
)
def test_nodes_are_told_their_part_of_a_policy(database: Database, change: dict[str, Any], learn: str) -> None:
    policy = read_policy("gas", {**LEAST, **change})
    with database.write() as conn:
        before = serial.current(conn)
        save_policy(conn, policy, actor="person:ann", now_s=1.0)
        assert serial.current(conn) != before
        told = load_orders(conn)[0]["gas"]
    assert told == {"learn": learn, "label_error": change.get("label_error", 0.0)}


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="members"):
        read_policy("gas", {"source": "gas.py", "study": "family"})


def figures(**values: Any) -> dict[str, Any]:
    said = {"loss": 0.5, "gain": 3.0, "latency": 1.0, "size": 1.0, "flips": 0.01, **values}
    slices = {
        "old": {"drop": {"value_pp": 0.1, "high_pp": said["loss"]}, "flips": said["flips"], "n": 1000},
        "new": {"drop": {"value_pp": -9.0, "high_pp": -said["gain"]}, "flips": 0.2, "n": 200},
    }
    latency = said["latency"]
    return {"member": "int8", "slices": slices, "latency": 1.0, "latency_high": latency, "size": said["size"]}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"loss": 1.01}, ["old slice"]),
        ({"gain": 0.49}, ["new slice"]),
        ({"gain": -2.0}, ["new slice"]),
        ({"latency": 1.3}, ["latency"]),
        ({"size": 1.2}, ["size"]),
        ({"flips": 0.06}, ["flips"]),
        ({"flips": None}, []),
        ({"loss": 2.0, "gain": 0.0}, ["old slice", "new slice"]),
    ],
)
def test_the_gate_by_its_bad_end(change: dict[str, Any], failed: list[str]) -> None:
    (verdict,) = judge([figures(**change)], POLICY)
    assert [check.name for check in verdict.checks if not check.ok] == failed
    assert verdict.ok == (not failed) and verdict.why.startswith("int8: ")


def test_the_same_model_is_judged_by_its_files_and_its_readings() -> None:
    policy, same = read_policy("gas", {**LEAST, "card_readings": 100}), {"models/litert/model.tflite": "1" * 64}
    other = {"models/litert/model.tflite": "2" * 64}
    for new, contexts, failed in (
        (same, {"north": 100}, []),
        (same, {"north": 99}, ["readings"]),
        (same, {}, ["readings"]),
        (other, {"north": 100}, ["same model"]),
        ({}, {"north": 100}, ["same model"]),
    ):
        (verdict,) = judge_same({"int8": (new, same)}, ("north",), contexts, policy)
        assert [check.name for check in verdict.checks if not check.ok] == failed


def test_the_rollout_expects_the_flips_of_what_is_released() -> None:
    def slices(old: tuple[float | None, int], new: tuple[float | None, int]) -> dict[str, Any]:
        return {"old": {"flips": old[0], "n": old[1]}, "new": {"flips": new[0], "n": new[1]}}

    many = {"member": "int8", "slices": slices((0.02, 1000), (0.2, 400))}
    failed = {"member": "w22", "slices": slices((0.9, 1000), (0.9, 400))}
    assert flips([many, failed], ["int8"]) == (0.2, 400)
    few = {"member": "w30", "slices": slices((0.02, 1000), (0.15, 40))}  # fewer rows: a higher bound
    assert flips([many, few], ["int8", "w30"]) == (0.15, 40)
    assert flips([{"member": "r", "slices": slices((None, 9), (None, 9))}], ["r"]) == (None, 0)


NEW = Round("0" * 16, "gas", "drift", POLICY.to_json(), "family", 1.0, 1.0, why="because", began="because")


def test_a_round_passes_its_phases_in_order() -> None:
    found = NEW
    for phase in PHASES[:-1]:
        assert Round.from_json(found.to_json()) == found
        found = machine.passed(found, phase, 2.0)
    assert (found.phase, found.state, found.ended_s) == ("done", "done", 2.0)
    for act in (lambda: machine.passed(found, "done", 3.0), lambda: machine.ended(found, "aborted", "", 3.0)):
        with pytest.raises(InputError):
            act()


@pytest.mark.parametrize("phase", PHASES[1:])
def test_no_phase_is_skipped(phase: machine.Phase) -> None:
    with pytest.raises(InputError):
        machine.passed(NEW, phase, 2.0)


def test_it_waits_for_a_person_in_sign_only() -> None:
    with pytest.raises(InputError):
        machine.waiting(NEW, "approve it")
    found = NEW
    for phase in ("data", "train", "compress", "gate"):
        found = machine.passed(found, phase, 2.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="wait for anybody"):
        machine.approved(found, "person:ann", 3.0)
    there = machine.approved(machine.waiting(found, "approve it"), "person:ann", 3.0)
    assert there.approved_by == "person:ann" and there.state == "running" and there.why == "because"
    assert machine.back_to_compress(there, 9, 4.0).version == 9


def test_what_is_stored_of_a_round_is_checked() -> None:
    for change in ({"phase": "party"}, {"state": "odd"}, {"kind": "magic"}):
        with pytest.raises(StateError):
            Round.from_json({**NEW.to_json(), **change})
    with pytest.raises(StateError):
        Round.from_json({"id": "x"})
    assert Round.from_json({**NEW.to_json(), "later": 1}) == NEW


def test_a_default_policy_is_careful() -> None:
    assert LoopPolicy("gas", "gas", "family", ("int8",)).approve == "manual"
