"""What may begin a round: one small function for each trigger, from what is seen to a trigger or None. Pure.

A trigger is a reason to look closer; `diagnosis` decides what is done about it.

A model that is wrong in a share of its answers by nature is corrected all the time. So corrections are a reason only
beyond those that the measured errors, the tolerance and wrong labels explain (`most_wrong`), and when it is proven that
there are more of them: for a model that errs no more than is tolerated, that happens to at most 1 in 20 dataset
versions, however often one looks, as long as labels were drawn without regard to the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgehone.fleet.risk_test import LOG_PROOF, Count, log_above
from edgehone.loop.policy import DAY_S, LoopPolicy
from edgehone.loop.sight import Sight
from edgehone_agent.watch.risk import RiskDetector

_MOST_SHARE = 0.999


@dataclass(frozen=True)
class Trigger:
    """Its name, why it fires in words, and the figures behind it (JSON)."""

    name: str
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def manual(sight: Sight, policy: LoopPolicy) -> Trigger | None:  # noqa: ARG001  every trigger takes both
    """Somebody asked."""
    if not sight.asked:
        return None
    what = "new drift references" if sight.asked_kind == "re-baseline" else "it"
    return Trigger("manual", f"{sight.asked} asked for {what}", {"actor": sight.asked, "kind": sight.asked_kind})


def risk(sight: Sight, policy: LoopPolicy) -> Trigger | None:
    """The labels of a node show more errors than were measured."""
    nodes = [one for one in sight.nodes if one.risk_level >= policy.risk_level]
    if not nodes:
        return None
    names = [one.node for one in nodes]
    return Trigger("risk", f"labels show more errors than were measured, on {_nodes(names)}", {"nodes": names[:50]})


def drift(sight: Sight, policy: LoopPolicy) -> Trigger | None:
    """What a node sees or answers has changed."""
    nodes = [one for one in sight.nodes if one.watch_level >= policy.drift_level]
    if not nodes:
        return None
    names = [one.node for one in nodes]
    channels = sorted({f"{one.channel} {one.direction}".strip() for one in nodes if one.channel})
    what = f" ({', '.join(channels[:4])})" if channels else ""
    return Trigger("drift", f"the watch alarms on {_nodes(names)}{what}", {"nodes": names[:50], "channels": channels})


def labels(sight: Sight, policy: LoopPolicy) -> Trigger | None:
    """Enough answers were corrected, beyond those that measured errors and wrong labels explain."""
    known = sight.labels
    if known.baseline is None:
        limit = policy.label_error if known.classes else 0.0
    else:
        limit = most_wrong(known.baseline, policy.tolerance, known.classes, policy)
    explained = limit * known.new
    if not policy.corrections or known.corrected - explained < policy.corrections:
        return None
    if limit and log_above(Count(known.new, known.corrected), limit) < LOG_PROOF:
        return None
    why = f"{known.corrected} answers were corrected since the last dataset version"
    if limit:
        why += f", of {known.new} labels, and {round(explained)} corrections are no more than what was measured"
    return Trigger("labels", why, {"corrected": known.corrected, "new": known.new, "explained": explained})


def most_wrong(measured: float, tolerance: float, classes: int, policy: LoopPolicy) -> float:
    """The share of answers that people call wrong while the model errs no more than is tolerated, below 1."""
    known = RiskDetector(
        "error", baseline=min(measured, _MOST_SHARE), tolerance=min(tolerance, _MOST_SHARE),
        label_error=policy.label_error if classes else 0.0, two_classes=classes == 2,
    )  # fmt: skip
    return min(known.limit, _MOST_SHARE)


def new_class(sight: Sight, policy: LoopPolicy) -> Trigger | None:
    """Enough samples belong to a class that the model does not know."""
    known = {name: n for name, n in sorted(sight.labels.unknown.items()) if n >= policy.new_class_labels}
    if not known:
        return None
    names = ", ".join(f"{name!r} ({count} labels)" for name, count in known.items())
    return Trigger("new class", f"people have named a class that the model does not know: {names}", {"classes": known})


def schedule(sight: Sight, policy: LoopPolicy) -> Trigger | None:
    """The last training is too long ago."""
    if not policy.schedule_days or sight.since_s is None:
        return None
    days = (sight.now_s - sight.since_s) / DAY_S
    if days < policy.schedule_days:
        return None
    return Trigger("schedule", f"the model was last trained {days:.0f} days ago", {"days": days})


TRIGGERS: tuple[Callable[[Sight, LoopPolicy], Trigger | None], ...] = (
    manual, risk, drift, labels, new_class, schedule,
)  # fmt: skip


def fired(sight: Sight, policy: LoopPolicy) -> tuple[Trigger, ...]:
    """Every trigger that fires."""
    return tuple(found for trigger in TRIGGERS if (found := trigger(sight, policy)) is not None)


def _nodes(names: list[str]) -> str:
    return f"node {names[0]}" if len(names) == 1 else f"{len(names)} nodes"
