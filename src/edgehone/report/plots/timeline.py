"""Values over time, one line per name, with numbered marks where something happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgehone.report import svg
from edgehone.report.plots.curves import FONT, Line
from edgehone.report.scales import Scale, fit, spread
from edgehone.report.theme import member_class

_BADGE = 8.5
_TOP = 40.0


@dataclass(frozen=True)
class Mark:
    """Something that happened: when, and what in a few words. It is drawn as the number that it has in the list."""

    at_s: float
    words: str


def timeline(
    lines: Sequence[Line], marks: Sequence[Mark], title: str, write: Callable[[float], str], width: int
) -> str:
    """The picture.

    Args:
        lines: (seconds, value) in order; lines without points are left out.
        marks: in order of time.
        title: of the vertical axis.
        write: a value in words.
        width: of the picture in user units.
    """
    lines = [line for line in lines if line.points]
    height = round(width * (0.72 if width < 500 else 0.42))
    names = [svg.shorten(line.name, 14) for line in lines]
    right = width - 16 - max((svg.width_of(name, FONT) for name in names), default=0.0)
    x = fit(
        [0.0, *(at for line in lines for at, _ in line.points), *(mark.at_s for mark in marks)], 46, right, margin=0.0
    )
    y = fit([value for line in lines for _, value in line.points], height - 42, _TOP + 12, margin=0.05)
    ends = spread([y(line.points[-1][1]) for line in lines], 15, y.end, y.start)
    said = "; ".join(f"{line.name} ends at {write(line.points[-1][1])}" for line in lines)
    return svg.picture(
        f"{title} over time: {said}", width, height,
        _grid(x, y, title, write),
        _marks(x, y, marks),
        *(_curve(line, name, x, y, end, write) for line, name, end in zip(lines, names, ends, strict=True)),
    )  # fmt: skip


def _grid(x: Scale, y: Scale, title: str, write: Callable[[float], str]) -> str:
    parts = [svg.text(title, 4, 13, class_="axis"), svg.line(x.start, y.start, x.end, y.start, "base")]
    for value in y.ticks(5):
        parts.append(svg.line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(svg.text(write(value), x.start - 7, y(value) + 4, anchor="end", class_="tick"))
    parts += [svg.text(f"{value:g}", x(value), y.start + 17, anchor="middle", class_="tick") for value in x.ticks(6)]
    parts.append(svg.text("seconds", x.end, y.start + 35, anchor="end", class_="axis"))
    return "".join(parts)


def _marks(x: Scale, y: Scale, marks: Sequence[Mark]) -> str:
    places = spread([x(mark.at_s) for mark in marks], 2 * _BADGE + 2, x.start + _BADGE, x.end - _BADGE)
    parts = []
    for number, (mark, place) in enumerate(zip(marks, places, strict=True), 1):
        at = x(mark.at_s)
        parts.append(
            svg.group(
                svg.path([(place, _TOP - 8), (at, _TOP + 4), (at, y.start)], "event"),
                svg.marker("circle", place, _TOP - 17, _BADGE, "badge"),
                svg.text(str(number), place, _TOP - 13, anchor="middle", class_="number"),
                title=f"{mark.at_s:.0f} s: {mark.words}",
            )
        )
    return "".join(parts)


def _curve(line: Line, name: str, x: Scale, y: Scale, label_y: float, write: Callable[[float], str]) -> str:
    end_x, end_y = x(line.points[-1][0]), y(line.points[-1][1])
    parts = [
        svg.path([(x(at), y(value)) for at, value in line.points], "curve")
        if len(line.points) > 1
        else svg.marker("circle", end_x, end_y, 3, "mark"),
        svg.path([(end_x, end_y), (x.end + 2, end_y), (x.end + 9, label_y)], "leader"),
        svg.text(name, x.end + 12, label_y + 4, class_="name small"),
    ]
    says = f"{line.name}: {write(line.points[-1][1])} after {line.points[-1][0]:g} s"
    return svg.group(*parts, title=says, class_=member_class(line.index))
