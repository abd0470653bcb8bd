"""Cost against quality: each version a point with its interval, the staircase of the best, and the budget's room."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgehone.report import svg
from edgehone.report.scales import Box, Scale, best_place, fit, staircase
from edgehone.report.theme import member_class, member_shape

FONT = 12.5
CROWD = 6
TOUCH = 12.0
"""Area, in square units, that two names may share before one of them goes."""


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
        *_labels(points, x, y, frame, steps, _limit_boxes(x, y, axes)),
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
    words = "within budget"
    if right - x.start > svg.width_of(words, FONT):
        parts.append(svg.text(words, x.start + 7, top + 15, class_="hint good"))
    return svg.group(*parts)


def _limit_boxes(x: Scale, y: Scale, axes: Axes) -> list[Box]:
    """Where the limits' lines and their words lie, so that names keep off them."""
    boxes = []
    if axes.x_limit is not None:
        boxes.append(Box(x(axes.x_limit) - 2, y.end, x(axes.x_limit) + 2, y.start))
    if axes.y_limit is not None:
        boxes.append(Box(x.start, y(axes.y_limit) - 2, x.end, y(axes.y_limit) + 2))
    return boxes


def _grid(x: Scale, y: Scale, axes: Axes, frame: Box, count: int) -> str:
    parts = [svg.text(axes.y_title, 4, 13, class_="axis"), svg.line(frame.left, frame.bottom, frame.right,
                                                                    frame.bottom, "base")]  # fmt: skip
    for value in y.ticks(5):
        parts.append(svg.line(frame.left, y(value), frame.right, y(value), "grid"))
        parts.append(svg.text(axes.write_y(value), frame.left - 7, y(value) + 4, anchor="end", class_="tick"))
    free_from = -math.inf
    for value in x.ticks(count):
        label, place = axes.write_x(value), x(value)
        half = svg.width_of(label, FONT) / 2
        parts.append(svg.line(place, frame.bottom, place, frame.bottom + 4, "base"))
        if place - half >= free_from:
            parts.append(svg.text(label, place, frame.bottom + 18, anchor="middle", class_="tick"))
            free_from = place + half + 8
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


def _labels(
    points: Sequence[Point],
    x: Scale,
    y: Scale,
    frame: Box,
    steps: Sequence[tuple[float, float]],
    limits: Sequence[Box],
) -> list[str]:
    """Names beside their points, off each other and off points, whiskers, front and limits as far as there is room.

    In a crowd a name that would lie on another is left out: its point still says it when pointed at.
    """
    soft = [
        Box(min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)
        for (x1, y1), (x2, y2) in pairwise(steps)
    ]
    soft += limits
    soft += [Box(x(p.x) - 1, y(p.y_interval[1]), x(p.x) + 1, y(p.y_interval[0])) for p in points if p.y_interval]
    hard = [Box(x(p.x) - 7, y(p.y) - 7, x(p.x) + 7, y(p.y) + 7) for p in points]
    room = Box(frame.left + 2, frame.top - 4, frame.right + 12, frame.bottom - 2)
    parts = []
    for point in points:
        name = svg.shorten(point.name, 18)
        boxes = _places(x(point.x), y(point.y), svg.width_of(name, FONT))
        chosen = boxes[best_place(boxes, hard, soft, room)]
        if len(points) > CROWD and point.index and sum(chosen.overlap(other) for other in hard) > TOUCH:
            continue
        hard.append(chosen)
        name_text = svg.text(name, chosen.left, chosen.top + 12, class_="name")
        parts.append(svg.group(name_text, class_=member_class(point.index)))
    return parts


def _places(across: float, up: float, wide: float) -> list[Box]:
    """Where a name may lie beside its point, the best first."""
    right, back, middle = across + 10, across - 10 - wide, across - wide / 2
    corners = [
        (right, up - 18), (right, up + 3), (right, up - 8), (back, up + 3), (back, up - 18), (back, up - 8),
        (middle, up - 26), (middle, up + 11), (right, up - 32), (right, up + 18), (back, up - 32), (back, up + 18),
    ]  # fmt: skip
    return [Box(left, top, left + wide, top + 15) for left, top in corners]
