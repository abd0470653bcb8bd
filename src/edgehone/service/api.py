"""The people's API, /v1/...: nodes, enrolment, tokens, people, audit. docs: GET /openapi.json.

It holds no rule of its own: each call checks who asks (`gate`), calls one function of the fleet or of `people` inside
one transaction, and says what came of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy import func, select

from edgehone import __version__
from edgehone.fleet import enrol, nodes
from edgehone.records import audit
from edgehone.records.tables import node
from edgehone.service import api_models as models
from edgehone.service import people
from edgehone.service.answers import Refused
from edgehone.service.gate import (
    COOKIE,
    Operator,
    SignedIn,
    SignIns,
    TheCore,
    check_origin,
    not_found,
    operator,
    signed_in,
)

router = APIRouter(prefix="/v1")

NodeId = Annotated[str, Path(pattern=r"^[0-9a-f]{8,32}$")]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{16,64}$")]
PersonName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
After = Annotated[str, Query(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": models.ErrorTold} for status in (*statuses, 503)}


_VIEW, _OPERATE = [Depends(signed_in)], [Depends(operator)]
_READ = _errors(401, 403, 422)
_CHANGE = _errors(400, 401, 403, 409, 413, 422)
_CHANGE_ONE = _errors(400, 401, 403, 404, 409, 413, 422)


@router.post("/sign-in", responses=_errors(400, 403, 413, 422, 429), tags=["sign-in"])
def sign_in(asked: models.SignIn, request: Request, response: Response) -> models.Me:
    """Open a session: sets the cookie and returns the CSRF token."""
    check_origin(request)
    attempts: SignIns = request.app.state.sign_ins
    host = request.client.host if request.client else ""
    text, caller = attempts.sign_in(asked.name, asked.password, host)
    set_cookie(response, text, is_secure=request.url.scheme == "https")
    return models.Me(name=caller.name, role=caller.role, csrf=caller.csrf)  # type: ignore[arg-type]


@router.post("/sign-out", status_code=204, responses=_errors(401, 403), tags=["sign-in"])
def sign_out(core: TheCore, caller: SignedIn, response: Response) -> None:
    """End the session; a token stays good."""
    if caller.session is not None:
        hashed = caller.session
        core.writer.run_now(lambda conn: people.close_session(conn, hashed))
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


@router.get("/me", responses=_errors(401), tags=["sign-in"])
def me(caller: SignedIn) -> models.Me:
    """Who is signed in."""
    return models.Me(name=caller.name, role=caller.role, csrf=caller.csrf)  # type: ignore[arg-type]


@router.get("/status", responses=_errors(401), tags=["core"], dependencies=_VIEW)
def status(core: TheCore, request: Request) -> models.Status:
    """How the core is: nodes by state, connections, streams."""
    now_s = core.clock()
    with core.database.read() as conn:
        states = Counter(
            {row[0]: row[1] for row in conn.execute(select(node.c.state, func.count()).group_by(node.c.state))}
        )
        recent = node.c.seen_s > now_s - 3 * core.place.settings.interval_s
        online = conn.execute(select(func.count()).select_from(node).where(recent)).scalar_one()
    door = getattr(request.app.state, "door", None)
    return models.Status(
        version=__version__, time_s=now_s, for_s=now_s - core.started_s, nodes=dict(states), online=online,
        connections=0 if door is None else door.connections, streams=core.waker.streams,
        fingerprint=core.authority.fingerprint,
    )  # fmt: skip


@router.get("/nodes", responses=_READ, tags=["nodes"], dependencies=_VIEW)
def list_nodes(core: TheCore, after: After = "", limit: Limit = 100, state: models.State | None = None) -> models.Nodes:
    """A page of nodes, by name."""
    with core.database.read() as conn:
        found = nodes.list_nodes(conn, after=after, limit=limit, state=state)
    more = found[-1].name if len(found) == limit else None
    return models.Nodes(nodes=[_node(one) for one in found], next=more)


@router.get("/nodes/{id}", responses=_errors(401, 404, 422), tags=["nodes"], dependencies=_VIEW)
def read_node(core: TheCore, id: NodeId) -> models.NodeTold:
    """One node."""
    with core.database.read() as conn:
        found = nodes.find_node(conn, id)
    return _node(found or not_found("node"))


@router.put("/nodes/{id}/state", responses=_CHANGE_ONE, tags=["nodes"])
def set_state(core: TheCore, caller: Operator, id: NodeId, asked: models.SetState) -> models.NodeTold:
    """Quarantine a node, take it back, or revoke it for ever. It holds at once."""
    now_s = core.clock()

    def job(conn: Any) -> nodes.Node:
        before = nodes.find_node(conn, id) or not_found("node")
        if before.state == nodes.REVOKED and asked.state != nodes.REVOKED:
            raise Refused(409, "a revoked node does not come back", do="enrol it again with a new token")
        return nodes.set_state(conn, id, asked.state, asked.why, actor=caller.actor, now_s=now_s)

    found = core.writer.run_now(job)
    core.refresh_standing()
    return _node(found)


@router.patch("/nodes/{id}", responses=_CHANGE_ONE, tags=["nodes"])
def describe(core: TheCore, caller: Operator, id: NodeId, asked: models.Describe) -> models.NodeTold:
    """Give a node another name or other tags."""
    now_s = core.clock()

    def job(conn: Any) -> nodes.Node:
        before = nodes.find_node(conn, id) or not_found("node")
        if asked.name is not None and asked.name != before.name and nodes.is_taken(conn, asked.name):
            raise Refused(409, f"another node is called {asked.name!r}")
        return nodes.describe(conn, id, name=asked.name, tags=asked.tags, actor=caller.actor, now_s=now_s)

    return _node(core.writer.run_now(job))


@router.post("/enrolments", status_code=201, responses=_CHANGE, tags=["nodes"])
def make_enrolment(core: TheCore, caller: Operator, asked: models.MakeEnrolment) -> models.EnrolmentMade:
    """A token that lets one node in. It is shown in this answer and never again."""
    now_s = core.clock()

    def job(conn: Any) -> str:
        if asked.name is not None and nodes.is_taken(conn, asked.name):
            raise Refused(409, f"another node is called {asked.name!r}")
        token = enrol.make_token(
            conn, core.authority, now_s=now_s, actor=caller.actor, name=asked.name or "", tags=asked.tags,
            life_s=asked.life_s,
        )  # fmt: skip
        return str(token)

    return models.EnrolmentMade(token=core.writer.run_now(job), expires_s=now_s + asked.life_s)


@router.get("/tokens", responses=_errors(401, 403), tags=["tokens"])
def list_tokens(core: TheCore, caller: SignedIn) -> list[models.TokenTold]:
    """API tokens: an operator sees all, a viewer the own ones."""
    with core.database.read() as conn:
        rows = people.list_tokens(conn, None if caller.may_change else caller.name)
    return [
        models.TokenTold(
            id=people.token_id(row.token_hash), person=row.person, name=row.name, role=row.role,
            created_s=row.created_s, expires_s=row.expires_s, revoked_s=row.revoked_s,
        )
        for row in rows
    ]  # fmt: skip


@router.post("/tokens", status_code=201, responses=_CHANGE, tags=["tokens"])
def make_token(core: TheCore, caller: Operator, asked: models.MakeToken) -> models.TokenMade:
    """An API token of the operator who asks. It is shown in this answer and never again."""
    text = core.writer.run_now(
        lambda conn: people.make_token(
            conn, caller.name, asked.name, asked.role, life_s=asked.life_s, actor=caller.actor, now_s=core.clock()
        )
    )
    return models.TokenMade(id=people.token_id(people.hash_text(text)), token=text)


@router.delete("/tokens/{id}", status_code=204, responses=_errors(401, 403, 404, 422), tags=["tokens"])
def revoke_token(core: TheCore, caller: Operator, id: TokenId) -> None:
    """End an API token."""
    now_s = core.clock()
    if not core.writer.run_now(lambda conn: people.revoke_token(conn, id, actor=caller.actor, now_s=now_s)):
        not_found("token")


@router.get("/people", responses=_errors(401, 403), tags=["people"], dependencies=_OPERATE)
def list_people(core: TheCore) -> list[models.PersonTold]:
    """Everybody who may sign in, or might once."""
    with core.database.read() as conn:
        return [models.PersonTold(**row._mapping) for row in people.list_people(conn)]


@router.post("/people", status_code=201, responses=_CHANGE, tags=["people"])
def add_person(core: TheCore, caller: Operator, asked: models.AddPerson) -> models.PersonTold:
    """Let somebody in."""
    now_s = core.clock()
    hashed = people.hash_password(asked.password)

    def job(conn: Any) -> None:
        if any(row.name == asked.name for row in people.list_people(conn)):
            raise Refused(409, f"there is somebody called {asked.name!r}")
        people.add_person(conn, asked.name, asked.role, hashed, actor=caller.actor, now_s=now_s)

    core.writer.run_now(job)
    return models.PersonTold(name=asked.name, role=asked.role, created_s=now_s, disabled_s=None)


@router.delete("/people/{name}", status_code=204, responses=_errors(401, 403, 404, 409, 422), tags=["people"])
def disable_person(core: TheCore, caller: Operator, name: PersonName) -> None:
    """Let somebody in no more."""
    now_s = core.clock()

    def job(conn: Any) -> None:
        found = [row for row in people.list_people(conn) if row.disabled_s is None]
        if all(row.name != name for row in found):
            not_found("person")
        if [row.name for row in found if row.role == people.OPERATOR] == [name]:
            raise Refused(409, "this is the last operator", do="add another operator before")
        people.disable_person(conn, name, actor=caller.actor, now_s=now_s)

    core.writer.run_now(job)


@router.get("/audit", responses=_READ, tags=["core"], dependencies=_VIEW)
def read_audit(
    core: TheCore,
    before: Annotated[int, Query(ge=1, le=1 << 53)] = 1 << 53,
    limit: Limit = 100,
) -> list[models.AuditTold]:
    """Who did what, newest first; `before` is the id that the page ends at."""
    with core.database.read() as conn:
        return [models.AuditTold(**asdict(entry)) for entry in audit.page(conn, before=before, rows=limit)]


def set_cookie(response: Response, text: str, *, is_secure: bool) -> None:
    """The session's cookie."""
    response.set_cookie(
        COOKIE, text, max_age=int(people.SESSION_S), path="/", secure=is_secure, httponly=True, samesite="strict"
    )


def _node(found: nodes.Node) -> models.NodeTold:
    return models.NodeTold(**asdict(found))
