"""One node: what answers there, drift over time, what it captured, what was said, where its bytes come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup
from sqlalchemy import Connection, Row, select

from edgehone.fleet import nodes
from edgehone.fleet.lineage import lineage
from edgehone.records.tables import evidence, feedback, sample
from edgehone.service.core import Core
from edgehone.service.dashboard.classes import kind_of
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.readings import Look, look, picture
from edgehone.service.dashboard.series import Limit, Track, tracks
from edgehone.service.dashboard.visits import Acting, PageRoute, Visitor
from edgehone.service.dashboard.words import LEVELS
from edgehone.service.gate import TheCore, not_found
from edgehone_agent.errors import EdgehoneError
from edgehone_agent.watch.levels import THRESHOLDS

router = APIRouter(route_class=PageRoute)

MOST_SAMPLES, MOST_EVIDENCE, MOST_EVENTS, MOST_CHANNELS = 12, 200, 20, 5

NodeId = Annotated[str, Path(pattern=r"^[0-9a-f]{8,32}$")]


@dataclass(frozen=True)
class Sample:
    """A captured sample as it is shown: its row, how its reading looks, and what the model said."""

    row: Row[Any]
    look: Look
    said: str


@router.get("/nodes/{id}")
def show(request: Request, core: TheCore, caller: Visitor, id: NodeId) -> Response:
    """The page of a node."""
    with core.database.read() as conn:
        found = nodes.find_node(conn, id) or not_found("node")
        drifts = {task: Markup(drift(_evidence(conn, id, task))) for task in found.status}
        samples = show_samples(core, conn, _samples(conn, id))
        events = conn.execute(
            select(feedback).where(_of_node(id)).order_by(feedback.c.received_s.desc()).limit(MOST_EVENTS)
        ).all()
        stints = lineage(conn, id).stints[:50]
    return page(
        request, "node.html.j2", caller, title=found.name, node=found, drifts=drifts, samples=samples, events=events,
        stints=stints, online_s=3 * core.place.settings.interval_s,
    )  # fmt: skip


@router.post("/nodes/{id}/state")
def set_state(
    request: Request,
    core: TheCore,
    caller: Acting,
    id: NodeId,
    state: Annotated[str, Form(max_length=20)],
    why: Annotated[str, Form(max_length=300)] = "",
) -> Response:
    """Quarantine a node, take it back, or revoke it."""
    now_s = core.clock()
    core.writer.run_now(lambda conn: nodes.set_state(conn, id, state, why.strip(), actor=caller.actor, now_s=now_s))
    core.refresh_standing()
    request.app.state.snapshots.forget()
    return RedirectResponse(f"/nodes/{id}", 303)


@router.get("/reading")
def reading(
    core: TheCore,
    caller: Visitor,  # noqa: ARG001  signed in is enough
    node: Annotated[str, Query(max_length=32)],
    id: Annotated[str, Query(max_length=200)],
) -> Response:
    """A captured reading as PNG. It never changes; it may be deleted."""
    with core.database.read() as conn:
        digest = conn.execute(select(sample.c.blob).where(sample.c.node == node, sample.c.id == id)).scalar()
    try:
        content = picture(core.blobs.get(digest or not_found("reading")))
    except ValueError:
        not_found("picture")
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=600"})


def show_samples(core: Core, conn: Connection, rows: Sequence[Row[Any]]) -> list[Sample]:
    """Rows of `sample` with how they look; a reading that is gone or damaged says so in its place."""
    found = []
    for row in rows:
        try:
            shown = Look("nothing", why="deleted") if row.blob is None else look(core.blobs.get(row.blob))
        except EdgehoneError as error:
            shown = Look("nothing", why=error.what)
        found.append(Sample(row, shown, kind_of(conn, core.place.registry, row.task, row.digest).said(row.answer)))
    return found


def drift(rows: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    """Evidence of the channels that say most, in powers of ten, over time."""
    paths: dict[str, list[tuple[float, float]]] = {}
    for time_s, content in rows:
        channels = content.get("channels")
        for one in channels if isinstance(channels, list) else []:
            evidence_now = _log10(one.get("log_e")) if isinstance(one, Mapping) else None
            if evidence_now is not None:
                paths.setdefault(str(one.get("channel", ""))[:80], []).append((time_s, evidence_now))
    loudest = sorted(paths.items(), key=lambda pair: -max(value for _, value in pair[1]))[:MOST_CHANNELS]
    lines = [Track(name, index + 1, tuple(points)) for index, (name, points) in enumerate(sorted(loudest))]
    limits = [Limit(math.log10(one), LEVELS[k + 1]) for k, one in enumerate(THRESHOLDS)]
    return tracks(lines, "evidence of drift, powers of ten", lambda value: f"{value:g}", limits)


def _log10(given: Any) -> float | None:
    """The higher of the variants' logarithms, as a power of ten between -3 and 12; None where there is none."""
    values = given.values() if isinstance(given, Mapping) else (given,)
    numbers = [float(one) for one in values if isinstance(one, int | float) and math.isfinite(one)]
    return min(max(max(numbers) / math.log(10), -3.0), 12.0) if numbers else None


def _evidence(conn: Connection, id: str, task: str) -> list[tuple[float, Mapping[str, Any]]]:
    query = (
        select(evidence.c.received_s, evidence.c.content)
        .where(evidence.c.node == id, evidence.c.task == task)
        .order_by(evidence.c.id.desc())
        .limit(MOST_EVIDENCE)
    )
    return [(row.received_s, row.content) for row in reversed(conn.execute(query).all())]


def _samples(conn: Connection, id: str) -> Sequence[Row[Any]]:
    query = select(sample).where(sample.c.node == id).order_by(sample.c.received_s.desc(), sample.c.id)
    return conn.execute(query.limit(MOST_SAMPLES)).all()


def _of_node(id: str) -> Any:
    """Feedback that came from a node, or was given here about its samples."""
    return (feedback.c.node == id) | ((feedback.c.node == "core") & (feedback.c.content["node"].as_string() == id))
