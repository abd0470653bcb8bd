"""The nodes of a fleet: what the core knows of each, and what a person may change about it.

Rules:
- A node is active, quarantined or revoked. A quarantined node serves and reports; nothing from it teaches a model. A
  revoked node is refused; that is for ever, it has to be enrolled again under a new id.
- Every change by a person is an audit record.
- `Standing` is what a request is checked against: small, in memory, read from the database again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select, update

from edgehone.errors import InputError
from edgehone.records import audit
from edgehone.records.tables import certificate, node

ACTIVE, QUARANTINED, REVOKED = "active", "quarantined", "revoked"
MAX_TAGS = 32
LONGEST_TAG = 100


@dataclass(frozen=True)
class Node:
    """One node, as the core knows it.

    Attributes:
        id, name, tags: who it is.
        state, why: active | quarantined | revoked, and the reason.
        facts: machine, runtimes, memory_bytes, agent, and what heartbeats say about the node as a whole: clock_skew_s,
            floors, flags, disk_free_bytes, wrong_nonces. See `fleet.heartbeat`.
        enrolled_s, seen_s: when; None for never.
        status: task → `TaskStatus` of the last heartbeat, JSON.
        beats: heartbeats so far.
    """

    id: str
    name: str
    tags: Mapping[str, str]
    state: str
    why: str
    facts: Mapping[str, Any]
    enrolled_s: float
    seen_s: float | None
    status: Mapping[str, Any]
    beats: int


@dataclass(frozen=True)
class Standing:
    """Who is not simply welcome.

    Attributes:
        serials: of revoked certificates that have not run out.
        nodes: id → state of nodes that are not active.
    """

    serials: frozenset[str] = frozenset()
    nodes: Mapping[str, str] = field(default_factory=dict)

    def refuses(self, name: str, serial: str) -> bool:
        """Whether a certificate is no longer good."""
        return serial in self.serials or self.nodes.get(name) == REVOKED


def standing(conn: Connection, now_s: float) -> Standing:
    """Read who is revoked or quarantined."""
    serials = select(certificate.c.serial).where(
        certificate.c.revoked_s.is_not(None), certificate.c.not_after_s > now_s
    )
    states = select(node.c.id, node.c.state).where(node.c.state != ACTIVE)
    return Standing(frozenset(conn.execute(serials).scalars()), {row.id: row.state for row in conn.execute(states)})


def find_node(conn: Connection, id: str) -> Node | None:
    """A node by its id; None when there is none."""
    row = conn.execute(select(node).where(node.c.id == id)).one_or_none()
    return None if row is None else _node(row)


def list_nodes(conn: Connection, *, after: str = "", limit: int = 1000, state: str | None = None) -> list[Node]:
    """Nodes in the order of their names, those behind the name `after`."""
    query = select(node).where(node.c.name > after).order_by(node.c.name).limit(limit)
    return [_node(row) for row in conn.execute(query if state is None else query.where(node.c.state == state))]


def is_taken(conn: Connection, name: str) -> bool:
    """Whether a node is called so."""
    return conn.execute(select(node.c.id).where(node.c.name == name)).first() is not None


def set_state(conn: Connection, id: str, state: str, why: str, *, actor: str, now_s: float) -> Node:
    """Quarantine a node, take it back, or revoke it with all its certificates.

    Args:
        state: "active", "quarantined" or "revoked".
        why: for people.
        actor: as in the audit: "person:NAME" or "core".

    Raises:
        InputError: no such node, no such state, or the node is revoked and is to come back.
    """
    found = _known(conn, id)
    if state not in (ACTIVE, QUARANTINED, REVOKED):
        raise InputError(f"there is no state {state!r} of a node", do="use active, quarantined or revoked")
    if found.state == REVOKED and state != REVOKED:
        raise InputError("a revoked node does not come back", where=found.name, do="enrol it again with a new token")
    conn.execute(update(node).where(node.c.id == id).values(state=state, why=why))
    if state == REVOKED:
        conn.execute(
            update(certificate)
            .where(certificate.c.node == id, certificate.c.revoked_s.is_(None))
            .values(revoked_s=now_s, why=why)
        )
    action = {ACTIVE: "node.release", QUARANTINED: "node.quarantine", REVOKED: "node.revoke"}[state]
    audit.record(conn, now_s=now_s, actor=actor, action=action, subject=id, detail={"why": why, "before": found.state})
    return _known(conn, id)


def describe(
    conn: Connection, id: str, *, name: str | None, tags: Mapping[str, str] | None, actor: str, now_s: float
) -> Node:
    """Give a node another name or other tags; None leaves what is there.

    Raises:
        InputError: no such node, a name that another one has, or tags that are no short texts.
    """
    found = _known(conn, id)
    values: dict[str, Any] = {}
    if name is not None and name != found.name:
        if not name or is_taken(conn, name):
            raise InputError(f"another node is called {name!r}", where="name", do="choose another name")
        values["name"] = name
    if tags is not None:
        values["tags"] = check_tags(tags)
    if values:
        conn.execute(update(node).where(node.c.id == id).values(**values))
        audit.record(conn, now_s=now_s, actor=actor, action="node.describe", subject=id, detail=values)
    return _known(conn, id)


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The same tags.

    Raises:
        InputError: too many of them, or one that is empty, long or not printable.
    """
    if len(tags) > MAX_TAGS:
        raise InputError(f"a node has at most {MAX_TAGS} tags", where="tags")
    for text in (text for pair in tags.items() for text in pair):
        if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TAG or not text.isprintable():
            raise InputError(f"{text!r:.120} is no tag", where="tags", do=f"write KEY=VALUE, {LONGEST_TAG} characters")
    return dict(tags)


def _known(conn: Connection, id: str) -> Node:
    found = find_node(conn, id)
    if found is None:
        raise InputError("there is no such node", where=id[:64], do="`edgehone core status` lists the nodes")
    return found


def _node(row: Row[Any]) -> Node:
    return Node(
        row.id, row.name, row.tags, row.state, row.why, row.facts, row.enrolled_s, row.seen_s, row.status, row.beats
    )
