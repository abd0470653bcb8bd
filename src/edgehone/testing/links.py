"""A web server that can continue a file, and a link in front of it that is cut at chosen bytes. Both real, on loopback.

with serving(folder) as server, CutLink(server.port, cuts=[1000, 70_000]) as link:
    open_source(f"http://127.0.0.1:{link.port}")...
    link.sent_bytes
"""

from __future__ import annotations

import fcntl
import re
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

_CHUNK_BYTES = 1 << 16


class RangeHandler(SimpleHTTPRequestHandler):
    """Python's own file server, quiet, with kept connections and `Range: bytes=N-`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A file, or the rest of one."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        start, size = int(wanted[1]), path.stat().st_size
        if start >= size:
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            self.copyfile(file, self.wfile)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error here."""


@contextmanager
def serving(
    folder: Path,
    *,
    handler: type[SimpleHTTPRequestHandler] = RangeHandler,
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Serve a folder on loopback; gives the port."""
    server = _Server(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class CutLink:
    """A link to a server on this machine that breaks after given numbers of bytes, then holds.

    Args:
        port: of the server.
        cuts: after how many further bytes towards the client each break comes.
        reset: whether a break is a reset; else the link ends politely in the middle.
        pause_s: how long the link rests after each 16 kB, so that somebody else can act meanwhile.

    Attributes:
        port: to connect to.
        sent_bytes: that went to the client, heads included.
        breaks: how often it broke.
    """

    def __init__(self, port: int, cuts: Sequence[int], *, reset: bool = True, pause_s: float = 0.0) -> None:
        self._server_port, self._cuts, self._reset, self._pause_s = port, list(cuts), reset, pause_s
        self._piece_bytes = 1 << 14 if pause_s else _CHUNK_BYTES
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent_bytes, self.breaks = 0, 0
        self._left = self._cuts.pop(0) if self._cuts else None
        self._thread = threading.Thread(target=self._accept)
        self._closing = False

    def __enter__(self) -> CutLink:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()  # wakes the accepting thread
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closing:
                client.close()
                return
            self._carry(client)

    def _carry(self, client: socket.socket) -> None:
        """One connection at a time, as a node uses it."""
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server, suppress(OSError):
            while not self._closing:
                ready, _, _ = select.select([client, server], [], [], 0.02)
                if client in ready:
                    if not (chunk := client.recv(_CHUNK_BYTES)):
                        return
                    server.sendall(chunk)
                if server in ready and not self._pass_on(server, client):
                    return

    def _pass_on(self, server: socket.socket, client: socket.socket) -> bool:
        """Send a piece to the client, and say whether the link still holds."""
        chunk = server.recv(self._piece_bytes if self._left is None else min(self._piece_bytes, self._left))
        client.sendall(chunk)
        time.sleep(self._pause_s)
        self.sent_bytes += len(chunk)
        if self._left is None:
            return bool(chunk)
        self._left -= len(chunk)
        if self._left > 0:
            return bool(chunk)
        self.breaks += 1
        self._left = self._cuts.pop(0) if self._cuts else None
        if self._reset:
            _wait_for_arrival(client)  # a reset throws away what was not sent yet, and that never crossed the link
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def _wait_for_arrival(sender: socket.socket) -> None:
    """Until the other side's kernel has everything, or for a second."""
    for _ in range(1000):
        if not struct.unpack("i", fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)))[0]:
            return
        time.sleep(0.001)
