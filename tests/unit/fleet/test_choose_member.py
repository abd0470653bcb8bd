"""Which member a node takes: what fits, by its own speed and memory, without swapping to and fro."""

from __future__ import annotations

from edgehone.fleet.choose import Offer, choose, node_facts
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Failed, TaskStatus

FACTS = node_facts({"machine": "aarch64", "runtimes": ["litert"], "memory_bytes": 1000, "agent": "0.1.0"})


def offer(
    member: str, rank: int, latency_us: float, *, memory_bytes: int = 100, bound_us: float | None = None
) -> Offer:
    fit = Fit(runtimes=("litert",), memory_bytes=memory_bytes, latency_us=bound_us)
    return Offer("digits", 2, member, f"{rank:064}", rank, fit, {"litert": latency_us})


LARGE, MIDDLE, SMALL = offer("large", 0, 400.0), offer("middle", 1, 200.0), offer("small", 2, 50.0)
FAMILY = (LARGE, MIDDLE, SMALL)
RUNS = Offer("digits", 1, "old", "f" * 64, 0, Fit(runtimes=("litert",), memory_bytes=100), {"litert": 100.0})


def status(latency_us: float | None, memory_bytes: int | None = None, **more: object) -> TaskStatus:
    return TaskStatus(digest="f" * 64, version=1, latency_us=latency_us, memory_bytes=memory_bytes, **more)  # type: ignore[arg-type]


def test_without_bounds_or_figures_the_publishers_order_holds() -> None:
    assert choose(FAMILY, FACTS, TaskStatus()) == ("large", "middle", "small")


def test_a_slow_node_takes_the_first_that_its_own_speed_allows_then_the_fastest() -> None:
    slow = status(300.0)  # three times the study's
    assert choose(FAMILY, FACTS, slow, now_runs=RUNS, policy={"latency_us": 650}) == ("middle", "small", "large")
    assert choose(FAMILY, FACTS, slow, now_runs=RUNS, policy={"latency_us": 100}) == ("small", "middle", "large")
    assert choose(FAMILY, FACTS, status(100.0), now_runs=RUNS, policy={"latency_us": 650})[0] == "large"


def test_the_manifests_own_bound_counts() -> None:
    family = (offer("large", 0, 400.0, bound_us=1000.0), SMALL)
    assert choose(family, FACTS, status(300.0), now_runs=RUNS) == ("small", "large")


def test_memory_that_the_node_measured_counts() -> None:
    family = (offer("large", 0, 400.0, memory_bytes=600), SMALL)
    assert choose(family, FACTS, status(None, 100), now_runs=RUNS) == ("large", "small")
    assert choose(family, FACTS, status(None, 200), now_runs=RUNS) == ("small", "large")
    assert choose((offer("large", 0, 400.0, memory_bytes=1200), SMALL), FACTS, status(None)) == ("small",)


def test_what_failed_here_comes_last_and_what_runs_well_stays() -> None:
    failed = status(100.0, failed=(Failed(LARGE.digest, 2, "another answer"),))
    assert choose(FAMILY, FACTS, failed, now_runs=RUNS) == ("middle", "small", "large")
    runs_small = TaskStatus(digest=SMALL.digest, version=2, latency_us=60.0)
    assert choose(FAMILY, FACTS, runs_small, now_runs=SMALL) == ("small", "large", "middle")
    too_slow = choose(FAMILY, FACTS, runs_small, now_runs=SMALL, policy={"latency_us": 55})
    assert too_slow == ("small", "middle", "large")  # nothing is within, so the fastest


def test_facts_that_make_no_sense_fit_nothing() -> None:
    assert choose(FAMILY, node_facts({"runtimes": 7, "memory_bytes": "much"}), TaskStatus()) == ()
