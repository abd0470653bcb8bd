"""Coins: uniform numbers that depend on seed, row and channel alone, so that an alarm can be replayed.

SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) of a counter: the same numbers
on every machine and with every numpy version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STRIDE = 64  # counters per row; at least MAX_CHANNELS
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF


def coins(seed: int, row: int, n: int, channels: int) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1) for rows `row` to `row + n`: (n, channels), channels at most 64."""
    first = np.array([(seed * _GOLDEN + row * _STRIDE) & _WORD], dtype=np.uint64)
    rows = np.arange(0, n * _STRIDE, _STRIDE, dtype=np.uint64)[:, None]
    counter: NDArray[np.uint64] = np.add(rows, np.arange(channels, dtype=np.uint64)) + first
    z = counter * np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(12)
    coin: NDArray[np.float64] = (z.astype(np.float64) + 0.5) * 2.0**-52
    return coin
