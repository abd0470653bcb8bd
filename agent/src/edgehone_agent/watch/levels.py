"""When evidence is enough: three thresholds, each with a bound on false alarms.

The index of a detector is a number R that, while nothing has changed, grows by at most one a row on average (a
Shiryaev-Roberts sum of bets). Level k comes on when the index reaches 1.1 A, and goes off when it is back at 0.1 A.

Bound. Hold one unit of `R - rows` from where the level is off until it comes on: every alarm earns at least
1.1 A - 0.1 A = A, and costs one a row. It is a fair game, so the expected number of false alarms in T rows is at most
T / A, however often one looks. The chance of any false alarm in T rows is at most that, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = (1e3, 1e5, 1e6)
"""A of levels 1, 2 and 3: at most T / A false alarms in T rows."""
_ON = tuple(1.1 * threshold for threshold in THRESHOLDS)
_OFF = tuple(0.1 * threshold for threshold in THRESHOLDS)


@dataclass
class Levels:
    """Which levels are on, and how often each came on.

    Attributes:
        index: after the last row.
        on: for each level, whether it is on.
        alarms: for each level, how often it came on.
        first_row: for each level, the number of rows after which it first came on; 0 for never.
    """

    index: float = 0.0
    on: list[bool] = field(default_factory=lambda: [False] * len(THRESHOLDS))
    alarms: list[int] = field(default_factory=lambda: [0] * len(THRESHOLDS))
    first_row: list[int] = field(default_factory=lambda: [0] * len(THRESHOLDS))

    @property
    def level(self) -> int:
        """The highest level that is on; 0 for none."""
        return max((k + 1 for k, on in enumerate(self.on) if on), default=0)

    def follow(self, indices: NDArray[np.float64], rows: int) -> None:
        """Take in the index after each of some rows.

        Args:
            indices: (N,) after each row, N > 0.
            rows: how many rows came before.
        """
        self.index = float(indices[-1])
        if not any(self.on) and indices.max() < _ON[0]:
            return
        for k in range(len(THRESHOLDS)):
            row = 0
            while row < len(indices):  # from one change of the level to the next
                wanted = indices[row:] <= _OFF[k] if self.on[k] else indices[row:] >= _ON[k]
                step = int(wanted.argmax())
                if not wanted[step]:
                    break
                row += step
                self._turn(k, rows + row + 1)
                row += 1

    def _turn(self, k: int, row: int) -> None:
        self.on[k] = not self.on[k]
        if self.on[k]:
            self.alarms[k] += 1
            self.first_row[k] = self.first_row[k] or row


def grow(stakes: NDArray[np.float32], factors: NDArray[np.float32], row: int) -> NDArray[np.float32]:
    """Shiryaev-Roberts sums over some rows: stake one more on every bet, then multiply by the row's factors.

    The result does not depend on how rows are cut into calls, bit for bit.

    Args:
        stakes: (...) of all bets after the rows before; changed in place.
        factors: (N, ...), above zero.
        row: number of rows before.

    Returns:
        (N, ...): the stakes after each row.
    """
    history = np.empty_like(factors)
    for i in range(len(factors)):
        np.add(stakes, _ONE, out=stakes)
        np.multiply(stakes, factors[i], out=stakes)
        if (row + i) % _CAP_EVERY == 0:
            np.minimum(stakes, _CAP, out=stakes)
        history[i] = stakes
    return history


_ONE = np.float32(1)
_CAP = np.float32(1e12)  # stakes above this say nothing new, and would take long to fall when the change is over
_CAP_EVERY = 16  # rows; factors stay below 17, and 1e12 * 17**16 is still finite in float32
