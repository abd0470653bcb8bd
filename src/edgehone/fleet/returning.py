"""A node that was away until its certificate ran out comes back by itself, within a time of grace.

Rules:
- It proves that it has the key of its last certificate: a certificate request that this key signed, with a challenge
  that this core gave out within the last minute and takes once. One that was overheard or kept is worth nothing.
- It gets a certificate for the same key. So whoever copied a request gets nothing that it could use.
- Only a certificate that we issued, of a node that is not revoked, and that is not revoked itself.
- A node that was heard of after this certificate had run out has another one. Then who asks is a copy of it, or the
  node was set back: it is refused, and stands in the audit. Two copies that come back in one moment show as any do, by
  the nonces of their heartbeats.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from cryptography import x509
from cryptography.x509.oid import AttributeOID
from sqlalchemy import Connection, select

from edgehone.fleet.authority import DAY_S, NODE_LIFE_S, Authority, Issued, certified_key, request_key
from edgehone.fleet.enrol import issue
from edgehone.fleet.nodes import REVOKED
from edgehone.records import audit
from edgehone.records.tables import audit as audit_table
from edgehone.records.tables import certificate, node
from edgehone_agent.errors import BusyError, TrustError
from edgehone_agent.wire.returning import Return

GRACE_S = 90 * DAY_S
CHALLENGE_S = 60.0
_MOST_SPENT = 100_000
_RECORD_EVERY_S = 3600.0
_AGAIN = "enrol it with a new token"


class Challenges:
    """Challenges of one process: given out without being remembered, taken once.

    Args:
        life_s: how long one is good.
    """

    def __init__(self, life_s: float = CHALLENGE_S) -> None:
        self._life_s = life_s
        self._secret = secrets.token_bytes(32)
        self._spent: dict[str, float] = {}  # → when it would have ended

    def make(self, now_s: float) -> str:
        """A new one."""
        ends = f"{max(0, int((now_s + self._life_s) * 1000)):016x}{secrets.token_hex(16)}"
        return ends + self._seal(ends)

    def spend(self, text: str, now_s: float) -> bool:
        """Whether it is one of ours that is good now and was not spent; it is spent from now on.

        Raises:
            BusyError: too many were spent within their life.
        """
        body, seal = text[:48], text[48:]
        if not hmac.compare_digest(self._seal(body).encode(), seal.encode("utf-8", "replace")) or text in self._spent:
            return False
        ends_s = int(body[:16], 16) / 1000
        if not now_s < ends_s <= now_s + self._life_s:  # a clock that was set back ends them too
            return False
        if len(self._spent) >= _MOST_SPENT:
            self._spent = {one: until_s for one, until_s in self._spent.items() if until_s > now_s}
            if len(self._spent) >= _MOST_SPENT:
                raise BusyError("too many nodes come back at once", do="ask again a minute later")
        self._spent[text] = ends_s
        return True

    def _seal(self, body: str) -> str:
        return hmac.new(self._secret, body.encode("utf-8", "replace"), sha256).hexdigest()[:32]


def challenge_in(csr: str) -> str:
    """The challenge of a certificate request whose signature was checked; "" without one.

    Raises:
        InputError: as `authority.request_key`.
    """
    request_key(csr)
    try:
        value = x509.load_pem_x509_csr(csr.encode()).attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD)
        return value.value.decode("ascii")
    except (x509.AttributeNotFound, ValueError):
        return ""


def take_back(
    conn: Connection,
    authority: Authority,
    message: Return,
    now_s: float,
    *,
    grace_s: float = GRACE_S,
    life_s: float = NODE_LIFE_S,
) -> Issued | TrustError:
    """Another certificate for a node whose last one has run out. The challenge was spent before.

    Args:
        grace_s: how long after its end a certificate is still good for this.
        life_s: of the new one.

    Returns:
        The certificate, or an error to be raised once what was recorded is on disk.

    Raises:
        InputError: the request cannot be used.
        TrustError: no certificate of ours by this key.
    """
    key = request_key(message.csr)
    row = conn.execute(
        select(certificate.c.node, certificate.c.pem, certificate.c.not_after_s, certificate.c.revoked_s)
        .where(certificate.c.serial == message.serial)
    ).one_or_none()  # fmt: skip
    if row is None or certified_key(row.pem) != key:
        raise TrustError("this is no certificate of ours, or not by this key", do=_AGAIN)
    known = conn.execute(select(node.c.state, node.c.seen_s).where(node.c.id == row.node)).one_or_none()
    if known is None or known.state == REVOKED or row.revoked_s is not None:
        return TrustError("the certificate of this node is revoked", do=_AGAIN)
    if row.not_after_s + grace_s <= now_s:
        days = grace_s / DAY_S
        return TrustError(f"the certificate of this node ran out more than {days:g} days ago", do=_AGAIN)
    if known.seen_s is not None and known.seen_s > row.not_after_s:
        _record_copy(conn, row.node, message.serial, now_s)
        return TrustError("this node has another certificate by now: this one is a copy, or was set back", do=_AGAIN)
    issued = issue(conn, authority, row.node, message.csr, now_s, life_s)
    detail = {"serial": issued.serial, "before": message.serial, "late_s": round(max(0.0, now_s - row.not_after_s))}
    audit.record(conn, now_s=now_s, actor=f"node:{row.node}", action="node.return", subject=row.node, detail=detail)
    return issued


def _record_copy(conn: Connection, id: str, serial: str, now_s: float) -> None:
    """Once an hour: it may ask again and again."""
    last_s = conn.execute(
        select(audit_table.c.time_s)
        .where(audit_table.c.subject == id, audit_table.c.action == "node.copy")
        .order_by(audit_table.c.id.desc())
        .limit(1)
    ).scalar()
    if last_s is None or not 0 <= now_s - last_s < _RECORD_EVERY_S:
        audit.record(
            conn, now_s=now_s, actor=f"node:{id}", action="node.copy", subject=id, detail={"serial": serial}
        )  # fmt: skip


def check_challenge(challenges: Challenges, csr: str, now_s: float) -> None:
    """Spend the challenge of a request.

    Raises:
        TrustError: it has none that is good.
        InputError, BusyError: as `challenge_in` and `Challenges.spend`.
    """
    if not challenges.spend(challenge_in(csr), now_s):
        raise TrustError("the request holds no challenge that is good", do="ask for another, and sign it at once")
