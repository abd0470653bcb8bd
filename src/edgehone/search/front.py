"""Which members nothing beats, and what to tell a person about a family in a sentence or two."""

from __future__ import annotations

from edgehone.measure.metrics import metric_called
from edgehone.record import MemberRecord
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


def verdict(original: MemberRecord, members: tuple[MemberRecord, ...]) -> str:
    """What came out, in plain words: the fastest member that holds every limit, or how near the nearest one came."""
    if not members:
        return "No version of this network is measurably faster than the original."
    holding = [member for member in members if all(member.holds.values())]
    chosen = min(holding or members, key=lambda m: (sum(not held for held in m.holds.values()), *_cost(m)))
    told = f"{chosen.name} is {_gain(original, chosen)}"
    if "test" in chosen.drop:
        drop = chosen.drop["test"]
        told += f" at a drop of {format_drop(drop.value_pp)} (95 %: at worst {format_drop(drop.high_pp)})"
    if holding:
        return f"{told}."
    missed = " and ".join(name.split("_")[0] for name, held in chosen.holds.items() if not held)
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
