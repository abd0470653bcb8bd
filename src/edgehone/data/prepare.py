"""Open everything a task names, hold out a validation split, and build the network.

After `prepare` every split is checked: same shape, finite, targets that fit the kind, more than one class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from edgehone.data.examples import Examples
from edgehone.data.sources import open_examples
from edgehone.data.splits import hold_out
from edgehone.errors import DataError, EdgehoneError, TaskError
from edgehone.task import Task


@dataclass(frozen=True)
class Prepared:
    """A task, ready to use.

    Attributes:
        task: what the user handed in.
        train, validation, test: its splits.
        labels: names of the classes by id; ("normal", "anomalous") for an anomaly task, () for regression.
        input_shape: shape of a raw reading with a batch of 1, like (1, C, H, W).
        network: the user's network on the device it came on, without preprocessing.
    """

    task: Task
    train: Examples
    validation: Examples
    test: Examples
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    network: nn.Module

    def end_to_end(self) -> nn.Module:
        """Raw reading in, answer out: preprocessing, then the network; both share their parameters with the task's."""
        preprocess = self.task.preprocess
        return self.network if preprocess is None else nn.Sequential(preprocess, self.network)


def prepare(task: Task, seed: int = 0, validation_fraction: float = 0.1) -> Prepared:
    """Open the data of a task and build its network.

    Without a validation split, a stratified part of the training split is held out.

    Args:
        task: what the user handed in.
        seed: decides what is held out and how a network that a function builds is initialised.
        validation_fraction: share of the training split to hold out, between 0 and 1.

    Raises:
        DataError: data that cannot be read or used.
        TaskError: a network that cannot be built, or an anomaly task without a validation split.
        MissingExtraError: pillow or pyarrow is needed and not installed.
    """
    where = f"task {task.name!r}"
    train = open_examples(task.train, task.kind, origin="training split", class_names=task.labels)
    names = task.labels or train.class_names
    test = open_examples(task.test, task.kind, origin="test split", class_names=names)
    if task.validation is not None:
        validation = open_examples(task.validation, task.kind, origin="validation split", class_names=names)
    else:
        train, validation = _hold_out(task, train, seed, validation_fraction)
    splits = {"training": train, "validation": validation, "test": test}
    for name, split in splits.items():
        _check_split(task, f"{name} split", split, train)
    return Prepared(
        task=task,
        train=train,
        validation=validation,
        test=test,
        labels=_labels(task, names, splits),
        input_shape=(1, *train.x_shape),
        network=_build(task, seed, where),
    )


def _hold_out(task: Task, train: Examples, seed: int, fraction: float) -> tuple[Examples, Examples]:
    if task.kind == "anomaly":
        raise TaskError(
            "an anomaly task needs a validation split: the training split has no anomalies to judge by",
            where=f"task {task.name!r}",
            do="hand in validation=(x, y) with y 0 for normal and 1 for anomalous",
        )
    if not 0 < fraction < 1:
        raise TaskError(f"{fraction} of the training split cannot be held out", do="choose a share between 0 and 1")
    if len(train) < 2:
        raise DataError("one example cannot be split", where="training split", do="hand in more, or validation=(x, y)")
    classes = train.y if task.kind == "classification" else torch.zeros(len(train), dtype=torch.int64)
    kept, held = hold_out(classes, fraction, seed)
    return train.subset(kept), train.subset(held)


def _check_split(task: Task, name: str, split: Examples, train: Examples) -> None:
    if not len(split):
        raise DataError("the split is empty", where=name, do="give it at least one example")
    if split.x_shape != train.x_shape:
        raise DataError(
            f"its examples have shape {split.x_shape}, those of the training split {train.x_shape}",
            where=name,
            do="bring all splits to one shape, axes in torch order: (C, H, W)",
        )
    if split.y.shape[1:] != train.y.shape[1:]:
        raise DataError(
            f"its targets have shape {tuple(split.y.shape[1:])}, those of the training split "
            f"{tuple(train.y.shape[1:])}",
            where=name,
            do="predict the same numbers in every split",
        )
    if task.kind == "regression":
        return
    alone = bool((split.y == split.y[0]).all())
    if task.kind == "anomaly" and split is train:
        if split.y.any():
            raise DataError(
                f"it holds {int(split.y.sum())} anomalous examples", where=name, do="train on normal examples only"
            )
    elif task.kind == "anomaly" and alone:
        raise DataError("it holds one class only, so the AUC has no meaning", where=name, do="give it both classes")
    elif split is train and alone:
        raise DataError(
            f"all {len(split)} examples have the label {int(split.y[0])}, so there is nothing to tell apart",
            where=name,
            do="give examples of at least two classes",
        )


def _labels(task: Task, names: tuple[str, ...] | None, splits: dict[str, Examples]) -> tuple[str, ...]:
    if task.kind != "classification":
        return ("normal", "anomalous") if task.kind == "anomaly" else ()
    highest = {name: int(split.y.max()) for name, split in splits.items()}
    labels = names or tuple(str(identity) for identity in range(max(highest.values()) + 1))
    for name, identity in highest.items():
        if identity >= len(labels):
            raise DataError(
                f"it holds the label {identity}, but the task names {len(labels)} classes (ids 0 to {len(labels) - 1})",
                where=f"{name} split",
                do="name every class in the task's labels, or start the ids at 0",
            )
    return labels


def _build(task: Task, seed: int, where: str) -> nn.Module:
    if task.preprocess is not None and not isinstance(task.preprocess, nn.Module):
        raise TaskError(
            f"preprocess is a {type(task.preprocess).__name__}, not a torch module",
            where=where,
            do="write it as an nn.Module: it becomes part of every exported file",
        )
    if isinstance(task.network, nn.Module):
        return task.network
    factory = cast(Callable[[], object], task.network)  # what a user hands in need not keep to its type
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = factory()
    except EdgehoneError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise TaskError(
            f"building the network raised {type(error).__name__}: {error}",
            where=where,
            do="the function given as network takes no arguments and returns a torch module",
        ) from error
    if not isinstance(network, nn.Module):
        what = f"the function given as network returned a {type(network).__name__}, not a torch module"
        raise TaskError(what, where=where, do="return an nn.Module from it")
    return network
