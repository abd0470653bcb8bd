"""Cost against quality: each version a point with its interval, the staircase of the best, and the budget's room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgehone.report import svg
from edgehone.report.scales import Box, Scale, best_place, fit, staircase
from edgehone.report.theme import member_class, member_shape

FONT = 12.5


@dataclass(frozen=True)
class Point:
    """One version: its cost (x) and quality (y) with intervals, and what it says when pointed at."""

    name: str
    index: int
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    estimated: bool = False
    says: str = ""


@dataclass(frozen=True)
class Axes:
    """Titles, how ticks are written, whether more of y is better, and the limits asked for."""

    x_title: str
    y_title: str
    write_x: Callable[[float], str]
    write_y: Callable[[float], str]
    more_is_better: bool = True
    x_limit: float | None = None
    y_limit: float | None = None


def front(points: Sequence[Point], axes: Axes, width: int) -> str:
    """The picture; x is logarithmic, costs of zero or less are left out."""
    points = [point for point in points if point.x > 0]
    height = round(width * 0.74) if width < 500 else round(width * 0.66)
    x, y = _scales(points, axes, Box(46, 26, width - 14, height - 44))
    frame = Box(x.start, y.end, x.end, y.start)
    sign = 1 if axes.more_is_better else -1
    steps = [(x(px), y(sign * py)) for px, py in staircase([(p.x, sign * p.y) for p in points])]
    label = f"{axes.y_title} against {axes.x_title}: " + "; ".join(p.says or p.name for p in points)
    return svg.picture(
        label, width, height,
        _room(x, y, axes),
        _grid(x, y, axes, frame, 5 if width < 500 else 7),
        svg.path(steps, "front") if len(steps) > 1 else "",
        *(_mark(point, x, y) for point in points),
        *_labels(points, x, y, frame, steps),
    )  # fmt: skip


def _scales(points: Sequence[Point], axes: Axes, frame: Box) -> tuple[Scale, Scale]:
    across = [v for p in points for v in (p.x, *(p.x_interval or ()))] + ([axes.x_limit] if axes.x_limit else [])
    up = [v for p in points for v in (p.y, *(p.y_interval or ()))]
    if axes.y_limit is not None:
        up.append(axes.y_limit)
    return fit(across, frame.left, frame.right, log=True, margin=0.1), fit(up, frame.bottom, frame.top, margin=0.1)


def _room(x: Scale, y: Scale, axes: Axes) -> str:
    """What the budget leaves: the part of the paper that holds the limits."""
    if axes.x_limit is None and axes.y_limit is None:
        return ""
    right = x(axes.x_limit) if axes.x_limit else x.end
    limit = y(axes.y_limit) if axes.y_limit is not None else None
    best, worst = (y.end, y.start) if axes.more_is_better else (y.start, y.end)
    edge = worst if limit is None else limit
    top, bottom = min(best, edge), max(best, edge)
    parts = [svg.box(x.start, top, right - x.start, bottom - top, "room")]
    if axes.x_limit is not None:
        parts.append(svg.line(right, top, right, bottom, "limit"))
    if limit is not None:
        parts.append(svg.line(x.start, limit, right, limit, "limit"))
    return svg.group(*parts, svg.text("within budget", x.start + 7, top + 15, class_="hint good"))


def _grid(x: Scale, y: Scale, axes: Axes, frame: Box, count: int) -> str:
    parts = [svg.text(axes.y_title, 4, 13, class_="axis"), svg.line(frame.left, frame.bottom, frame.right,
                                                                    frame.bottom, "base")]  # fmt: skip
    for value in y.ticks(5):
        parts.append(svg.line(frame.left, y(value), frame.right, y(value), "grid"))
        parts.append(svg.text(axes.write_y(value), frame.left - 7, y(value) + 4, anchor="end", class_="tick"))
    for value in x.ticks(count):
        parts.append(svg.line(x(value), frame.bottom, x(value), frame.bottom + 4, "base"))
        parts.append(svg.text(axes.write_x(value), x(value), frame.bottom + 18, anchor="middle", class_="tick"))
    parts.append(svg.text(axes.x_title, frame.right, frame.bottom + 37, anchor="end", class_="axis"))
    return "".join(parts)


def _mark(point: Point, x: Scale, y: Scale) -> str:
    across, up = x(point.x), y(point.y)
    parts = []
    if point.x_interval and point.x_interval[0] > 0:
        parts.append(svg.line(x(point.x_interval[0]), up, x(point.x_interval[1]), up, "whisker"))
    if point.y_interval:
        parts.append(svg.line(across, y(point.y_interval[0]), across, y(point.y_interval[1]), "whisker"))
    hollow = point.index == 0 or point.estimated
    parts.append(svg.marker(member_shape(point.index), across, up, 5.5, "mark hollow" if hollow else "mark"))
    parts.append(svg.tag("circle", cx=across, cy=up, r=14, class_="touch"))
    return svg.group(*parts, title=point.says or point.name, class_=member_class(point.index))


def _labels(points: Sequence[Point], x: Scale, y: Scale, frame: Box, steps: Sequence[tuple[float, float]]) -> list[str]:
    """Names beside their points, where they hide neither each other nor a point, its whiskers or the front."""
    taken = [
        Box(min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)
        for (x1, y1), (x2, y2) in pairwise(steps)
    ]
    for p in points:
        across, up = x(p.x), y(p.y)
        taken.append(Box(across - 7, up - 7, across + 7, up + 7))
        if p.y_interval:
            taken.append(Box(across - 1, y(p.y_interval[1]), across + 1, y(p.y_interval[0])))
    room = Box(frame.left + 2, frame.top - 4, frame.right + 12, frame.bottom - 2)
    parts = []
    for point in points:
        across, up = x(point.x), y(point.y)
        name = svg.shorten(point.name, 18)
        wide = svg.width_of(name, FONT)
        right, back, middle = across + 10, across - 10 - wide, across - wide / 2
        corners = [
            (right, up - 18), (right, up + 3), (right, up - 8), (back, up + 3), (back, up - 18), (back, up - 8),
            (middle, up - 26), (middle, up + 11), (right, up - 32), (right, up + 18), (back, up - 32), (back, up + 18),
        ]  # fmt: skip
        boxes = [Box(left, top, left + wide, top + 15) for left, top in corners]
        chosen = boxes[best_place(boxes, taken, room)]
        taken.append(chosen)
        name_text = svg.text(name, chosen.left, chosen.top + 12, class_="name")
        parts.append(svg.group(name_text, class_=member_class(point.index)))
    return parts
