"""Statistics of latency, on a clock that the fake sessions turn themselves."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgehone_agent.errors import InputError
from edgehone_agent.measure.latency import LatencyResult, measure_latency, ranks, ratio
from edgehone_agent.measure.noise import noise_of
from edgehone_agent.runtimes import TensorInfo


class Clock:
    """Nanoseconds that pass only when a session runs."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class FakeSession:
    """Takes the time that `cost_ns` says, and writes its name into `log`."""

    input = TensorInfo("x", (1, 2), "float32")
    output = TensorInfo("y", (1, 2), "float32")
    layout = "channels_first"

    def __init__(self, clock: Clock, cost_ns: Callable[[], float], name: str = "", log: list[str] | None = None):
        self._clock, self._cost_ns, self._name, self._log = clock, cost_ns, name, log
        self.seen: list[np.ndarray] = []

    def run(self, x: np.ndarray) -> np.ndarray:
        self._clock.now_ns += int(self._cost_ns())
        if self._log is not None:
            self._log.append(self._name)
        if len(self.seen) < 3:
            self.seen.append(x)
        return x

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


def steady(clock: Clock, cost_us: float, **more: Any) -> FakeSession:
    return FakeSession(clock, lambda: cost_us * 1e3, **more)


def test_constant_cost_is_measured_exactly() -> None:
    clock = Clock()
    found = measure_latency({"a": steady(clock, 250.0)}, rounds=10, clock=clock)["a"]
    assert (found.median_us, found.p90_us, found.p99_us, found.low_us, found.high_us) == (250.0,) * 5
    assert found.calls == 8  # 8 x 250 us = 2 ms
    assert found.rounds == 10 and len(found.round_us) == 10
    assert found.noise.spread == 0
    assert set(json.loads(json.dumps(found.to_json()))) >= {"median_us", "noise", "calls"}


@pytest.mark.parametrize(("cost_us", "calls"), [(1.0, 2000), (700.0, 3), (50_000.0, 3)])
def test_calls_fill_two_milliseconds_but_are_at_least_three(cost_us: float, calls: int) -> None:
    clock = Clock()
    assert measure_latency({"a": steady(clock, cost_us)}, rounds=5, clock=clock)["a"].calls == calls


def test_rounds_interleave_and_turn_around() -> None:
    clock, log = Clock(), []
    sessions = {name: steady(clock, 10.0, name=name, log=log) for name in "abc"}
    measure_latency(sessions, rounds=5, calls=2, warmup_s=0, clock=clock)
    timed = "".join(log[9:])  # after three warm-up calls each
    assert timed == "aabbcc" + "ccbbaa" + "aabbcc" + "ccbbaa" + "aabbcc"


def test_warm_up_lasts_and_is_not_counted() -> None:
    clock = Clock()
    cold = iter([1e6] * 20)
    session = FakeSession(clock, lambda: next(cold, 1e5))
    found = measure_latency({"a": session}, rounds=5, warmup_s=0.05, clock=clock)["a"]
    assert found.p99_us == 100.0
    assert found.calls == 20


def test_quantiles_are_those_of_single_calls() -> None:
    clock = Clock()
    costs = iter([1e3] * 3 + list(np.tile(np.arange(1, 101) * 1e3, 5)))
    found = measure_latency(
        {"a": FakeSession(clock, lambda: next(costs))}, rounds=5, calls=100, warmup_s=0, clock=clock
    )
    every = np.tile(np.arange(1, 101), 5)
    assert found["a"].p90_us == pytest.approx(np.quantile(every, 0.9))
    assert found["a"].p99_us == pytest.approx(np.quantile(every, 0.99))
    assert found["a"].median_us == pytest.approx(50.5)


def test_inputs_are_used_and_progress_is_told() -> None:
    clock, told = Clock(), []
    session = steady(clock, 10.0)
    x = np.ones((1, 2), np.float32)
    measure_latency({"a": session}, rounds=5, inputs={"a": x}, progress=lambda *at: told.append(at), clock=clock)
    assert session.seen[0] is x
    assert told == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_missing_inputs_are_random_and_fit(dtype: str) -> None:
    clock = Clock()
    session = steady(clock, 10.0)
    session.input = TensorInfo("x", (1, 64), dtype, 0.1, 0)
    measure_latency({"a": session}, rounds=5, clock=clock)
    assert session.seen[0].dtype == dtype and session.seen[0].shape == (1, 64)
    assert session.seen[0].std() > 0


