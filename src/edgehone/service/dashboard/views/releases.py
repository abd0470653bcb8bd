"""Releases: what the registry signed, and for each task the front of quality against latency and size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from sqlalchemy import Row, select

from edgehone import units
from edgehone.fleet.cohorts import load_cohorts
from edgehone.records.tables import release
from edgehone.report.plots import both
from edgehone.report.plots.front import Axes, Point, front
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.visits import PageRoute, Visitor
from edgehone.service.gate import TheCore

router = APIRouter(route_class=PageRoute)

MOST_RELEASES = 500
MOST_POINTS = 12
_RATES = ("accuracy", "balanced-accuracy", "auc")
_LESS_IS_BETTER = ("mae", "rmse")
_METRICS = (*_RATES, "r2", *_LESS_IS_BETTER)


@dataclass(frozen=True)
class Release:
    """A release for its line: the row, its quality in words, and its fastest median."""

    row: Row[Any]
    quality: str
    latency_us: float | None


@dataclass(frozen=True)
class Family:
    """The releases of a task, newest first, with their two pictures; "" where figures are missing."""

    task: str
    releases: tuple[Release, ...]
    by_latency: Markup
    by_size: Markup


@router.get("/releases")
def show(request: Request, core: TheCore, caller: Visitor) -> Response:
    """Every task's releases."""
    with core.database.read() as conn:
        order = (release.c.task, release.c.version.desc(), release.c.rank, release.c.member)
        rows = conn.execute(select(release).order_by(*order).limit(MOST_RELEASES)).all()
        cohorts = load_cohorts(conn)
    by_task: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        by_task[row.task].append(row)
    families = [family(task, found) for task, found in by_task.items()]
    return page(request, "releases.html.j2", caller, title="Releases", families=families, cohorts=cohorts)


def family(task: str, rows: Sequence[Row[Any]]) -> Family:
    """A task's releases with pictures of the newest `MOST_POINTS` that are not taken back."""
    shown = [row for row in rows if row.revoked_s is None][:MOST_POINTS]
    releases = tuple(Release(row, _quality(row.measured), _latency_us(row.measured)) for row in rows)
    by_latency = _picture(shown, "latency", units.format_latency, lambda row: _latency_us(row.measured))
    by_size = _picture(shown, "size of the bundle", units.format_size, lambda row: float(row.size_bytes))
    return Family(task, releases, Markup(by_latency), Markup(by_size))


def _picture(
    rows: Sequence[Row[Any]], title: str, write: Callable[[float], str], cost: Callable[[Row[Any]], float | None]
) -> str:
    metric = next((found[0] for row in rows if (found := _metric(row.measured))), None)
    if metric is None:
        return ""
    scale, unit = (100.0, " %") if metric in _RATES else (1.0, "")
    points: list[Point] = []
    for row in rows:
        found, x = _metric(row.measured), cost(row)
        if found is None or found[0] != metric or x is None or x <= 0:
            continue
        name = f"{row.member} v{row.version}"
        y, interval = scale * found[1], found[2]
        bounds = None if interval is None else (scale * interval[0], scale * interval[1])
        says = f"{name}: {write(x)}, {y:.4g}{unit}"
        points.append(Point(name, len(points) + 1, x, y, None, bounds, False, says))
    if not points:
        return ""
    axes = Axes(title, f"test {metric}", write, lambda v: f"{v:.4g}{unit}", metric not in _LESS_IS_BETTER)
    return both(lambda width: front(points, axes, width))


def _metric(measured: Mapping[str, Any]) -> tuple[str, float, tuple[float, float] | None] | None:
    """Name, value and interval of the first quality figure on the test split."""
    for name in _METRICS:
        figure = measured.get(f"{name} test")
        value = _number(figure, "value")
        if value is not None:
            low, high = _number(figure, "low"), _number(figure, "high")
            return name, value, None if low is None or high is None else (low, high)
    return None


def _quality(measured: Mapping[str, Any]) -> str:
    found = _metric(measured)
    if found is None:
        return "–"
    return f"{100 * found[1]:.1f} %" if found[0] in _RATES else f"{found[0]} {found[1]:.4g}"


def _latency_us(measured: Mapping[str, Any]) -> float | None:
    """The fastest of the medians by runtime."""
    found = [_number(figure, "value") for name, figure in measured.items() if name.startswith("latency_us ")]
    return min((value for value in found if value is not None and value > 0), default=None)


def _number(figure: Any, name: str) -> float | None:
    value = figure.get(name) if isinstance(figure, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
