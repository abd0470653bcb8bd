"""The loop: its rounds as a timeline, and every decision with the evidence that it was made on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import select

from edgehone.records.tables import decision
from edgehone.records.tables import round as table
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.visits import PageRoute, Visitor
from edgehone.service.gate import TheCore, not_found

router = APIRouter(route_class=PageRoute)

PHASES = ("data", "train", "compress", "gate", "sign", "rollout", "observe", "done")
MOST_ROUNDS, MOST_DECISIONS = 50, 100

RoundId = Annotated[str, Path(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


@router.get("/rounds")
def show_all(
    request: Request,
    core: TheCore,
    caller: Visitor,
    before: Annotated[int, Query(ge=1, le=1 << 53)] = 1 << 53,
) -> Response:
    """Rounds and decisions, newest first; `before` is the id that the page of decisions ends at."""
    with core.database.read() as conn:
        rounds = conn.execute(select(table).order_by(table.c.started_s.desc(), table.c.id).limit(MOST_ROUNDS)).all()
        query = select(decision).where(decision.c.id < before).order_by(decision.c.id.desc()).limit(MOST_DECISIONS)
        decisions = conn.execute(query).all()
    older = decisions[-1].id if len(decisions) == MOST_DECISIONS else None
    return page(
        request, "rounds.html.j2", caller, title="Rounds", rounds=rounds, decisions=decisions, phases=PHASES,
        older=older,
    )  # fmt: skip


@router.get("/rounds/{id}")
def show(request: Request, core: TheCore, caller: Visitor, id: RoundId) -> Response:
    """One round: its phases, what it wrote down, and the decisions that belong to it."""
    with core.database.read() as conn:
        found = conn.execute(select(table).where(table.c.id == id)).one_or_none() or not_found("round")
        mine = select(decision).where(decision.c.round == id).order_by(decision.c.id).limit(MOST_DECISIONS)
        decisions = conn.execute(mine).all()
    return page(
        request, "round.html.j2", caller, title=f"Round of {found.task}", round=found, decisions=decisions,
        phases=PHASES,
    )  # fmt: skip
