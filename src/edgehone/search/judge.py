"""Judge a version by its exported file: answers through the runtime that ships, metric, paired drop, flips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from edgehone.data.examples import Examples
from edgehone.data.prepare import Prepared
from edgehone.measure.accuracy import anomaly_scores, class_accuracy, flips
from edgehone.measure.drop import paired_drop
from edgehone.measure.metrics import metric_called, predictions
from edgehone.record import ClassRecord, DropRecord, FlipRecord
from edgehone.train.precision import channels_last, training_device
from edgehone_agent.model import Model
from edgehone_agent.runtimes import RUNTIMES
from edgehone_agent.wire.measurement import Measurement

_BATCH = 250
_CURVE_EXAMPLES = 2_000


@dataclass(frozen=True)
class Judge:
    """Judges files and networks of one prepared task."""

    prepared: Prepared

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.prepared.task.metric_name

    def split(self, name: str) -> Examples:
        """The "validation" or "test" split."""
        found: Examples = getattr(self.prepared, name)
        return found

    def answers(
        self, path: Path, runtime: str, split: str, progress: Callable[[float], None] | None = None
    ) -> NDArray[Any]:
        """What a file answers on a split, as the metric takes it: scores, values, or anomaly scores per example."""
        data = self.split(split)
        session = RUNTIMES.get(runtime).load(path)
        model = Model(session)
        parts, done = [], 0
        for x, _ in data.batches(_BATCH):
            parts.append(self.for_metric(model.predict(x.numpy()), x.numpy()))
            done += len(x)
            if progress:
                progress(done / len(data))
        session.close()
        return np.concatenate(parts)

    def value(self, answers: NDArray[Any], split: str, place: str) -> Measurement:
        """The metric of answers, with its 95 % interval where it is a proportion (Wilson 1927)."""
        targets = self.split(split).y.numpy()
        value = metric_called(self.metric).value(answers, targets)
        low = high = None
        if self.metric == "accuracy":
            interval = stats.binomtest(round(value * len(targets)), len(targets)).proportion_ci(method="wilson")
            low, high = float(interval.low), float(interval.high)
        return Measurement(
            value, self.metric, f"all {len(targets)} examples of the {split} split through the runtime", place,
            len(targets), low, high,
        )  # fmt: skip

    def drop(self, original: NDArray[Any], member: NDArray[Any], split: str) -> DropRecord:
        """The paired drop of a member against the original."""
        return paired_drop(self.metric, original, member, self.split(split).y.numpy())

    def classes(self, original: NDArray[Any], member: NDArray[Any]) -> tuple[ClassRecord, ...]:
        """Accuracy per class on the test split; empty for tasks without classes."""
        if self.prepared.task.kind != "classification":
            return ()
        labels, targets = self.prepared.labels, self.prepared.test.y.numpy()
        before, counts = class_accuracy(original, targets, len(labels))
        after, _ = class_accuracy(member, targets, len(labels))
        return tuple(
            ClassRecord(label, int(n), float(b), float(a))
            for label, n, b, a in zip(labels, counts, before, after, strict=True)
            if n
        )

    def flips(self, original: NDArray[Any], member: NDArray[Any]) -> tuple[FlipRecord, ...]:
        """Changed answers on the test split, most frequent first; empty for tasks without classes."""
        if self.prepared.task.kind != "classification":
            return ()
        labels = self.prepared.labels
        table = flips(predictions(original), predictions(member), len(labels))
        changed = [(int(table[a, b]), a, b) for a, b in zip(*np.nonzero(table), strict=True) if a != b]
        return tuple(FlipRecord(labels[a], labels[b], count) for count, a, b in sorted(changed, key=lambda c: -c[0]))

    def network_metric(self, network: nn.Module) -> float:
        """The metric of a torch network on (at most 2,000 examples of) the validation split: for curves only."""
        data = self.prepared.validation.sample(_CURVE_EXAMPLES, seed=0)
        device, parts = training_device(), []
        with torch.no_grad():
            for x, _ in data.batches(_BATCH):
                parts.append(self.for_metric(network(channels_last(x.to(device))).float().cpu().numpy(), x.numpy()))
        return metric_called(self.metric).value(np.concatenate(parts), data.y.numpy())

    def for_metric(self, outputs: NDArray[Any], inputs: NDArray[Any]) -> NDArray[Any]:
        """Outputs of a file or network on raw readings, as the metric takes them."""
        if self.prepared.task.kind == "anomaly":
            return anomaly_scores(outputs, inputs)
        if self.prepared.task.kind == "regression":
            return outputs.reshape(len(outputs), *self.prepared.test.y.shape[1:])
        return outputs
