"""Latency of several loaded files against each other.

Rules, so that a figure means something on a shared machine:
 1. every session is warmed until caches and clock rates have settled;
 2. rounds interleave the sessions and every other round runs them in reverse, so drift hits all alike;
 3. within a round each call is timed alone, and the round's figure is the median of its calls;
 4. the interval comes from the rounds, not the calls: calls of one round share their disturbances;
 5. a comparison uses the ratio inside each round, and is ranked only beyond its interval and beyond what two loads of
    one file differ by.

A timed call includes one reading of the clock, about 0.05 µs.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError
from edgehone_agent.measure.noise import Noise, noise_of
from edgehone_agent.runtimes import Session

Clock = Callable[[], int]
Progress = Callable[[int, int], None]
Verdict = Literal["faster", "slower", "within noise"]

ROUND_NS = 2_000_000  # a round of one session lasts about this long
MIN_CALLS = 3  # the fewest calls whose median shrugs off one disturbed call
# Two loads of one file differ steadily by up to this much: where their memory happens to lie, not the model.
SAME_FILE_SHARE = 0.01
SAME_FILE_US = 0.2
_RESAMPLES = 2000


@dataclass(frozen=True)
class LatencyResult:
    """Latency of one session, in microseconds.

    Attributes:
        median_us: median of the round medians.
        p90_us, p99_us: quantiles of all single calls.
        low_us, high_us: 95 % bootstrap interval of `median_us` over rounds.
        rounds, calls: number of rounds, and of calls in each.
        noise: how quiet the machine was during these rounds.
        round_us: median of every round, in order; what `ratio` pairs.
    """

    median_us: float
    p90_us: float
    p99_us: float
    low_us: float
    high_us: float
    rounds: int
    calls: int
    noise: Noise
    round_us: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field but the rounds themselves."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("noise", "round_us")}
        return {**fields, "noise": self.noise.to_json()}


@dataclass(frozen=True)
class Ratio:
    """How many times as long one session takes as another: median over rounds, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    rounds: int


def measure_latency(
    sessions: Mapping[str, Session],
    *,
    rounds: int = 40,
    calls: int | None = None,
    warmup_s: float = 0.1,
    inputs: Mapping[str, NDArray[Any]] | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, LatencyResult]:
    """Time sessions against each other, see the module's rules.

    Args:
        sessions: name → loaded session; measured in this order, then reversed, and so on.
        rounds: how often each is measured; at least 5.
        calls: per round and session; None chooses as many as last about 2 ms, at least 3.
        warmup_s: how long each session runs before the first round.
        inputs: name → array in the file's dtype and layout; seeded random values where missing.
        progress: called with (rounds done, rounds) after every round.
        clock: nanoseconds, monotonic.

    Raises:
        InputError: no session, fewer than 5 rounds, or fewer than 1 call.
    """
    if not sessions:
        raise InputError("there is nothing to measure", do="give at least one session")
    if rounds < 5 or (calls is not None and calls < 1):
        raise InputError("an interval needs at least 5 rounds of at least 1 call", do="give for example rounds=40")
    feeds = {name: (inputs or {}).get(name, _random_input(session)) for name, session in sessions.items()}
    with _no_garbage_collection():
        pace = {name: _warm_up(sessions[name], feeds[name], warmup_s, clock) for name in sessions}
        counts = {name: calls or max(MIN_CALLS, math.ceil(ROUND_NS / max(pace[name], 1.0))) for name in sessions}
        timings: dict[str, list[NDArray[np.int64]]] = {name: [] for name in sessions}
        order = list(sessions)
        for done in range(1, rounds + 1):
            for name in order:
                timings[name].append(_time_calls(sessions[name], feeds[name], counts[name], clock))
            order.reverse()
            if progress is not None:
                progress(done, rounds)
    return {name: _summarise(timings[name]) for name in sessions}


def ratio(a: LatencyResult, b: LatencyResult, *, seed: int = 0) -> Ratio:
    """Time of `a` over time of `b`, paired round by round. Both must come from one `measure_latency`.

    Raises:
        InputError: results with different numbers of rounds, which cannot be from one run.
    """
    if a.rounds != b.rounds:
        raise InputError("the two results are not from one run", do="measure both in one call of measure_latency")
    ratios = np.asarray(a.round_us) / np.asarray(b.round_us)
    low, high = _median_interval(ratios, seed)
    return Ratio(float(np.median(ratios)), low, high, a.rounds)


def ranks(a: LatencyResult, b: LatencyResult) -> Verdict:
    """Whether `a` is faster than `b`.

    Only when the whole interval of the ratio lies further from 1 than two loads of the same file do: 1 % plus 0.2 µs.
    """
    compared = ratio(a, b)
    margin = 1 + SAME_FILE_SHARE + SAME_FILE_US / min(a.median_us, b.median_us)
    if compared.high < 1 / margin:
        return "faster"
    return "slower" if compared.low > margin else "within noise"


def _random_input(session: Session) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    info = session.input
    if info.dtype == "float32":
        return rng.standard_normal(info.shape, np.float32)
    limits = np.iinfo(info.dtype)
    return rng.integers(limits.min, limits.max, info.shape, info.dtype, endpoint=True)


def _warm_up(session: Session, x: NDArray[Any], seconds: float, clock: Clock) -> float:
    """Run for a while; the median time of one call of the second half, in nanoseconds."""
    times: list[int] = []
    start = clock()
    while len(times) < MIN_CALLS or clock() - start < seconds * 1e9:
        before = clock()
        session.run(x)
        times.append(clock() - before)
    return float(np.median(times[len(times) // 2 :]))


def _time_calls(session: Session, x: NDArray[Any], calls: int, clock: Clock) -> NDArray[np.int64]:
    run = session.run
    times = np.empty(calls, np.int64)
    for index in range(calls):
        before = clock()
        run(x)
        times[index] = clock() - before
    return times


def _summarise(timings: Sequence[NDArray[np.int64]]) -> LatencyResult:
    round_us = np.array([np.median(times) for times in timings]) / 1e3
    every_us = np.concatenate(timings) / 1e3
    low, high = _median_interval(round_us, seed=0)
    return LatencyResult(
        median_us=float(np.median(round_us)),
        p90_us=float(np.quantile(every_us, 0.90)),
        p99_us=float(np.quantile(every_us, 0.99)),
        low_us=low,
        high_us=high,
        rounds=len(timings),
        calls=len(timings[0]),
        noise=noise_of(round_us),
        round_us=tuple(float(value) for value in round_us),
    )


def _median_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median."""
    picks = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[picks], axis=1), [0.025, 0.975])
    return float(low), float(high)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection inside a timed call would be charged to the model."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
