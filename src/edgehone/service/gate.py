"""Who may call the people's API: sign-in, sessions, tokens, and what a browser must not be tricked into.

Rules:
- A token comes as `Authorization: Bearer`, a session as a cookie that scripts cannot read and other sites cannot send.
- A changing request of a session repeats the session's CSRF token in `X-CSRF-Token`. One that says that it comes from
  another site is refused.
- Plain HTTP is for this machine: a request that calls us by any other name comes from a page that was made to.
"""

from __future__ import annotations

import hmac
import threading
import urllib.parse
from typing import Annotated, NoReturn

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from edgehone.service import people
from edgehone.service.answers import Refused
from edgehone.service.core import Core
from edgehone.service.listen import is_loopback
from edgehone.service.people import Caller
from edgehone.service.rates import Buckets, origin_of

COOKIE = "edgehone_session"
CSRF_HEADER = "x-csrf-token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_bearer = HTTPBearer(auto_error=False, description="an API token: edgehone core token, or POST /v1/tokens")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="a session: POST /v1/sign-in")


def core_of(request: Request) -> Core:
    """The core that serves a request."""
    core: Core = request.app.state.core
    return core


def find_caller(core: Core, token: str | None, cookie: str | None) -> Caller | None:
    """Who sent a token or a cookie; None for nobody that is known. A token that is there counts alone."""
    if token is None and not cookie:
        return None
    with core.database.read() as conn:
        if token is not None:
            return people.caller_of_token(conn, token, core.clock())
        return people.caller_of_session(conn, cookie or "", core.clock())


def signed_in(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    cookie: Annotated[str | None, Depends(_cookie)],
) -> Caller:
    """A dependency: whoever is signed in. Refuses with 401 others, with 403 a forged request."""
    has_header = "authorization" in request.headers
    token = bearer.credentials if bearer is not None else "" if has_header else None
    caller = find_caller(core_of(request), token, cookie)
    if caller is None:
        raise Refused(401, "sign in first", do="POST /v1/sign-in, or send an API token")
    if request.method not in SAFE:
        check_csrf(request, caller, request.headers.get(CSRF_HEADER, ""))
    return caller


def operator(caller: Annotated[Caller, Depends(signed_in)]) -> Caller:
    """A dependency: an operator. Refuses with 403 a viewer."""
    if not caller.may_change:
        raise Refused(403, "only an operator may do this", do="ask one")
    return caller


SignedIn = Annotated[Caller, Depends(signed_in)]
Operator = Annotated[Caller, Depends(operator)]
TheCore = Annotated[Core, Depends(core_of)]


def check_csrf(request: Request, caller: Caller, given: str) -> None:
    """Refuse a changing request that its session did not mean. Forms give the token in a field of theirs.

    Raises:
        Refused: with 403.
    """
    check_origin(request)
    if caller.csrf is not None and not hmac.compare_digest(caller.csrf.encode(), given.encode("utf-8", "replace")):
        raise Refused(403, "the CSRF token is missing or wrong", do="load the page again")


def check_origin(request: Request) -> None:
    """Refuse what another site's page sends. Raises Refused with 403."""
    origin = request.headers.get("origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc != request.headers.get("host", ""):
        raise Refused(403, "this request comes from another site", do="use the core's own pages")


def check_host(scheme: str, host: str) -> None:
    """Refuse plain HTTP by a name that is not this machine's: a name of another site may lead here (DNS rebinding).

    Raises:
        Refused: with 403.
    """
    if scheme == "https":
        return
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if name != "localhost" and not is_loopback(name):
        raise Refused(403, "plain HTTP is answered on localhost only", do="write https://, or http://localhost")


class SignIns:
    """How often somebody may try a password, per name and per address."""

    def __init__(self, core: Core) -> None:
        limits = core.limits
        self._core = core
        self._tries = Buckets(limits.sign_ins / limits.sign_in_window_s, limits.sign_ins)
        self._at_once = threading.BoundedSemaphore(limits.sign_ins_at_once)  # others' requests need threads, too

    def sign_in(self, name: str, password: str, host: str) -> tuple[str, Caller]:
        """A session, and the text for its cookie. Call it from a thread that may wait.

        Raises:
            TrustError: name or password is wrong.
            Refused: with 429, too many tries.
        """
        if not self._at_once.acquire(blocking=False):
            raise Refused(429, "too many people sign in at once", do="try again in a moment", wait_s=1.0)
        try:
            return self._sign_in(name, password, host)
        finally:
            self._at_once.release()

    def _sign_in(self, name: str, password: str, host: str) -> tuple[str, Caller]:
        core, now_s = self._core, self._core.clock()
        keys = (f"address {origin_of(host)}", f"name {name}")  # a refused address costs names nothing
        for key in keys:
            if wait_s := self._tries.take(key, now_s):
                raise Refused(429, "too many tries", do="wait as long as Retry-After says", wait_s=wait_s)
        with core.database.read() as conn:
            hashed = people.password_of(conn, name)
        people.check_password(password, hashed)
        for key in keys:
            self._tries.give(key)
        return core.writer.run_now(lambda conn: people.open_session(conn, name, core.clock(), checked=hashed))


def not_found(what: str) -> NoReturn:
    """Refuse with 404."""
    raise Refused(404, f"there is no such {what}")
