"""From values to places on paper: linear and logarithmic axes with round ticks, and labels that keep their distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Scale:
    """A monotonic map from [low, high] to [start, end] user units; logarithmic scales need low > 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        low, high, value = (self._measure(v) for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> tuple[float, ...]:
        """About `count` round values inside the scale."""
        return log_ticks(self.low, self.high, count) if self.log else linear_ticks(self.low, self.high, count)

    def _measure(self, value: float) -> float:
        return math.log(value) if self.log else value


def fit(values: Sequence[float], start: float, end: float, *, log: bool = False, margin: float = 0.08) -> Scale:
    """A scale around finite values (above zero when `log`) with a `margin` of the span on both sides."""
    usable = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(usable), max(usable)
    if log:
        room = margin * math.log(high / low) if high > low else 0.1
        return Scale(low * math.exp(-room), high * math.exp(room), start, end, log=True)
    room = margin * (high - low) if high > low else abs(high) * 0.05 or 1.0
    return Scale(low - room, high + room, start, end)


def linear_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten within [low, high], at most about `count`."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def log_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Values 1, 2, 5 (or only 1) times powers of ten within [low, high]; round linear ones where those are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = tuple(t for p in powers for d in digits if low <= (t := round(d * 10.0**p, 12)) <= high)
        if len(ticks) <= count:
            break
    else:
        ticks = ticks[:: math.ceil(len(ticks) / count)]
    return ticks if len(ticks) >= 2 else linear_ticks(low, high, max(2, count - 1))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near `wanted`, in the same order, at least `gap` apart and within [low, high] as far as there is room.

    Labels that touch become a block, which lies as near to where its labels want to be as it can (the pool-adjacent-
    violators method for isotonic regression).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # [mean of wanted minus offset, number of labels]
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, n = blocks.pop()
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * n) / (blocks[-1][1] + n), blocks[-1][1] + n]
    bases = [mean for mean, n in blocks for _ in range(round(n))]
    ceiling = max(low, high - gap * (len(wanted) - 1))
    placed = [min(max(base, low), ceiling) + rank * gap for rank, base in enumerate(bases)]
    result = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        result[i] = placed[rank]
    return result


@dataclass(frozen=True)
class Box:
    """A rectangle on paper: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def outside(self, frame: Box) -> float:
        """Area that lies outside `frame`."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(frame)


def best_place(candidates: Sequence[Box], hard: Sequence[Box], soft: Sequence[Box], frame: Box) -> int:
    """Index of the first candidate with the least area on taken boxes or outside the frame; `hard` ones count most."""

    def cost(box: Box) -> float:
        taken = 4 * sum(box.overlap(other) for other in hard) + sum(box.overlap(other) for other in soft)
        return 8 * box.outside(frame) + taken

    return min(range(len(candidates)), key=lambda i: cost(candidates[i]))


def staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners of the front of (cost, gain) points: the most gain there is for at most that cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    corners = front[:1]
    for (_, gain), (cost, higher) in pairwise(front):
        corners += [(cost, gain), (cost, higher)]
    return corners
