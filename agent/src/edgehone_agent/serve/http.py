"""One HTTP/1.1 connection: bytes to requests, responses to bytes, within bounds.

A connection is idle, reading a head, reading a body, or discarding what still comes after a refusal. Rules:
- One request at a time is answered, in order; while it is, nothing more is read.
- Each state has a deadline that `check` enforces. A late head or body gets 408.
- More head or body than `Limits` allow is refused at once, before it is held in memory: 431 and 413. A body must say
  its length (411): chunks could not be refused in time, and no client of the protocol sends them.
- After a refusal the client may still be sending. Closing right away would make the system throw the refusal away with
  it, so what comes is read and dropped for up to `_LINGER_S`.
- A page of a browser (it sends Origin) is refused: any web site could otherwise reach the loopback interface. So is a
  name of a host that a name server could let lead here, for a page that does not have to send Origin: on TCP without
  TLS, Host is an address or localhost.
- A header that means something here and comes twice is refused: who stands in between may read the other one.

httptools does the parsing. This class takes the place of uvicorn, which bounds neither heads nor slow clients, and
takes almost twice as long per request, more than the budget: benchmarks/serving.py runs both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from edgehone_agent.errors import BusyError, InputError
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.listen import leads_here
from edgehone_agent.serve.routes import Request, Response, Routes, refusal

if TYPE_CHECKING:
    from edgehone_agent.serve.app import Server

_LINGER_S = 2.0
_MAX_PIPELINED = 64
_IDLE, _HEAD, _BODY, _DISCARDING = range(4)
_DEFECT = refusal(500, "the node has a defect; its log has the details", "EH000")
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_KEPT = frozenset((b"inference-header-content-length", b"content-encoding"))


class Connection(asyncio.Protocol):
    """Made for every socket that is accepted; lives on the event loop."""

    def __init__(self, server: Server, routes: Routes, limits: Limits, *, is_welcome: bool) -> None:
        self._server = server
        self._routes = routes
        self._limits = limits
        self._is_welcome = is_welcome
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self.was_opened = False
        self._deadline = 0.0
        self._waiting: deque[Request] = deque()
        self._is_busy = False  # a request is on a lane
        self._is_paused = False
        self._is_last = False  # after what is waiting, close
        self._can_write = True
        self._checks_host = False
        self._refusal: Response | None = None
        self._state = _IDLE
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._length = 0
        self._expects_continue = False
        self._head_bytes = 0  # of what the parser has handed over
        self._fed_bytes = 0  # of what the parser may still hold

    # ---- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.was_opened = True
        self._transport = transport  # type: ignore[assignment]  # sockets have a Transport
        is_tcp = isinstance(transport.get_extra_info("sockname"), tuple)
        self._checks_host = is_tcp and transport.get_extra_info("sslcontext") is None
        self._server.opened(self)
        self._allow(self._limits.idle_timeout_s)
        if not self._is_welcome:
            self._refuse(refusal(503, f"{self._limits.connections} connections are open", BusyError.code))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """The client is gone; a request that runs ends by itself, and its body counts until then."""
        self._transport = None
        self._release(sum(len(request.body) for request in self._waiting) + self._body_bytes)
        self._waiting.clear()
        self._body_bytes = 0
        self._server.closed(self)

    def eof_received(self) -> bool:
        """The client sends no more; where it waits for an answer and TLS does not forbid it, it gets one."""
        self._is_last = True
        return self._is_busy and self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        """The client takes its answers too slowly."""
        self._can_write = False
        self._allow(self._limits.write_timeout_s)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._can_write = True
        self._allow(self._limits.idle_timeout_s)
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Parse, then answer what is complete."""
        if self._state == _DISCARDING:
            return
        waiting = len(self._waiting)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # after a request that offers another protocol; it gets this one
            self._is_last = True
        except httptools.HttpParserError as error:
            self._deny(400, f"this is no HTTP request: {error}"[:200])
        if self._state == _HEAD and len(self._waiting) == waiting:  # all of `data` is this head's
            self._fed_bytes += len(data)
            self._bound_head(self._fed_bytes)
        self._advance()

    # ---- httptools calls these while it is fed

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._refusal is None:
            self._begin()
            self._state = _HEAD
            self._allow(self._limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        """A piece of the path."""
        self._url += url
        self._head_bytes += len(url)
        self._bound_head(self._head_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header. Only those that mean something here are kept."""
        self._head_bytes += len(name) + len(value) + 4
        self._bound_head(self._head_bytes)
        name = name.lower()
        if name in _KEPT:
            if name in self._headers:
                self._deny(400, f"{name.decode()} is given twice")
            self._headers[name] = value
        elif name == b"content-length":
            self._length = int(value)  # the parser has seen that these are digits
            if self._length > self._limits.body_bytes:
                self._deny(413, f"a body has at most {self._limits.body_bytes} bytes")
        elif name == b"transfer-encoding":
            self._deny(411, "send a Content-Length instead of chunks")
        elif name == b"origin":
            self._deny(403, "pages of a browser may not ask this server")
        elif name == b"host":
            if self._checks_host and not leads_here(value.decode("latin-1")):
                self._deny(403, "Host is neither an address nor localhost; a proxy in front of the node sets it")
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = self._parser.get_http_version() != "1.0"

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._length and self._parser.should_upgrade():  # the parser would skip the body
            self._deny(400, "a request with a body cannot offer another protocol; use HTTP/1.1 alone")
        self._state = _BODY
        self._allow(self._limits.body_timeout_s)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._refusal is not None:
            return
        if not self._server.hold(len(data)):
            self._deny(503, "too many long requests at once", BusyError.code)
            return
        self._body.append(data)
        self._body_bytes += len(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._refusal is not None:
            return
        if len(self._waiting) >= _MAX_PIPELINED:
            self._deny(503, f"more than {_MAX_PIPELINED} requests were sent ahead", BusyError.code)
            return
        self._waiting.append(
            Request(
                self._parser.get_method().decode(),
                _path(self._url.decode("latin-1")),
                self._headers,
                self._body[0] if len(self._body) == 1 else b"".join(self._body),
                self._parser.should_keep_alive(),
            )
        )
        self._begin()
        self._state = _IDLE
        self._allow(self._limits.idle_timeout_s)

    # ---- the server calls these

    def check(self, now: float) -> None:
        """Enforce the deadline."""
        if self._transport is None or now < self._deadline or (self._is_busy and self._can_write):
            return
        if not self._can_write:
            self._transport.abort()
        elif self._state in (_HEAD, _BODY):
            self._refuse(refusal(408, "the rest of the request did not come in time"))
        elif self._transport.is_closing():  # and the client does not take the rest of its answer
            self._transport.abort()
        else:
            self._transport.close()
            self._allow(_LINGER_S)

    def drain(self) -> None:
        """Close as soon as nothing is under way."""
        self._is_last = True
        if self._transport is not None and self._state == _IDLE and not self._is_busy and not self._waiting:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    # ---- answering

    def _advance(self) -> None:
        """Answer what waits until something is on a lane or the client does not keep up, then read on."""
        while self._waiting and not self._is_busy and self._can_write and self._transport is not None:
            self._ask(self._waiting.popleft())
        if self._transport is None or self._state == _DISCARDING:
            return
        if self._refusal is not None and not self._waiting and not self._is_busy:
            self._refuse(self._refusal)
            return
        if self._expects_continue and self._state == _BODY and not self._waiting and not self._is_busy:
            self._expects_continue = False  # now that those before it are answered, and if no body came meanwhile
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        must_pause = self._is_busy or bool(self._waiting) or not self._can_write
        if must_pause != self._is_paused:
            self._is_paused = must_pause
            (self._transport.pause_reading if must_pause else self._transport.resume_reading)()

    def _ask(self, request: Request) -> None:
        answered: Response | asyncio.Future[Response] = _DEFECT
        try:  # a defect gets 500 here, and from asyncio a line in the log and the end of this connection alone
            answered = self._routes.answer(request)
        finally:
            if isinstance(answered, Response):
                self._send(request, answered)
            else:
                self._is_busy = True
                answered.add_done_callback(lambda future: self._settle(request, future))

    def _settle(self, request: Request, future: asyncio.Future[Response]) -> None:
        self._is_busy = False
        response = _DEFECT
        try:
            if not future.cancelled():
                response = future.result()
        finally:
            self._send(request, response)
            self._advance()

    def _send(self, request: Request, response: Response) -> None:
        self._release(len(request.body))
        if self._transport is None:
            return
        if self._state == _IDLE:
            self._allow(self._limits.idle_timeout_s)
        if response is _DEFECT or not request.keep_alive or (self._is_last and not self._waiting):
            self._write(response, closes=True, has_body=request.method != "HEAD")
            self._waiting.clear()
            self._transport.close()
        else:
            self._write(response, closes=False, has_body=request.method != "HEAD")

    def _refuse(self, response: Response) -> None:
        """The last response of a connection whose client may still be sending."""
        if self._transport is None:
            return
        self._routes.record_refusal(response.status)
        self._write(response, closes=True)
        self._release(self._body_bytes)
        self._begin()
        self._state = _DISCARDING
        self._allow(_LINGER_S)
        self._transport.set_protocol(_Discarding(self))
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _write(self, response: Response, *, closes: bool, has_body: bool = True) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
        head = (
            f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\nContent-Type: {response.content_type}\r\n"
            f"Content-Length: {len(response.body)}\r\n{extra}Connection: {'close' if closes else 'keep-alive'}\r\n\r\n"
        )
        if self._transport is not None:
            self._transport.write(head.encode("latin-1") + (response.body if has_body else b""))

    # ---- bounds

    def _allow(self, seconds: float) -> None:
        self._deadline = self._server.now() + seconds

    def _bound_head(self, size: int) -> None:
        if size > self._limits.header_bytes:
            self._deny(431, f"a head has at most {self._limits.header_bytes} bytes")

    def _deny(self, status: int, text: str, code: str = InputError.code) -> None:
        if self._refusal is None:
            self._refusal = refusal(status, text, code)

    def _release(self, size: int) -> None:
        self._server.hold(-size)


class _Discarding(asyncio.BufferedProtocol):
    """A connection after its refusal: all that still comes goes into the same bytes, so none of it costs memory."""

    _SINK = bytearray(1 << 16)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  # asyncio's signature
        """Where the next bytes go."""
        return self._SINK

    def buffer_updated(self, nbytes: int) -> None:
        """They are not looked at."""

    def eof_received(self) -> bool:
        """The client sends no more."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take its refusal."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The client takes it."""
        self._connection.resume_writing()


def _path(url: str) -> str:
    """The path of a request line's target, as it was sent; a whole address ("http://node/v2") has one too.

    Source: RFC 9112, section 3.2.2.
    """
    if not url.startswith("/"):
        scheme, mark, rest = url.partition("://")
        if mark and scheme.lower() in ("http", "https"):
            url = "/" + rest.partition("/")[2]
    return url.partition("?")[0]
