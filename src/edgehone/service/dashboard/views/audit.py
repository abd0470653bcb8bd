"""The audit log: who did what, newest first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from edgehone.records import audit
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.visits import PageRoute, Visitor
from edgehone.service.gate import TheCore

router = APIRouter(route_class=PageRoute)

Text = Annotated[str, Query(max_length=200)]


@router.get("/audit")
def show(
    request: Request,
    core: TheCore,
    caller: Visitor,
    actor: Text = "",
    action: Text = "",
    subject: Text = "",
    before: Annotated[int, Query(ge=1, le=1 << 53)] = 1 << 53,
) -> Response:
    """A page of deeds: of one actor, of one kind ("rollout." for all of a kind), or to one subject."""
    actor, action, subject = actor.strip(), action.strip(), subject.strip()
    wanted = {"actor": actor, "action": action, "subject": subject}
    with core.database.read() as conn:
        entries = audit.page(conn, actor=actor or None, action=action or None, subject=subject or None, before=before)
    older = entries[-1].id if len(entries) == audit.PAGE_ROWS else None
    return page(request, "audit.html.j2", caller, title="Audit", entries=entries, older=older, wanted=wanted)
