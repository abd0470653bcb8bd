"""A change of a classifier's last layer from local labels: `scores + W e + b`, with e the file's embedding. Pure.

    head = fit(rows, before=None, probabilities=False).head    # a Head; None, and why, where none is worth while
    y = head.answer(y, e)

Rules:
- Softmax regression whose offset is the signed model's own scores, so W = b = 0 is the signed model, and so is what no
  label speaks against. L2 draws towards what was there before: nothing at first, after a restart the head of then.
- Classes with fewer than MIN_PER_CLASS labels are neither learnt from nor changed.
- It counts only where it would have answered better on labels it was not learnt from: `is_worth` on a five-fold split.
- Labels are wrong now and then: a label counts as its class with 1 - e, and with the rest as each other class.
- Deterministic: the same rows in the same order give the same head. Its norm is capped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgehone_agent.fast import FastModel

MIN_PER_CLASS = 5
MIN_CLASSES = 2
MAX_WEIGHTS = 1 << 16
MAX_NORM = 100.0  # of W, in units in which an embedding is about 1 away from their mean
_RIDGE = 0.03  # the same units; a label weighs at most 1 / 2
_CURVATURE = 0.002  # that a row of before the restart still weighs
_FOLDS = 5
_STEPS = 150
_LEAST_PROBABILITY = 1 / 512  # below the step of an int8 file

Array = NDArray[np.float32]
Floats = NDArray[np.float64]


class Row(NamedTuple):
    """One labelled reading: its prediction's id, what the signed model scored (K,), its embedding (E,), its class."""

    id: str
    y: Array
    embedding: Array
    label: int


@dataclass(frozen=True, eq=False)
class Head:
    """What is added to a classifier's scores.

    Attributes:
        weights, bias: (K, E) and (K,).
        probabilities: the file answers probabilities, and so does this.
        rows: labels that it comes from.
    """

    weights: Array
    bias: Array
    probabilities: bool
    rows: int

    def answer(self, y: Array, embedding: Array) -> Array:
        """Scores (K,) or (N, K) changed by embeddings (E,) or (N, E)."""
        found: Array = scores_of(y, self.probabilities)
        found = found + embedding @ self.weights.T
        found += self.bias
        if self.probabilities:
            found -= found.max(-1, keepdims=True)
            np.exp(found, found)
            found /= found.sum(-1, keepdims=True)
        return found

    def ask(self, model: FastModel, x: ArrayLike) -> Array:
        """The model's answer to readings, as `FastModel.predict`; the embedding stays with the model."""
        y = model.predict(x)
        embedding = model.take_embedding()
        if embedding is None:
            return y
        model.keep_embedding(embedding)
        flat = embedding.reshape(len(embedding), -1)
        return self.answer(y, flat[0] if y.ndim == 1 else flat[: len(y)])

    @property
    def words(self) -> str:
        """For people."""
        return f"from {self.rows} labels of {int((np.abs(self.bias) > 0).sum())} classes"


class Fit(NamedTuple):
    """What `fit` came to: a head, or in words why there is none; labels that it would answer better and worse."""

    head: Head | None
    why: str = ""
    gained: int = 0
    lost: int = 0


def scores_of(y: Array, probabilities: bool) -> Array:
    """Answers as scores of a softmax."""
    if not probabilities:
        return y
    found: Array = np.log(np.maximum(y, np.float32(_LEAST_PROBABILITY)))
    return found


