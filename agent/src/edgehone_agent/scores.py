"""From a classifier's answers to probabilities, confidence and labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.wire.manifest import Manifest

Array = NDArray[np.float32]
_SUM_TOLERANCE = 0.02  # an int8 file's probabilities add up to one only within its steps


def is_classifier(manifest: Manifest) -> bool:
    """Whether the answers are one score per class."""
    return manifest.kind == "classification" and len(manifest.output.shape) == 1 and manifest.output.shape[0] > 1


def probabilities(y: Array, are_probabilities: bool | None = None) -> Array:
    """Scores (N, classes) as probabilities.

    Args:
        y: answers of a classifier.
        are_probabilities: they are so already, as the card knows; None takes them so where every row adds up to one.
    """
    if are_probabilities is None:
        are_probabilities = len(y) == 0 or bool(y.min() >= 0 and np.abs(y.sum(1) - 1).max() <= _SUM_TOLERANCE)
    if are_probabilities:
        return y
    raised = np.exp(y - y.max(1, keepdims=True))
    found: Array = raised / raised.sum(1, keepdims=True)
    return found


def top_labels(p: Array, labels: tuple[str, ...], k: int) -> tuple[tuple[tuple[str, float], ...], ...]:
    """The `k` best (label, probability) pairs of every row of (N, classes), best first; a class without a label is its
    number."""
    best = np.argsort(-p, axis=1, kind="stable")[:, :k]
    return tuple(
        tuple((labels[i] if i < len(labels) else str(i), float(row[i])) for i in order)
        for row, order in zip(p, best, strict=True)
    )


def uncertainty(y: Array, manifest: Manifest, are_probabilities: bool | None = None) -> Array:
    """How unsure each answer (N, ...) is, 0 to 1: one minus the confidence of a classifier, 1 for other kinds."""
    if not is_classifier(manifest):
        return np.ones(len(y), np.float32)
    found: Array = 1 - probabilities(y, are_probabilities).max(1)
    return found
