"""A task: what the user hands in. A trained network, its data, how to judge it, and how a raw reading becomes input.

    task = Task(name="gestures", network=net, train=(x, y), test=(x_test, y_test), labels=("left", "right", "none"))

Data may be a torch Dataset, a pair of numpy arrays (x, y), a folder of pictures (one sub-folder per class), or a CSV or
Parquet table (see `edgehone.data`). Pickles are never read. Without `validation`, a seeded, stratified part of the
training data is held out. The test split is touched once per reported member, never to choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgehone.errors import TaskError

if TYPE_CHECKING:
    import torch
    from torch import nn

Kind = Literal["classification", "regression", "anomaly"]
KINDS: tuple[Kind, ...] = ("classification", "regression", "anomaly")
METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced-accuracy"),
    "regression": ("r2", "mae", "rmse"),
    "anomaly": ("auc",),
}
LOSSES: dict[Kind, tuple[str, ...]] = {
    "classification": ("cross-entropy",),
    "regression": ("mse", "l1", "huber"),
    "anomaly": ("mse", "l1"),
}
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class Training:
    """How a network is trained or recovered.

    Attributes:
        epochs: passes over the training split.
        batch_size: examples per step.
        learning_rate: peak of the schedule (linear warm-up, then cosine to zero).
        weight_decay: L2 penalty, as the optimizer applies it.
        l1: L1 penalty on conv and linear weights, added to the loss.
        dropout: rate that replaces the rate of every dropout layer; None keeps the network's own.
        label_smoothing: of the cross-entropy, 0 to 1.
        optimizer: "sgd" (Nesterov, momentum 0.9) or "adamw".
    """

    epochs: float = 3.0
    batch_size: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    l1: float = 0.0
    dropout: float | None = None
    label_smoothing: float = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise TaskError(f"{name} is {value}", where="Training", do="choose a number above 0")
        if self.batch_size != int(self.batch_size):
            raise TaskError(f"batch_size is {self.batch_size}", where="Training", do="choose a whole number")
        for name, value in {"weight_decay": self.weight_decay, "l1": self.l1}.items():
            if not 0 <= value < math.inf:
                raise TaskError(f"{name} is {value}", where="Training", do="choose 0 or more")
        for name, value in {"dropout": self.dropout or 0.0, "label_smoothing": self.label_smoothing}.items():
            if not 0 <= value < 1:
                raise TaskError(f"{name} is {value}", where="Training", do="choose 0 or more, and less than 1")
        if self.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise TaskError(
                f"optimizer {self.optimizer!r} is not known", where="Training", do=f"choose one of: {known}"
            )


_CALLABLE = {
    "network": "give a torch module, or a function without arguments that returns one",
    "loss": "give a name, or a function (output, target) → scalar tensor",
    "augment": "give a function (batch, generator) → batch, see edgehone.data.augment",
}


@dataclass(frozen=True)
class Task:
    """A network and everything needed to compress it honestly.

    Attributes:
        name: short name, used in files and pages; letters, digits, "-" and "_".
        network: a trained torch module, or a function that returns one.
        train, validation, test: data, see the module docstring; `validation` may be None. An anomaly task trains on
            normal examples only and has labels (0 normal, 1 anomalous) in validation and test.
        kind: "classification" (labels are class ids), "regression" (targets are numbers) or "anomaly" (the network
            reconstructs its input; the score is the mean squared error per example).
        loss: a name of `LOSSES`, or a function (output, target) → scalar tensor; None takes the first of the kind.
        metric: a name of `METRICS`; None takes the first of the kind.
        preprocess: a torch module from the raw reading to the network's input; it becomes part of every exported file.
        augment: a function (batch, generator) → batch applied while training.
        labels: names of the classes, in the order of their ids.
        training: how to train the network first when it is not trained yet; None means it is trained.
        recovery: how to recover a member after a cut; None derives it from `training`.
    """

    name: str
    network: nn.Module | Callable[[], nn.Module]
    train: Any
    test: Any
    validation: Any = None
    kind: Kind = "classification"
    loss: str | Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    metric: str | None = None
    preprocess: nn.Module | None = None
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    labels: tuple[str, ...] | None = None
    training: Training | None = None
    recovery: Training | None = None

    def __post_init__(self) -> None:
        where = f"task {self.name!r}"
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise TaskError("the name may hold letters, digits, - and _ only", where=where)
        if self.kind not in KINDS:
            raise TaskError(f"kind {self.kind!r} is not known", where=where, do=f"choose one of: {', '.join(KINDS)}")
        if self.metric is not None and self.metric not in METRICS[self.kind]:
            known = ", ".join(METRICS[self.kind])
            raise TaskError(
                f"metric {self.metric!r} does not fit {self.kind}", where=where, do=f"choose one of: {known}"
            )
        if isinstance(self.loss, str) and self.loss not in LOSSES[self.kind]:
            known = ", ".join(LOSSES[self.kind])
            raise TaskError(
                f"loss {self.loss!r} does not fit {self.kind}", where=where, do=f"choose one of: {known}, or a function"
            )
        for name in ("network", "loss", "augment"):
            value = getattr(self, name)
            if not (callable(value) or (name != "network" and (value is None or isinstance(value, str)))):
                raise TaskError(f"{name} is a {type(value).__name__}, not a function", where=where, do=_CALLABLE[name])
        for name in ("train", "test"):
            if getattr(self, name) is None:
                raise TaskError(
                    f"there is no {name} data", where=where, do=f"hand in {name}=(x, y), a folder or a file"
                )
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, where))

    @property
    def metric_name(self) -> str:
        """The metric that judges members."""
        return self.metric or METRICS[self.kind][0]


def _checked_labels(labels: Sequence[str], where: str) -> tuple[str, ...]:
    do = "give the names of all classes in the order of their ids, like ('cat', 'dog')"
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TaskError("labels are names, a tuple of text", where=where, do=do)
    twice = [label for label in labels if list(labels).count(label) > 1]
    if twice:
        raise TaskError(f"the label {twice[0]!r} stands there twice", where=where, do=do)
    if len(labels) < 2:
        raise TaskError(f"there are {len(labels)} labels; two at least make a choice", where=where, do=do)
    return tuple(labels)
