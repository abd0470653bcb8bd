"""A registry on a web server: the standard library's client, one connection that is kept, and downloads that go on.

Rules:
- 200 and 206 carry the file; 403, 404 and 410 say that it is not there; 429 and 5xx mean later; a redirect is refused.
- A cut download goes on where it stopped (`Range`). Where a server answers with the whole file, what is already here is
  skipped; one that answers with another part than was asked for is asked for the whole file from then on.
- A download that gains ground is never given up. One that gains nothing in several attempts in a row raises, keeps what
  it has, and goes on with the next call.
- A server that trickles is a server that is silent: both run into a timeout.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from edgehone_agent import __version__
from edgehone_agent._part import PartFile
from edgehone_agent.errors import ConfigError, RegistryError, TrustError
from edgehone_agent.transport import Progress, checked_path, missing, too_large

_NETWORK = (OSError, http.client.HTTPException)
_NOT_THERE = (403, 404, 410)  # an object store without permission to list says 403
_ATTEMPTS = 4  # in a row that gain nothing
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 60.0
_CHUNK_BYTES = 1 << 16
_LEAST_BYTES_PER_S = 100.0  # a slower link is taken for a silent one; GSM data has ten times this
_PATIENCE = 3  # times the timeout, for an answer to begin, and before its speed is judged


class _LaterError(ConnectionError):
    """The server asks for another attempt after some seconds."""

    def __init__(self, status: int, after_s: float) -> None:
        super().__init__(f"the server answers {status}")
        self.after_s = after_s


class HttpSource:
    """See `edgehone_agent.transport.Source`; the arguments are those of `open_source`."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        ca: Path | None,
        cert: tuple[Path, Path] | None,
        pause: Callable[[float], None],
    ) -> None:
        self.url = url
        self._host, self._port, self._base = _address(url)
        self._context = _tls(url, ca, cert)
        self._timeout_s, self._pause = timeout_s, pause
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:  # made, and not refused half-way
            self._close()

    def find(self, path: str, max_bytes: int) -> bytes | None:
        """See `Source.find`."""
        with self._lock:
            failures = 0
            while True:
                try:
                    return self._read(path, max_bytes)
                except _NETWORK as error:
                    failures += 1
                    self._after(error, failures, path)

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """See `Source.fetch`."""
        content = self.find(path, max_bytes)
        if content is None:
            raise missing(self._where(path))
        return content

    def download(self, path: str, to: Path, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        """See `Source.download`."""
        with self._lock, PartFile(to, size_bytes, sha256) as part:
            was_here = part.have > 0
            self._fill(path, part, progress)
            if was_here and not part.is_right():  # a part can be damaged when the power goes
                part.restart()
                self._fill(path, part, progress)
            part.finish()

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            _hang_up(connection.sock)

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        with self._answer(path, {}) as response:
            if response.status in _NOT_THERE:
                return None
            if response.status != 200:
                raise self._nonsense(path, f"the server answers {response.status}")
            if (response.length or 0) > max_bytes:
                raise too_large(path, max_bytes)
            content = bytearray()
            for chunk in self._chunks(response):
                content += chunk
                if len(content) > max_bytes:
                    raise too_large(path, max_bytes)
            return bytes(content)

    def _fill(self, path: str, part: PartFile, progress: Progress | None) -> None:
        failures, ranges = 0, True
        while part.missing:
            before = part.have
            try:
                ranges = self._go_on(path, part, progress, ranges=ranges)
            except _NETWORK as error:
                failures = 0 if part.have > before else failures + 1
                self._after(error, failures, path)

    def _go_on(self, path: str, part: PartFile, progress: Progress | None, *, ranges: bool) -> bool:
        """One attempt at the rest of a file, and whether the next one may ask for a part of it."""
        asked = part.have if ranges else 0
        with self._answer(path, {"Range": f"bytes={asked}-"} if asked else {}) as response:
            skip = part.have - asked
            if response.status == 200:
                skip = part.have
                if response.length not in (None, part.size_bytes):
                    raise TrustError(
                        f"the file has {response.length} bytes where {part.size_bytes} were signed",
                        where=self._where(path),
                        do="have the registry looked at: this is not the file that was published",
                    )
            elif response.status in _NOT_THERE:
                raise missing(self._where(path))
            elif not asked or response.status not in (206, 416):
                raise self._nonsense(path, f"the server answers {response.status}")
            elif not _is_rest(response, asked, part.size_bytes):
                next(self._chunks(response), b"")  # raises where it is a head that was cut
                return False
            for chunk in self._chunks(response):
                new, skip = chunk[skip:], max(0, skip - len(chunk))
                if new:
                    part.write(new)
                    if progress is not None:
                        progress(part.have, part.size_bytes)
            if part.missing and response.status == 200:
                raise TrustError(
                    f"the file ends after {part.have - skip} of {part.size_bytes} bytes",
                    where=self._where(path),
                    do="have the registry looked at: this is not the file that was published",
                )
            if part.missing:
                raise ConnectionError("the answer ended early")
        return ranges

    @contextmanager
    def _answer(self, path: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """The head of an answer. The connection is kept only where its body was read to the end."""
        reused = self._connection is not None
        try:
            try:
                response = self._ask(path, headers)
            except _NETWORK as error:
                self._close()
                if not reused or isinstance(error, TimeoutError):
                    raise
                response = self._ask(path, headers)  # the server had closed a connection that lay idle
            self._refuse(path, response)
            _check_head(response)
            yield response
            if response.status in _NOT_THERE and (response.length or 0) <= _CHUNK_BYTES:
                for _ in self._chunks(response, _CHUNK_BYTES):
                    pass
        except BaseException:
            self._close()
            raise
        if not response.isclosed():
            self._close()

    def _ask(self, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = (
                http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
                if self._context is None
                else http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._context)
            )
        connection = self._connection
        target = f"{self._base}/{quote(checked_path(path))}"
        agent = f"edgehone-agent/{__version__}"
        connection.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": agent, **headers})
        watch = threading.Timer(_PATIENCE * self._timeout_s, _hang_up, [connection.sock])
        watch.daemon = True
        watch.start()
        try:
            return connection.getresponse()
        finally:
            watch.cancel()

    def _refuse(self, path: str, response: http.client.HTTPResponse) -> None:
        """Raise for an answer that carries no file and does not say that there is none."""
        if 300 <= response.status < 400:
            raise self._nonsense(path, f"the server redirects ({response.status}), and redirects are not followed")
        if response.status == 429 or response.status >= 500:
            raise _LaterError(response.status, _seconds(response.getheader("Retry-After")))
        if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise self._nonsense(path, "the server compresses its answer though asked not to")

    def _chunks(self, response: http.client.HTTPResponse, most_bytes: int | None = None) -> Iterator[bytes]:
        """The body in pieces.

        Raises:
            OSError, HTTPException: the connection was cut, or the server is silent or trickles.
        """
        start, received = time.monotonic(), 0
        while chunk := response.read1(_CHUNK_BYTES):
            received += len(chunk)
            yield chunk
            passed_s = time.monotonic() - start
            if passed_s > _PATIENCE * self._timeout_s and received < passed_s * _LEAST_BYTES_PER_S:
                raise TimeoutError(f"{received} bytes in {passed_s:.0f} seconds")
            if most_bytes is not None and received >= most_bytes:
                return
        if response.length:
            raise ConnectionError("the connection was cut")
        response.read()  # nothing is left; this says so to http.client, which then keeps the connection

    def _after(self, error: OSError | http.client.HTTPException, failures: int, path: str) -> None:
        """Wait before the next attempt, or say that there is none."""
        if isinstance(error, ssl.SSLCertVerificationError):
            raise RegistryError(
                f"the server's certificate is not accepted: {error.verify_message}",
                where=self.url,
                do="check the address and the clock, or give the right certificate authority",
            ) from error
        if failures >= _ATTEMPTS:
            text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise RegistryError(
                f"the registry cannot be reached: {text}",
                where=self._where(path),
                do="check the address and the network; the node goes on by itself",
            ) from error
        wait_s = _FIRST_PAUSE_S * 2**failures * random.uniform(0.5, 1.0)
        self._pause(max(wait_s, error.after_s) if isinstance(error, _LaterError) else wait_s)

    def _nonsense(self, path: str, text: str) -> RegistryError:
        return RegistryError(text, where=self._where(path), do="check the address of the registry, and its web server")

    def _where(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}"

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _address(url: str) -> tuple[str, int, str]:
    """Host, port and path of a registry."""
    parts = urlsplit(url)
    try:
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)  # named: http.client cuts IPv6 hosts otherwise
        host.encode("idna")
        good = bool(host) and not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise ConfigError(
            "this is no address of a registry",
            where=url,
            do="write http:// or https://, a host, and maybe a port and a path; no user, password or query",
        )
    return host, port, quote(parts.path.rstrip("/"), safe="/%")


def _tls(url: str, ca: Path | None, cert: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    if urlsplit(url).scheme != "https":
        if ca is not None or cert is not None:
            raise ConfigError("certificates need https://", where=url, do="change the address, or leave them out")
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(
            f"this is no file of certificates: {error.strerror or error}", where=str(ca), do="give a PEM file"
        ) from error
    if cert is not None:
        try:
            context.load_cert_chain(*cert)
        except OSError as error:
            raise ConfigError(
                f"this certificate and key cannot be used: {error.strerror or error}",
                where=f"{cert[0]}, {cert[1]}",
                do="give a PEM certificate and the key that belongs to it, without a passphrase",
            ) from error
    return context


def _check_head(response: http.client.HTTPResponse) -> None:
    """Notice a head that was cut: http.client takes the end of a connection for the end of a head.

    An answer that does not say where it ends cannot be told from a cut one, so it counts as cut. One that does is whole
    when the first byte of its body is there.
    """
    if response.length is None and not response.chunked:
        raise ConnectionError("the answer does not say how long it is, or was cut")
    if response.length and not response.peek(1):
        raise ConnectionError("the connection was cut")


def _is_rest(response: http.client.HTTPResponse, start: int, size_bytes: int) -> bool:
    """Whether an answer is the part that was asked for, of a file of the right size."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.getheader("Content-Range") or "")
    if response.status != 206 or found is None:
        return False
    first, last, total = int(found[1]), int(found[2]), found[3]
    return first == start and first <= last < size_bytes and total in ("*", str(size_bytes))


def _seconds(text: str | None) -> float:
    """Of a Retry-After header; a date is not looked at, for the clock may be wrong."""
    return min(float(text), _LONGEST_PAUSE_S) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else 0.0


def _hang_up(connection: socket.socket) -> None:
    """End a connection under the thread that waits for it. TLS is left out: that thread still uses its state."""
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return
