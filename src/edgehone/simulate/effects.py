"""What can go wrong with a device's world: pure functions from a reading to the reading that the device would give.

    seen = apply("darkening", x, 0.6, top=255.0, rng=rng)

A strength of 0 changes nothing, 1 is the worst. A reading is (C, H, W) for pictures and (F,) for sensor tables.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import InputError

Reading = NDArray[np.float32]


def darkening(x: Reading, strength: float, top: float, rng: np.random.Generator) -> Reading:  # noqa: ARG001
    """Less light: every value is scaled by 1 - strength."""
    return (x * (1.0 - strength)).astype(np.float32)


def blur(x: Reading, strength: float, top: float, rng: np.random.Generator) -> Reading:  # noqa: ARG001
    """A lens out of focus: the mean of a window of up to 9 values along each axis of the picture."""
    wide = 2 * round(4 * strength) + 1
    kernel = np.full(wide, 1.0 / wide)
    seen = x.astype(np.float64)
    for axis in range(max(0, x.ndim - 2), x.ndim):
        seen = np.apply_along_axis(lambda line: np.convolve(_edged(line, wide // 2), kernel, "valid"), axis, seen)
    return seen.astype(np.float32)


def noise(x: Reading, strength: float, top: float, rng: np.random.Generator) -> Reading:
    """A noisy sensor: Gaussian noise with a deviation of strength times half of the largest value."""
    seen = x + rng.normal(0.0, 0.5 * strength * top, x.shape)
    return np.clip(seen, min(0.0, float(x.min())), None).astype(np.float32)


def stuck(x: Reading, strength: float, top: float, rng: np.random.Generator) -> Reading:  # noqa: ARG001
    """A sensor that hangs: the last `strength` of the values are one value for ever."""
    seen = x.ravel().copy()
    seen[len(seen) - round(strength * len(seen)) :] = 0.5 * top
    return seen.reshape(x.shape).astype(np.float32)


EFFECTS: dict[str, Callable[[Reading, float, float, np.random.Generator], Reading]] = {
    "blur": blur, "darkening": darkening, "noise": noise, "stuck": stuck,
}  # fmt: skip


def apply(name: str, x: Reading, strength: float, *, top: float, rng: np.random.Generator) -> Reading:
    """The reading under an effect.

    Args:
        name: of `EFFECTS`.
        x: the reading as it is.
        strength: 0 to 1.
        top: the largest value that readings have.
        rng: of this reading alone.

    Raises:
        InputError: there is no such effect.
    """
    if name not in EFFECTS:
        raise InputError(f"there is no effect {name!r}", where="effect", do=f"use one of: {', '.join(sorted(EFFECTS))}")
    return x if strength <= 0 else EFFECTS[name](x, strength, top, rng)


def _edged(line: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    return np.pad(line, reach, mode="edge")
