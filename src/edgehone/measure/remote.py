"""Measuring on a node that is not this machine: files go to its measuring service, the same figures come back.

    found = measure_remote("https://pi:7444", {"a": content}, runtime="litert", rounds=40, token=token, cafile=ca)
    found.latency["a"].median_us

The service is `edgehone-agent measure`. Rules:
- Nothing is sent to another machine without TLS, nor before its certificate is accepted: signed by `cafile`, or by an
  authority of the system, or the very one that `fingerprint` names.
- A service without room is asked again after the time it gives. A cut connection is made anew. Asking twice does no
  harm: a job that nobody asks about is dropped.
- Files of one call are measured in one run, so `ratio` and `ranks` hold between them, and between no others.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import BundleError, BusyError, ConfigError, EdgehoneError, HostError, InputError
from edgehone_agent.measure.latency import LatencyResult
from edgehone_agent.wire.measuring import PATH, Candidate, MeasuredFile, MeasureRequest, Told, read_about, read_told

Progress = Callable[[str], None]

_PORT = 7444
_TIMEOUT_S = 30.0
_MAX_ANSWER_BYTES = 64 << 20
_ATTEMPTS = 4
_PAUSE_S = 0.5
_LONGEST_WAIT_S = 60.0
_NETWORK = (OSError, http.client.HTTPException)
_CUT_OFF = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)


@dataclass(frozen=True)
class RemoteResult:
    """What a node found.

    Attributes:
        files: name → its figures.
        machine: where, as `describe_machine` says it.
        url: of the node's service.
    """

    files: Mapping[str, MeasuredFile]
    machine: Mapping[str, Any]
    url: str

    @property
    def latency(self) -> dict[str, LatencyResult]:
        """Name → latency, as `measure_latency` gives it."""
        return {name: found.latency for name, found in self.files.items()}


class MeasuringNode:
    """The measuring service of a node. One thread at a time; close it, or use it in a `with`.

    Args:
        url: "https://HOST:PORT", or http:// on this machine.
        token: what the service wants to be shown.
        cafile: PEM file of who signed its certificate; None for the authorities of the system.
        fingerprint: sha256 of its certificate in hex; takes the place of an authority where no `cafile` is given.
        patience_s: how long to go on asking a service that has no room.
        pause: waits for some seconds.

    Raises:
        ConfigError: no address, plain HTTP to another machine, a file or fingerprint that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        cafile: Path | None = None,
        fingerprint: str | None = None,
        patience_s: float = 600.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._host, self._port, secure = _address(url)
        if not secure and (cafile is not None or fingerprint is not None):
            raise ConfigError("a certificate needs https://", where=url, do="change the address, or leave it out")
        self._pin = None if fingerprint is None else _digest(fingerprint)
        self._context = _context(cafile, pinned=self._pin is not None) if secure else None
        self._token, self._patience_s, self._pause = token, patience_s, pause
        self._connection: http.client.HTTPConnection | None = None

    def about(self) -> dict[str, Any]:
        """What the service says of itself: runtimes with versions, machine, limits.

        Raises:
            ConfigError: it does not accept the token, or its certificate is not accepted.
            HostError: it cannot be reached, or is no such service.
        """
        with self._understood():
            return read_about(self._ask("GET", PATH))

    def measure(self, request: MeasureRequest, progress: Progress | None = None) -> RemoteResult:
        """Have files measured, and wait for it.

        Args:
            request: what.
            progress: called about every second with what is going on, in words; what it raises ends the job.

        Raises:
            ModelFileError: a runtime refuses a file or dies on it.
            InputError: the service refuses the request, for example because it is too long.
            BusyError: it had no room for `patience_s`.
            ConfigError, HostError: as `about`.
        """
        say = progress or (lambda _: None)
        told = self._send(request, say)
        try:
            while told.state in ("waiting", "measuring"):
                before = f", {told.before} job{'s' if told.before != 1 else ''} before ours" if told.before else ""
                say(f"{told.state}{before}")
                with self._understood():
                    told = read_told(self._ask("GET", f"{PATH}/{told.id}"))
        except BaseException:  # also Ctrl-C: the node need not go on
            with contextlib.suppress(EdgehoneError):
                self._ask("DELETE", f"{PATH}/{told.id}")
            raise
        if told.error is not None:
            raise told.error
        if told.files is None or told.machine is None or set(told.files) != {file.name for file in request.files}:
            raise self._nonsense("it measured other files")
        return RemoteResult(told.files, told.machine, self.url)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> MeasuringNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: MeasureRequest, say: Progress) -> Told:
        most = self.about()["limits"]["bytes"]  # a wrong token or a file too long is known before it is sent
        size = sum(len(file.content) for file in request.files)
        if size > most:
            raise InputError(
                f"the files have {size} bytes, and the node takes {most}",
                where=self.url,
                do="start it with --max-bytes",
            )
        body, waited_s = request.to_bytes(), 0.0
        while True:
            try:
                with self._understood():
                    return read_told(self._ask("POST", PATH, body))
            except BusyError as busy:
                if waited_s >= self._patience_s:
                    raise
                for _ in range(busy.retry_after_s):
                    say("the node has no room yet")
                    self._pause(1.0)
                    waited_s += 1.0

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of a good answer."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                status, headers, content = self._once(method, path, body)
                break
            except _NETWORK as error:
                self.close()
                if isinstance(error, ssl.SSLError) or attempt == _ATTEMPTS:
                    raise self._unreachable(error) from error
                self._pause(_PAUSE_S * attempt)
        if status in (200, 202):
            return content
        raise self._refused(status, headers, content)

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self._connection = self._connection or self._connect()
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        with contextlib.suppress(*_CUT_OFF):  # refused at its head: the answer is there, the rest was not wanted
            connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read(_MAX_ANSWER_BYTES + 1)
        if response.will_close or len(content) > _MAX_ANSWER_BYTES:
            self.close()
        if len(content) > _MAX_ANSWER_BYTES:
            raise self._nonsense("it is too long")
        if response.length:
            raise ConnectionError("the answer ended early")
        return response.status, response.headers, content

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=self._context)
        connection.connect()
        if self._pin is not None:
            shown = connection.sock.getpeercert(binary_form=True) or b""
            if not hmac.compare_digest(hashlib.sha256(shown).digest(), self._pin):
                connection.close()
                raise ConfigError(
                    "the node shows another certificate than the fingerprint says",
                    where=self.url,
                    do="take the fingerprint from the node's own log; nothing was sent",
                )
        return connection

    def _refused(self, status: int, headers: http.client.HTTPMessage, content: bytes) -> EdgehoneError:
        said, code = _said(content)
        if status == 401:
            return ConfigError(
                "the node does not accept this token", where=self.url, do="give the file that the node was started with"
            )
        if status == 429 or (status == 503 and code == BusyError.code):
            busy = BusyError(said or "the node has no room", where=self.url, do="try again later")
            busy.retry_after_s = _seconds(headers.get("Retry-After"))
            return busy
        if status in (400, 413):
            return InputError(said or f"the node answers {status}", where=self.url)
        if status == 404:
            do = "is it edgehone-agent measure? If so it was restarted: run this again"
            return HostError(said or "there is nothing of the kind", where=self.url, do=do)
        return HostError(said or f"the node answers {status}", where=self.url)

    def _unreachable(self, error: Exception) -> EdgehoneError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConfigError(
                f"the node's certificate is not accepted: {error.verify_message}",
                where=self.url,
                do="give its authority with --ca, or its --fingerprint, and a name that stands in it",
            )
        text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return HostError(
            f"the node cannot be reached: {text}", where=self.url, do="check the address, and that the service runs"
        )

    def _nonsense(self, text: str) -> HostError:
        return HostError(f"this is no answer of a measuring service: {text}", where=self.url, do="check the address")

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except BundleError as error:
            raise self._nonsense(error.what) from error


