"""Outputs of a file over a split, per-class accuracy, flips, and the description of a machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from edgehone.errors import DataError, InputError
from edgehone.exporters import EXPORTERS
from edgehone.measure.accuracy import anomaly_scores, class_accuracy, flips, outputs
from edgehone.measure.machine import describe_machine, place
from edgehone.testing.runtimes import EXAMPLE, reference_answer, reference_graph
from edgehone_agent.model import open_model


def test_outputs_go_through_the_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(EXPORTERS.get("tflite").export(reference_graph()))
    x = np.random.default_rng(0).standard_normal((7, *EXAMPLE), np.float32)
    told: list[int] = []
    with open_model(path) as model:
        found = outputs(model.session, (x[start : start + 3] for start in (0, 3, 6)), told.append)
        np.testing.assert_allclose(found, reference_answer(x), rtol=1e-4, atol=1e-5)
        assert told == [3, 6, 7]
        with pytest.raises(DataError, match="no examples"):
            outputs(model.session, [])
        with pytest.raises(InputError, match="expected an example of shape"):
            outputs(model.session, [x[:, :1]])


def test_anomaly_scores_are_mean_squared_errors() -> None:
    given, back = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [3.0, 4.0]])
    np.testing.assert_array_equal(anomaly_scores(back, given), [2, 0])
    with pytest.raises(DataError):
        anomaly_scores(back, given[:, :1])


def test_class_accuracy_is_recall() -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 3, 300), rng.normal(size=(300, 4))
    accuracy, counts = class_accuracy(scores, targets, 4)
    expected = recall_score(targets, scores.argmax(1), labels=[0, 1, 2], average=None)
    np.testing.assert_allclose(accuracy[:3], expected)
    assert np.isnan(accuracy[3])
    np.testing.assert_array_equal(counts, [*np.bincount(targets), 0])


@pytest.mark.parametrize("targets", [np.array([0, 4]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([[0], [1]])])
def test_labels_that_are_no_class_ids_are_refused(targets: np.ndarray) -> None:
    with pytest.raises(DataError):
        class_accuracy(np.zeros((2, 4)), targets, 4)


def test_flips_count_changed_answers() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(200, 3))
    after = before + rng.normal(size=(200, 3))
    expected = confusion_matrix(before.argmax(1), after.argmax(1), labels=[0, 1, 2])
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(flips(before, after, 3), expected)
    assert flips(before, before, 3).sum() == 0


def test_the_machine_is_described_in_json() -> None:
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cores"] >= 1 and machine["memory_bytes"] > 1e8
    assert {"numpy", "edgehone-agent"} <= set(machine["versions"])
    assert machine["cpu"] in place(machine)


@pytest.mark.parametrize(
    ("text", "model", "flags"),
    [
        ("processor\t: 0\nmodel name\t: Big CPU\nflags\t\t: fpu avx2 fma\n", "Big CPU", ["avx2", "fma"]),
        ("processor : 0\nFeatures : fp asimd asimddp\nHardware : BCM2711\n", "BCM2711", ["asimd", "asimddp"]),
    ],
)
def test_processors_of_both_kinds_are_read(text: str, model: str, flags: list[str], tmp_path: Path) -> None:
    from edgehone_agent.measure.machine import _cpu

    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert _cpu(file) == {"model": model, "flags": flags}
    assert _cpu(tmp_path / "missing")["model"]
