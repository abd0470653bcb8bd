"""The measuring service of a node: model files come in, figures taken on this machine go out.

    stop = asyncio.Event()
    await serve_measuring(MeasuringSettings(), stop=stop)

    GET    /v1/measurements        what this node is, what works here, its bounds
    POST   /v1/measurements        202 and the job: a body as `wire.measuring` says
    GET    /v1/measurements/ID     the job; waits up to `WAIT_S` for it to change
    DELETE /v1/measurements/ID     the job is dropped
    GET    /status  /metrics  /v2/health/live    as every server of the agent

Rules:
- Without TLS it listens on loopback only. Beyond it TLS and a token are needed. TLS guards the token and says who the
  node is; the token says who may send.
- A request without the right token is refused at its head, before its body. So is a job for which there is no room.
- Tokens are compared in constant time and are never logged. Files are given to a runtime in a process of its own, and
  to nothing else. No name from a client is used as a path.
- What is refused is JSON {"error": one line, "code": "EH100"}; 429 carries Retry-After.

Connections, their bounds and deadlines are those of `edgehone_agent.serve`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgehone_agent import __version__
from edgehone_agent.errors import BusyError, ConfigError, InputError
from edgehone_agent.measure.isolated import working_runtimes
from edgehone_agent.measure.jobs import Job, Jobs
from edgehone_agent.measure.machine import describe_machine
from edgehone_agent.serve.app import Server
from edgehone_agent.serve.host import Metric
from edgehone_agent.serve.http import Connection
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.listen import Address, close_listener, open_listener, parse_address
from edgehone_agent.serve.routes import Answered, Request, Response, Routes, refusal
from edgehone_agent.serve.tls import load_certificate
from edgehone_agent.serve.traffic import Traffic
from edgehone_agent.wire.measuring import MAX_FILES, MAX_HEAD_BYTES, MAX_REPEATS, MAX_ROUNDS, PATH

log = logging.getLogger("edgehone_agent.measure")

WAIT_S = 1.0
_MOST_LIMIT_S = 86_400.0
_HEAD_ROOM_BYTES = MAX_HEAD_BYTES + 64
_PARTS = PATH.split("/")[1:]


@dataclass(frozen=True)
class MeasuringSettings:
    """How a measuring service runs.

    Attributes:
        listen: "HOST:PORT"; port 0 takes a free one.
        token: what clients must show; None on loopback for anybody on this machine.
        certificate: PEM files of this node's certificate and of its key; None for plain HTTP.
        queue: jobs that may wait, besides the one that is measured.
        limit_s: for one job.
        max_bytes: files and inputs of one job together.
        connections: open at once.
        abandoned_s: after which a job is dropped that nobody asks about.
    """

    listen: str = "127.0.0.1:7444"
    token: str | None = None
    certificate: tuple[Path, Path] | None = None
    queue: int = 4
    limit_s: float = 300.0
    max_bytes: int = 32 << 20
    connections: int = 16
    abandoned_s: float = 30.0

    def limits(self) -> Limits:
        """Bounds of its connections. Raises ConfigError for a number that makes no sense."""
        most = self.max_bytes + _HEAD_ROOM_BYTES
        return Limits(
            connections=self.connections, body_bytes=most, buffered_bytes=2 * most, queue=self.queue,
            body_timeout_s=120.0, drain_s=1.0,
        )  # fmt: skip


async def serve_measuring(
    settings: MeasuringSettings,
    *,
    stop: asyncio.Event,
    ready: Callable[[str], None] | None = None,
    runtimes: Mapping[str, str] | None = None,
) -> None:
    """Take and measure jobs until `stop` is set; what is measured then is killed.

    Args:
        settings: see there.
        stop: set it to end.
        ready: called once with the address when it is listened on.
        runtimes: name → version of those to offer; None for all that work here.

    Raises:
        ConfigError: the address or the certificate cannot be used, or others could reach it without TLS and a token.
        MissingExtraError: no runtime works here.
    """
    address = _checked(settings)
    context = _context(settings.certificate) if settings.certificate else None
    limits = settings.limits()
    if runtimes is None:
        runtimes = await asyncio.to_thread(working_runtimes)
    with tempfile.TemporaryDirectory(prefix="edgehone-measure-") as folder:
        jobs = Jobs(
            Path(folder), runtimes, queue=settings.queue, limit_s=settings.limit_s, abandoned_s=settings.abandoned_s
        )
        server = _Server(_Host(jobs, settings, runtimes), limits, settings.token)
        listener = open_listener(address)
        working, watching = asyncio.create_task(jobs.work()), asyncio.create_task(server.watch())
        try:
            server.listen(listener, context)
            told = str(Address(address.host, listener.getsockname()[1]))
            log.info("measuring on %s: %s", told, ", ".join(f"{name} {runtimes[name]}" for name in sorted(runtimes)))
            if ready is not None:
                ready(told)
            await stop.wait()
        finally:
            server.let_go(listener)
            close_listener(listener)
            jobs.stop()
            await working
            await server.drain()
            watching.cancel()
            await asyncio.wait((watching,))
            log.info("stopped")


def _checked(settings: MeasuringSettings) -> Address:
    address = parse_address(settings.listen)
    if address.path:
        raise ConfigError("measuring is offered over TCP", where=settings.listen, do="write 127.0.0.1:7444")
    if not address.is_local and (settings.certificate is None or settings.token is None):
        raise ConfigError(
            "others can reach this address, which needs TLS and a token",
            where=settings.listen,
            do="give --tls-cert, --tls-key and --token-file, or listen on 127.0.0.1",
        )
    if not 0 < settings.limit_s < _MOST_LIMIT_S:
        raise ConfigError(f"a job cannot have {settings.limit_s:g} s", where="--limit", do="give for example 300")
    return address


def _context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, *certificate)
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(_first_certificate(certificate[0]))).hexdigest()
    log.info("clients that do not know who signed the certificate may give its fingerprint: %s", digest)
    return context


def _first_certificate(file: Path) -> str:
    """A file of certificates has that of the server first."""
    text = file.read_text("ascii", "replace")
    return text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER)] + ssl.PEM_FOOTER


class _Host:
    """A host without models, for the routes that every server of the agent has. See `serve.host.Host`."""

    def __init__(self, jobs: Jobs, settings: MeasuringSettings, runtimes: Mapping[str, str]) -> None:
        self.jobs = jobs
        self._settings, self._runtimes = settings, dict(runtimes)

    def tasks(self) -> tuple[str, ...]:
        return ()

    def ready(self, task: str | None = None) -> bool:
        return task is None

    def manifest(self, task: str) -> NoReturn:
        raise InputError("this service measures; it serves no model", where=task)

    def digest(self, task: str) -> NoReturn:
        self.manifest(task)

    def infer(self, task: str, x: Any, *, top_k: int = 0) -> NoReturn:  # noqa: ARG002  the protocol's signature
        self.manifest(task)

    def feedback(self, event: Mapping[str, Any]) -> NoReturn:
        self.manifest(str(event.get("task", "")))

    def metrics(self) -> Iterable[Metric]:
        ended = tuple(({"how": how}, float(count)) for how, count in sorted(self.jobs.ended.items()))
        return (
            Metric("edgehone_measure_jobs_total", "counter", "Jobs, by how they ended.", ended),
            Metric("edgehone_measure_jobs", "gauge", "Jobs that wait or run.", (({}, float(self.jobs.waiting)),)),
        )

    def status(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "service": "edgehone-agent measure",
            "agent": __version__,
            "runtimes": self._runtimes,
            "machine": describe_machine(),
            "limits": {
                "files": MAX_FILES, "bytes": settings.max_bytes, "rounds": MAX_ROUNDS, "fresh_repeats": MAX_REPEATS,
                "queue": settings.queue, "seconds": settings.limit_s,
            },
            "jobs": self.jobs.waiting,
        }  # fmt: skip


class _Routes(Routes):
    """What the paths of this service answer; the rest is the agent's."""

    def __init__(self, host: _Host, limits: Limits, traffic: Traffic) -> None:
        super().__init__(host, limits, traffic)
        self._jobs, self._about = host.jobs, host.status

    def refuses(self, method: str, path: str) -> Response | None:
        """What can be said before the body comes: that there is no room."""
        try:
            if method == "POST" and path.split("/")[1:] == _PARTS:
                self._jobs.check_room()
        except BusyError as busy:
            return _later(busy)
        return None

    def _find(self, parts: list[str], request: Request) -> tuple[str, str, Callable[[], Answered] | None]:
        if parts == _PARTS:
            if request.method == "POST":
                return "measure", "POST", lambda: self._take(request.body)
            return "measurements", "GET", lambda: _json(self._about())
        if parts[:-1] == _PARTS:
            job = self._jobs.find(parts[-1])
            if job is None:
                return "measurement", request.method, lambda: refusal(404, "there is no such job, or it ended long ago")
            if request.method == "DELETE":
                return "drop", "DELETE", lambda: self._drop(job)
            return "measurement", "GET", lambda: asyncio.ensure_future(self._tell(job))
        return super()._find(parts, request)

    def _take(self, body: bytes) -> Response:
        try:
            job = self._jobs.take(body)
        except BusyError as busy:
            return _later(busy)
        return _json(job.to_json(self._jobs.before(job)), 202)

    def _drop(self, job: Job) -> Response:
        self._jobs.drop(job)
        return _json({"dropped": True})

    async def _tell(self, job: Job) -> Response:
        await self._jobs.changed(job, WAIT_S)
        return _json(job.to_json(self._jobs.before(job)))


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(status, json.dumps(value, separators=(",", ":")).encode())


