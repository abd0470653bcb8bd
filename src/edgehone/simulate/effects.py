"""What can go wrong with a device's world: pure functions from readings to the readings that the device would give.

    seen = disturb("darkening", x, np.full(len(x), 0.6), span=span_of(x), rng=rng)

A strength of 0 changes nothing, 1 is the worst. Readings are (N, C, H, W) for pictures, (N, F) for sensor tables and
(N, C, L) for sequences; each has a strength of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import InputError

Readings = NDArray[np.float32]
Strengths = NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """From where to where readings go: (1,) for pictures, (F,) for tables, (C, 1) for sequences."""

    low: Readings
    high: Readings

    @property
    def wide(self) -> Readings:
        """High minus low."""
        wide: Readings = self.high - self.low
        return wide


def span_of(x: Readings) -> Span:
    """The span of readings (N, ...). Pictures begin at no light; a table's sensors each have a range of their own."""
    if x.ndim > 3:
        return Span(np.zeros(1, np.float32), np.abs(x).max().astype(np.float32).reshape(1))
    axes = (0,) if x.ndim == 2 else (0, 2)
    low, high = (found.astype(np.float32) for found in np.quantile(x, (0.01, 0.99), axis=axes, keepdims=True))
    return Span(low[0], high[0])


def darkening(x: Readings, strength: Strengths, span: Span, rng: np.random.Generator) -> Readings:  # noqa: ARG001
    """Less light: every value is scaled by 1 - strength."""
    return (x * (1.0 - _along(strength, x))).astype(np.float32)


def gain(x: Readings, strength: Strengths, span: Span, rng: np.random.Generator) -> Readings:  # noqa: ARG001
    """An amplifier that has drifted: every value is scaled by 1 + strength."""
    return (x * (1.0 + _along(strength, x))).astype(np.float32)


def blur(x: Readings, strength: Strengths, span: Span, rng: np.random.Generator) -> Readings:  # noqa: ARG001
    """A lens out of focus: the mean of a window of up to 9 values along each axis of the picture."""
    wide = 2 * np.rint(4 * strength).astype(int) + 1
    seen = x.astype(np.float64)
    for one in np.unique(wide[wide > 1]):
        mine = wide == one
        found = seen[mine]
        for axis in range(max(1, x.ndim - 2), x.ndim):
            reach = [(0, 0)] * x.ndim
            reach[axis] = (int(one) // 2, int(one) // 2)
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(found, reach, mode="edge"), int(one), axis=axis)
            found = windows.mean(-1)
        seen[mine] = found
    return seen.astype(np.float32)


def noise(x: Readings, strength: Strengths, span: Span, rng: np.random.Generator) -> Readings:
    """A noisy sensor: Gaussian noise with a deviation of strength times half of the span."""
    seen = x + rng.normal(0.0, 1.0, x.shape) * (0.5 * _along(strength, x) * span.wide)
    return (np.clip(seen, min(0.0, float(x.min())), None) if x.ndim > 3 else seen).astype(np.float32)


def stuck(x: Readings, strength: Strengths, span: Span, rng: np.random.Generator) -> Readings:  # noqa: ARG001
    """A sensor that hangs: the last `strength` of the values stand in the middle of their span for ever."""
    middle = np.broadcast_to(span.low + 0.5 * span.wide, x.shape[1:]).reshape(-1)
    size = len(middle)
    hangs = np.arange(size) >= size - np.rint(strength * size)[:, None]  # (N, values)
    return np.where(hangs, middle, x.reshape(len(x), -1)).reshape(x.shape).astype(np.float32)


EFFECTS: dict[str, Callable[[Readings, Strengths, Span, np.random.Generator], Readings]] = {
    "blur": blur, "darkening": darkening, "gain": gain, "noise": noise, "stuck": stuck,
}  # fmt: skip
RANDOM = frozenset({"noise"})  # the same reading gives another one each time


def disturb(name: str, x: Readings, strength: Strengths, *, span: Span, rng: np.random.Generator) -> Readings:
    """Readings under an effect.

    Args:
        name: of `EFFECTS`.
        x: (N, ...) the readings as they are.
        strength: (N,) 0 to 1.
        span: of readings.
        rng: of these readings alone.

    Raises:
        InputError: there is no such effect.
    """
    if name not in EFFECTS:
        raise InputError(f"there is no effect {name!r}", where="effect", do=f"use one of: {', '.join(sorted(EFFECTS))}")
    return EFFECTS[name](x, strength, span, rng) if (strength > 0).any() else x


def _along(strength: Strengths, x: Readings) -> Strengths:
    """(N,) → (N, 1, ...), to go with x."""
    return strength.reshape(-1, *(1,) * (x.ndim - 1))
