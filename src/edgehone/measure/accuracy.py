"""Outputs of a file over a split, through the runtime that ships, and what they say about each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import DataError
from edgehone.measure.metrics import check_pair, predictions
from edgehone_agent.model import Model
from edgehone_agent.runtimes import Session

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def outputs(
    session: Session, batches: Iterable[NDArray[Any]], progress: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """Real-valued outputs of a file for every example, in order.

    Args:
        session: the loaded file.
        batches: arrays of real readings in torch order, (N, C, H, W), (N, C, L) or (N, F).
        progress: called after each batch with the number of examples done.

    Returns:
        (n, ...) in torch order.

    Raises:
        InputError: a batch whose shape the file does not take, or NaN in it.
        DataError: no batches.
    """
    model = Model(session)
    answers: list[NDArray[np.float32]] = []
    done = 0
    for batch in batches:
        answers.append(model.predict(batch))
        done += len(batch)
        if progress is not None:
            progress(done)
    if not answers:
        raise DataError("there are no examples to judge", do="give a split that holds some")
    return np.concatenate(answers)


def anomaly_scores(reconstructions: NDArray[Any], inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Mean squared error per example (n,) between what an autoencoder gave back and what went in, both (n, ...).

    Raises:
        DataError: sizes that differ.
    """
    given, wanted = (array.reshape(len(array), -1).astype(np.float64) for array in (reconstructions, inputs))
    if given.shape != wanted.shape:
        raise DataError(f"a reconstruction of shape {reconstructions.shape} cannot be compared with {inputs.shape}")
    return np.asarray(np.square(given - wanted).mean(axis=1))


def class_accuracy(scores: NDArray[Any], targets: NDArray[Any], classes: int) -> tuple[Floats, Counts]:
    """Accuracy of every class (classes,), NaN where it has no example, and how many examples it has.

    Raises:
        DataError: lengths that differ, or a class id outside 0 … classes - 1.
    """
    scores, targets = check_pair(scores, targets)
    _check_ids(targets, classes)
    counts = np.bincount(targets, minlength=classes)
    right = np.bincount(targets[predictions(scores) == targets], minlength=classes)
    return np.divide(right, counts, out=np.full(classes, np.nan), where=counts > 0), counts


def flips(original: NDArray[Any], member: NDArray[Any], classes: int) -> Counts:
    """How many examples changed their answer: (classes, classes), row = original's class, column = member's.

    Args:
        original, member: scores (n, classes) of both files for the same examples.
        classes: number of classes.

    Raises:
        DataError: lengths that differ.
    """
    original, member = check_pair(original, member)
    before, after = predictions(original), predictions(member)
    _check_ids(before, classes)
    _check_ids(after, classes)
    table = np.bincount(before * classes + after, minlength=classes * classes).reshape(classes, classes)
    np.fill_diagonal(table, 0)
    return table


def _check_ids(ids: NDArray[Any], classes: int) -> None:
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"class ids must be whole numbers in one row, got {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= classes:
        raise DataError(f"class ids reach from {ids.min()} to {ids.max()}, expected 0 to {classes - 1}")
