"""Values over training: one line per version, named at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgehone.report import svg
from edgehone.report.scales import Scale, fit, spread
from edgehone.report.theme import member_class

FONT = 12.0
LOG_FROM = 20.0
"""Largest over smallest value from which the vertical axis is logarithmic."""


@dataclass(frozen=True)
class Line:
    """One version's values: (epochs, value) in order."""

    name: str
    index: int
    points: tuple[tuple[float, float], ...]


def curves(lines: Sequence[Line], title: str, write: Callable[[float], str], width: int, *, rate: bool = False) -> str:
    """The picture. `rate` keeps the axis linear whatever it spans."""
    height = round(width * 0.66) if width < 500 else round(width * 0.56)
    values = [value for line in lines for _, value in line.points]
    log = not rate and min(values) > 0 and max(values) / min(values) >= LOG_FROM
    names = [svg.shorten(line.name, 14) for line in lines]
    right = width - 16 - max(svg.width_of(name, FONT) for name in names)
    x = fit([0.0, *(epoch for line in lines for epoch, _ in line.points)], 46, right, margin=0.0)
    y = fit(values, height - 42, 28, log=log, margin=0.05)
    ends = spread([y(line.points[-1][1]) for line in lines], 15, y.end, y.start)
    label = f"{title} over epochs: " + "; ".join(f"{ln.name} ends at {write(ln.points[-1][1])}" for ln in lines)
    return svg.picture(
        label, width, height,
        grid(x, y, title, write, "epochs"),
        *(curve(line, name, x, y, end, write, "epochs") for line, name, end in zip(lines, names, ends, strict=True)),
    )  # fmt: skip


def grid(x: Scale, y: Scale, title: str, write: Callable[[float], str], unit: str) -> str:
    """Both axes; `unit` stands below the horizontal one."""
    parts = [svg.text(title, 4, 13, class_="axis"), svg.line(x.start, y.start, x.end, y.start, "base")]
    for value in y.ticks(5):
        parts.append(svg.line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(svg.text(write(value), x.start - 7, y(value) + 4, anchor="end", class_="tick"))
    parts += [svg.text(f"{value:g}", x(value), y.start + 17, anchor="middle", class_="tick") for value in x.ticks(6)]
    parts.append(svg.text(unit, x.end, y.start + 35, anchor="end", class_="axis"))
    return "".join(parts)


def curve(
    line: Line, name: str, x: Scale, y: Scale, label_y: float, write: Callable[[float], str], unit: str
) -> str:  # fmt: skip
    """One line, with its name at its end."""
    end_x, end_y = x(line.points[-1][0]), y(line.points[-1][1])
    parts = [
        svg.path([(x(epoch), y(value)) for epoch, value in line.points], "curve")
        if len(line.points) > 1
        else svg.marker("circle", end_x, end_y, 3, "mark")
    ]
    parts.append(svg.path([(end_x, end_y), (x.end + 2, end_y), (x.end + 9, label_y)], "leader"))
    parts.append(svg.text(name, x.end + 12, label_y + 4, class_="name small"))
    says = f"{line.name}: {write(line.points[-1][1])} after {line.points[-1][0]:g} {unit}"
    return svg.group(*parts, title=says, class_=member_class(line.index))
