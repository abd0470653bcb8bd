"""The life of a server: open the listeners, accept, watch the deadlines, and stop without dropping what runs.

    stop = asyncio.Event()
    await serve(host, ["127.0.0.1:8000", "unix:/run/agent.sock"], stop=stop)

Sockets are accepted here and not by asyncio's own server, whose number of open connections and of unfinished TLS
handshakes has no bound. Nor by its `sock_accept`: one that is cancelled while a client comes loses the client and
complains. A listener that is watched can be let go at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

from edgehone_agent.serve.host import Host
from edgehone_agent.serve.http import Connection
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.listen import Address, close_listener, open_listener, parse_addresses
from edgehone_agent.serve.routes import Routes
from edgehone_agent.serve.tls import Tls
from edgehone_agent.serve.traffic import Traffic

log = logging.getLogger("edgehone_agent.serve")

_SPARE_CONNECTIONS = 16  # above the bound: they are told 503; more are closed without a word
_ACCEPT_RETRY_S = 0.1  # when the system has no file descriptor left
_ACCEPT_AT_ONCE = 16  # then those who are connected have their turn


async def serve(
    host: Host,
    listen: Sequence[str],
    *,
    tls: Tls | None = None,
    limits: Limits | None = None,
    stop: asyncio.Event,
    ready: Callable[[list[str]], None] | None = None,
) -> None:
    """Serve `host` until `stop` is set; then answer what runs, for up to `limits.drain_s`.

    Args:
        host: the node.
        listen: addresses like "127.0.0.1:8000" or "unix:/run/agent.sock"; port 0 takes a free one.
        tls: for every TCP listener; needed for those that can be reached from outside.
        limits: bounds; the defaults suit a small node.
        stop: set it to end; may be set by a signal.
        ready: called once with the addresses when all of them are listened on.

    Raises:
        ConfigError: an address or a file of `tls` cannot be used, or an address is open to others without TLS.
    """
    limits = limits or Limits()
    addresses = parse_addresses(listen, has_tls=tls is not None)
    context = tls.context() if tls else None
    server = Server(host, limits)
    listeners: list[tuple[socket.socket, ssl.SSLContext | None]] = []
    watch = asyncio.create_task(server.watch())
    try:
        opened = []
        for address in addresses:
            listener = open_listener(address)
            listeners.append((listener, None if address.path else context))
            opened.append(_opened(address, listener))
        for one in listeners:
            server.listen(*one)
        log.info("listening on %s", ", ".join(opened), extra={"listen": opened})
        if ready is not None:
            ready(opened)
        await stop.wait()
    finally:
        for listener, _ in listeners:
            server.let_go(listener)
            close_listener(listener)
        await server.drain()
        watch.cancel()
        await asyncio.wait((watch,))
        log.info("stopped")


def _opened(address: Address, listener: socket.socket) -> str:
    if address.path:
        return str(address)
    return str(Address(address.host, listener.getsockname()[1]))


class Server:
    """What the connections of one `serve` share. Lives on the event loop."""

    def __init__(self, host: Host, limits: Limits) -> None:
        self._limits = limits
        self._traffic = Traffic()
        self._routes = Routes(host, limits, self._traffic)
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._sockets = 0  # accepted and not yet closed, TLS handshakes included
        self._handshakes: set[asyncio.Task[None]] = set()
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}  # listeners to look at again
        self._held_bytes = 0
        self._is_draining = False
        self.now = self._loop.time

    def listen(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Take clients of a listener, which does not block, until `let_go`."""
        self._loop.add_reader(listener, self._accept, listener, context)

    def let_go(self, listener: socket.socket) -> None:
        """Take no more clients of a listener; it may be closed then."""
        waiting = self._resting.pop(listener, None)
        if waiting is not None:
            waiting.cancel()
        self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # none is left, or it has gone already
                return
            except OSError as error:
                log.warning("cannot accept a connection: %s", error)
                self._loop.remove_reader(listener)
                self._resting[listener] = self._loop.call_later(_ACCEPT_RETRY_S, self._go_on, listener, context)
                return
            if self._sockets >= self._limits.connections + _SPARE_CONNECTIONS:
                client.close()
                continue
            client.setblocking(False)
            self._sockets += 1
            task = self._loop.create_task(self._take(client, context, self._sockets <= self._limits.connections))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _go_on(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        del self._resting[listener]
        self.listen(listener, context)

    async def _take(self, client: socket.socket, context: ssl.SSLContext | None, is_welcome: bool) -> None:
        connection = Connection(self, self._routes, self._limits, is_welcome=is_welcome)
        timeout_s = self._limits.header_timeout_s if context else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, client, ssl=context, ssl_handshake_timeout=timeout_s
            )
        except OSError as error:  # no TLS, no certificate, a wrong one, or too slow
            log.info("refused a client: %s", error)
        finally:
            if not connection.was_opened:
                self._sockets -= 1

    async def watch(self) -> None:
        """Enforce the deadlines of all connections until cancelled."""
        limits = self._limits
        shortest_s = min(
            limits.header_timeout_s, limits.body_timeout_s, limits.idle_timeout_s, limits.write_timeout_s, 4.0
        )
        while True:
            await asyncio.sleep(shortest_s / 4)
            now = self.now()
            for connection in tuple(self._connections):
                connection.check(now)

    async def drain(self) -> None:
        """Close what is idle, let the rest end, cut what is left after `drain_s`."""
        self._is_draining = True
        await asyncio.sleep(0)  # a client that was accepted just now is known after this
        for connection in tuple(self._connections):
            connection.drain()
        until = self.now() + self._limits.drain_s
        while self._connections and self.now() < until:
            await asyncio.sleep(0.01)
        handshakes = tuple(self._handshakes)
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.abort()
        self._routes.close()
        await asyncio.sleep(0)  # let the transports close their sockets

    def opened(self, connection: Connection) -> None:
        """A connection stands."""
        self._connections.add(connection)
        self._traffic.connections = len(self._connections)
        if self._is_draining:
            connection.drain()

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._sockets -= 1
        self._traffic.connections = len(self._connections)

    def hold(self, size: int) -> bool:
        """Count `size` bytes of bodies as held, or as free again when negative. False when there is no room."""
        if size > 0 and self._held_bytes + size > self._limits.buffered_bytes:
            return False
        self._held_bytes += size
        return True
