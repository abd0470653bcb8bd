"""How a node gets in: a token that a person made, good once, for a certificate that is renewed ever after.

Rules:
- The core keeps only the SHA-256 of a token's secret. A secret has 160 random bits, so its hash can be looked up.
- A token makes one node. Shown again with the same key, before it expires, it gives that node another certificate,
  because the first answer may have been lost; shown with another key it is refused.
- A wrong, used or expired token is refused in the same words. The service answers all of them after the same time.
- A token that nobody has used can be withdrawn. People know it by the first digits of its hash.
- A renewed certificate does not end the old one, which runs out by itself within its short life.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from edgehone.errors import InputError
from edgehone.fleet.authority import NODE_LIFE_S, Authority, Issued, certified_key, request_key
from edgehone.fleet.nodes import ACTIVE, REVOKED, check_tags, is_taken
from edgehone.records import audit
from edgehone.records.tables import certificate, enrolment, node
from edgehone_agent.errors import TrustError
from edgehone_agent.wire.uplink import Enrol, Enrolled, JoinToken

TOKEN_LIFE_S = 3600.0
LONGEST_TOKEN_LIFE_S = 30 * 86_400.0
_SECRET_BYTES = 20
_ID_DIGITS, _SHORTEST_ID = 16, 4


@dataclass(frozen=True)
class Unused:
    """A token that waits for its node.

    Attributes:
        id: the first digits of its hash; nothing can be enrolled with it.
        name: what the node will be called; "" lets the node say.
        tags: that it will get.
        created_by, created_s: who made it, and when.
        expires_s: when it ends by itself.
    """

    id: str
    name: str
    tags: Mapping[str, str]
    created_by: str
    created_s: float
    expires_s: float


def make_token(
    conn: Connection,
    authority: Authority,
    *,
    now_s: float,
    actor: str,
    name: str = "",
    tags: Mapping[str, str] | None = None,
    life_s: float = TOKEN_LIFE_S,
) -> JoinToken:
    """A token that lets one node in. Its text is returned here and never again.

    Args:
        authority: whose fingerprint the node is to trust.
        actor: "person:NAME" or "core".
        name: what the node will be called; "" lets the node say.
        tags: that it gets.
        life_s: how long the token is good.

    Raises:
        InputError: tags that are no short texts, a name that a node has, or a life that makes no sense.
    """
    if not 0 < life_s <= LONGEST_TOKEN_LIFE_S:
        raise InputError("a token lives up to 30 days", where="life", do="choose a shorter time")
    if not (len(name) <= 100 and (not name or name.isprintable())):
        raise InputError("this is no name for a node", where="name", do="write up to 100 printable characters")
    if name and is_taken(conn, name):
        raise InputError(f"another node is called {name!r}", where="name", do="choose another name")
    secret = secrets.token_hex(_SECRET_BYTES)
    conn.execute(
        insert(enrolment).values(
            token_hash=_hash(secret), name=name, tags=check_tags(tags or {}),
            created_by=actor, created_s=now_s, expires_s=now_s + life_s,
        )
    )  # fmt: skip
    detail = {"name": name, "tags": dict(tags or {}), "life_s": life_s}
    audit.record(conn, now_s=now_s, actor=actor, action="enrolment.make", subject=name or "-", detail=detail)
    return JoinToken(secret, authority.fingerprint)


def token_id(token_hash: str) -> str:
    """What a token is called where people see it."""
    return token_hash[:_ID_DIGITS]


def list_unused(conn: Connection, now_s: float) -> list[Unused]:
    """Tokens that would let a node in, the newest first."""
    waits = (enrolment.c.used_s.is_(None), enrolment.c.expires_s > now_s)
    rows = conn.execute(select(enrolment).where(*waits).order_by(enrolment.c.created_s.desc(), enrolment.c.token_hash))
    return [_unused(row) for row in rows]


def withdraw(conn: Connection, id: str, *, actor: str, now_s: float) -> Unused:
    """End a token that nobody has used.

    Args:
        id: of the token, or its first digits.

    Raises:
        InputError: no unused token begins so, or several do.
    """
    found = [one for one in list_unused(conn, now_s) if len(id) >= _SHORTEST_ID and one.id.startswith(id)]
    if len(found) != 1:
        raise InputError(
            "several unused tokens begin so" if found else "no unused token begins so", where=f"token {id[:64]!r}",
            do="`edgehone fleet tokens` lists them; a node that has used its token is shut out with its state",
        )  # fmt: skip
    one = found[0]
    mine = delete(enrolment).where(enrolment.c.token_hash.startswith(one.id), enrolment.c.used_s.is_(None))
    if conn.execute(mine).rowcount != 1:  # its node was faster
        raise InputError("the token was used a moment ago", where=f"token {one.id}", do="look at the list of nodes")
    detail = {"id": one.id, "tags": dict(one.tags), "made_by": one.created_by}
    audit.record(conn, now_s=now_s, actor=actor, action="enrolment.withdraw", subject=one.name or "-", detail=detail)
    return one


def enrol(
    conn: Connection, authority: Authority, message: Enrol, now_s: float, *, life_s: float = NODE_LIFE_S
) -> Enrolled:
    """Let a node in.

    Raises:
        InputError: the certificate request cannot be used; the token is still good.
        TrustError: the token is wrong, used or expired, or of another core.
    """
    key = request_key(message.csr)  # before the token is looked at, so that a bad request does not cost it
    try:
        token = JoinToken.parse(message.token)
    except InputError:
        raise _refused() from None
    hashed = _hash(token.secret)
    row = conn.execute(select(enrolment).where(enrolment.c.token_hash == hashed)).one_or_none()
    if row is None or row.expires_s <= now_s or token.fingerprint != authority.fingerprint:
        raise _refused()
    if row.used_s is not None:
        return _again(conn, authority, row, message, key, now_s, life_s)
    id = secrets.token_hex(8)
    used = update(enrolment).where(enrolment.c.token_hash == hashed, enrolment.c.used_s.is_(None))
    if conn.execute(used.values(used_s=now_s, node=id)).rowcount != 1:  # another process was faster
        raise _refused()
    name = _free_name(conn, row.name or message.name, id)
    conn.execute(
        insert(node).values(
            id=id, name=name, tags=row.tags, state=ACTIVE, why="", facts=dict(message.facts), enrolled_s=now_s,
            status={}, beats=0,
        )
    )  # fmt: skip
    issued = issue(conn, authority, id, message.csr, now_s, life_s)
    detail = {"name": name, "serial": issued.serial}
    audit.record(conn, now_s=now_s, actor=f"node:{id}", action="node.enrol", subject=id, detail=detail)
    return Enrolled(id, issued.pem, authority.pem, row.tags, name)


def renew(
    conn: Connection, authority: Authority, id: str, csr: str, now_s: float, *, life_s: float = NODE_LIFE_S
) -> Issued:
    """Another certificate for a node that showed a good one.

    Raises:
        InputError: the certificate request cannot be used.
        TrustError: the node is unknown or revoked.
    """
    state = conn.execute(select(node.c.state).where(node.c.id == id)).scalar_one_or_none()
    if state is None or state == REVOKED:
        raise TrustError("this node is not one of ours", do="enrol it with a new token")
    issued = issue(conn, authority, id, csr, now_s, life_s)
    audit.record(
        conn, now_s=now_s, actor=f"node:{id}", action="node.renew", subject=id, detail={"serial": issued.serial}
    )
    return issued


def _again(
    conn: Connection,
    authority: Authority,
    row: Row[Any],
    message: Enrol,
    key: object,
    now_s: float,
    life_s: float,
) -> Enrolled:
    """The same node asks again with its token: its first answer was lost."""
    pems = conn.execute(select(certificate.c.pem).where(certificate.c.node == row.node)).scalars()
    known = conn.execute(select(node.c.state, node.c.name).where(node.c.id == row.node)).one_or_none()
    if known is None or known.state == REVOKED or not any(certified_key(pem) == key for pem in pems):
        raise _refused()
    issued = issue(conn, authority, row.node, message.csr, now_s, life_s)
    return Enrolled(row.node, issued.pem, authority.pem, row.tags, known.name)


def issue(conn: Connection, authority: Authority, id: str, csr: str, now_s: float, life_s: float) -> Issued:
    """Sign a certificate for a node that was judged before, and keep it. Raises InputError."""
    issued = authority.sign_node(csr, id, now_s, life_s=life_s)
    conn.execute(
        insert(certificate).values(
            serial=issued.serial, node=id, pem=issued.pem,
            not_before_s=issued.not_before_s, not_after_s=issued.not_after_s, why="",
        )
    )  # fmt: skip
    return issued


def _free_name(conn: Connection, wanted: str, id: str) -> str:
    name = wanted or f"node-{id[:6]}"
    if is_taken(conn, name):
        name = f"{name[:80]}-{id}"  # two nodes may well wish for the same name
    return name


def _unused(row: Row[Any]) -> Unused:
    return Unused(token_id(row.token_hash), row.name, row.tags, row.created_by, row.created_s, row.expires_s)


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _refused() -> TrustError:
    return TrustError("the enrolment token is not good", where="token", do="ask for a new one: `edgehone core token`")
