"""One port for everybody: TLS for nodes and browsers, plain HTTP for this machine alone.

Rules:
- The first byte decides: 0x16 begins a TLS handshake, anything else is plain HTTP. Plain HTTP is answered to loopback
  peers only; others get 400 and the connection ends.
- TLS 1.2 or newer. A client certificate is asked for, not required; one that our authority did not sign, or that has
  run out, ends the handshake. What it says reaches the application as `scope["edgehone.peer"]`.
- A connection outlives nothing: handshake, headers, body, idling and writing each have a time (`limits`).
- A program that opens connections and sends nothing costs others nothing: connections without a certificate have
  a bound of their own, and one address may not have all of them. Neither may one node have all connections.
- What comes with a body and is not body (chunk sizes, trailers) is bounded like headers are, and no header afterwards.
- `close` takes no new connections, lets running requests end, and after `drain_s` ends them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from edgehone.service.limits import Limits
from edgehone.service.rates import origin_of
from edgehone_agent.errors import ConfigError
from edgehone_agent.serve.listen import Address, close_listener, open_listener
from edgehone_agent.serve.tls import load_authorities, load_certificate

PEER = "edgehone.peer"
_LOG = logging.getLogger("edgehone.core")
_BACKLOG = 4096
_ACCEPTS = 64  # at once, before running requests get their turn
_TLS_HANDSHAKE = b"\x16"
_RECORD_BYTES = 16 << 10
_SWEEP_S = 1.0
_GOODBYE_S = 0.2
_FRAMING = 8  # bytes for each byte of a body, which chunks of one byte need
_SHUTDOWN_S = 5.0  # for a client to say goodbye in TLS
_OUTSIDE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 38\r\nconnection: close\r\n\r\n"
    b"this port speaks TLS; write https://\r\n"
)
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True)
class Peer:
    """The client certificate of a connection, checked against our authority.

    Attributes:
        node: its common name, the node's id.
        serial: hex, lower case, without leading zeros, as `Issued.serial`.
        not_after_s: when it ends; a connection may last longer.
    """

    node: str
    serial: str
    not_after_s: float


def tls_context(cert: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """A server context that asks for certificates of one authority.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, cert, key)
    load_authorities(context, authority)
    return context


def shrink_buffers() -> None:
    """Let asyncio's TLS keep 16 kB for each connection instead of 256 kB. It holds for the whole process.

    asyncio clears a buffer of `max_size` for each connection, so all of it is memory: 1.3 GB for 5,000 idle streams. A
    TLS record has at most 16 kB, so a larger one saves nothing where requests are short.
    """
    SSLProtocol.max_size = _RECORD_BYTES


@dataclass(frozen=True, eq=False)
class Guest:
    """A connection whose certificate is not known, or that has none."""

    origin: str


