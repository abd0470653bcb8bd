"""The label queue: one captured sample at a time, answered with a key."""

from __future__ import annotations

import string
import urllib.parse
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection, Row

from edgehone.service.core import Core
from edgehone.service.dashboard import queue
from edgehone.service.dashboard.classes import Kind, kind_of, new_classes
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.readings import MOST_PIXELS
from edgehone.service.dashboard.views.node import show_samples
from edgehone.service.dashboard.visits import Acting, PageRoute, Visitor
from edgehone.service.gate import TheCore, not_found

router = APIRouter(route_class=PageRoute)

TAKEN = "dnsu"  # keys that mean something else
KEYS = string.digits + "".join(letter for letter in string.ascii_lowercase if letter not in TAKEN)
_LARGE = 320  # pixels that a small picture is blown up to

Text = Annotated[str, Query(max_length=300)]
Field = Annotated[str, Form(max_length=300)]


@router.get("/label")
def show(
    request: Request, core: TheCore, caller: Visitor, task: Text = "", after: Text = "", at: Text = ""
) -> Response:  # fmt: skip
    """The next sample of a task behind `after`, or the sample `at` once more; both are "NODE/ID"."""
    with core.database.read() as conn:
        tasks = queue.tasks(conn)
        task = task if task in tasks else tasks[0] if tasks else ""
        row, following = _choose(conn, task, after, at)
        values: dict[str, Any] = {"task": task, "tasks": tasks, "after": after, "again": bool(at), "shown": None}
        if task:
            values["progress"] = queue.progress(conn, task, caller.name)
            values["last"] = _name(queue.last_of(conn, task, caller.name))
        if row is not None:
            values |= _shown(core, conn, row)
        values["following"] = show_samples(core, conn, following)
    return page(request, "label.html.j2", caller, title="Label", event=queue.new_event_id(), **values)


@router.post("/label")
def answer(
    core: TheCore,
    caller: Acting,
    node: Field,
    id: Field,
    event: Annotated[str, Form(pattern=r"^[0-9a-f]{24}$")],
    kind: Field,
    label: Field = "",
    value: Annotated[str, Form(max_length=20_000)] = "",
    after: Field = "",
) -> Response:
    """Keep what was said, and go on to the next."""
    kind, _, chosen = kind.partition(":")  # a button says "correct:seven"
    now_s = core.clock()

    def job(conn: Connection) -> str:
        found = queue.find(conn, node, id) or not_found("sample")
        queue.answer(
            conn, node=node, id=id, event=event, kind=kind, label=chosen or label, value=value, person=caller.name,
            now_s=now_s,
        )  # fmt: skip
        return str(found.task)

    wanted = {"task": core.writer.run_now(job)} | ({"after": after} if after else {})
    return RedirectResponse(f"/label?{urllib.parse.urlencode(wanted)}", 303)


def _choose(conn: Connection, task: str, after: str, at: str) -> tuple[Row[Any] | None, list[Row[Any]]]:
    """The sample to show, and the one that comes next."""
    if at:
        return _find(conn, at) or not_found("sample"), []
    found = queue.waiting(conn, task, after=_find(conn, after) if after else None) if task else []
    return (found[0] if found else None), found[1:]


def _shown(core: Core, conn: Connection, row: Row[Any]) -> dict[str, Any]:
    kind = kind_of(conn, core.place.registry, row.task, row.digest)
    (shown,) = show_samples(core, conn, [row])
    names = kind.names(row.answer)
    extra = tuple(name for name in new_classes(conn, row.task) if name not in names)
    choices = [*names, *extra] if kind.is_classes(row.answer) else []
    keys = [*KEYS, *([""] * max(0, len(choices) - len(KEYS)))]
    large = max(1, min(MOST_PIXELS, _LARGE) // max(shown.look.width, shown.look.height, 1))
    return {
        "shown": shown,
        "key": f"{row.node}/{row.id}",
        "choices": list(zip(keys, choices, _shares(kind, row.answer, len(choices)), strict=False)),
        "width": shown.look.width * large,
        "height": shown.look.height * large,
        "said": queue.said_about(conn, row.node, row.id),
        "is_classes": bool(choices),
    }


def _shares(kind: Kind, answer: list[float], count: int) -> list[float | None]:
    """How much of its belief the model put on each choice, where the answers are shares that add up to one."""
    is_shares = kind.is_classes(answer) and len(answer) > 1 and min(answer) >= 0 and abs(sum(answer) - 1) < 0.02
    return [answer[at] if is_shares and at < len(answer) else None for at in range(count)]


def _find(conn: Connection, key: str) -> Row[Any] | None:
    node, _, id = key.partition("/")
    return queue.find(conn, node, id)


def _name(pair: tuple[str, str] | None) -> str:
    return "" if pair is None else f"{pair[0]}/{pair[1]}"
