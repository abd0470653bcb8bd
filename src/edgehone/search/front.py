"""Which members nothing beats, and what to tell a person about a family in a sentence or two."""

from __future__ import annotations

from edgehone.measure.metrics import metric_called
from edgehone.record import MemberRecord, StudyRecord
from edgehone.report.headline import shown_member
from edgehone.search.target import MAIN_FORMAT
from edgehone.units import format_drop


def front(members: tuple[MemberRecord, ...], metric: str) -> tuple[str, ...]:
    """Names of the members that no other equals or beats in metric, latency and size at once."""
    points = {member.name: _point(member, metric) for member in members}

    def beaten(name: str) -> bool:
        mine = points[name]
        return any(
            other != name and point != mine and all(a <= b for a, b in zip(point, mine, strict=True))
            for other, point in points.items()
        )

    return tuple(name for name in points if not beaten(name))


def verdict(study: StudyRecord) -> str:
    """What came out, in plain words, about the member that the page's headline speaks of."""
    shown = shown_member(study)
    if shown is None:
        return "No version of this network is measurably faster than the original."
    told = f"{shown.name} is {_gain(study.original, shown)}"
    if "test" in shown.drop:
        drop = shown.drop["test"]
        told += f" at a drop of {format_drop(drop.value_pp)} (95 %: at worst {format_drop(drop.high_pp)})"
    if all(shown.holds.values()):
        return f"{told}."
    missed = " and ".join(name.split("_")[0] for name, held in shown.holds.items() if not held)
    return f"No member holds every limit. The nearest one misses {missed}: {told}."


def _gain(original: MemberRecord, member: MemberRecord) -> str:
    smaller = f"{_size(original) / _size(member):.1f} times smaller than the original"
    speedups = [record.speedup.value for record in member.latency[:1] if record.speedup]
    return f"{speedups[0]:.1f} times faster and {smaller}" if speedups else smaller


def _size(member: MemberRecord) -> int:
    return next(file.size_bytes for file in member.files if file.format == MAIN_FORMAT)


def _cost(member: MemberRecord) -> tuple[float, int]:
    return (member.latency[0].latency.value if member.latency else 0.0, _size(member))


def _point(member: MemberRecord, metric: str) -> tuple[float, float, int]:
    """(badness, latency, bytes): smaller is better in each."""
    value = member.metric["test"].value
    return (-value if metric_called(metric).higher_is_better else value, *_cost(member))
