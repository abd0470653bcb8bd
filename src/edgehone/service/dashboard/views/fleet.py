"""The fleet: totals, and every node on a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup
from sqlalchemy import Connection, select

from edgehone.records.tables import evidence
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.series import cells, strip
from edgehone.service.dashboard.snapshot import SHOWN, Snapshots
from edgehone.service.dashboard.visits import PageRoute, Visitor
from edgehone.service.gate import TheCore

router = APIRouter(route_class=PageRoute)

PAGE_ROWS = 100
_DAY_S = 86_400.0


@router.get("/")
def show(
    request: Request,
    core: TheCore,
    caller: Visitor,
    tag: Annotated[str, Query(max_length=300)] = "",
    show: Annotated[str, Query(max_length=20)] = "",
    start: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
) -> Response:
    """Nodes that carry a tag and are of a kind, those that need attention first, from a place in that order on."""
    snapshots: Snapshots = request.app.state.snapshots
    whole = snapshots.now()
    chosen = whole.select(tag=tag, show=show if show in SHOWN else "")
    ordered = sorted(chosen, key=lambda line: (not line.needs_attention, -max(line.watch, line.risk)))
    lines = ordered[start : start + PAGE_ROWS]
    with core.database.read() as conn:
        strips = _strips(conn, [line.node.id for line in lines], core.clock())
    alarmed = [line for line in whole.lines if max(line.watch, line.risk) >= 2 and line.node.state != "revoked"]
    return page(
        request, "fleet.html.j2", caller, title="Fleet", fleet=whole, lines=lines, strips=strips, tag=tag, show=show,
        start=start, rows=PAGE_ROWS, found=len(ordered), alarmed=alarmed[:8], shown=SHOWN,
    )  # fmt: skip


def _strips(conn: Connection, ids: Sequence[str], now_s: float) -> dict[str, Markup]:
    """Node → its last day as a strip of levels, watch and risk together; nodes that reported nothing are left out."""
    points: dict[str, list[tuple[float, int]]] = defaultdict(list)
    query = (
        select(evidence.c.node, evidence.c.received_s, evidence.c.watch_level, evidence.c.risk_level)
        .where(evidence.c.node.in_(ids), evidence.c.received_s > now_s - _DAY_S)
        .order_by(evidence.c.received_s)
    )
    for row in conn.execute(query):
        points[row.node].append((row.received_s, max(row.watch_level, row.risk_level)))
    return {id: Markup(strip(cells(found, now_s))) for id, found in points.items()}
