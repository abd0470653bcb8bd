"""What the gate of a round found, member by member, as figures that a person can decide by. Pure.

Rules:
- A figure stands with its interval, with what it was before, and with what the policy allows.
- What an older or newer version of the loop wrote is shown as far as it is understood: a figure that is missing is a
  dash, a check that has no column here is told in its own words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgehone.service.dashboard.words import count, percent

COLUMNS = ("Old data", "New data", "Latency", "Size", "Changed answers")
_CHECKS = dict(zip(("old slice", "new slice", "latency", "size", "flips"), COLUMNS, strict=True))


@dataclass(frozen=True)
class Cell:
    """One figure of a member.

    Attributes:
        name: one of `COLUMNS`.
        now: the figure of the new file.
        more: what it was, the difference with its interval, and of how many examples; a line each.
        limit: what is allowed.
        ok: whether the check holds; None when it was not judged.
    """

    name: str
    now: str
    more: tuple[str, ...] = ()
    limit: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class Judged:
    """A member as the gate saw it.

    Attributes:
        member: its name.
        ok: whether it may be released; None when it was not judged yet.
        cells: one for each of `COLUMNS`; none where nothing was measured.
        words: of checks without a column.
    """

    member: str
    ok: bool | None
    cells: tuple[Cell, ...]
    words: tuple[str, ...] = ()


def judged(content: Mapping[str, Any]) -> tuple[Judged, ...]:
    """Every member that a round has measured or judged.

    Args:
        content: `loop.round.Round` as JSON.
    """
    figures = {str(one.get("member")): one for one in _objects(content.get("figures"))}
    verdicts = {str(one.get("member")): one for one in _objects(content.get("verdicts"))}
    policy = _object(content.get("policy"))
    names = dict.fromkeys((*figures, *verdicts))
    return tuple(_member(name, figures.get(name, {}), verdicts.get(name), policy) for name in names)


def _member(
    name: str, figure: Mapping[str, Any], verdict: Mapping[str, Any] | None, policy: Mapping[str, Any]
) -> Judged:
    checks = _objects(verdict.get("checks")) if verdict is not None else []
    oks = {str(check.get("name")): bool(check.get("ok")) for check in checks}
    words = tuple(str(check.get("words", "")) for check in checks if check.get("name") not in _CHECKS)
    cells: tuple[Cell, ...] = ()
    if figure:
        slices = _object(figure.get("slices"))
        old, new = _object(slices.get("old")), _object(slices.get("new"))
        cells = (
            _slice("Old data", old, "may lose at most", policy.get("epsilon_pp"), oks.get("old slice")),
            _slice("New data", new, "must gain at least", policy.get("least_gain_pp"), oks.get("new slice")),
            _ratio("Latency", figure, "latency", policy.get("latency_ratio"), oks.get("latency")),
            _ratio("Size", figure, "size", policy.get("size_ratio"), oks.get("size")),
            _flips(old, policy.get("flip_limit"), oks.get("flips")),
        )
    return Judged(name, None if verdict is None else bool(verdict.get("ok")), cells, words)


def _slice(name: str, found: Mapping[str, Any], verb: str, limit: Any, ok: bool | None) -> Cell:
    after, before = _number(found.get("after")), _number(found.get("before"))
    drop = _object(found.get("drop"))
    change, low, high = (_number(drop.get(key)) for key in ("value_pp", "low_pp", "high_pp"))
    is_share = _number(found.get("flips")) is not None
    more = [] if before is None else [f"was {_metric(before, is_share)}"]
    if change is not None:
        interval = "" if low is None or high is None else f" ({_signed(-high)} to {_signed(-low)})"
        more.append(f"{_signed(-change)} pp{interval}")
    if (rows := _number(found.get("n"))) is not None:
        more.append(f"{count(rows)} examples")
    asked = _number(limit)
    return Cell(name, _metric(after, is_share), tuple(more), "" if asked is None else f"{verb} {asked:g} pp", ok)


def _ratio(name: str, figure: Mapping[str, Any], key: str, limit: Any, ok: bool | None) -> Cell:
    value, low, high = (_number(figure.get(one)) for one in (key, f"{key}_low", f"{key}_high"))
    now = "–" if value is None else f"× {value:.2f}"
    more = () if low is None or high is None else (f"{low:.2f} to {high:.2f}",)
    asked = _number(limit)
    return Cell(name, now, more, "" if asked is None else f"at most × {asked:g}", ok)


def _flips(old: Mapping[str, Any], limit: Any, ok: bool | None) -> Cell:
    share, asked = _number(old.get("flips")), _number(limit)
    if share is None:
        return Cell(COLUMNS[-1], "–")
    return Cell(COLUMNS[-1], percent(share), ("of old data",), "" if asked is None else f"at most {percent(asked)}", ok)


def _metric(value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    return percent(value) if is_share else f"{value:.4g}"


def _signed(value: float) -> str:
    return "0" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []
