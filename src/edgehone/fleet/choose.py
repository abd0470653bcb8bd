"""Which member of a family a node should take: by what fits it, and by what it has measured itself. Pure.

Rules:
- Only members that fit the node's machine, runtimes, agent and memory (`edgehone_agent.fit`).
- The node's own latency with the model it runs, over the figure of that model's study, is how fast the node is. It
  scales the figures of the others; memory likewise. Where nothing was measured, nothing is ruled out.
- Members within the bounds come first, the publisher's favourite before others; then the rest, the fastest first.
- What failed on this node comes last. What runs there and is within its bounds stays: nobody swaps to and fro.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgehone_agent.errors import UnfitError
from edgehone_agent.fit import NodeFacts, check_fit
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import TaskStatus


@dataclass(frozen=True)
class Offer:
    """One member of a release.

    Attributes:
        task, version, member, digest: which.
        rank: its place among the members, lower is preferred.
        fit: what a node must have.
        latency_us: runtime → median in its study.
    """

    task: str
    version: int
    member: str
    digest: str
    rank: int = 0
    fit: Fit = field(default_factory=Fit)
    latency_us: Mapping[str, float] = field(default_factory=dict)


def node_facts(facts: Mapping[str, Any]) -> NodeFacts:
    """What a node says it is; what is missing or odd counts as not there."""
    memory_bytes, runtimes = facts.get("memory_bytes"), facts.get("runtimes")
    return NodeFacts(
        machine=str(facts.get("machine", "")),
        runtimes=tuple(map(str, runtimes)) if isinstance(runtimes, list | tuple) else (),
        memory_bytes=memory_bytes if isinstance(memory_bytes, int) else None,
        agent=str(facts.get("agent", "")),
    )


def choose(
    offers: Sequence[Offer],
    facts: NodeFacts,
    status: TaskStatus,
    *,
    now_runs: Offer | None = None,
    policy: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Members in the order in which a node should prefer them; empty when none fits.

    Args:
        offers: the members of the version.
        facts: what the node is.
        status: what it says of the task.
        now_runs: the release that answers there now, where the core knows it.
        policy: of the cohort; `latency_us` and `memory_bytes` bound the choice.
    """
    policy = policy or {}
    speed = _speed(status, facts, now_runs)
    growth = _growth(status, now_runs)
    failed = {failure.digest for failure in status.failed}
    order = []
    for offer in offers:
        try:
            runtime = check_fit(offer.fit, facts)
        except UnfitError:
            continue
        mine = offer.digest == status.digest
        known_us = offer.latency_us.get(runtime)
        expected_us = status.latency_us if mine else None if known_us is None else known_us * speed
        expected_bytes = offer.fit.memory_bytes * growth
        is_good = (
            _within(expected_us, policy.get("latency_us"))
            and _within(expected_us, offer.fit.latency_us)
            and _within(expected_bytes, policy.get("memory_bytes"))
            and _within(expected_bytes, facts.memory_bytes)
        )
        place = offer.rank if is_good else expected_us or 0.0
        order.append((offer.digest in failed, not is_good, not (mine and is_good), place, offer.rank, offer.member))
    return tuple(entry[-1] for entry in sorted(order))


def _within(value: float | None, bound: Any) -> bool:
    return value is None or not isinstance(bound, int | float) or value <= bound


def _speed(status: TaskStatus, facts: NodeFacts, now_runs: Offer | None) -> float:
    """How many times as long as in the study the node takes; 1 where that is not known."""
    if now_runs is None or not status.latency_us:
        return 1.0
    runtime = next((name for name in now_runs.fit.runtimes if name in facts.runtimes), "")
    known_us = now_runs.latency_us.get(runtime)
    return status.latency_us / known_us if known_us else 1.0


def _growth(status: TaskStatus, now_runs: Offer | None) -> float:
    """How many times the stated memory the node needs; never below 1, for a smaller model may not shrink alike."""
    if now_runs is None or not status.memory_bytes or not now_runs.fit.memory_bytes:
        return 1.0
    return max(1.0, status.memory_bytes / now_runs.fit.memory_bytes)
