"""What may begin a round: one small function for each trigger, from what is seen to a trigger or None. Pure.

A trigger is a reason to look closer; `diagnosis` decides what is done about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgehone.loop.policy import DAY_S, LoopPolicy
from edgehone.loop.sight import Sight


@dataclass(frozen=True)
class Trigger:
    """Its name, why it fires in words, and the figures behind it (JSON)."""

    name: str
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def manual(sight: Sight, policy: LoopPolicy) -> Trigger | None:  # noqa: ARG001  every trigger takes both
    """Somebody asked."""
    return Trigger("manual", f"{sight.asked} asked for it", {"actor": sight.asked}) if sight.asked else None


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
    """Enough answers were corrected; as many corrections as there are wrong labels to be expected are no reason."""
    count, new = sight.labels.corrected, sight.labels.new
    mistaken = round(policy.label_error * new) if sight.labels.classes else 0
    if not policy.corrections or count - mistaken < policy.corrections:
        return None
    why = f"{count} answers were corrected since the last dataset version"
    evidence = {"corrected": count}
    if mistaken:
        why += f", {mistaken} of {new} labels may be wrong themselves"
        evidence["mistaken"] = mistaken
    return Trigger("labels", why, evidence)


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
