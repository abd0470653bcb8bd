"""Labelled feedback on one model: baselines, losses, counts and the state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgehone_agent.errors import StateError
from edgehone_agent.watch.labels import Baseline, Counts, Labels, baseline_of
from edgehone_agent.wire.manifest import Manifest, Values

DIGEST = "ab" * 32


def manifest(kind: str = "classification", outputs: int = 3, **measured: Any) -> Manifest:
    figures = {name.replace("_", " "): figure for name, figure in measured.items()}
    return Manifest(
        task="t", kind=kind, version=1, member="m", created="2026-01-01T00:00:00Z", parts=(),
        input=Values("x", (4,)), output=Values("y", (outputs,)),
        labels=("cat", "dog") if kind == "classification" else (), measured=figures,
    )  # fmt: skip


def figure(value: float, n: Any = 2_000, kind: str = "measured") -> dict[str, Any]:
    return {"value": value, "n": n, "kind": kind}


def event(kind: str, **more: Any) -> dict[str, Any]:
    return {"id": "e", "prediction_id": "p", "kind": kind, **more}


class TestTheBaseline:
    def test_an_accuracy_gives_an_error(self) -> None:
        found = baseline_of(manifest(accuracy_validation=figure(0.9), accuracy_test=figure(0.875)))
        assert found == Baseline("wrong", 0.125, 2_000, 1.0, "accuracy test")
        assert baseline_of(manifest(accuracy_validation=figure(0.75, 100))) == Baseline(
            "wrong", 0.25, 100, 1.0, "accuracy validation"
        )

    @pytest.mark.parametrize(
        "measured",
        [
            {},
            {"accuracy_test": figure(0.9, kind="estimated")},
            {"accuracy_test": {"value": 0.9}},
            {"accuracy_test": figure(0.9, 0)},
            {"accuracy_test": figure(0.9, "many")},
            {"accuracy_test": figure(90.0)},
            {"accuracy_train": figure(0.9)},
            {"balanced-accuracy_test": figure(0.9)},
        ],
    )
    def test_without_a_usable_figure_there_is_none(self, measured: dict[str, Any]) -> None:
        labels = Labels(manifest(**measured), DIGEST)
        assert labels.detector is None and "no measured accuracy" in str(labels.why)
        labels.take(event("correct", label="cat"), 1, is_drawn=True)
        assert (labels.drawn, labels.level, labels.summary()["level"]) == (Counts(1, 1), 0, None)

    def test_numbers_have_a_bounded_error(self) -> None:
        assert baseline_of(manifest("regression", 1, mae_test=figure(0.5))) == Baseline(
            "absolute", 0.25, 2_000, 2.0, "mae test"
        )
        assert baseline_of(manifest("regression", 1, rmse_validation=figure(2.0))) == Baseline(
            "squared", 1 / 9, 2_000, 6.0, "rmse validation"
        )
        assert "mae or rmse" in str(baseline_of(manifest("regression", 1, r2_test=figure(0.9))))
        assert "mae or rmse" in str(baseline_of(manifest("regression", 1, mae_test=figure(0.0))))
        assert "kind of task" in str(baseline_of(manifest("anomaly", 4, auc_test=figure(0.9))))

    def test_a_model_that_is_never_right_cannot_be_shown_to_be_worse(self) -> None:
        labels = Labels(manifest(accuracy_test=figure(0.001, 10)), DIGEST)
        assert labels.detector is None and "nothing can be shown" in str(labels.why)


class TestTheLoss:
    @pytest.mark.parametrize(
        ("said", "wrong"),
        [
            (event("confirm"), 0),
            (event("correct", label="dog"), 0),
            (event("correct", label=1), 0),
            (event("correct", label="cat"), 1),
            (event("correct", label="2"), 1),  # the third class has no name
            (event("correct", label=2), 1),
            (event("new_class", label="horse"), 1),
        ],
    )
    def test_of_a_class(self, said: dict[str, Any], wrong: int) -> None:
        labels = Labels(manifest(accuracy_test=figure(0.9)), DIGEST)
        labels.take(said, 1, is_drawn=True)
        assert (labels.drawn, labels.unclear) == (Counts(1, wrong), 0)
        assert labels.evidence()["detector"]["mean"] == wrong

    @pytest.mark.parametrize(
        ("said", "answered"),
        [
            (event("correct", label="Cat"), 1),  # a class that the model does not have may be a slip
            (event("correct", label="7"), 1),
            (event("correct", label="1"), 0),  # the second class is called dog
            (event("correct", label=3), 1),
            (event("correct", label=-1), 1),
            (event("correct", value=1.0), 1),
            (event("correct", label="cat"), None),
        ],
    )
    def test_what_is_unclear_is_no_evidence(self, said: dict[str, Any], answered: int | None) -> None:
        labels = Labels(manifest(accuracy_test=figure(0.9)), DIGEST)
        labels.take(said, answered, is_drawn=True)
        assert (labels.unclear, labels.drawn, labels.sent) == (1, Counts(), Counts())

    def test_of_numbers(self) -> None:
        labels = Labels(manifest("regression", 2, mae_test=figure(0.5)), DIGEST)
        said = np.array([1.0, 2.0], np.float32)
        for value, mean in (([1.0, 3.0], 0.25), ([1.0, 200.0], 0.625), ([1.0, 2.0], 1.25 / 3)):
            labels.take(event("correct", value=value), said, is_drawn=True)
            assert labels.evidence()["detector"]["mean"] == pytest.approx(mean)
        assert labels.drawn == Counts(3, 2)
        for value in (1.0, [1.0], None):
            labels.take(event("correct", value=value, label="x"), said, is_drawn=True)
        labels.take(event("new_class", label="x"), said, is_drawn=True)
        assert labels.unclear == 4
        squared = Labels(manifest("regression", 1, rmse_test=figure(2.0)), DIGEST)
        squared.take(event("correct", value=4.0), np.array([1.0]), is_drawn=True)
        assert squared.evidence()["detector"]["mean"] == pytest.approx(0.25)

    def test_what_people_send_is_counted_and_proves_nothing(self) -> None:
        labels = Labels(manifest(accuracy_test=figure(0.9)), DIGEST)
        for _ in range(500):
            labels.take(event("correct", label="cat"), 1, is_drawn=False)
        assert (labels.sent, labels.drawn, labels.level) == (Counts(500, 500), Counts(), 0)
        assert labels.evidence()["detector"]["rows"] == 0


def fed(seed: int, rows: int, rate: float, labels: Labels) -> Labels:
    for wrong in np.random.default_rng(seed).random(rows) < rate:
        labels.take(event("correct", label="cat" if wrong else "dog"), 1, is_drawn=True)
    return labels


class TestTheState:
    def test_a_restart_changes_nothing(self) -> None:
        told = manifest(accuracy_test=figure(0.9))
        before = fed(1, 600, 0.3, Labels(told, DIGEST))
        before.take(event("confirm"), None, is_drawn=False)
        before.unclear, before.of_others, before.unknown = 3, 4, 5
        after = Labels(told, DIGEST)
        after.restore(before.to_bytes())
        assert after.evidence() == before.evidence() and after.level == 3
        assert fed(2, 50, 0.3, after).to_bytes() == fed(2, 50, 0.3, before).to_bytes()
        assert json.loads(json.dumps(after.evidence())) == after.evidence()

    def test_without_a_detector_too(self) -> None:
        before = fed(1, 10, 0.5, Labels(manifest(), DIGEST))
        after = Labels(manifest(), DIGEST)
        after.restore(before.to_bytes())
        assert after.drawn == before.drawn and after.drawn.rows == 10

    def test_of_another_model_baseline_or_damaged_it_is_refused(self) -> None:
        told = manifest(accuracy_test=figure(0.9))
        content = fed(1, 50, 0.3, Labels(told, DIGEST)).to_bytes()
        others = [
            Labels(told, "cd" * 32),
            Labels(manifest(accuracy_test=figure(0.8)), DIGEST),
            Labels(manifest(), DIGEST),
        ]
        for labels in others:
            with pytest.raises(StateError):
                labels.restore(content)
            assert labels.drawn.rows == 0
        for damaged in (b"", content[:-1], content[:40], bytes([content[0] ^ 1]) + content[1:], content + b"\0"):
            with pytest.raises(StateError):
                Labels(told, DIGEST).restore(damaged)


class TestTheEvidence:
    """20 seeds of 2,000 labels each: few alarms at the measured error, and soon one when it doubles."""

    def test_an_error_as_measured_is_quiet(self) -> None:
        alarms = np.zeros(3)
        for seed in range(20):
            labels = fed(seed, 2_000, 0.08, Labels(manifest(accuracy_test=figure(0.92, 2_000)), DIGEST))
            alarms += labels.evidence()["detector"]["alarms"]
        assert alarms[0] <= 20 * 2  # the bound: T / A of level 1
        assert alarms[1] <= 1 and alarms[2] == 0

    def test_a_doubled_error_is_found(self) -> None:
        rows = []
        for seed in range(20):
            labels = Labels(manifest(accuracy_test=figure(0.92, 2_000)), DIGEST)
            while labels.level < 2 and labels.drawn.rows < 4_000:
                fed(seed * 10_000 + labels.drawn.rows, 20, 0.16, labels)
            rows.append(labels.drawn.rows)
        assert np.median(rows) <= 600 and max(rows) < 2_000


def test_the_share_of_wrong_labels_is_kept_with_the_state() -> None:
    labels = Labels(manifest(accuracy_test=figure(0.9)), DIGEST)
    assert labels.set_label_error(0.1) and not labels.set_label_error(0.1)
    for n in range(300):
        labels.take(event("correct", label=int(n % 5 == 0)), 0, is_drawn=True)
    other = Labels(manifest(accuracy_test=figure(0.9)), DIGEST)
    other.restore(labels.to_bytes())
    assert other.label_error == labels.label_error == pytest.approx(0.1) and other.evidence() == labels.evidence()
    assert other.set_label_error(0.0)
    assert other.detector is not None and other.detector.evidence()["rows"] == 0 and other.drawn.rows == 300
    numbers = Labels(manifest("regression", 1, mae_test=figure(0.5)), DIGEST)
    assert not numbers.set_label_error(0.1) and numbers.label_error == 0  # people's errors have no share there
