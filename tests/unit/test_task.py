"""What a task and its training refuse."""

import pytest
from torch import nn

from edgehone.errors import TaskError
from edgehone.task import Task, Training


def make(**changes: object) -> Task:
    return Task(**{"name": "t", "network": nn.Linear(2, 2), "train": "a.csv", "test": "b.csv"} | changes)


def test_defaults_fit_the_kind() -> None:
    assert make().metric_name == "accuracy"
    assert make(kind="regression", metric="mae").metric_name == "mae"
    assert make(labels=["a", "b"]).labels == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"kind": "clustering"}, "'clustering'"),
        ({"metric": "r2"}, "'r2' does not fit"),
        ({"loss": "mse"}, "'mse' does not fit"),
        ({"loss": 3}, "loss is a int"),
        ({"network": "net.pt"}, "network is a str"),
        ({"network": None}, "network is a NoneType"),
        ({"augment": 3}, "augment is a int"),
        ({"train": None}, "no train data"),
        ({"test": None}, "no test data"),
        ({"labels": "ab"}, "labels are names"),
        ({"labels": (0, 1)}, "labels are names"),
        ({"labels": ("a", "b", "a")}, "'a' stands there twice"),
        ({"labels": ("a",)}, "1 labels"),
    ],
)
def test_wrong_tasks(changes: dict[str, object], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        make(**changes)
    assert said in caught.value.what
    assert caught.value.where.startswith("task ") and (caught.value.do or "name" in changes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"epochs": float("nan")}, {"batch_size": 0}, {"batch_size": 1.5}, {"learning_rate": -1},
        {"learning_rate": float("inf")}, {"weight_decay": -1}, {"l1": -1}, {"dropout": 1.0}, {"label_smoothing": 1},
        {"optimizer": "adam"},
    ],
)  # fmt: skip
def test_wrong_trainings(wrong: dict[str, object]) -> None:
    with pytest.raises(TaskError) as caught:
        Training(**wrong)
    assert next(iter(wrong)) in caught.value.what and caught.value.do
