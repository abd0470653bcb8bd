"""The label queue: which captured sample a person sees next, and what becomes of what they say.

Rules:
- A sample waits while its reading is here and nobody, on the node or here, has said anything about its answer.
- The most informative come first. A cursor keeps those that were skipped behind the person until they start again.
- What a person says is one feedback event of node "core". A form carries its event's id from the moment it is shown:
  sent twice, by a double click or after a lost answer, it counts once.
- Whoever goes back adds a later event; it outranks the earlier one as everywhere. Nothing is changed or removed.
- `delete` takes the reading from the sample in the same transaction; the blob goes with the next garbage.
- An event's content names the sample's node: prediction ids are unique on one node only.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, or_, select, update

from edgehone.errors import InputError
from edgehone.records import audit
from edgehone.records.database import insert_new
from edgehone.records.tables import feedback, sample
from edgehone.service.answers import Refused
from edgehone_agent.feedback import LONGEST_NAME, read_event

CORE = "core"
KINDS = ("confirm", "correct", "new_class", "delete")


@dataclass(frozen=True)
class Said:
    """What somebody said here about a sample: kind, label or value, who, when."""

    kind: str
    label: str | None
    value: Any
    annotator: str
    time_s: float


@dataclass(frozen=True)
class Progress:
    """Of a task: how many samples wait, how many were labelled here, and how many of those by this person."""

    waiting: int
    done: int
    mine: int


def tasks(conn: Connection) -> list[str]:
    """Tasks that samples were captured for, in order."""
    return list(conn.execute(select(sample.c.task).distinct().order_by(sample.c.task)).scalars())


def progress(conn: Connection, task: str, person: str) -> Progress:
    """How far the labelling of a task is."""
    waiting = conn.execute(select(func.count()).select_from(sample).where(_waits(task))).scalar_one()
    done = select(func.count(func.distinct(feedback.c.prediction))).where(
        feedback.c.node == CORE, feedback.c.task == task
    )
    mine = conn.execute(done.where(feedback.c.annotator == person)).scalar_one()
    return Progress(waiting, conn.execute(done).scalar_one(), mine)


def find(conn: Connection, node: str, id: str) -> Row[Any] | None:
    """A sample; None when there is none."""
    return conn.execute(select(sample).where(sample.c.node == node, sample.c.id == id)).one_or_none()


def waiting(conn: Connection, task: str, *, after: Row[Any] | None = None, limit: int = 2) -> list[Row[Any]]:
    """The next samples of a task; behind the sample `after`, where one is given."""
    query = select(sample).where(_waits(task))
    if after is not None:
        query = query.where(
            or_(
                sample.c.informativeness < after.informativeness,
                and_(sample.c.informativeness == after.informativeness, sample.c.received_s > after.received_s),
                and_(
                    sample.c.informativeness == after.informativeness, sample.c.received_s == after.received_s,
                    or_(sample.c.node > after.node, and_(sample.c.node == after.node, sample.c.id > after.id)),
                ),
            )
        )  # fmt: skip
    order = (sample.c.informativeness.desc(), sample.c.received_s, sample.c.node, sample.c.id)
    return list(conn.execute(query.order_by(*order).limit(limit)).all())


def last_of(conn: Connection, task: str, person: str) -> tuple[str, str] | None:
    """Node and id of the sample that a person labelled last here; None for none that could be labelled again."""
    query = (
        select(feedback)
        .where(feedback.c.node == CORE, feedback.c.task == task, feedback.c.annotator == person)
        .order_by(feedback.c.received_s.desc(), feedback.c.id.desc())
        .limit(1)
    )
    row = conn.execute(query).one_or_none()
    if row is None or row.kind == "delete":
        return None
    return str(row.content.get("node", "")), row.prediction


def said_about(conn: Connection, node: str, id: str) -> list[Said]:
    """What was said about a sample, the newest first: on its node, and here."""
    query = (
        select(feedback)
        .where(feedback.c.prediction == id, feedback.c.node.in_((CORE, node)))
        .order_by(feedback.c.received_s.desc(), feedback.c.id.desc())
        .limit(50)
    )
    return [
        Said(row.kind, row.label, row.value, row.annotator, row.received_s)
        for row in conn.execute(query)
        if row.node == node or row.content.get("node") == node
    ]


def new_event_id() -> str:
    """The id of an event that a form is going to send."""
    return secrets.token_hex(12)


def answer(
    conn: Connection, *, node: str, id: str, event: str, kind: str, label: str, value: str, person: str, now_s: float
) -> bool:
    """Keep what a person says about a sample.

    Args:
        conn: of a transaction that writes.
        node, id: of the sample.
        event: id of the event, from `new_event_id`.
        kind: one of `KINDS`.
        label: the right class, for "correct" and "new_class".
        value: the right numbers, separated by spaces, for "correct" where answers are numbers.
        person: who says so.
        now_s: the core's clock.

    Returns:
        False when this event was known already.

    Raises:
        Refused: 404, no such sample.
        InputError: no such kind, or a label or value that cannot be one.
    """
    found = find(conn, node, id)
    if found is None:
        raise Refused(404, "there is no such sample")
    if kind not in KINDS:
        raise InputError(f"there is no answer {kind!r:.40}", where="label", do=f"use {', '.join(KINDS)}")
    content: dict[str, Any] = {
        "id": event, "prediction_id": id, "kind": kind, "annotator": person, "time": now_s, "node": node,
        "share": found.share,
    }  # fmt: skip
    if kind == "new_class" or (kind == "correct" and not value):
        content["label"] = _label(label)
    elif kind == "correct":
        content["value"] = _numbers(value)
    checked = read_event(content)
    row = {
        "node": CORE, "id": event, "task": found.task, "prediction": id, "kind": kind, "label": content.get("label"),
        "value": content.get("value"), "annotator": person, "trust": 1.0, "time_s": now_s, "received_s": now_s,
        "content": json.loads(checked.content), "quarantined": None,
    }  # fmt: skip
    if not insert_new(conn, feedback, [row], keys=["node", "id"]):
        return False
    if kind == "delete":
        conn.execute(update(sample).where(sample.c.node == node, sample.c.id == id).values(blob=None, size_bytes=0))
    detail = {"node": node, "kind": kind, "label": content.get("label"), "event": event}
    audit.record(conn, now_s=now_s, actor=f"person:{person}", action="sample.label", subject=id, detail=detail)
    return True


def _waits(task: str) -> ColumnElement[bool]:
    """Whether a sample of a task has its reading and no word about it."""
    on_node = exists().where(feedback.c.prediction == sample.c.id, feedback.c.node == sample.c.node)
    here = exists().where(
        feedback.c.prediction == sample.c.id,
        feedback.c.node == CORE,
        feedback.c.content["node"].as_string() == sample.c.node,
    )
    return and_(sample.c.task == task, sample.c.blob.is_not(None), ~on_node, ~here)


def _label(text: str) -> str:
    text = text.strip()
    if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
        raise InputError("this is no name of a class", where="label", do=f"write 1 to {LONGEST_NAME} characters")
    return text


def _numbers(text: str) -> float | list[float]:
    try:
        numbers = [float(one) for one in text.replace(",", " ").split()]
    except ValueError as error:
        raise InputError("this is no number", where="value", do="write numbers with spaces between them") from error
    if not numbers:
        raise InputError("this is no number", where="value", do="write numbers with spaces between them")
    return numbers[0] if len(numbers) == 1 else numbers
