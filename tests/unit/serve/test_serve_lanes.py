"""Where work runs: quick work inline, slow work on its task's thread, and no more than the bounds."""

from __future__ import annotations

import asyncio
import threading

import pytest

from edgehone_agent.errors import BusyError, ConfigError
from edgehone_agent.serve.lanes import INLINE_US, Lanes
from edgehone_agent.serve.limits import Limits


def test_quick_means_known_short_and_nothing_waiting() -> None:
    lane = Lanes(Limits()).lane("a")
    assert not lane.is_quick(1, "first")
    lane.learn(10, 1000.0)  # 100 µs per row
    assert lane.is_quick(10, "first")
    assert not lane.is_quick(11, "first")
    lane.pending = 1
    assert not lane.is_quick(1, "first")
    lane.pending = 0
    assert not lane.is_quick(1, "second"), "another bundle has to be learnt again"
    assert not lane.is_quick(1, "first")


def test_one_hiccup_changes_nothing() -> None:
    lane = Lanes(Limits()).lane("a")
    lane.is_quick(1, "d")
    lane.learn(1, 20.0)
    lane.learn(1, 100_000.0)
    assert lane.is_quick(1, "d")


def test_a_model_that_turns_slow_or_quick_is_noticed_within_ten_runs() -> None:
    lane = Lanes(Limits()).lane("a")
    lane.is_quick(1, "d")
    lane.learn(1, 20.0)
    for took_us, is_quick in ((20 * INLINE_US, False), (20.0, True), (20 * INLINE_US, False)):
        runs = 0
        while lane.is_quick(1, "d") != is_quick:
            lane.learn(1, took_us)
            runs += 1
        assert runs <= 10


def test_bounds_per_task_and_over_all() -> None:
    async def main() -> None:
        lanes, gate = Lanes(Limits(queue=3, in_flight=5)), threading.Event()
        futures = [lanes.lane("a").submit(gate.wait) for _ in range(3)]
        with pytest.raises(BusyError, match="3 requests wait for this model") as caught:
            lanes.lane("a").submit(gate.wait)
        assert caught.value.where == "queue"
        futures += [lanes.lane("b").submit(gate.wait) for _ in range(2)]
        with pytest.raises(BusyError, match="5 requests are being worked on") as caught:
            lanes.lane("b").submit(gate.wait)
        assert caught.value.where == "in_flight"
        gate.set()
        assert await asyncio.gather(*futures) == [True] * 5
        assert (lanes.in_flight, lanes.lane("a").pending) == (0, 0)
        lanes.lane("b").submit(gate.wait)
        lanes.close()

    asyncio.run(main())


def test_a_lane_is_one_thread_and_lanes_do_not_wait_for_each_other() -> None:
    async def main() -> None:
        lanes, gate = Lanes(Limits()), threading.Event()
        first, second = (lanes.lane("a").submit(lambda: (gate.wait(), threading.get_ident())[1]) for _ in range(2))
        other = await lanes.lane("b").submit(threading.get_ident)
        assert not first.done()
        gate.set()
        assert await first == await second != other
        lanes.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("field", "value"), [("queue", 0), ("rows", -1), ("drain_s", float("inf")), ("connections", 2.5), ("queue", True)]
)
def test_limits_are_positive_numbers(field: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits(**{field: value})
    assert caught.value.where == field
