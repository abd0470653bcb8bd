"""Asking the core: the standard library's client, the core's CA and no other, and this node's certificate.

    client = CoreClient(identity.core, trusting(identity))
    body = client.post("heartbeat", write(beat))

Rules:
- Redirects, compressed answers and answers that are longer than any of ours are refused.
- One connection is kept. A call that cannot be made on it, because the core closed it meanwhile, is made on a new one;
  every call may be made twice without harm.
- A core that trickles is a core that is silent: every call has an end.
- 401 and 403 are a TrustError, 429 and 503 a BusyError with the seconds to wait, other 4xx an InputError.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from edgehone_agent import __version__
from edgehone_agent.errors import BusyError, InputError, RegistryError, StateError, TrustError
from edgehone_agent.uplink.identity import Identity, core_address

TIMEOUT_S = 10.0
PREFIX = "/v1/node/"
MAX_ANSWER_BYTES = 4 << 20
_LEAST_BYTES_PER_S = 1000.0  # a slower link cannot send a whole call
_LONGEST_WAIT_S = 86_400.0
_LONGEST_LINE = 1 << 12
_SILENT_S = 150.0  # the core says something every minute
_ENROL = "enrol it with a new token: edgehone-agent enrol TOKEN --core ADDRESS --again"
_NETWORK = (OSError, http.client.HTTPException)
_CUT_OFF = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)  # RemoteDisconnected is the first of these


def trusting(identity: Identity, *, show: bool = True) -> ssl.SSLContext:
    """A TLS context that trusts the core's CA alone.

    Args:
        identity: of the node.
        show: the node's certificate; False for a call without one.

    Raises:
        StateError: a file is missing or damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(identity.ca_file)
        if show:
            context.load_cert_chain(identity.certificate_file, identity.key_file)
    except OSError as error:  # ssl.SSLError is one
        raise StateError(
            f"the node's certificate cannot be used: {error.strerror or error}", where=str(identity.folder), do=_ENROL
        ) from error
    return context