class Guests:
    """Those that are here, with a bound on all of them and on those of one address.

    Args:
        most: at once.
        most_of_one: of them, from one address that is not this machine's own.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._here: set[Guest] = set()
        self._of_one: Counter[str] = Counter()

    def admit(self, host: str) -> Guest | None:
        """One more from an address; None when there are too many."""
        origin = origin_of(host)
        if len(self._here) >= self._most or (self._of_one[origin] >= self._most_of_one and not is_loopback(host)):
            return None
        guest = Guest(origin)
        self._here.add(guest)
        self._of_one[origin] += 1
        return guest

    def leave(self, guest: Guest) -> None:
        """It has gone, or shown its certificate. It may be said twice."""
        if guest in self._here:
            self._here.remove(guest)
            self._of_one[guest.origin] -= 1
            if not self._of_one[guest.origin]:
                del self._of_one[guest.origin]


class Connection(HttpToolsProtocol):
    """One HTTP/1.1 connection: uvicorn's, with a peer, deadlines and a bound on headers."""

    def __init__(self, door: Door, guest: Guest) -> None:
        super().__init__(door.config, door.state, {}, door.loop)
        self.access_log = False  # request lines are nobody's business
        self.deadline_s = math.inf  # the loop's clock
        self.write_deadline_s = math.inf
        self.peer: Peer | None = None
        self.guest = guest
        self.was_made = False
        self._door = door
        self._head_bytes = 0
        self._in_head = False
        self._body_bytes = self._wire_bytes = 0  # of a request's body, and of all that came with it
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        self.was_made = True
        self.peer = _peer(transport.get_extra_info("peercert"))
        self.deadline_s = self.loop.time() + self._door.limits.head_s
        super().connection_made(transport)
        self._door.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._door.left(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._head_bytes += len(data)
        self._wire_bytes += len(data)
        super().data_received(data)
        if self._in_body and self._wire_bytes - _FRAMING * self._body_bytes > self._door.limits.head_bytes:
            self.transport.abort()
        if self._in_head and self._head_bytes > self._door.limits.head_bytes and not self.transport.is_closing():
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """See HttpToolsProtocol."""
        super().on_message_begin()
        self.scope[PEER] = self.peer  # type: ignore[literal-required]
        self._in_head, self._head_bytes = True, 0
        self.deadline_s = self.loop.time() + self._door.limits.head_s

    def on_headers_complete(self) -> None:
        """See HttpToolsProtocol."""
        self._in_head, self._in_body = False, True
        self._body_bytes = self._wire_bytes = 0
        self.deadline_s = self.loop.time() + self._door.limits.body_s
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See HttpToolsProtocol. Trailers are dropped: whoever reads headers must not find more of them later."""
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """See HttpToolsProtocol."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See HttpToolsProtocol."""
        self._in_body = False
        self.deadline_s = math.inf
        super().on_message_complete()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.write_deadline_s = self.loop.time() + self._door.limits.write_s
        super().pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.write_deadline_s = math.inf
        super().resume_writing()


class Door:
    """The listeners of a core. Make it inside a running loop, `open` it, and `close` it in the end.

    Args:
        app: an ASGI 3 application; it is not told about its lifespan.
        context: of TLS; see `tls_context`.
        limits: bounds.
    """

    def __init__(self, app: Callable[..., Any], context: ssl.SSLContext, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.config = Config(
            app, lifespan="off", ws="none", log_config=None, access_log=False, interface="asgi3",
            server_header=False, proxy_headers=False, timeout_keep_alive=int(limits.idle_s),
        )  # fmt: skip
        self.config.load()
        self.state = ServerState()
        self.refused = 0  # connections that were closed because there are too many
        self._context = context
        self._listeners: list[socket.socket] = []
        self._arriving: set[asyncio.Task[None]] = set()
        self._guests = Guests(limits.strangers, limits.strangers_of_one)
        self._of_node: Counter[str] = Counter()
        self._open: set[Connection] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self, addresses: Sequence[Address]) -> tuple[tuple[str, int], ...]:
        """Listen, and return host and port of each listener.

        Raises:
            ConfigError: an address is in use or not on this machine.
        """
        self._tell_date()
        for address in addresses:
            if address.path:
                raise ConfigError("the core listens on a host and a port", where=str(address), do="write 0.0.0.0:7443")
            listener = open_listener(address)
            listener.listen(_BACKLOG)  # 5,000 nodes may come back at once
            self._listeners.append(listener)
            self.loop.add_reader(listener.fileno(), self._accept, listener)
        self._sweeper = self.loop.create_task(self._sweep())
        return tuple(listener.getsockname()[:2] for listener in self._listeners)

    async def close(self) -> None:
        """Take no new connections, and end the old ones: at once where idle, after `drain_s` at the latest."""
        for listener in self._listeners:
            self.loop.remove_reader(listener.fileno())
            close_listener(listener)
        self._listeners.clear()
        for task in self._arriving:
            task.cancel()
        for connection in list(self._open):
            connection.shutdown()
        deadline_s = self.loop.time() + self.limits.drain_s
        while self.state.tasks and self.loop.time() < deadline_s:
            await asyncio.sleep(0.02)
        rest = list(self.state.tasks)
        for request in rest:
            request.cancel()
        await asyncio.gather(*rest, *self._arriving, return_exceptions=True)
        for connection in list(self._open):
            if not connection.transport.is_closing():  # closing twice would make abort below do nothing
                connection.transport.close()
        await self._until_empty(_GOODBYE_S)  # TLS says goodbye
        for connection in list(self._open):
            connection.transport.abort()
        await self._until_empty(_GOODBYE_S)
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def _until_empty(self, most_s: float) -> None:
        deadline_s = self.loop.time() + most_s
        while self._open and self.loop.time() < deadline_s:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # the sockets themselves

    @property
    def connections(self) -> int:
        """Open now, handshakes not included."""
        return len(self._open)

    def arrived(self, connection: Connection) -> None:
        """Count a connection whose handshake is over, and end it when its node has too many."""
        self._open.add(connection)
        if connection.peer is None:
            return
        self._guests.leave(connection.guest)
        self._of_node[connection.peer.node] += 1
        if self._of_node[connection.peer.node] > self.limits.node_connections:
            self.refused += 1
            connection.transport.abort()

    def left(self, connection: Connection) -> None:
        """Count it no more."""
        self._open.discard(connection)
        self._guests.leave(connection.guest)
        if connection.peer is not None:
            self._of_node[connection.peer.node] -= 1
            if not self._of_node[connection.peer.node]:
                del self._of_node[connection.peer.node]

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, where = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files: those that are open go on, and new ones wait a second
                _LOG.warning("cannot take connections: %s", error.strerror)
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(1.0, self._resume, listener)
                return
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host = str(where[0])
            is_full = len(self._open) + len(self._arriving) >= self.limits.connections
            guest = None if is_full else self._guests.admit(host)
            if guest is None:
                self.refused += 1
                client.close()
                continue
            task = self.loop.create_task(self._welcome(client, host, Connection(self, guest)))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self.loop.add_reader(listener.fileno(), self._accept, listener)

    async def _welcome(self, client: socket.socket, host: str, connection: Connection) -> None:
        """Decide between TLS and plain HTTP, and hand the socket to a protocol."""
        try:
            async with asyncio.timeout(self.limits.handshake_s):
                first = await self._first_byte(client)
            if first == _TLS_HANDSHAKE:
                await self.loop.connect_accepted_socket(
                    lambda: connection,
                    client,
                    ssl=self._context,
                    ssl_handshake_timeout=self.limits.handshake_s,
                    ssl_shutdown_timeout=_SHUTDOWN_S,
                )
            elif first and is_loopback(host):
                await self.loop.connect_accepted_socket(lambda: connection, client)
            else:
                if first:
                    client.recv(1 << 16)  # unread bytes would make the system reset the connection before the answer
                    client.send(_OUTSIDE)
                client.close()
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            _LOG.debug("a connection from %s came to nothing: %s", host, error)
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise
        finally:
            if not connection.was_made:
                self._guests.leave(connection.guest)

    async def _first_byte(self, client: socket.socket) -> bytes:
        """The first byte, which stays in the socket; b"" when the peer closed it."""
        with contextlib.suppress(BlockingIOError):
            return client.recv(1, socket.MSG_PEEK)
        readable = self.loop.create_future()
        self.loop.add_reader(client.fileno(), _wake, readable)
        try:
            await readable
        finally:
            self.loop.remove_reader(client.fileno())
        return client.recv(1, socket.MSG_PEEK)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._tell_date()
            now_s = self.loop.time()
            for connection in [c for c in self._open if c.deadline_s < now_s or c.write_deadline_s < now_s]:
                connection.transport.abort()

    def _tell_date(self) -> None:
        self.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, as the system names it: "127.0.0.1", "::1", "::ffff:127.0.0.1"."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _peer(certificate: dict[str, Any] | None) -> Peer | None:
    """What a checked certificate says; None without one."""
    if not certificate:
        return None
    names = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
    if len(names) != 1:
        return None
    serial = certificate["serialNumber"].lower().lstrip("0")
    return Peer(names[0], serial, float(ssl.cert_time_to_seconds(certificate["notAfter"])))
