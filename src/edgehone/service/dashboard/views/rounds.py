"""The loop: its rounds as a timeline, every decision with its evidence, and the buttons that let a round go on or end.

Rules:
- Whoever approves has seen what is approved: the form carries the version that the page showed, and another one is
  refused.
- The loop is loaded when a form is sent, so that it does not delay the start of the core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection, Row, select

from edgehone.errors import InputError
from edgehone.records.tables import dataset, decision, release
from edgehone.records.tables import round as table
from edgehone.service.core import Core
from edgehone.service.dashboard.judged import COLUMNS, judged
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.snapshot import Snapshots
from edgehone.service.dashboard.views.datasets import Version, read
from edgehone.service.dashboard.visits import Acting, PageRoute, Visitor
from edgehone.service.gate import TheCore, not_found

router = APIRouter(route_class=PageRoute)

PHASES = ("data", "train", "compress", "gate", "sign", "rollout", "observe", "done")
MOST_ROUNDS, MOST_DECISIONS = 50, 100
_TOLD = ("figures", "verdicts")  # of a round's content: shown as a table

RoundId = Annotated[str, Path(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


@dataclass(frozen=True)
class Replaced:
    """What a member of a round takes the place of: the release, and how many nodes answer with it now."""

    member: str
    version: int | None
    digest: str
    nodes: int


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
    """One round: its phases, what the gate found, its data, what it replaces, and the decisions that belong to it."""
    with core.database.read() as conn:
        found = _find(conn, id)
        mine = select(decision).where(decision.c.round == id).order_by(decision.c.id).limit(MOST_DECISIONS)
        decisions = conn.execute(mine).all()
        content: Mapping[str, Any] = found.content
        data = _data(conn, content)
        replaced = _replaced(conn, request.app.state.snapshots, found.task, content)
    return page(
        request, "round.html.j2", caller, title=f"Round of {found.task}", round=found, decisions=decisions,
        phases=PHASES, members=judged(content), columns=COLUMNS, data=data, replaced=replaced,
        rest={name: value for name, value in content.items() if name not in _TOLD},
    )  # fmt: skip


@router.post("/rounds/{id}/answer")
def answer(
    core: TheCore,
    caller: Acting,
    id: RoundId,
    do: Annotated[str, Form(max_length=20)],
    version: Annotated[str, Form(max_length=20)] = "",
    why: Annotated[str, Form(max_length=300)] = "",
    sure: Annotated[str, Form(max_length=10)] = "",
) -> Response:
    """Approve a round that waits, or end one. Either needs the box that says so; an end needs a reason."""
    from edgehone.loop import rounds

    now_s, actor, why = core.clock(), caller.actor, why.strip()
    with core.database.read() as conn:
        found = _find(conn, id)
    if do == "approve" and sure == "yes":
        if version != str(found.content.get("version")):
            raise InputError("the round has another version by now", where="round", do="look at the page again")
        rounds.approve(core.database, id, actor=actor, now_s=now_s)
    elif do == "abort" and sure == "yes" and why:
        rounds.abort(_site(core), id, actor=actor, now_s=now_s, why=why)
        core.wake_on_change()
    else:
        raise InputError(
            "nothing was changed", where="round", do="choose approve or abort, tick the box, and say why you end it"
        )
    return RedirectResponse(f"/rounds/{id}", 303)


def _site(core: Core) -> Any:
    from edgehone.loop.rounds import Site

    place = core.place
    return Site(core.database, core.blobs, place.blobs_url, place.folder / "rounds", place.registry, place.keys)


def _find(conn: Connection, id: str) -> Row[Any]:
    return conn.execute(select(table).where(table.c.id == id)).one_or_none() or not_found("round")


def _data(conn: Connection, content: Mapping[str, Any]) -> Version | None:
    """The dataset version that a round learns from; None before it has one."""
    digest = content.get("dataset")
    row = conn.execute(select(dataset).where(dataset.c.digest == digest)).one_or_none() if digest else None
    return None if row is None else read(row)


def _replaced(conn: Connection, snapshots: Snapshots, task: str, content: Mapping[str, Any]) -> list[Replaced]:
    parents = content.get("parent")
    digests = dict(parents) if isinstance(parents, Mapping) else {}
    query = select(release.c.digest, release.c.version).where(release.c.digest.in_(digests.values()))
    versions = {row.digest: row.version for row in conn.execute(query)}
    runs = [line.tasks.get(task) for line in snapshots.now().select()]
    serving = [status.get("digest") for status in runs if isinstance(status, Mapping)]
    return [
        Replaced(member, versions.get(digest), str(digest), serving.count(digest))
        for member, digest in sorted(digests.items())
    ]