class CoreClient:
    """The calls of one node. One thread at a time; `interrupt` from any.

    Args:
        core: its address.
        context: whom to trust and who this is.
        timeout_s: how long the core may stay silent.

    Attributes:
        turned_away: the core closed the last connection without a word, as it does when a certificate has run out by
            its own clock.

    Raises:
        ConfigError: this is no address.
    """

    def __init__(self, core: str, context: ssl.SSLContext, *, timeout_s: float = TIMEOUT_S) -> None:
        self._core, self._timeout_s = core, timeout_s
        self._host, self._port = core_address(core)
        self._context = context
        self.turned_away = False
        self._connection: http.client.HTTPSConnection | None = None

    def show(self, context: ssl.SSLContext) -> None:
        """Use another certificate from now on."""
        self.close()
        self._context, self.turned_away = context, False

    def post(self, name: str, body: bytes, content_type: str = "application/json") -> bytes:
        """The body of the core's answer to a call.

        Raises:
            RegistryError: the core cannot be reached, or answers nonsense.
            TrustError: it does not let this node in.
            BusyError: later; `retry_after_s` says when.
            InputError: it does not take this.
        """
        headers = {"Content-Type": content_type}
        with self._named():
            kept = self._connection
            try:
                content = self._call(name, body, headers)
            except _NETWORK as error:
                self.close()
                if kept is None or isinstance(error, TimeoutError):
                    raise
                content = self._call(name, body, headers)
        self.turned_away = False
        return content

    def lines(self) -> Iterator[bytes]:
        """The lines of the wake-up stream, as they come, until it ends. Raises as `post`."""
        with self._named():
            connection = self._connect(_SILENT_S)
            try:
                self._request(connection, "GET", "wake", None, {"Accept": "text/event-stream"})
                response = connection.getresponse()
                if response.status != 200:
                    self._judge(response.status, response.read(_LONGEST_LINE), response.headers)
                while line := response.readline(_LONGEST_LINE):
                    yield line
            finally:
                self.close()

    def interrupt(self) -> None:
        """End what another thread waits for."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            _hang_up(connection.sock)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, name: str, body: bytes, headers: dict[str, str]) -> bytes:
        patience_s = self._timeout_s + len(body) / _LEAST_BYTES_PER_S
        connection = self._connection or self._connect(patience_s)
        if connection.sock is not None:
            connection.sock.settimeout(patience_s)
        watch = threading.Timer(3 * patience_s, self.interrupt)
        watch.daemon = True
        watch.start()
        try:
            self._request(connection, "POST", name, body, headers)
            response = connection.getresponse()
            content = response.read(MAX_ANSWER_BYTES + 1)
        finally:
            watch.cancel()
        if len(content) > MAX_ANSWER_BYTES:
            self.close()
            raise self._nonsense(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
        if response.will_close or not response.isclosed():
            self.close()
        if response.length:
            raise ConnectionError("the answer ended early")
        return self._judge(response.status, content, response.headers)

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        self.close()
        self._connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._context)
        return self._connection

    def _request(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        name: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> None:
        agent = f"edgehone-agent/{__version__}"
        connection.request(method, PREFIX + name, body, {"User-Agent": agent, "Accept-Encoding": "identity", **headers})

    def _judge(self, status: int, content: bytes, headers: Any) -> bytes:
        """The body of a good answer; an error for any other."""
        if status in (200, 204):
            if (headers.get("Content-Encoding") or "identity").lower() != "identity":
                raise self._nonsense("it compresses its answer though asked not to")
            return content
        what, do = _error_in(content)
        where = self._core
        if status in (401, 403):
            raise TrustError(what or "the core does not let this node in", where=where, do=do or _ENROL)
        if status in (429, 503):
            busy = BusyError(what or "the core has too much to do", where=where, do=do or "it is tried again")
            busy.retry_after_s = max(1, round(_seconds(headers.get("Retry-After"))))
            raise busy
        if 400 <= status < 500:
            raise InputError(what or f"the core answers {status}", where=where, do=do)
        raise self._nonsense(what or f"it answers {status}")

    def _nonsense(self, text: str) -> RegistryError:
        return RegistryError(
            f"this is no answer of a core: {text}", where=self._core, do="check the address of the core"
        )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what the network throws into errors that say what to do."""
        try:
            yield
        except _NETWORK as error:
            self.close()
            self.turned_away = isinstance(error, _CUT_OFF) or "CERTIFICATE_EXPIRED" in str(error)
            raise core_error(error, self._core) from error


def core_error(error: OSError | http.client.HTTPException, core: str) -> RegistryError | TrustError:
    """What an error of the network means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return certificate_error(error, core)
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        word = (error.reason or "").lower().replace("_", " ")
        return TrustError(f"the core refuses this node's certificate: {word}", where=core, do=_ENROL)
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    do = "check the address and the network; the node goes on by itself"
    return RegistryError(f"the core cannot be reached: {text}", where=core, do=do)


def certificate_error(error: ssl.SSLCertVerificationError, core: str) -> RegistryError:
    """What is said of a core whose certificate is not accepted."""
    if "expired" in error.verify_message or "not yet valid" in error.verify_message:
        do = "set this machine's clock; if it is right, restart the core, which renews its certificate"
    elif "mismatch" in error.verify_message:
        do = "use a name that the core has, or give it this one: names in core.toml"
    else:
        do = "check the address, and that the token is of this core"
    return RegistryError(f"the core's certificate is not accepted: {error.verify_message}", where=core, do=do)


def _error_in(content: bytes) -> tuple[str, str]:
    """What an error body says, and what to do; empty texts where it is none."""
    try:
        error = json.loads(content[: 64 << 10])["error"]
        what, do = error["what"], error.get("do", "")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "", ""
    if not isinstance(what, str) or not isinstance(do, str):
        return "", ""
    return _plain(what), _plain(do)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:500])


def _seconds(text: str | None) -> float:
    found = re.fullmatch(r"[0-9]{1,6}", text or "")
    return min(float(found[0]), _LONGEST_WAIT_S) if found else 0.0


def _hang_up(connection: socket.socket) -> None:
    """End a connection under the thread that waits for it. TLS is left out: that thread still uses its state."""
    with contextlib.suppress(OSError):  # it is closed already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
