"""The same bets on a stream of losses: labelled feedback, or how often two models disagree.

    errors = RiskDetector("error", baseline=0.08, rows=2000, tolerance=0.01)
    errors.observe(wrong)              # one number in [0, 1] per labelled row: 0 right, 1 wrong
    errors.level, errors.evidence()

It alarms when the mean loss is more than the tolerance above what validation showed; the bound and the levels are those
of the watch (see `levels`). For agreement, a loss is 1 where the two models answer differently, and the baseline is
the share of differing answers that the study measured.

The baseline is itself an estimate: with `rows` given, an upper confidence bound of it is used that is wrong for one
detector in a thousand. Labels must be drawn without regard to the model's answer (the uniform part of the capture is);
labels that people send because an answer was wrong say that some were wrong, not how often.

People err. Where a share e of the labels is known to be wrong, a model that is right with probability 1 - b is called
wrong in at most b + e - b e of the rows; with two classes, where a wrong label on a wrong answer hits it, in
b (1 - e) + (1 - b) e. The limit is that of what people say, so their errors alone do not ring.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError, StateError
from edgehone_agent.watch.levels import THRESHOLDS, Levels, grow

_SIZES = np.array([0.05, 0.15, 0.4, 0.8])  # bets, in units of the largest stake that cannot be lost
_FAILURE = 1e-3
_MAGIC = b"EHRS"
_LEVEL = "?IQ" * len(THRESHOLDS)
_LAYOUT = struct.Struct(f"<4sHfQfQdd{_LEVEL}{len(_SIZES)}f")
_NOISE = struct.Struct("<f?")  # behind it in version 2: what share of the labels is wrong, of two classes
MOST_LABEL_ERROR = 0.5


class RiskDetector:
    """Watches the mean of a stream of losses in [0, 1]. One thread at a time.

    Args:
        name: of the loss, for evidence: "error", "disagreement".
        baseline: mean loss on validation data.
        rows: how many validation rows the baseline is the mean of; 0 when it is a limit that was set, not measured.
        tolerance: how far above the baseline nobody minds.
        label_error: share of the labels that are known to be wrong, 0 to 0.5; only for losses of 0 and 1.
        two_classes: whether a wrong label on a wrong answer must name what was answered.

    Raises:
        InputError: a number out of range.
    """

    def __init__(
        self, name: str, *, baseline: float, rows: int = 0, tolerance: float = 0.01, label_error: float = 0.0,
        two_classes: bool = False,
    ) -> None:  # fmt: skip
        if not (0 <= baseline < 1 and 0 <= tolerance < 1 and rows >= 0):
            raise InputError(
                f"a baseline of {baseline} and a tolerance of {tolerance} are out of range",
                where=name,
                do="choose both from 0 to below 1",
            )
        if not 0 <= label_error <= MOST_LABEL_ERROR:
            raise InputError(f"a share of {label_error} wrong labels is out of range", where=name, do="choose 0 to 0.5")
        self.name = name
        self.baseline, self.baseline_rows, self.tolerance = float(baseline), int(rows), float(tolerance)
        upper = _upper_bound(baseline, rows) if rows else baseline
        self.label_error, self.two_classes = float(np.float32(label_error)), two_classes
        self.limit = _as_labelled(max(upper, baseline + tolerance), self.label_error, two_classes)
        """The mean loss up to which the bound on false alarms holds; 1 or more means that nothing can be shown."""
        self._stakes = np.zeros(len(_SIZES), dtype=np.float32)
        self._levels = Levels()
        self._rows = 0
        self._sum = 0.0

    def observe(self, losses: NDArray[np.floating[Any]]) -> None:
        """Take in losses (N,) in [0, 1], in any order that does not depend on them.

        Raises:
            InputError: a loss is missing or outside [0, 1]; none is taken in.
        """
        losses = np.asarray(losses, dtype=np.float64).reshape(-1)
        if not ((losses >= 0) & (losses <= 1)).all():
            raise InputError("losses must be numbers from 0 to 1", where=self.name, do="scale or clip them")
        if not len(losses):
            return
        net = losses[:, None] - min(self.limit, 1.0)
        factors = (1 + _SIZES / max(self.limit, 0.05) * net).astype(np.float32)  # a factor is never below 0.2
        history = grow(self._stakes, factors, self._rows)
        self._levels.follow(history.mean(1, dtype=np.float64), self._rows)
        self._rows += len(losses)
        self._sum += float(losses.sum())

    @property
    def level(self) -> int:
        """The highest level that is on: 0 none, 1, 2 or 3 for THRESHOLDS."""
        return self._levels.level

    def evidence(self) -> dict[str, Any]:
        """What is known, as JSON values."""
        return {
            "schema": 1,
            "name": self.name,
            "rows": self._rows,
            "mean": self._sum / self._rows if self._rows else None,
            "baseline": self.baseline,
            "baseline_rows": self.baseline_rows,
            "tolerance": self.tolerance,
            "label_error": self.label_error,
            "limit": self.limit,
            "level": self.level,
            "index": self._levels.index,
            "log_e": math.log(max(self._levels.index, 1e-30)),
            "alarms": list(self._levels.alarms),
            "first_row": [row or None for row in self._levels.first_row],
            "most_false_alarms": [self._rows / threshold for threshold in THRESHOLDS],
        }

    def to_bytes(self) -> bytes:
        """The state; `restore` on a detector with the same settings goes on from it."""
        levels = self._levels
        flat = (
            value for k in range(len(THRESHOLDS)) for value in (levels.on[k], levels.alarms[k], levels.first_row[k])
        )
        noise = _NOISE.pack(self.label_error, self.two_classes) if self.label_error else b""
        return _LAYOUT.pack(
            _MAGIC, 2 if noise else 1, self.baseline, self.baseline_rows, self.tolerance, self._rows, self._sum,
            levels.index, *flat, *self._stakes.tolist(),
        ) + noise  # fmt: skip

    def restore(self, content: bytes) -> None:
        """Go on from what `to_bytes` gave.

        Raises:
            StateError: damaged, or of a detector with other settings; nothing is changed.
        """
        noise = label_error_in(content)
        if noise != (self.label_error, self.two_classes and self.label_error > 0):
            raise _damaged()
        magic, _, baseline, rows, tolerance, seen, total, index, *rest = _LAYOUT.unpack_from(content)
        mine = struct.pack("<fQf", self.baseline, self.baseline_rows, self.tolerance)
        if magic != _MAGIC or struct.pack("<fQf", baseline, rows, tolerance) != mine:
            raise _damaged()
        flat, stakes = rest[: -len(_SIZES)], np.array(rest[-len(_SIZES) :], dtype=np.float32)
        if not (np.isfinite(stakes).all() and (stakes >= 0).all() and math.isfinite(total)):
            raise _damaged()
        self._stakes, self._rows, self._sum = stakes, seen, total
        self._levels = Levels(index, flat[0::3], flat[1::3], flat[2::3])


def label_error_in(content: bytes) -> tuple[float, bool]:
    """The share of wrong labels that a state counts with, and whether there are two classes.

    Raises:
        StateError: it is no state of a risk detector.
    """
    version = content[4:6]
    if version == b"\1\0" and len(content) == _LAYOUT.size:
        return 0.0, False
    if version != b"\2\0" or len(content) != _LAYOUT.size + _NOISE.size:
        raise _damaged()
    try:
        share, two_classes = _NOISE.unpack_from(content, _LAYOUT.size)
    except struct.error as error:
        raise _damaged() from error
    if not 0 < share <= MOST_LABEL_ERROR:
        raise _damaged()
    return share, two_classes


def _as_labelled(error: float, label_error: float, two_classes: bool) -> float:
    """The largest share of rows that people call wrong, of a model that errs in a share of `error`; see the module."""
    if not label_error or error >= 1:
        return error
    return error + label_error - (2 if two_classes else 1) * error * label_error


def _upper_bound(mean: float, rows: int) -> float:
    """Upper confidence bound of a mean of values in [0, 1] (Chernoff and Hoeffding: KL(mean, m) = log(1/a) / rows)."""
    low, high = mean, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        kl = (mean * math.log(mean / middle) if mean > 0 else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - middle))
        low, high = (low, middle) if kl >= math.log(1 / _FAILURE) / rows else (middle, high)
        if middle >= 1 - 1e-15:
            break
    return high


def _damaged() -> StateError:
    return StateError(
        "this is no state of this risk detector",
        where="watch",
        do="start anew: losses before other settings say little",
    )
