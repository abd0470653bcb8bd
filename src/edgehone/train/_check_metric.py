"""Whether a network that claims to be trained does better than an answer that ignores its input."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from edgehone.data.check import Finding
from edgehone.data.prepare import Prepared

_JUDGED = 1_000
_BATCH = 100
_STANDARD_ERRORS = 3
_DO = "load trained weights, or give training=Training(...) to train it first; if it is trained, check the preprocess"


def check_metric(prepared: Prepared, network: nn.Module, seed: int) -> Iterator[Finding]:
    """Judge up to a thousand validation examples.

    Args:
        prepared: the task.
        network: raw reading in, answer out; in evaluation mode, its output fits the task.
        seed: decides which examples.
    """
    sample = prepared.validation.sample(_JUDGED, seed)
    with torch.no_grad():
        pairs = [(network(x), x) for x, _ in sample.batches(_BATCH)]
    output, x, y = torch.cat([o for o, _ in pairs]), torch.cat([x for _, x in pairs]), sample.y
    judge = {"classification": _accuracy, "regression": _determination, "anomaly": _auc}[prepared.task.kind]
    what, better = judge(output, x, y)
    if better:
        yield Finding("ok", f"{what} on {len(y):,} examples", "validation split")
    else:
        yield Finding("warning", f"{what}: no better than an answer that ignores its input", "validation split", _DO)


def _accuracy(output: Tensor, _: Tensor, y: Tensor) -> tuple[str, bool]:
    accuracy = float((output.argmax(1) == y).float().mean())
    chance = float(y.bincount().max()) / len(y)
    error = math.sqrt(chance * (1 - chance) / len(y))
    return f"accuracy {accuracy:.1%}", accuracy > min(chance + _STANDARD_ERRORS * error, 0.999)


def _determination(output: Tensor, _: Tensor, y: Tensor) -> tuple[str, bool]:
    residual = (output.reshape(y.shape) - y).square().sum()
    r2 = 1 - float(residual / (y - y.mean(0)).square().sum().clamp_min(1e-12))
    return f"R² {r2:.3g}", r2 > 0


def _auc(output: Tensor, x: Tensor, y: Tensor) -> tuple[str, bool]:
    scores = (output.flatten(1) - x.flatten(1)).square().mean(1)
    if y.min() == y.max():
        return "AUC unknown (one class drawn)", True
    auc = float(roc_auc_score(y.numpy(), scores.numpy()))
    anomalous = int(y.sum())
    error = math.sqrt((len(y) + 1) / (12 * anomalous * (len(y) - anomalous)))  # Mann-Whitney U under no difference
    return f"AUC {auc:.3f}", auc > 0.5 + _STANDARD_ERRORS * error
