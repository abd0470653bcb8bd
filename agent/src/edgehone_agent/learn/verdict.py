"""What labels say about what was learnt, against the signed model on the same readings.

    verdict = Verdict()
    verdict.compare(label, learnt=3, own=7)
    verdict.is_worse

Rules:
- A label counts only where exactly one of the two answered right: the others say nothing about the difference. Of such
  rows, at most half and a tolerance may speak against what was learnt; more than that rings the bets of `watch.risk`,
  at level 1: at most one false verdict in a thousand such rows.
- A label is compared before it is learnt from. What was learnt may change in between: the bound holds all the same,
  because each change rests on labels that came before.
"""

from __future__ import annotations

import struct
from collections import deque

import numpy as np

from edgehone_agent.watch.risk import RiskDetector

TOLERANCE = 0.05
_LAST = 30  # rows that are told of when it is worse
_COUNTS = struct.Struct("<3Q")


class Verdict:
    """Compares answers. One thread at a time."""

    def __init__(self) -> None:
        self.rows = self.wrong = self.own_wrong = 0
        self._last: deque[bool] = deque(maxlen=_LAST)
        self._detector = RiskDetector("learnt", baseline=0.5, tolerance=TOLERANCE)

    def compare(self, label: int, *, learnt: int, own: int) -> None:
        """Take in one labelled reading: the right class, and what either answered."""
        self.rows += 1
        self.wrong += learnt != label
        self.own_wrong += own != label
        if (learnt != label) != (own != label):
            self._last.append(learnt != label)
            self._detector.observe(np.array([float(learnt != label)]))

    @property
    def is_worse(self) -> bool:
        """Whether what was learnt answers worse than the signed model."""
        return self._detector.level > 0

    @property
    def words(self) -> str:
        """For people."""
        rows, own = len(self._last), sum(self._last)
        return f"of the last {rows} labels that one of the two had right, the signed model had {own}"

    def to_bytes(self) -> bytes:
        """The state; `restore` goes on from it."""
        return _COUNTS.pack(self.rows, self.wrong, self.own_wrong) + self._detector.to_bytes()

    def restore(self, content: bytes) -> None:
        """Go on from what `to_bytes` gave. Raises StateError when it is damaged; then nothing is changed."""
        self._detector.restore(content[_COUNTS.size :])
        if len(content) >= _COUNTS.size:
            self.rows, self.wrong, self.own_wrong = _COUNTS.unpack_from(content)
