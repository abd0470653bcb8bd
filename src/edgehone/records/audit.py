"""The audit log: who did what to what, and when. Rows are added in the transaction of the deed, and never changed.

The database itself refuses to change or remove a row: what an operator reads is what was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select

from edgehone.records.tables import audit

PAGE_ROWS = 100
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Entry:
    """One deed.

    Attributes:
        id: counts up; a later deed has a larger one.
        time_s: seconds since 1970, UTC.
        actor: "person:NAME", "node:ID" or "core".
        action: like "node.enrol" or "rollout.abort".
        subject: what it was done to: a node's id, a rollout's id, a person's name.
        detail: more about it. No secrets.
    """

    id: int
    time_s: float
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


def record(
    connection: Connection, *, now_s: float, actor: str, action: str, subject: str, detail: Mapping[str, Any] = _NOTHING
) -> None:
    """Add a deed, in the transaction that does it: either both are kept or none.

    Raises:
        InputError: `detail` is no JSON, or a text has a NUL.
    """
    row = {"time_s": now_s, "actor": actor, "action": action, "subject": subject, "detail": dict(detail)}
    connection.execute(insert(audit), row)


def page(
    connection: Connection, *, actor: str | None = None, subject: str | None = None, action: str | None = None,
    before: int | None = None, rows: int = PAGE_ROWS,
) -> list[Entry]:  # fmt: skip
    """Deeds, the newest first.

    Args:
        actor: only what this one did.
        subject: only what was done to this.
        action: only deeds of this kind; "rollout." means every kind that begins so.
        before: only deeds older than this id: the `id` of the last entry of the page before.
        rows: at most so many.
    """
    query = select(audit).order_by(audit.c.id.desc()).limit(max(rows, 0))
    if actor is not None:
        query = query.where(audit.c.actor == actor)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if action is not None and action.endswith("."):
        query = query.where(audit.c.action.startswith(action, autoescape=True))
    elif action is not None:
        query = query.where(audit.c.action == action)
    if before is not None:
        query = query.where(audit.c.id < before)
    return [Entry(**row) for row in connection.execute(query).mappings()]


def count(connection: Connection) -> int:
    """How many deeds there are."""
    return connection.scalar(select(func.count()).select_from(audit)) or 0
