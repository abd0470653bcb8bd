"""Values over time, one line per name, with numbered marks where something happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgehone.report import svg
from edgehone.report.plots.curves import FONT, Line, curve, grid
from edgehone.report.scales import Scale, fit, spread

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
        grid(x, y, title, write, "seconds"),
        _marks(x, y, marks),
        *(curve(line, name, x, y, end, write, "seconds") for line, name, end in zip(lines, names, ends, strict=True)),
    )  # fmt: skip


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
