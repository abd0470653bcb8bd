"""The readings of one simulated device: real data, chosen and disturbed as a scenario says.

    stream = Stream(scenario, pool, seed=0, node=2)
    stream.reading(17)                    # always the same for the same seed, node and row
    stream.block(0, 20)                   # the same readings, many at a time

Rules:
- What is random comes from (seed, node, row // CHUNK): readings are drawn `CHUNK` at a time, whoever asks for which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import InputError
from edgehone.simulate.effects import RANDOM, Span, disturb, span_of
from edgehone.simulate.scenario import Phase, Scenario

CHUNK = 64


@dataclass(frozen=True)
class Pool:
    """Real examples that a device may meet: `x` (N, ...) float32, `y` (N,) class ids, and the classes' names."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    labels: tuple[str, ...]

    @cached_property
    def span(self) -> Span:
        """From where to where its readings go."""
        return span_of(self.x)


@dataclass(frozen=True)
class Seen:
    """What a device saw: the reading, its true class, the phase, and how strong the phase's effect was."""

    x: NDArray[np.float32]
    y: int
    phase: str
    strength: float


@dataclass(frozen=True)
class Block:
    """Readings that follow one another.

    Attributes:
        x, y: (N, ...) readings and (N,) true classes.
        numbers: (N,) of the pool's examples that they come from.
        phases: of each.
        strengths: (N,) of the phases' effects.
        effects: of each, as (effect, strength); None where the example alone does not say what the reading is.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    numbers: NDArray[np.int64]
    phases: tuple[str, ...]
    strengths: NDArray[np.float64]
    effects: tuple[tuple[str, float] | None, ...]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, part: slice) -> Block:
        return Block(
            self.x[part], self.y[part], self.numbers[part], self.phases[part], self.strengths[part], self.effects[part]
        )


class Stream:
    """The stream of a node; a function of (seed, node, row)."""

    def __init__(self, scenario: Scenario, pool: Pool, *, seed: int, node: int) -> None:
        self._scenario, self._pool, self._seed, self._node = scenario, pool, seed, node
        self._cohort = scenario.cohort(node)
        self._chances = {phase.name: _chances(phase, pool) for phase in scenario.phases if phase.mix}
        self._chunk: tuple[int, Block] | None = None

    def reading(self, row: int) -> Seen:
        """What the device sees at a row, counted from 0."""
        found, place = self._chunk_of(row // CHUNK), row % CHUNK
        return Seen(found.x[place], int(found.y[place]), found.phases[place], float(found.strengths[place]))

    def block(self, first: int, rows: int) -> Block:
        """What the device sees at `rows` rows, at least one."""
        parts: list[Block] = []
        row, end = first, first + rows
        while row < end:
            stop = min(end, (row // CHUNK + 1) * CHUNK)
            start = row % CHUNK
            parts.append(self._chunk_of(row // CHUNK)[start : start + stop - row])
            row = stop
        return parts[0] if len(parts) == 1 else _together(parts)

    def _chunk_of(self, number: int) -> Block:
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = (number, self._draw(number))
        return self._chunk[1]

    def _draw(self, number: int) -> Block:
        rng = np.random.default_rng([self._seed, self._node, number])
        plain, drawn = rng.integers(len(self._pool.y), size=CHUNK), rng.random(CHUNK)
        parts: list[Block] = []
        start = 0
        while start < CHUNK:  # phase by phase
            phase, row = self._scenario.phase_at(number * CHUNK + start)
            is_last = phase is self._scenario.phases[-1]
            stop = CHUNK if is_last else min(CHUNK, start + phase.rows - row)
            parts.append(self._of_phase(phase, row, plain[start:stop], drawn[start:stop], rng))
            start = stop
        return _together(parts)

    def _of_phase(
        self, phase: Phase, row: int, plain: NDArray[np.int64], drawn: NDArray[np.float64], rng: np.random.Generator
    ) -> Block:
        touched = phase.touches(self._node, self._cohort)
        chances = self._chances.get(phase.name) if touched else None
        numbers = plain if chances is None else np.searchsorted(chances, drawn)
        x, rows = self._pool.x[numbers], range(row, row + len(numbers))
        strengths = np.array([phase.strength_at(one) if touched else 0.0 for one in rows])
        effects: list[tuple[str, float] | None] = [("", 0.0)] * len(numbers)
        if phase.effect and touched:
            x = disturb(phase.effect, x, strengths, span=self._pool.span, rng=rng)
            is_known = phase.effect not in RANDOM
            effects = [(phase.effect, one) if is_known and one == phase.strength else None for one in strengths]
        return Block(x, self._pool.y[numbers], numbers, (phase.name,) * len(numbers), strengths, tuple(effects))


def load_pool(task: str, seed: int = 0) -> Pool:
    """The test split of a task.

    Raises:
        InputError: no such task, it is no classification, or its data cannot be had.
    """
    return load_splits(task, seed)[0]


def load_splits(task: str, seed: int = 0, *, validation_rows: int = 0) -> tuple[Pool, NDArray[np.float32]]:
    """The test split of a task, and some readings (N, ...) of its validation split.

    Args:
        task: a built-in name, or a task file.
        seed: of the split, where the task leaves it to us.
        validation_rows: how many at most; 0 for none.

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
    pool, split = Pool(np.asarray(x, np.float32), np.asarray(y, np.int64), prepared.labels), prepared.validation
    if not validation_rows:
        return pool, pool.x[:0]
    kept = split if len(split) <= validation_rows else split.sample(validation_rows, seed=0)
    return pool, np.concatenate([part.numpy().astype(np.float32) for part, _ in kept.batches(256)])


def _together(parts: Sequence[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    return Block(
        np.concatenate([one.x for one in parts]),
        np.concatenate([one.y for one in parts]),
        np.concatenate([one.numbers for one in parts]),
        tuple(name for one in parts for name in one.phases),
        np.concatenate([one.strengths for one in parts]),
        tuple(effect for one in parts for effect in one.effects),
    )


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