def measure_remote(
    url: str,
    files: Mapping[str, bytes],
    *,
    runtime: str | Mapping[str, str],
    rounds: int = 40,
    threads: int = 1,
    fresh_repeats: int = 0,
    inputs: NDArray[np.float32] | None = None,
    token: str | None = None,
    cafile: Path | None = None,
    fingerprint: str | None = None,
    progress: Progress | None = None,
) -> RemoteResult:
    """Measure files on a node in one run, see the module's rules.

    Args:
        url: of its service.
        files: name → content.
        runtime: for all files, or name → runtime.
        rounds: of the latency, 5 to 1000.
        threads: of each runtime.
        fresh_repeats: processes per file for memory and cold start; 0 leaves both out.
        inputs: (N, *input shape) float32 in torch order; a digest of every file's answers comes back.
        token, cafile, fingerprint: see `MeasuringNode`.
        progress: see `MeasuringNode.measure`.

    Raises:
        ModelFileError, InputError, BusyError, ConfigError, HostError: as `MeasuringNode.measure`.
    """
    request = MeasureRequest(
        tuple(
            Candidate(name, runtime if isinstance(runtime, str) else runtime[name], content)
            for name, content in files.items()
        ),
        rounds,
        threads,
        fresh_repeats,
        inputs,
    )
    with MeasuringNode(url, token=token, cafile=cafile, fingerprint=fingerprint) as node:
        return node.measure(request, progress)


def _address(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether TLS is spoken."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or _PORT
        good = bool(host) and parts.scheme in ("http", "https") and parts.path in ("", "/")
        good = good and not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good:
        raise ConfigError("this is no address of a node", where=url, do="write https://HOST:PORT")
    if parts.scheme == "http" and not _is_here(host):
        raise ConfigError("plain HTTP is for this machine", where=url, do="write https://, and give --ca")
    return host, port, parts.scheme == "https"


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _context(cafile: Path | None, *, pinned: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"this is no file of certificates: {error.strerror or error}", where=str(cafile), do="give a PEM file"
        ) from error
    if pinned and cafile is None:  # the fingerprint says who it is, before anything is sent
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _digest(fingerprint: str) -> bytes:
    text = fingerprint.lower().removeprefix("sha256:").replace(":", "").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ConfigError("this is no sha256 fingerprint", where=fingerprint, do="give 64 hexadecimal digits")
    return bytes.fromhex(text)


def _said(content: bytes) -> tuple[str, str]:
    """Text and code of a refusal; empty where it is none."""
    try:
        data = json.loads(content[: 64 << 10])
        text, code = str(data["error"]), str(data.get("code", ""))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "", ""
    return "".join(letter if letter.isprintable() else " " for letter in text[:500]), code


def _seconds(text: str | None) -> int:
    found = re.fullmatch(r"[0-9]{1,6}", text or "")
    return max(1, int(min(float(found[0]), _LONGEST_WAIT_S))) if found else 1
