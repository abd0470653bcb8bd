"""Preparing a task: splits, labels, network, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgehone.data import Scale, prepare
from edgehone.errors import DataError, TaskError
from edgehone.task import Task

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(100, 4)).astype(np.float32)
Y = np.arange(100) % 4
X_TEST, Y_TEST = GENERATOR.normal(size=(20, 4)).astype(np.float32), np.arange(20) % 4


def make(**changes: object) -> Task:
    return Task(**{"name": "t", "network": nn.Linear(4, 4), "train": (X, Y), "test": (X_TEST, Y_TEST)} | changes)


def refused(error: type, /, **changes: object) -> DataError | TaskError:
    with pytest.raises(error) as caught:
        prepare(make(**changes))
    assert caught.value.where and caught.value.do
    return caught.value


def test_a_stratified_part_is_held_out() -> None:
    prepared = prepare(make(), seed=1, validation_fraction=0.2)
    assert prepared.validation.y.bincount().tolist() == [5] * 4
    assert prepared.train.y.bincount().tolist() == [20] * 4
    rows = {row.tobytes() for split in (prepared.train, prepared.validation) for row in split.arrays()[0]}
    assert rows == {row.tobytes() for row in X}
    same, other = prepare(make(), 1, 0.2), prepare(make(), 2, 0.2)
    assert same.validation.digest() == prepared.validation.digest() != other.validation.digest()
    assert prepared.input_shape == (1, 4)
    assert prepared.labels == ("0", "1", "2", "3")


def test_a_given_validation_split_is_taken_as_it_is() -> None:
    prepared = prepare(make(validation=(X_TEST, Y_TEST)))
    assert prepared.train.digest() != prepared.validation.digest() == prepared.test.digest()
    assert len(prepared.train) == 100


def test_a_network_is_taken_as_it_is_and_a_function_is_seeded() -> None:
    network = nn.Linear(4, 4)
    assert prepare(make(network=network)).network is network
    task = make(network=lambda: nn.Linear(4, 4))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = prepare(task, seed=3).network
    assert torch.equal(torch.rand(1), expected)  # the caller's own randomness goes on undisturbed
    second, third = prepare(task, seed=3).network, prepare(task, seed=4).network
    assert torch.equal(first.weight, second.weight) and not torch.equal(first.weight, third.weight)


def test_end_to_end_is_preprocessing_then_the_network() -> None:
    network = nn.Linear(4, 4)
    prepared = prepare(make(network=network, preprocess=Scale(0.5)))
    x = torch.randn(3, 4)
    assert torch.equal(prepared.end_to_end()(x), network(x * 0.5))
    assert prepare(make(network=network)).end_to_end() is network


def test_labels_come_from_the_task_or_the_folder(tmp_path: Path) -> None:
    assert prepare(make(labels=("a", "b", "c", "d", "e"))).labels == ("a", "b", "c", "d", "e")
    for split in ("train", "test"):
        for name in ("dog", "cat", "eel"):
            if split == "test" and name == "cat":
                continue
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(3):
                Image.new("L", (3, 3), index).save(tmp_path / split / name / f"{index}.png")
    prepared = prepare(make(train=tmp_path / "train", test=tmp_path / "test"))
    assert prepared.labels == ("cat", "dog", "eel")
    assert prepared.test.y.unique().tolist() == [1, 2]  # ids follow the training split


def test_regression_and_anomaly() -> None:
    assert prepare(make(kind="regression", train=(X, Y * 0.5))).labels == ()
    judged = (X_TEST, Y_TEST % 2)
    prepared = prepare(make(kind="anomaly", train=X, validation=judged, test=judged))
    assert prepared.labels == ("normal", "anomalous")
    assert not prepared.train.y.any()


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"train": (X, Y * 0 + 3)}, "training split", "all 90 examples have the label 3"),
        ({"test": (X_TEST[:0], Y_TEST[:0])}, "test split", "no examples"),
        ({"test": (X_TEST[:, :3], Y_TEST)}, "test split", "shape (3,), those of the training split (4,)"),
        ({"labels": ("a", "b", "c")}, "training split", "label 3, but the task names 3 classes"),
        ({"labels": ("a", "b", "c", "d"), "test": (X_TEST, Y_TEST + 1)}, "test split", "label 4, but the task names 4"),
        ({"train": (X[:1], Y[:1])}, "training split", "cannot be split"),
        ({"train": (np.where(X > 3, np.nan, X) * np.nan, Y)}, "training split", "NaN"),
        ({"kind": "regression", "test": (X_TEST, np.eye(20)[:, :2])}, "test split", "targets have shape (2,)"),
        ({"kind": "anomaly", "validation": (X_TEST, Y_TEST % 2)}, "training split", "label 2"),
        (
            {"kind": "anomaly", "train": (X, Y % 2), "validation": (X_TEST, Y_TEST % 2)},
            "training split",
            "50 anomalous",
        ),
        ({"kind": "anomaly", "train": X, "validation": (X_TEST, Y_TEST * 0)}, "validation split", "one class only"),
        ({"train": "nowhere.csv"}, "training split (nowhere.csv)", "no such file"),
    ],
)
def test_wrong_data(changes: dict[str, object], where: str, said: str) -> None:
    if changes.get("kind") == "anomaly":
        changes = {"test": (X_TEST, Y_TEST % 2)} | changes
    error = refused(DataError, **changes)
    assert said in error.what
    assert error.where == where


def broken() -> nn.Module:
    raise FileNotFoundError("weights.pt")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": broken}, "FileNotFoundError: weights.pt"),
        ({"network": lambda: 3}, "returned a int"),
        ({"preprocess": lambda x: x}, "preprocess is a function"),
        ({"kind": "anomaly", "train": X, "test": (X_TEST, Y_TEST % 2)}, "needs a validation split"),
    ],
)
def test_wrong_tasks(changes: dict[str, object], said: str) -> None:
    assert said in refused(TaskError, **changes).what


def test_a_share_beyond_bounds() -> None:
    with pytest.raises(TaskError, match="cannot be held out"):
        prepare(make(), validation_fraction=1.0)
