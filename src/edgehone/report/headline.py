"""The study in one line: which member stands for it, and what it gained and lost in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgehone import units
from edgehone.record import MemberRecord, StudyRecord
from edgehone.report import figures
from edgehone.report.figures import Figure

SMALL_DROP_PP = 1.0
SAME = 0.05
"""Ratios within 5 % of one are called equal: a headline must not boast with noise."""

LIMITS = ("latency_us", "size_bytes", "drop_pp", "memory_bytes")


@dataclass(frozen=True)
class Tile:
    """One of the four figures under the headline.

    Attributes:
        title: "Speed", "Size", "Drop", "Memory".
        figure: the big figure.
        change: from the original to the member, in words.
        limit: the limit asked for, empty when none was.
        held: whether the bad end of the interval holds it; None when nobody looked.
    """

    title: str
    figure: Figure
    change: str
    limit: str = ""
    held: bool | None = None


def shown_member(study: StudyRecord) -> MemberRecord | None:
    """The member that the headline speaks of.

    The fastest one of those that hold every limit; where none does, of those that hold most. Without a limit on the
    drop, one that loses at most 1 pp is preferred.
    """
    runtime = next(iter(figures.runtimes(study)), None)

    def rank(member: MemberRecord) -> tuple[int, bool, float]:
        drop = member.drop.get("test")
        gentle = study.budget.get("drop_pp") is not None or drop is None or drop.value_pp <= SMALL_DROP_PP
        record = figures.latency_on(member, runtime)
        fast = -record.latency.value if record else -float(member.macs)
        return sum(member.holds.values()), gentle, fast

    return max(study.members, key=rank, default=None)


def headline(study: StudyRecord) -> str:
    """ "5.4× faster and 8.9× smaller for 0.31 pp of accuracy"."""
    member = shown_member(study)
    if member is None:
        return "No member came out of this study"
    gains = _gains(study, member)
    if study.met or all(limit is None for limit in study.budget.values()):
        return gains if gains == member.name else gains[0].upper() + gains[1:]
    return f"No member holds every limit; the nearest is {gains}"


def _gains(study: StudyRecord, member: MemberRecord) -> str:
    parts = [
        _comparison(speed_ratio(study, member), "faster", "slower", "as fast"),
        _comparison(size_ratio(study, member), "smaller", "larger", "as large"),
    ]
    text = " and ".join(part for part in parts if part) or member.name
    if _is_estimate(study, member):
        text = f"an estimated {text}"
    drop = member.drop.get("test")
    if drop is None:
        return text
    if round(drop.value_pp, 2) <= 0:
        return f"{text} at no loss"
    return f"{text} for {figures.unbroken(figures.points(drop.value_pp))} of {figures.metric_title(study)}"


def _comparison(value: float | None, more: str, less: str, same: str) -> str:
    if value is None or value <= 0:
        return ""
    if abs(value - 1) <= SAME:
        return same
    return f"{figures.ratio(value)} {more}" if value > 1 else f"{figures.ratio(1 / value)} {less}"


def _is_estimate(study: StudyRecord, member: MemberRecord) -> bool:
    record = figures.latency_on(member, next(iter(figures.runtimes(study)), None))
    return record is not None and record.latency.kind == "estimated"


def speed_ratio(study: StudyRecord, member: MemberRecord) -> float | None:
    """Original / member on the device's runtime: from the interleaved run, else the ratio of the two figures."""
    own = figures.latency_on(member, next(iter(figures.runtimes(study)), None))
    first = figures.baseline(study)
    if own is None:
        return None
    if own.speedup is not None:
        return own.speedup.value
    return first.latency.value / own.latency.value if first and own.latency.value > 0 else None


def size_ratio(study: StudyRecord, member: MemberRecord) -> float | None:
    """Bytes of the original's file over the member's, both the ones that the device's runtime loads."""
    runtime = next(iter(figures.runtimes(study)), None)
    own, first = figures.main_file(member, runtime), figures.main_file(study.original, runtime)
    return first.size_bytes / own.size_bytes if own and first and own.size_bytes > 0 else None


def tiles(study: StudyRecord) -> tuple[Tile, ...]:
    """Speed, size, drop and memory of the member that the headline speaks of; what is not known is left out."""
    member = shown_member(study)
    if member is None:
        return ()
    return tuple(_tiles(study, member))


def _tiles(study: StudyRecord, member: MemberRecord) -> Iterable[Tile]:
    original, runtime = study.original, next(iter(figures.runtimes(study)), None)
    own, first = figures.latency_on(member, runtime), figures.baseline(study)
    if own is not None:
        now = figures.latency(own.latency)
        times = speed_ratio(study, member)
        big = Figure(figures.ratio(times) if times else now.value, now.interval, now.how, now.estimated)
        yield Tile("Speed", big, _change(figures.latency(first.latency).value if first else None, now.value), *_limit(
            study, member, "latency_us", units.format_latency))  # fmt: skip
    file, before = figures.main_file(member, runtime), figures.main_file(original, runtime)
    if file is not None:
        smaller = size_ratio(study, member)
        big = Figure(figures.ratio(smaller) if smaller else units.format_size(file.size_bytes))
        change = _change(units.format_size(before.size_bytes) if before else None, units.format_size(file.size_bytes))
        yield Tile("Size", big, change, *_limit(study, member, "size_bytes", units.format_size))
    drop = member.drop.get("test")
    if drop is not None:
        name = figures.metric_name(study)
        change = _change(figures.metric(original, "test", name).value, figures.metric(member, "test", name).value)
        yield Tile("Drop", figures.drop(drop), change, *_limit(study, member, "drop_pp", lambda v: f"{v:g} pp"))
    if member.memory is not None:
        now = figures.size(member.memory)
        change = _change(figures.size(original.memory).value, now.value)
        yield Tile("Memory", now, change, *_limit(study, member, "memory_bytes", units.format_size))


def _change(before: str | None, after: str) -> str:
    return f"{before} → {after}" if before and before != figures.MISSING else after


def _limit(
    study: StudyRecord, member: MemberRecord, key: str, write: Callable[[float], str]
) -> tuple[str, bool | None]:
    value = study.budget.get(key)
    if value is None:
        return "", None
    return f"≤ {write(value)}", member.holds.get(key)
