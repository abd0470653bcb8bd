"""Labelled feedback on one model: what it answered against what is said to be right.

    labels = Labels(manifest, digest)
    labels.take(event, answered, is_drawn=True)     # `answered`: a class number, or the values of another task
    labels.level, labels.evidence()

Rules:
- Rows that were drawn without regard to the answer feed a `RiskDetector`. Rows that people sent by themselves are only
  counted: they say that an answer was wrong, not how often answers are.
- The loss is 0 or 1 for a classification. For numbers it is the error of the metric that was measured, divided by so
  much that it rarely reaches 1, and cut there: 4 mean absolute errors, or 9 mean squared ones. Cutting makes the mean
  smaller on both sides, so the measured mean is an upper bound of the baseline, and the detector's bound holds.
- Where people are known to label wrongly now and then, `set_label_error` counts that in: see `watch.risk`. It is part
  of the state, and another share starts the detector anew; the counts stay.
- Without a measured figure there is no detector; rows are counted all the same, and `why` says what is missing.
- The state belongs to the digest of one bundle. One thread at a time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import StateError
from edgehone_agent.scores import is_classifier
from edgehone_agent.watch.risk import RiskDetector, label_error_in
from edgehone_agent.wire.manifest import Manifest

Loss = Literal["wrong", "absolute", "squared"]
Answered = int | NDArray[Any] | None

_SPLITS = ("test", "validation")  # members were chosen by their figures on validation data, which flatters these
_MEAN_ERRORS = 4.0  # a loss of 1, in mean absolute errors
_ROOT_MEAN_ERRORS = 3.0  # a loss of 1, in roots of the mean squared error
_MAGIC, _VERSION = b"EHLB", 1
_HEAD = struct.Struct("<4sH32s7Q")


@dataclass(frozen=True)
class Baseline:
    """The loss that was measured where the model comes from.

    Attributes:
        loss: what a row's loss is.
        mean: over the rows, 0 to below 1.
        rows: how many there were.
        scale: what error a loss of 1 is, in the unit of the answer; 1 for "wrong".
        figure: the manifest's name of what was measured.
    """

    loss: Loss
    mean: float
    rows: int
    scale: float
    figure: str


def baseline_of(manifest: Manifest) -> Baseline | str:
    """The baseline of a bundle, or in words why there is none."""
    if is_classifier(manifest):
        found = _figure(manifest, "accuracy")
        if found is None or not 0 < found[1] <= 1:
            return "the bundle has no measured accuracy with a number of rows"
        name, accuracy, rows = found
        return Baseline("wrong", 1 - accuracy, rows, 1.0, name)
    if manifest.kind != "regression":
        return "there is no loss of single rows for this kind of task"
    kinds: tuple[tuple[str, Loss, float], ...] = (
        ("mae", "absolute", _MEAN_ERRORS),
        ("rmse", "squared", _ROOT_MEAN_ERRORS),
    )
    for metric, loss, errors in kinds:
        found = _figure(manifest, metric)
        if found is not None and found[1] > 0:
            name, value, rows = found
            return Baseline(loss, 1 / errors if loss == "absolute" else errors**-2, rows, errors * value, name)
    return "the bundle has no measured mae or rmse with a number of rows; other metrics are none of single rows"


def _figure(manifest: Manifest, metric: str) -> tuple[str, float, int] | None:
    """The name, the value and the rows of a metric that was measured, on the split that flatters least."""
    for split in _SPLITS:
        name = f"{metric} {split}"
        figure = manifest.measured.get(name)
        if figure is None or figure.get("kind", "measured") != "measured":
            continue
        rows = figure.get("n")
        if type(rows) is int and 0 < rows < 1 << 62:
            return name, float(figure["value"]), rows
    return None


@dataclass
class Counts:
    """Labelled rows, and those among them whose answer was not what is said to be right."""

    rows: int = 0
    wrong: int = 0


class Labels:
    """What feedback says about one model.

    Args:
        manifest, digest: of the bundle that answers.
        tolerance: how far above the baseline the mean loss may be.
    """

    def __init__(self, manifest: Manifest, digest: str, *, tolerance: float = 0.01) -> None:
        self.digest = digest
        self._manifest, self._tolerance = manifest, tolerance
        self._is_classifier = is_classifier(manifest)
        found = baseline_of(manifest)
        self.baseline: Baseline | None = None if isinstance(found, str) else found
        self.why: str | None = found if isinstance(found, str) else None
        self.detector = self._new_detector(0.0)
        if self.detector is None and self.baseline is not None:
            self.why = f"{self.baseline.figure} is so low that nothing can be shown to be worse"
        self.drawn, self.sent = Counts(), Counts()
        self.unclear = 0
        """Labelled rows that say nothing: a class that the model does not have, a value of another shape."""
        self.of_others = 0
        """Labelled rows about answers of a model that answered before."""
        self.unknown = 0
        """Labelled rows about answers that are not remembered, or were never given."""

    @property
    def label_error(self) -> float:
        """The share of wrong labels that is counted in."""
        return 0.0 if self.detector is None else self.detector.label_error

    def set_label_error(self, share: float) -> bool:
        """Count in that a share of the labels is wrong; whether that is news, which starts the detector anew.

        It is passed over where the answers are numbers, or there is no detector.

        Raises:
            InputError: it is not from 0 to 0.5.
        """
        if self.detector is None or self.baseline is None or self.baseline.loss != "wrong":
            return False
        found = self._new_detector(share)
        if found is None or found.label_error == self.label_error:
            return False
        self.detector = found
        return True

    def _new_detector(self, label_error: float) -> RiskDetector | None:
        """None where nothing can be shown."""
        told = self.baseline
        if told is None:
            return None
        found = RiskDetector(
            "error", baseline=told.mean, rows=told.rows, tolerance=self._tolerance, label_error=label_error,
            two_classes=self._is_classifier and self._manifest.output.shape[0] == 2,
        )  # fmt: skip
        return found if found.limit < 1 else None

    def take(self, event: Mapping[str, Any], answered: Answered, *, is_drawn: bool) -> None:
        """Count one labelled row.

        Args:
            event: of kind confirm, correct or new_class, checked by `edgehone_agent.feedback`.
            answered: the class that the model answered, or its values; None when that is not known any more.
            is_drawn: the row was drawn without regard to the answer.
        """
        loss = self._loss(event, answered, is_drawn=is_drawn)
        if loss is None:
            self.unclear += 1
            return
        counts = self.drawn if is_drawn else self.sent
        counts.rows += 1
        counts.wrong += loss > 0
        if is_drawn and self.detector is not None:
            self.detector.observe(np.array([loss]))

    @property
    def level(self) -> int:
        """The detector's level; 0 where there is none."""
        return 0 if self.detector is None else self.detector.level

    def summary(self) -> dict[str, Any]:
        """The level, its reason where there is none, and the counts; JSON-able."""
        return {
            "level": None if self.detector is None else self.level,
            "why": self.why,
            "drawn": {"rows": self.drawn.rows, "wrong": self.drawn.wrong},
            "sent": {"rows": self.sent.rows, "wrong": self.sent.wrong},
            "unclear": self.unclear,
            "of_others": self.of_others,
            "unknown": self.unknown,
        }

    def evidence(self) -> dict[str, Any]:
        """All that is known, as JSON values."""
        told = self.baseline
        measured = None if told is None else {"loss": told.loss, "scale": told.scale, "figure": told.figure}
        detector = None if self.detector is None else self.detector.evidence()
        return {"schema": 1, "bundle": self.digest, **self.summary(), "baseline": measured, "detector": detector}

    def to_bytes(self) -> bytes:
        """The state; `restore` goes on from it."""
        head = _HEAD.pack(
            _MAGIC, _VERSION, bytes.fromhex(self.digest), self.drawn.rows, self.drawn.wrong, self.sent.rows,
            self.sent.wrong, self.unclear, self.of_others, self.unknown,
        )  # fmt: skip
        content = head + (b"" if self.detector is None else self.detector.to_bytes())
        return content + struct.pack("<I", zlib.crc32(content))

    def restore(self, content: bytes) -> None:
        """Go on from what `to_bytes` gave.

        Raises:
            StateError: damaged, of another bundle, or with another baseline; nothing is changed.
        """
        body = content[:-4]
        if len(body) < _HEAD.size or struct.pack("<I", zlib.crc32(body)) != content[-4:]:
            raise _useless("is damaged")
        magic, version, digest, *counts = _HEAD.unpack_from(body)
        if magic != _MAGIC or version != _VERSION:
            raise _useless("has another form")
        if digest.hex() != self.digest:
            raise _useless("belongs to another bundle")
        if self.detector is not None:
            found = self._new_detector(label_error_in(body[_HEAD.size :])[0])
            if found is None:
                raise _useless("belongs to another baseline")
            found.restore(body[_HEAD.size :])
            self.detector = found
        elif len(body) != _HEAD.size:
            raise _useless("belongs to another baseline")
        self.drawn, self.sent = Counts(*counts[:2]), Counts(*counts[2:4])
        self.unclear, self.of_others, self.unknown = counts[4:]

    def _loss(self, event: Mapping[str, Any], answered: Answered, *, is_drawn: bool) -> float | None:
        """From 0 to 1; None when it cannot be known."""
        kind = event["kind"]
        if kind == "confirm":
            return 0.0
        if kind == "new_class":
            return 1.0 if self._manifest.kind == "classification" else None
        if self._is_classifier:
            right = class_of(self._manifest, event.get("label"))
            if right is None or not isinstance(answered, int):
                return None
            return float(right != answered)
        if not is_drawn or self.baseline is None:
            return 1.0  # counted as wrong, because somebody corrected it
        return _distance(self.baseline, event.get("value"), answered)


def class_of(manifest: Manifest, label: object) -> int | None:
    """The number of a class that is given by name or number; None when the model, a classifier, does not have it."""
    labels, classes = manifest.labels, manifest.output.shape[0]
    if isinstance(label, str):
        if label in labels:
            return labels.index(label)
        label = int(label) if label.isascii() and label.isdigit() and len(label) < 9 else -1
        return label if len(labels) <= label < classes else None  # a class without a name is called by its number
    return label if isinstance(label, int) and 0 <= label < classes else None


def _distance(baseline: Baseline, value: object, answered: Answered) -> float | None:
    if value is None or answered is None or isinstance(answered, int):
        return None
    right, said = np.asarray(value, np.float64).reshape(-1), np.asarray(answered, np.float64).reshape(-1)
    if right.shape != said.shape or not np.isfinite(said).all():
        return None
    off = np.abs(right - said) / baseline.scale
    return float(min(1.0, off.mean() if baseline.loss == "absolute" else np.square(off).mean()))


def _useless(what: str) -> StateError:
    return StateError(
        f"this state of labelled feedback {what}", where="watch", do="start anew: labels are about one model"
    )
