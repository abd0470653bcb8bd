"""People and their programs: passwords, sessions, API tokens, roles.

Rules:
- Two roles: a viewer reads, an operator also changes. A token never has a higher role than its person has now.
- Passwords are kept as scrypt hashes that say their own cost, sessions and tokens as SHA-256 of their text, which is
  random. What a browser or a program holds is shown once and never stored.
- A wrong name takes as long as a wrong password, and is answered with the same words.
- A session lives for half a day, a token until its date or its revocation. A disabled person's are worth nothing.
- Trying is limited per name and per address. A success gives the try back.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from edgehone.errors import InputError
from edgehone.records import audit
from edgehone.records.tables import api_token, person, session
from edgehone_agent.errors import TrustError

VIEWER, OPERATOR = "viewer", "operator"
ROLES = (VIEWER, OPERATOR)
SESSION_S = 12 * 3600.0
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1000
TOKEN_PREFIX = "eh_"

_N, _R, _P = 1 << 15, 8, 1  # 32 MiB and about 0.1 s
_HIGHEST_N = 1 << 20
_SALT_BYTES, _HASH_BYTES = 16, 32
_WHO = "`edgehone core person CORE list` names them, `add` adds people"
_AT_ONCE = threading.Semaphore(2)  # hashes: each takes memory and a core


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: of the person.
        role: "viewer" or "operator".
        csrf: that a changing request of this session has to repeat; None for a token, which a browser cannot be made
            to send.
        session: hash of the session's text; None for a token.
    """

    name: str
    role: str
    csrf: str | None = None
    session: str | None = None

    @property
    def actor(self) -> str:
        """As the audit names it."""
        return f"person:{self.name}"

    @property
    def may_change(self) -> bool:
        """Whether this is an operator."""
        return self.role == OPERATOR