def _later(busy: BusyError) -> Response:
    told = refusal(429, busy.what, busy.code)
    return Response(429, told.body, headers=(("Retry-After", str(busy.retry_after_s)),))


class _Server(Server):
    """The agent's server with these routes, and a token at the door."""

    def __init__(self, host: _Host, limits: Limits, token: str | None) -> None:
        super().__init__(host, limits)
        self._routes: _Routes = _Routes(host, limits, self._traffic)
        self._digest = None if token is None else hashlib.sha256(f"Bearer {token}".encode()).digest()

    def lets_in(self, authorization: bytes) -> bool:
        """Whether a client shows the right token. Takes the same time for any."""
        found = hashlib.sha256(authorization.strip()).digest()
        return self._digest is None or hmac.compare_digest(found, self._digest)

    async def _take(self, client: socket.socket, context: ssl.SSLContext | None, is_welcome: bool) -> None:
        connection = _Connection(self, self._routes, self._limits, is_welcome=is_welcome)
        timeout_s = self._limits.header_timeout_s if context else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, client, ssl=context, ssl_handshake_timeout=timeout_s
            )
        except OSError as error:  # no TLS, or too slow
            log.info("refused a client: %s", error)
        finally:
            if not connection.was_opened:
                self._sockets -= 1


class _Connection(Connection):
    """A connection that is refused at the head of a request where it shows no token."""

    def __init__(self, server: _Server, routes: _Routes, limits: Limits, *, is_welcome: bool) -> None:
        self._door, self._ways = server, routes
        super().__init__(server, routes, limits, is_welcome=is_welcome)

    def _begin(self) -> None:
        super()._begin()
        self._authorization = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """As the agent's, and the token is looked at."""
        super().on_header(name, value)
        if name.lower() == b"authorization":
            if self._authorization:
                self._deny(400, "Authorization is given twice")
            self._authorization = value

    def on_headers_complete(self) -> None:
        """Refuse before the body what can be refused then."""
        if self._refusal is None:
            if not self._door.lets_in(self._authorization):
                self._refusal = _STRANGER
            else:
                method, path = self._parser.get_method().decode(), self._url.decode("latin-1")
                self._refusal = self._ways.refuses(method, path)
        super().on_headers_complete()


_STRANGER = Response(
    401,
    refusal(401, "this service takes jobs with its token only", InputError.code).body,
    headers=(("WWW-Authenticate", "Bearer"),),
)
