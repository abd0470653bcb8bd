"""How figures, times and levels are written on pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from edgehone import units

LEVELS = ("quiet", "hint", "warning", "alarm")
"""Words for the levels of watch and risk, 0 to 3."""

_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def level(value: Any) -> str:
    """The word for a level; what is out of range counts as the nearest."""
    return LEVELS[level_number(value)]


def level_number(value: Any) -> int:
    """A level from 0 to 3."""
    return min(max(value, 0), 3) if isinstance(value, int) else 0


def moment(time_s: float | None) -> str:
    """ "2026-11-24 16:10 UTC"; a dash for none, or for a time that no calendar has."""
    try:
        return "–" if time_s is None else f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M UTC}"
    except (ValueError, OverflowError, OSError):
        return "–"


def clock(time_s: float) -> str:
    """ "16:10", UTC."""
    return moment(time_s)[11:16] or "–"


def machine_time(time_s: float | None) -> str:
    """A time as `<time datetime>` wants it; empty for none."""
    try:
        return "" if time_s is None else f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return ""


def span(seconds: float | None) -> str:
    """A duration in its largest unit: "42 s", "3 h", "12 d"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    for size, unit in _UNITS:
        if abs(seconds) >= size:
            return f"{int(seconds / size)} {unit}"
    return "0 s"


def ago(time_s: float | None, now_s: float) -> str:
    """ "42 s ago", "never"; a moment that lies ahead counts as now."""
    if time_s is None:
        return "never"
    return "now" if now_s - time_s < 1 else f"{span(now_s - time_s)} ago"


def latency(value: Any) -> str:
    """Microseconds as people write them; a dash for none."""
    return units.format_latency(value) if _is_number(value) and value > 0 else "–"


def size(value: Any) -> str:
    """Bytes as people write them; a dash for none."""
    return units.format_size(value) if _is_number(value) and value >= 0 else "–"


def count(value: Any) -> str:
    """A whole number with thin gaps between thousands."""
    return f"{value:,.0f}".replace(",", " ") if _is_number(value) else "–"


def percent(share: Any, digits: int = 1) -> str:
    """A share as "91.2 %"; a dash for none."""
    return f"{100 * share:.{digits}f} %" if _is_number(share) else "–"


def short(digest: Any) -> str:
    """The first digits of a digest."""
    return digest[:10] if isinstance(digest, str) else "–"


def version(value: Any) -> str:
    """ "v4"; a dash for none."""
    return f"v{value}" if isinstance(value, int) else "–"


def who(actor: str) -> str:
    """An actor of the audit for people: "person:ada" is "ada"."""
    kind, _, name = actor.partition(":")
    return name if kind == "person" and name else actor


def value(given: Any) -> str:
    """Any JSON value as a short line."""
    if isinstance(given, bool) or given is None:
        return {True: "yes", False: "no", None: "–"}[given]
    if isinstance(given, float):
        return f"{given:.6g}"
    if isinstance(given, list):
        return f"{', '.join(map(value, given[:12]))}{' …' if len(given) > 12 else ''}" if given else "none"
    if isinstance(given, dict):
        return ", ".join(f"{name} {value(one)}" for name, one in list(given.items())[:12]) or "none"
    text = str(given)
    return text if len(text) <= 500 else f"{text[:500]}…"


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


FILTERS: Mapping[str, Callable[..., str | int]] = {
    "level": level, "level_number": level_number, "moment": moment, "clock": clock, "machine_time": machine_time,
    "span": span, "ago": ago, "latency": latency, "size": size, "count": count, "percent": percent, "short": short,
    "version": version, "who": who, "say": value,
}  # fmt: skip