def hash_password(password: str) -> str:
    """A self-describing hash: scrypt$n$r$p$salt$hash.

    Raises:
        InputError: the password is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InputError(
            f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters",
            where="password",
            do="take a few random words",
        )
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(password, salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${_text(salt)}${_text(digest)}"


def is_password(password: str, hashed: str) -> bool:
    """Whether a password is the one that was hashed; False for a hash that cannot be read."""
    try:
        kind, n, r, p, salt, digest = hashed.split("$")
        expected = base64.b64decode(digest, validate=True)
        if kind != "scrypt" or not 1 < int(n) <= _HIGHEST_N or len(expected) != _HASH_BYTES:
            return False
        found = _scrypt(password[: LONGEST_PASSWORD + 1], base64.b64decode(salt, validate=True), int(n), int(r), int(p))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(found, expected)


def add_person(conn: Connection, name: str, role: str, hashed: str, *, actor: str, now_s: float) -> None:
    """A new person.

    Args:
        hashed: see `hash_password`; it takes a while, so it is made outside of the transaction.

    Raises:
        InputError: there is one of this name, or no such role.
    """
    if role not in ROLES:
        raise InputError(f"there is no role {role!r}", where="role", do=f"use {' or '.join(ROLES)}")
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise InputError("this is no name", where="name", do="write up to 100 printable characters")
    if conn.execute(select(person.c.name).where(person.c.name == name)).first() is not None:
        raise InputError(f"there is somebody called {name!r}", where="name", do="choose another name")
    conn.execute(insert(person).values(name=name, role=role, password=hashed, created_s=now_s))
    audit.record(conn, now_s=now_s, actor=actor, action="person.add", subject=name, detail={"role": role})


def set_password(conn: Connection, name: str, hashed: str, *, actor: str, now_s: float) -> None:
    """Change a password, and end all sessions of that person.

    Raises:
        InputError: there is nobody of this name.
    """
    if conn.execute(update(person).where(person.c.name == name).values(password=hashed)).rowcount != 1:
        raise InputError(f"there is nobody called {name!r}", where="name", do=_WHO)
    conn.execute(delete(session).where(session.c.person == name))
    audit.record(conn, now_s=now_s, actor=actor, action="person.password", subject=name, detail={})


def disable_person(conn: Connection, name: str, *, actor: str, now_s: float) -> None:
    """Let somebody in no more. What they did stays on record.

    Raises:
        InputError: nobody of this name, or the last operator.
    """
    operators = select(person.c.name).where(person.c.role == OPERATOR, person.c.disabled_s.is_(None))
    if list(conn.execute(operators).scalars()) == [name]:
        raise InputError("this is the last operator", where="name", do="add another operator before")
    if conn.execute(update(person).where(person.c.name == name).values(disabled_s=now_s)).rowcount != 1:
        raise InputError(f"there is nobody called {name!r}", where="name", do=_WHO)
    conn.execute(delete(session).where(session.c.person == name))
    audit.record(conn, now_s=now_s, actor=actor, action="person.disable", subject=name, detail={})


def password_of(conn: Connection, name: str) -> str | None:
    """The hash of somebody who may sign in; None for anybody else."""
    query = select(person.c.password).where(person.c.name == name, person.c.disabled_s.is_(None))
    return conn.execute(query).scalar_one_or_none()


def check_password(password: str, hashed: str | None) -> None:
    """Compare, taking as long when there is nobody to compare with.

    Raises:
        TrustError: name or password is wrong.
    """
    if not is_password(password, hashed or _NOBODY) or hashed is None:
        raise _wrong()


def open_session(conn: Connection, name: str, now_s: float, *, checked: str | None) -> tuple[str, Caller]:
    """A new session of somebody whose password was checked: the text for the cookie, and who it is for.

    Args:
        checked: the hash that the password was compared with.

    Raises:
        TrustError: meanwhile the password was changed, or the person disabled.
    """
    query = select(person.c.role).where(
        person.c.name == name, person.c.disabled_s.is_(None), person.c.password == checked
    )
    role = conn.execute(query).scalar_one_or_none()
    if role is None:
        raise _wrong()
    text, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    hashed = hash_text(text)
    conn.execute(
        insert(session).values(
            token_hash=hashed, person=name, csrf=csrf, created_s=now_s, expires_s=now_s + SESSION_S
        )
    )  # fmt: skip
    audit.record(conn, now_s=now_s, actor=f"person:{name}", action="person.sign-in", subject=name, detail={})
    return text, Caller(name, role, csrf, hashed)


def close_session(conn: Connection, hashed: str) -> None:
    """End a session."""
    conn.execute(delete(session).where(session.c.token_hash == hashed))


def drop_old_sessions(conn: Connection, now_s: float) -> None:
    """Forget sessions that have run out."""
    conn.execute(delete(session).where(session.c.expires_s <= now_s))


def caller_of_session(conn: Connection, text: str, now_s: float) -> Caller | None:
    """Who a cookie belongs to; None for nobody."""
    query = (
        select(session.c.token_hash, session.c.csrf, person.c.name, person.c.role)
        .join_from(session, person)
        .where(session.c.token_hash == hash_text(text), session.c.expires_s > now_s, person.c.disabled_s.is_(None))
    )
    row = conn.execute(query).one_or_none()
    return None if row is None else Caller(row.name, row.role, row.csrf, row.token_hash)


def caller_of_token(conn: Connection, text: str, now_s: float) -> Caller | None:
    """Who an API token belongs to; None for nobody."""
    query = (
        select(person.c.name, person.c.role.label("of_person"), api_token.c.role)
        .join_from(api_token, person)
        .where(
            api_token.c.token_hash == hash_text(text),
            api_token.c.revoked_s.is_(None),
            api_token.c.expires_s.is_(None) | (api_token.c.expires_s > now_s),
            person.c.disabled_s.is_(None),
        )
    )
    row = conn.execute(query).one_or_none()
    if row is None:
        return None
    return Caller(row.name, OPERATOR if row.role == row.of_person == OPERATOR else VIEWER)


def make_token(
    conn: Connection, name: str, label: str, role: str, *, life_s: float | None, actor: str, now_s: float
) -> str:
    """An API token of a person; its text is returned here and never again.

    Args:
        label: what it is for.
        life_s: until it runs out; None for never.

    Raises:
        InputError: no such person or role.
    """
    if role not in ROLES:
        raise InputError(f"there is no role {role!r}", where="role", do=f"use {' or '.join(ROLES)}")
    if password_of(conn, name) is None:
        raise InputError(f"there is nobody called {name!r}", where="name", do=_WHO)
    text = TOKEN_PREFIX + secrets.token_urlsafe(32)
    expires_s = None if life_s is None else now_s + life_s
    hashed = hash_text(text)
    conn.execute(
        insert(api_token).values(
            token_hash=hashed, person=name, name=label, role=role, created_s=now_s, expires_s=expires_s
        )
    )  # fmt: skip
    detail = {"name": label, "role": role, "expires_s": expires_s}
    audit.record(conn, now_s=now_s, actor=actor, action="token.make", subject=token_id(hashed), detail=detail)
    return text


def revoke_token(conn: Connection, id: str, *, actor: str, now_s: float) -> bool:
    """End a token by the first digits of its hash; False when there is none that is good."""
    mine = api_token.c.token_hash.startswith(id, autoescape=True) & api_token.c.revoked_s.is_(None)
    if conn.execute(update(api_token).where(mine).values(revoked_s=now_s)).rowcount < 1:
        return False
    audit.record(conn, now_s=now_s, actor=actor, action="token.revoke", subject=id, detail={})
    return True


def list_tokens(conn: Connection, name: str | None = None) -> Sequence[Any]:
    """Rows of `api_token`, of one person or of all, newest first."""
    query = select(api_token).order_by(api_token.c.created_s.desc()).limit(1000)
    return conn.execute(query if name is None else query.where(api_token.c.person == name)).all()


def list_people(conn: Connection) -> Sequence[Any]:
    """Name, role, created_s and disabled_s of everybody."""
    columns = (person.c.name, person.c.role, person.c.created_s, person.c.disabled_s)
    return conn.execute(select(*columns).order_by(person.c.name)).all()


def hash_text(text: str) -> str:
    """What is kept of a session's or token's text, hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def token_id(hashed: str) -> str:
    """What a token is called where people see it."""
    return hashed[:16]


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    with _AT_ONCE:
        return hashlib.scrypt(
            password.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=_HASH_BYTES
        )


def _wrong() -> TrustError:
    return TrustError("name or password is wrong", where="sign-in", do="try again, or ask an operator")


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


_NOBODY = f"scrypt${_N}${_R}${_P}${_text(bytes(_SALT_BYTES))}${_text(bytes(_HASH_BYTES))}"
