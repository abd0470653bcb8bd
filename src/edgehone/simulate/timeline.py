"""Values over the time of a story, one line per name, with numbered marks where something happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgehone.report import svg
from edgehone.report.plots.curves import FONT, Line, curve, grid
from edgehone.report.scales import Scale, fit, spread
from edgehone.simulate.times import TimeUnit

_BADGE = 8.5
_TOP = 40.0


@dataclass(frozen=True)
class Mark:
    """Something that happened: when, and what in a few words. It is drawn as the number that it has in the list."""

    at_s: float
    words: str


def timeline(
    lines: Sequence[Line],
    marks: Sequence[Mark],
    title: str,
    write: Callable[[float], str],
    width: int,
    unit: TimeUnit,
) -> str:
    """The picture.

    Args:
        lines: (seconds, value) in order; lines without points are left out.
        marks: in order of time.
        title: of the vertical axis.
        write: a value in words.
        width: of the picture in user units.
        unit: that the horizontal axis shows.
    """
    lines = [_in(unit, line) for line in lines if line.points]
    height = round(width * (0.72 if width < 500 else 0.42))
    names = [svg.shorten(line.name, 14) for line in lines]
    right = width - 16 - max((svg.width_of(name, FONT) for name in names), default=0.0)
    times = [0.0, *(at for line in lines for at, _ in line.points), *(mark.at_s / unit.seconds for mark in marks)]
    x = fit(times, 46, right, margin=0.0)
    y = fit([value for line in lines for _, value in line.points], height - 42, _TOP + 12, margin=0.05)
    ends = spread([y(line.points[-1][1]) for line in lines], 15, y.end, y.start)
    said = "; ".join(f"{line.name} ends at {write(line.points[-1][1])}" for line in lines)
    return svg.picture(
        f"{title} over time: {said}", width, height,
        grid(x, y, title, write, unit.name),
        _marks(x, y, marks, unit),
        *(curve(line, name, x, y, end, write, unit.name) for line, name, end in zip(lines, names, ends, strict=True)),
    )  # fmt: skip


def _in(unit: TimeUnit, line: Line) -> Line:
    return Line(line.name, line.index, tuple((round(at_s / unit.seconds, 3), value) for at_s, value in line.points))


def _marks(x: Scale, y: Scale, marks: Sequence[Mark], unit: TimeUnit) -> str:
    at = [x(mark.at_s / unit.seconds) for mark in marks]
    places = spread(at, 2 * _BADGE + 2, x.start + _BADGE, x.end - _BADGE)
    return "".join(
        svg.group(
            svg.path([(place, _TOP - 8), (at[number], _TOP + 4), (at[number], y.start)], "event"),
            svg.marker("circle", place, _TOP - 17, _BADGE, "badge"),
            svg.text(str(number + 1), place, _TOP - 13, anchor="middle", class_="number"),
            title=f"{unit.text(mark.at_s)}: {mark.words}",
        )
        for number, (mark, place) in enumerate(zip(marks, places, strict=True))
    )
