"""Small ASGI pieces that the faces of the core share: bodies with a bound, JSON answers, errors as nodes expect."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from edgehone_agent.errors import BusyError, EdgehoneError, HostError, InputError, TrustError

JSON_TYPE = (b"content-type", b"application/json")
_CLASSES: Mapping[int, type[EdgehoneError]] = {401: TrustError, 403: TrustError, 429: BusyError}
_NO_STORE = (b"cache-control", b"no-store")


class Refused(Exception):  # noqa: N818  an answer with a status of its own, not an error of another kind
    """A request that HTTP has a status for.

    Args:
        status: 401, 403, 404, 405, 409, 413 or 429.
        what, do: for people.
        wait_s: when it makes sense to ask again; 0 for never.
    """

    def __init__(self, status: int, what: str, *, do: str = "", wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.status, self.wait_s = status, wait_s
        self.error = _CLASSES.get(status, InputError)(what, do=do)


async def read_body(scope: Mapping[str, Any], receive: Any, most: int) -> bytes:
    """The whole body of a request.

    Raises:
        Refused: it is longer than `most` bytes.
        ConnectionResetError: the client has gone.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > most):
            raise Refused(413, f"the body has more than {most} bytes", do="send less in one call")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError("the client has gone")
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise Refused(413, f"the body has more than {most} bytes", do="send less in one call")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def status_of(error: EdgehoneError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, TrustError):
        return 403
    if isinstance(error, InputError):
        return 400
    return 503 if isinstance(error, HostError) else 500


def error_body(error: EdgehoneError) -> dict[str, Any]:
    """The object that an error is answered with."""
    what = f"{error.where}: {error.what}" if error.where else error.what
    return {"error": {"code": error.code, "what": what, "do": error.do}}


async def answer(send: Any, status: int, body: bytes = b"", *headers: tuple[bytes, bytes]) -> None:
    """Send a whole response; JSON when there is a body."""
    all_headers = [(b"content-length", b"%d" % len(body)), _NO_STORE, *headers]
    if body:
        all_headers.append(JSON_TYPE)
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def answer_error(send: Any, error: EdgehoneError, *, status: int | None = None, wait_s: float = 0.0) -> None:
    """Send an error. `wait_s`: when it makes sense to ask again."""
    if not wait_s and isinstance(error, HostError):
        wait_s = error.retry_after_s if isinstance(error, BusyError) else 5
    headers = [(b"retry-after", b"%d" % max(1, math.ceil(wait_s)))] if wait_s else []
    await answer(send, status or status_of(error), json.dumps(error_body(error)).encode(), *headers)
