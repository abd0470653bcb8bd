"""The readings of one simulated device: real data, chosen and disturbed as a scenario says.

stream = Stream(scenario, pool, seed=0, node=2)
stream.reading(17)                    # always the same for the same seed, node and row
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import InputError
from edgehone.simulate.effects import apply
from edgehone.simulate.scenario import Phase, Scenario


@dataclass(frozen=True)
class Pool:
    """Real examples that a device may meet: `x` (N, ...) float32, `y` (N,) class ids, and the classes' names."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    labels: tuple[str, ...]

    @property
    def top(self) -> float:
        """The largest value."""
        return float(np.abs(self.x).max())


@dataclass(frozen=True)
class Seen:
    """What a device saw: the reading, its true class, the phase, and how strong the phase's effect was."""

    x: NDArray[np.float32]
    y: int
    phase: str
    strength: float


class Stream:
    """The stream of a node; a function of (seed, node, row)."""

    def __init__(self, scenario: Scenario, pool: Pool, *, seed: int, node: int) -> None:
        self._scenario, self._pool, self._seed, self._node = scenario, pool, seed, node
        self._cohort = scenario.cohort(node)
        self._top = pool.top
        self._chances = {phase.name: _chances(phase, pool) for phase in scenario.phases if phase.mix}

    def reading(self, row: int) -> Seen:
        """What the device sees at a row, counted from 0."""
        phase, row_in_phase = self._scenario.phase_at(row)
        rng = np.random.default_rng([self._seed, self._node, row])
        touched = phase.touches(self._node, self._cohort)
        chances = self._chances.get(phase.name) if touched else None
        number = int(rng.integers(len(self._pool.y)) if chances is None else np.searchsorted(chances, rng.random()))
        x, y = self._pool.x[number], int(self._pool.y[number])
        strength = phase.strength_at(row_in_phase) if touched else 0.0
        if phase.effect:
            x = apply(phase.effect, x, strength, top=self._top, rng=rng)
        return Seen(x, y, phase.name, strength)


def load_pool(task: str, seed: int = 0) -> Pool:
    """The test split of a task.

    Raises:
        InputError: no such task, it is no classification, or its data cannot be had.
    """
    from edgehone.data.load import load_task
    from edgehone.data.prepare import prepare

    found = load_task(task)
    if found.kind != "classification":
        raise InputError(f"{task!r} is no classification", where="task", do="choose a task with classes")
    prepared = prepare(found, seed)
    x, y = prepared.test.arrays()
    return Pool(np.asarray(x, np.float32), np.asarray(y, np.int64), prepared.labels)


def _chances(phase: Phase, pool: Pool) -> NDArray[np.float64]:
    """Cumulative chance of each example under a phase's mix."""
    strange = sorted(phase.mix.keys() - set(pool.labels))
    if strange:
        raise InputError(
            f"there is no class {', '.join(strange)}", where=f"phase {phase.name}", do=f"use {', '.join(pool.labels)}"
        )
    weights = np.array([phase.mix.get(label, 1.0) for label in pool.labels])[pool.y]
    if not weights.sum() > 0:
        raise InputError("no class is left", where=f"phase {phase.name}", do="give a class more than 0")
    found: NDArray[np.float64] = np.cumsum(weights / weights.sum())
    found[-1] = 1.0
    return found