def fit(rows: Sequence[Row], *, probabilities: bool, before: Head | None = None, label_error: float = 0.0) -> Fit:
    """A head that answers better on labels it has not seen.

    Args:
        rows: labelled readings in the order in which they came.
        probabilities: whether the file answers probabilities.
        before: what a run before this one had learnt, whose rows are gone.
        label_error: share of the labels that is known to be wrong.
    """
    classes = len(rows[0].y) if rows else 0
    labels = np.array([row.label for row in rows], np.int64)
    known = np.bincount(labels, minlength=classes) >= MIN_PER_CLASS
    if known.sum() < MIN_CLASSES:
        return Fit(None, f"{int(known.sum())} of {MIN_CLASSES} classes have {MIN_PER_CLASS} labels or more")
    used = known[labels]
    labels = labels[used]
    kept = [row for row, is_used in zip(rows, used, strict=True) if is_used]
    y = scores_of(np.stack([row.y for row in kept]), probabilities).astype(np.float64)
    own = y.argmax(1)
    e = np.stack([row.embedding for row in kept]).astype(np.float64)
    if not (np.isfinite(y).all() and np.isfinite(e).all()):
        return Fit(None, "the model answers with values that are not finite")
    if before is not None:
        y = y + e @ before.weights.T + before.bias
    problem = _Problem(y, e, labels, known, 0 if before is None else before.rows, label_error)
    everything = np.arange(len(labels))
    guessed = np.empty(len(labels), np.int64)
    for fold in range(_FOLDS):
        out = everything % _FOLDS == fold
        weights, bias = problem.solve(~out)
        guessed[out] = (y[out] + e[out] @ weights.T + bias).argmax(1)
    gained = int(((guessed == labels) & (own != labels)).sum())
    lost = int(((guessed != labels) & (own == labels)).sum())
    if not is_worth(gained, lost):
        why = f"{len(labels)} labels show nothing to gain: {gained} answers would be better and {lost} worse"
        return Fit(None, why, gained, lost)
    weights, bias = problem.solve(everything >= 0)
    total = len(labels)
    if before is not None:
        weights, bias, total = weights + before.weights, bias + before.bias, total + before.rows
    cap = min(1.0, MAX_NORM / max(float(np.linalg.norm(weights)) * problem.unit, 1e-30))
    head = Head((cap * weights).astype(np.float32), (cap * bias).astype(np.float32), probabilities, total)
    return Fit(head, head.words, gained, lost)


def is_worth(gained: int, lost: int) -> bool:
    """Whether so many better and worse answers are hardly chance: 2.5 standard errors, so 7 where none is worse."""
    return gained > lost and gained - lost >= 2.5 * float(np.sqrt(gained + lost))


class _Problem:
    """The regression: rows, offset, targets. Solved around the rows' mean, and in their span."""

    def __init__(
        self, offset: Floats, e: Floats, labels: NDArray[np.int64], known: NDArray[np.bool_], before: int,
        label_error: float,
    ) -> None:  # fmt: skip
        self._mean = e.mean(0)
        e = e - self._mean
        self.unit = float(max(np.sqrt(np.square(e).sum(1).mean()), 1e-12))
        self._offset, self._known = offset, known
        self._ridge = _RIDGE + _CURVATURE * before
        classes = offset.shape[1]
        self._target = np.full((len(e), classes), label_error / (classes - 1))
        self._target[np.arange(len(e)), labels] = 1 - label_error
        self._basis: Floats | None = None
        self._e = e / self.unit
        if e.shape[1] > len(e):  # fewer rows than values: the answer lies in their span
            self._basis, coordinates = np.linalg.qr(self._e.T)
            self._e = coordinates.T
        self._e = np.concatenate([self._e, np.ones((len(e), 1))], axis=1)  # the bias

    def solve(self, used: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Weights (K, E) and bias (K,) from some of the rows: Nesterov's method (Beck, Teboulle, "FISTA", 2009)."""
        e, offset, target = self._e[used], self._offset[used], self._target[used]
        step = 1 / (0.5 * float(np.linalg.norm(e, 2)) ** 2 + self._ridge)
        found = np.zeros((offset.shape[1], e.shape[1]))
        ahead, momentum = found, 1.0
        for _ in range(_STEPS):
            scores = offset + e @ ahead.T
            scores -= scores.max(1, keepdims=True)
            share = np.exp(scores)
            share /= share.sum(1, keepdims=True)
            slope = (share - target).T @ e + self._ridge * ahead
            slope[~self._known] = 0
            following = ahead - step * slope
            faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead = following + (momentum - 1) / faster * (following - found)
            found, momentum = following, faster
        weights = found[:, :-1] / self.unit
        if self._basis is not None:
            weights = weights @ self._basis.T
        return weights, found[:, -1] - weights @ self._mean
