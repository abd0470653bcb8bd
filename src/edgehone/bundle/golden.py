"""Choose the inputs of a golden probe, and how far another machine's answers may be off.

Runtimes that are right differ by a step or so of the output's scale: they round at other places. So the tolerance
counts in steps, and a file that is further off where the bundle is built is not shipped: its answers are in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import InputError
from edgehone_agent.model import open_model
from edgehone_agent.probe import MAX_PROBE_BYTES, MIN_EXAMPLES, Probe
from edgehone_agent.runtimes import Session

STEPS = 4
"""Steps of the output's scale that every runtime is allowed; LiteRT and ONNX Runtime were seen to differ by 0 or 1."""
MOST_STEPS = 12
"""Steps that no runtime is allowed: 5 % of what int8 can say."""

_EXAMPLES = 16
_HEADS_BYTES = 4096  # of the archive around the arrays
Array = NDArray[np.float32]


def choose(x: Array | None, session: Session, shape: tuple[int, ...], answer_shape: tuple[int, ...]) -> Array:
    """Inputs for a probe: (n, *shape), n from 8 to 16.

    Args:
        x: (N, *shape) readings to spread the choice over; None, or too few of them, for seeded noise over the range
            that the file can take.
        session: of the file that shall answer.
        shape, answer_shape: of one example and of its answer.

    Raises:
        InputError: one example is so long that 8 of them do not fit a probe.
    """
    most = (MAX_PROBE_BYTES - _HEADS_BYTES) // (4 * (prod(shape) + prod(answer_shape)))
    if most < MIN_EXAMPLES:
        raise InputError(
            f"one reading has {prod(shape):,} values; {MIN_EXAMPLES} of them are too many for a golden probe",
            do="let the network take smaller readings",
        )
    count = min(_EXAMPLES, most)
    if x is None or len(x) < MIN_EXAMPLES:
        return _noise(session, (count, *shape))
    chosen = np.linspace(0, len(x) - 1, min(count, len(x))).round().astype(int)
    return np.ascontiguousarray(x[chosen], dtype=np.float32)


def _noise(session: Session, shape: tuple[int, ...]) -> Array:
    rng, info = np.random.default_rng(0), session.input
    if info.scale is None or info.zero_point is None:
        return rng.standard_normal(shape, np.float32)
    limits = np.iinfo(info.dtype)
    low, high = ((end - info.zero_point) * info.scale for end in (limits.min, limits.max))
    return rng.uniform(low, high, shape).astype(np.float32)


def step_of(session: Session, y: Array) -> float:
    """One step of the output: its scale, or for a float32 output a 255th of the range of the answers."""
    if session.output.scale is not None:
        return session.output.scale
    return max(float(np.ptp(y)), float(np.abs(y).max()), 1e-6) / 255


def golden_probe(x: Array, y: Array, step: float, others: Mapping[str, Path]) -> Probe:
    """The probe of these inputs and answers.

    Args:
        x, y: inputs, and the answers of the preferred file.
        step: one step of the output, see `step_of`.
        others: runtime → file that must give the same answers.

    Raises:
        InputError: one of the other files is more than 12 steps off.
    """
    tolerance = STEPS * step
    for runtime, path in others.items():
        with open_model(path, runtime=runtime) as model:
            found = Probe(x, y, MOST_STEPS * step).check(model)
        if not found.ok:
            raise InputError(
                f"it does not answer as the bundle's other file does: {found.text}", where=str(path),
                do="run the study again; the files of one member must agree",
            )  # fmt: skip
        tolerance = max(tolerance, 2 * found.largest_difference)
    return Probe(x, y, float(np.float32(min(tolerance, MOST_STEPS * step))))


def tells_apart(probe: Probe) -> bool:
    """Whether the answers differ by more than the tolerance, so that the probe can fail for another model."""
    return bool(np.ptp(probe.y, axis=0).max() > probe.tolerance)
