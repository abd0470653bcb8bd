"""How often two models answer the same questions differently: the bets of `risk` on their disagreement.

    agreement = Agreement("classification", baseline=0.012, rows=10_000, tolerance=0.01)
    agreement.observe(y, other)          # answers (N, ...) of both to the same N readings
    agreement.level, agreement.evidence()

A candidate runs beside the model that serves, and no label is needed. The baseline is the share of answers that
differed on validation data; the level says that they differ more often than that in the field. It does not say who is
right.

Two answers differ when
- classification, several scores: another class is highest. Of equal scores the first counts, as everywhere.
- classification, one score: one is above `cut` and the other is not.
- other kinds: any value differs by more than `step`.
- A missing value (NaN) differs from everything.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError, StateError
from edgehone_agent.watch.risk import RiskDetector
from edgehone_agent.wire.card import KINDS

_MAGIC = b"EHAG"
_HEAD = struct.Struct("<4sHBdd")
_VERSION = 1


class Agreement:
    """Watches how often two models differ. One thread at a time.

    Args:
        kind: of the task: "classification", "regression" or "anomaly".
        baseline: share of validation readings that the two answered differently.
        rows: how many readings that is the share of; 0 when it is a limit that was set, not measured.
        tolerance: how far above the baseline nobody minds.
        step: how far apart two numbers may be and still agree, in the unit of the answer.
        cut: where a single score turns to the other class: 0.5 for a probability, 0 for a logit.

    Raises:
        InputError: an unknown kind, or a number out of range.
    """

    def __init__(
        self,
        kind: str,
        *,
        baseline: float,
        rows: int = 0,
        tolerance: float = 0.01,
        step: float = 0.0,
        cut: float = 0.5,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"kind {kind!r} is not known", where="agreement", do=f"choose one of: {', '.join(KINDS)}")
        if not (math.isfinite(step) and step >= 0 and math.isfinite(cut)):
            raise InputError(
                f"a step of {step} and a cut of {cut} are out of range",
                where="agreement",
                do="give finite numbers, and a step that is not below 0",
            )
        self.kind, self.step, self.cut = kind, float(step), float(cut)
        self._detector = RiskDetector("disagreement", baseline=baseline, rows=rows, tolerance=tolerance)

    def observe(self, y: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
        """Take in the answers of both models to the same readings.

        Args:
            y, other: (N, ...) in torch order, the same shape.

        Returns:
            (N,): which rows differ, so that their readings can be kept.

        Raises:
            InputError: the shapes differ or have no batch axis; nothing is taken in.
        """
        y, other = np.asarray(y, np.float64), np.asarray(other, np.float64)
        if y.shape != other.shape or y.ndim < 2:
            raise InputError(
                f"answers of shape {y.shape} and {other.shape} cannot be compared",
                where="agreement",
                do="give both models' answers to the same batch, (N, ...)",
            )
        found = self._differ(y.reshape(len(y), -1), other.reshape(len(y), -1))
        self._detector.observe(found.astype(np.float64))
        return found

    @property
    def level(self) -> int:
        """The highest level that is on: 0 none, 1, 2 or 3 for THRESHOLDS."""
        return self._detector.level

    def evidence(self) -> dict[str, Any]:
        """What is known, as JSON values; `mean` is the share of rows that differed."""
        return {"kind": self.kind, "step": self.step, "cut": self.cut, **self._detector.evidence()}

    def to_bytes(self) -> bytes:
        """The state; `restore` on one with the same settings goes on from it. Keep beside it which models they were."""
        head = _HEAD.pack(_MAGIC, _VERSION, KINDS.index(self.kind), self.step, self.cut)
        return head + self._detector.to_bytes()

    def restore(self, content: bytes) -> None:
        """Go on from what `to_bytes` gave.

        Raises:
            StateError: damaged, or of one with other settings; nothing is changed.
        """
        if content[: _HEAD.size] != _HEAD.pack(_MAGIC, _VERSION, KINDS.index(self.kind), self.step, self.cut):
            raise StateError(
                "this is no state of this comparison", where="watch", do="start anew: it says little about another one"
            )
        self._detector.restore(content[_HEAD.size :])

    def _differ(self, y: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
        missing = np.isnan(y).any(1) | np.isnan(other).any(1)
        found: NDArray[np.bool_]
        if self.kind != "classification":
            with np.errstate(invalid="ignore"):  # infinity less infinity is nothing, and no difference
                found = (np.abs(y - other) > self.step).any(1)
        elif y.shape[1] == 1:
            found = (y[:, 0] > self.cut) != (other[:, 0] > self.cut)
        else:
            found = y.argmax(1) != other.argmax(1)
        found |= missing
        return found
