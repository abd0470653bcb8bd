"""How quiet the machine was while something was timed."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Word = Literal["quiet", "noisy", "very noisy"]

_QUIET_SPREAD = 0.03
_NOISY_SPREAD = 0.10
_MAD_TO_DEVIATION = 1.4826  # makes the median absolute deviation agree with the standard deviation of a normal


@dataclass(frozen=True)
class Noise:
    """Spread of the rounds and load of the machine.

    Attributes:
        spread: robust relative spread of the round medians, 1.4826 x MAD / median.
        load_per_core: one-minute load average over usable cores; the measurement itself adds up to one process.
        word: "quiet", "noisy" or "very noisy".
    """

    spread: float
    load_per_core: float
    word: Word

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)


def noise_of(round_us: NDArray[np.float64], load_per_core: float | None = None) -> Noise:
    """Noise of a series of round medians; the load is read from the machine when it is not given.

    Quiet is a spread up to 3 % with no more work than cores; very noisy is a spread above 10 %.
    """
    median = float(np.median(round_us))
    deviation = _MAD_TO_DEVIATION * float(np.median(np.abs(round_us - median)))
    spread = deviation / median if median > 0 else 0.0
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0)) if load_per_core is None else load_per_core
    if spread > _NOISY_SPREAD:
        return Noise(spread, load, "very noisy")
    return Noise(spread, load, "noisy" if spread > _QUIET_SPREAD or load > 1 else "quiet")