def test_garbage_collection_is_off_while_timing_and_on_again_after_a_failure() -> None:
    clock, states = Clock(), []

    def cost() -> float:
        states.append(gc.isenabled())
        if len(states) > 20:
            raise InputError("stop")
        return 1e4

    with pytest.raises(InputError):
        measure_latency({"a": FakeSession(clock, cost)}, rounds=50, clock=clock)
    assert not any(states)
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"rounds": 4}, {"calls": 0}])
def test_too_little_to_say_anything_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError):
        measure_latency({"a": steady(Clock(), 1.0)}, **wrong)
    with pytest.raises(InputError):
        measure_latency({})


def simulate(seed: int, cost_a_us: float, cost_b_us: float) -> dict[str, LatencyResult]:
    """Two sessions on a noisy machine: jitter per call, slow periods that hit both, and a drift of about a half."""
    clock, rng = Clock(), np.random.default_rng(seed)

    def session(cost_us: float) -> FakeSession:
        def cost_ns() -> float:
            slow = 1.5 if (clock.now_ns // 10_000_000) % 5 == 0 else 1.0
            drift = 1 + clock.now_ns / 1e8
            return cost_us * 1e3 * slow * drift * rng.lognormal(0, 0.15)

        return FakeSession(clock, cost_ns)

    sessions = {"a": session(cost_a_us), "b": session(cost_b_us)}
    return measure_latency(sessions, rounds=40, calls=5, warmup_s=0, clock=clock)


def test_the_ratio_interval_covers_the_truth_as_often_as_it_says() -> None:
    runs = [simulate(seed, 120.0, 100.0) for seed in range(120)]
    intervals = [ratio(run["a"], run["b"]) for run in runs]
    covered = np.mean([found.low <= 1.2 <= found.high for found in intervals])
    assert 0.89 <= covered <= 0.99  # 95 %, give or take three standard errors of 120 runs
    # The medians themselves drift: the pairing is what makes the ratio sharp.
    unpaired = [(run["a"].high_us - run["a"].low_us) / run["b"].median_us for run in runs]
    assert np.median([found.high - found.low for found in intervals]) < 0.7 * np.median(unpaired)
    assert {run["a"].noise.word for run in runs} == {"very noisy"}


def test_equal_sessions_are_not_ranked_and_unequal_ones_are() -> None:
    same = [simulate(seed, 100.0, 100.0) for seed in range(40)]
    verdicts = [ranks(run["a"], run["b"]) for run in same]
    assert verdicts.count("within noise") >= 37
    assert all(ranks(run["a"], run["b"]) == "faster" for run in (simulate(seed, 80.0, 100.0) for seed in range(10)))
    assert all(ranks(run["a"], run["b"]) == "slower" for run in (simulate(seed, 125.0, 100.0) for seed in range(10)))


@pytest.mark.parametrize(
    ("a_us", "b_us", "verdict"),
    [
        (100.0, 100.0, "within noise"),
        (101.0, 100.0, "within noise"),  # 1 % plus 0.2 us is what two loads of one file differ by
        (101.5, 100.0, "slower"),
        (98.0, 100.0, "faster"),
        (1.15, 1.0, "within noise"),
        (1.3, 1.0, "slower"),
    ],
)
def test_differences_that_two_loads_of_one_file_show_are_not_ranked(a_us: float, b_us: float, verdict: str) -> None:
    clock = Clock()
    # Whole nanoseconds tick by: scale so that the fake costs are exact.
    found = measure_latency({"a": steady(clock, a_us), "b": steady(clock, b_us)}, rounds=5, clock=clock)
    assert ranks(found["a"], found["b"]) == verdict


def test_results_of_different_runs_are_not_paired() -> None:
    clock = Clock()
    first = measure_latency({"a": steady(clock, 10.0)}, rounds=5, clock=clock)["a"]
    second = measure_latency({"a": steady(clock, 10.0)}, rounds=6, clock=clock)["a"]
    with pytest.raises(InputError):
        ratio(first, second)


@pytest.mark.parametrize(
    ("deviation", "load", "word"),
    [(0.01, 0.5, "quiet"), (0.01, 2.5, "noisy"), (0.06, 0.5, "noisy"), (0.3, 0.1, "very noisy")],
)
def test_noise_has_words(deviation: float, load: float, word: str) -> None:
    rounds = 100 * (1 + deviation * np.random.default_rng(0).standard_normal(500))
    found = noise_of(rounds, load_per_core=load)
    assert found.word == word
    assert found.spread == pytest.approx(deviation, rel=0.15)


def test_noise_reads_the_load_of_this_machine() -> None:
    assert noise_of(np.ones(5)).load_per_core >= 0
