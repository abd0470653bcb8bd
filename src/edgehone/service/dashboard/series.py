"""Values over wall-clock time as SVG, and a day of levels as a strip: drawn here, so no page needs a plotting script.

Colours are classes of `dashboard.css`; the words of a picture are its label, and every mark says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edgehone.report import svg
from edgehone.report.scales import Scale, fit, spread
from edgehone.report.theme import member_class
from edgehone.service.dashboard.words import LEVELS

CELLS = 24
_STEPS_S = (60.0, 300.0, 900.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 604_800.0, 2_592_000.0, 31_536_000.0)
_MOST_POINTS = 300
_WIDTHS = (340, 720)


@dataclass(frozen=True)
class Track:
    """One quantity: its name, its index for the hue (1 is the first hue), and (time_s, value) in order."""

    name: str
    index: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Limit:
    """A value that something happens at, and what."""

    value: float
    name: str


def tracks(
    lines: Sequence[Track], title: str, write: Callable[[float], str], limits: Sequence[Limit] = ()
) -> str:  # fmt: skip
    """The picture for narrow and wide boxes; empty where there is nothing to draw."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    narrow, wide = (_draw(lines, title, write, limits, width) for width in _WIDTHS)
    return svg.tag("div", narrow, class_="narrow") + svg.tag("div", wide, class_="wide")


def strip(levels: Sequence[int | None], hours: float = 24.0) -> str:
    """The highest level of each part of the last hours, the oldest first; None where nothing was heard."""
    wide, gap, high = 5, 1.5, 16
    width = len(levels) * (wide + gap) - gap
    cells = [
        svg.box(at * (wide + gap), 0, wide, high, "cell none" if level is None else f"cell level{level}", round_=1.5)
        for at, level in enumerate(levels)
    ]
    heard = [level for level in levels if level is not None]
    words = f"highest {LEVELS[max(heard)]}, now {LEVELS[heard[-1]]}" if heard else "nothing heard"
    return svg.picture(f"last {hours:g} h: {words}", width, high, *cells, class_="strip")


def cells(points: Sequence[tuple[float, int]], now_s: float, hours: float = 24.0) -> list[int | None]:
    """(time_s, level) points as the cells of a strip; a level lasts until the next report, for two cells at most."""
    size_s = hours * 3600 / CELLS
    found: list[int | None] = [None] * CELLS
    for time_s, level in points:
        at = CELLS - 1 - math.floor((now_s - time_s) / size_s)
        if 0 <= at < CELLS:
            found[at] = max(level, found[at] or 0)
    carried = list(found)
    for at in range(1, CELLS):
        if found[at] is None:
            carried[at] = found[at - 1] if found[at - 1] is not None else found[at - 2] if at > 1 else None
    return carried


def time_ticks(low_s: float, high_s: float, count: int) -> list[tuple[float, str]]:
    """Round times within a span, with how they are written: the hour where days do not matter."""
    step = next((one for one in _STEPS_S if (high_s - low_s) / one <= count), _STEPS_S[-1])
    first = math.ceil(low_s / step)
    form = "%H:%M" if step < 86_400 else "%d %b"
    times = [step * at for at in range(first, math.floor(high_s / step) + 1)]
    return [(time_s, f"{datetime.fromtimestamp(time_s, UTC):{form}}") for time_s in times]


def _draw(
    lines: Sequence[Track], title: str, write: Callable[[float], str], limits: Sequence[Limit], width: int
) -> str:
    height = round(width * (0.62 if width < 500 else 0.46))
    names = [svg.shorten(line.name, 16) for line in lines]
    right = width - 16 - max(svg.width_of(name, 12) for name in names)
    values = [value for line in lines for _, value in line.points]
    times = [time_s for line in lines for time_s, _ in line.points]
    low_s, high_s = min(times), max(times)
    if high_s - low_s < 60:
        low_s, high_s = low_s - 30, high_s + 30
    x, y = Scale(low_s, high_s, 46, right), fit([*values, *(one.value for one in limits)], height - 26, 28, margin=0.06)
    ends = spread([y(line.points[-1][1]) for line in lines], 15, y.end, y.start)
    label = f"{title}: " + "; ".join(f"{line.name} now {write(line.points[-1][1])}" for line in lines)
    parts = [svg.text(title, 4, 13, class_="axis"), svg.line(x.start, y.start, x.end, y.start, "base")]
    for value in y.ticks(5):
        parts.append(svg.line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(svg.text(write(value), x.start - 7, y(value) + 4, anchor="end", class_="tick"))
    for time_s, said in time_ticks(low_s, high_s, 4 if width < 500 else 6):
        parts.append(svg.text(said, x(time_s), y.start + 17, anchor="middle", class_="tick"))
    for limit in limits:
        parts.append(svg.line(x.start, y(limit.value), x.end, y(limit.value), "threshold"))
        parts.append(svg.text(limit.name, x.start + 4, y(limit.value) - 4, class_="hint"))
    parts += [_track(line, name, x, y, end, write) for line, name, end in zip(lines, names, ends, strict=True)]
    return svg.picture(label, width, height, *parts)


def _track(line: Track, name: str, x: Scale, y: Scale, label_y: float, write: Callable[[float], str]) -> str:
    step = max(1, math.ceil(len(line.points) / _MOST_POINTS))
    points = [*line.points[::step], line.points[-1]]
    end_x, end_y = x(points[-1][0]), y(points[-1][1])
    parts = [
        svg.path([(x(time_s), y(value)) for time_s, value in points], "curve"),
        svg.marker("circle", end_x, end_y, 3, "mark"),
        svg.path([(end_x, end_y), (x.end + 2, end_y), (x.end + 9, label_y)], "leader"),
        svg.text(name, x.end + 12, label_y + 4, class_="name small"),
    ]
    return svg.group(*parts, title=f"{line.name}: {write(points[-1][1])}", class_=member_class(line.index))
