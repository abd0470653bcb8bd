"""Letting a node in: a token that is shown once, with the command for the node, and the tokens that wait.

Rules:
- The token stands in the answer to the form and nowhere else: it is in no address, no cookie and no list.
- A node meets the core under the name that the visitor has used; where that is this machine's own, under the first name
  of the core that other machines can reach.
"""

from __future__ import annotations

import shlex
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection, and_, or_, select

from edgehone.errors import InputError
from edgehone.fleet.enrol import make_token, token_id, withdraw
from edgehone.records.tables import cohort, enrolment, release
from edgehone.service.answers import Refused
from edgehone.service.core import Core
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.visits import Acting, PageRoute, Visitor
from edgehone.service.gate import TheCore
from edgehone.service.listen import is_loopback
from edgehone.service.people import Caller

router = APIRouter(route_class=PageRoute)

HOURS = (1, 8, 24, 168, 720)
MOST_TOKENS = 50
_DAY_S = 86_400.0

Field = Annotated[str, Form(max_length=300)]


@dataclass(frozen=True)
class Made:
    """A token just made: what to type on the node, what it will be called, and how long it is good."""

    command: str
    name: str
    tags: dict[str, str]
    expires_s: float


@router.get("/enrol")
def show(request: Request, core: TheCore, caller: Visitor) -> Response:
    """The form, and the tokens of the last day."""
    return _page(request, core, caller, None)


@router.post("/enrol")
def make(
    request: Request,
    core: TheCore,
    caller: Acting,
    name: Field = "",
    tags: Annotated[str, Form(max_length=2000)] = "",
    task: Annotated[list[str], Form(max_length=100)] = [],  # noqa: B006  read by FastAPI, never changed
    hours: Annotated[int, Form(ge=1, le=720)] = 1,
) -> Response:
    """Make a token and show it, once."""
    now_s, named = core.clock(), name.strip()
    pairs = parse_tags(tags)
    with core.database.read() as conn:
        known = tasks(conn)
    if strange := [one for one in task if one not in known]:
        raise Refused(404, f"there is no task {strange[0]!r:.80}")
    token = core.writer.run_now(
        lambda conn: make_token(
            conn, core.authority, now_s=now_s, actor=caller.actor, name=named, tags=pairs, life_s=hours * 3600.0
        )
    )
    address = core_address(request.headers.get("host", ""), core.place.settings.names)
    words = ["edgehone-agent", "enrol", str(token), "--core", address]
    for one in task:
        words += ["--task", one]
    return _page(request, core, caller, Made(shlex.join(words), named, pairs, now_s + hours * 3600.0))


@router.post("/enrol/withdraw")
def end(core: TheCore, caller: Acting, token: Annotated[str, Form(pattern=r"^[0-9a-f]{16}$")]) -> Response:
    """End a token that nobody has used."""
    now_s = core.clock()
    core.writer.run_now(lambda conn: withdraw(conn, token, actor=caller.actor, now_s=now_s))
    return RedirectResponse("/enrol", 303)


def parse_tags(text: str) -> dict[str, str]:
    """Tags as people write them: KEY=VALUE, with commas, semicolons or line breaks between them.

    Raises:
        InputError: a part without "=", or the same key twice.
    """
    found: dict[str, str] = {}
    for part in text.replace(";", ",").replace("\n", ",").split(","):
        if not (part := part.strip()):
            continue
        key, equals, value = (one.strip() for one in part.partition("="))
        if not (equals and key and value) or key in found:
            raise InputError(f"{part!r:.80} is no tag", where="tags", do="write each once, like site=north, camera=a")
        found[key] = value
    return found


def core_address(host: str, names: Sequence[str]) -> str:
    """The address that a node is to use, https://HOST:PORT.

    Args:
        host: what the browser called the core, HOST or HOST:PORT.
        names: of the core, as its certificate has them.
    """
    try:
        parts = urllib.parse.urlsplit(f"//{host}")
        name, port = parts.hostname or "localhost", parts.port or 443
    except ValueError:
        name, port = "localhost", 443
    if _is_here(name):
        name = next((one for one in names if not _is_here(one)), name)
    return f"https://{f'[{name}]' if ':' in name else name}:{port}"


def tasks(conn: Connection) -> list[str]:
    """Tasks that releases or cohorts are there for, in order."""
    found = {*conn.execute(select(release.c.task)).scalars(), *conn.execute(select(cohort.c.task)).scalars()}
    return sorted(found)


def _is_here(name: str) -> bool:
    return name == "localhost" or is_loopback(name)


def _page(request: Request, core: Core, caller: Caller, made: Made | None) -> Response:
    now_s = core.clock()
    with core.database.read() as conn:
        was_used = enrolment.c.used_s > now_s - _DAY_S
        waits = and_(enrolment.c.used_s.is_(None), enrolment.c.expires_s > now_s)
        order = (enrolment.c.used_s.is_not(None), enrolment.c.created_s.desc())  # those that can be withdrawn first
        query = select(enrolment).where(or_(was_used, waits)).order_by(*order).limit(MOST_TOKENS)
        tokens, known = conn.execute(query).all(), tasks(conn)
    return page(
        request, "enrol.html.j2", caller, title="Enrol a node", tokens=tokens, made=made, tasks=known, hours=HOURS,
        token_id=token_id,
    )  # fmt: skip
