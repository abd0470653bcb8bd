"""What each path answers, and where the work for it is done. Knows no sockets.

    GET  /v2/health/live  /v2/health/ready  /v2                          at once
    GET  /v2/models/{task}[/versions/{v}]  .../ready                     at once
    POST /v2/models/{task}[/versions/{v}]/infer                          at once, or on the task's lane
    POST /v2/models/{task}/feedback                                      on a lane: it waits for the disk
    GET  /metrics  /status                                               on a lane of their own

HEAD is answered wherever GET is. A path is split before its percent signs are read: "%2F" is a part of a name.

Errors become JSON {"error": one line, "code": "EH100"}: 400 what the caller got wrong, 404 no such path, model or
version, 405 wrong method, 413 too long, 429 this model's queue is full, 503 the node is
full or the model cannot answer. 429 and 503 carry Retry-After. Anything else that the host raises is a defect.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from edgehone_agent import __version__
from edgehone_agent.errors import BusyError, EdgehoneError, InputError
from edgehone_agent.serve import metrics, oip
from edgehone_agent.serve.host import Host
from edgehone_agent.serve.lanes import Lane, Lanes
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.traffic import Traffic
from edgehone_agent.wire.manifest import Manifest

A = TypeVar("A")

_INLINE_BYTES = 64 << 10  # reading a longer body would keep the others waiting
_FEEDBACK_THREADS = 8  # events that come together share one write to the disk
_JSON_BYTES_PER_VALUE = 24  # a float32 in JSON, at most


@dataclass(slots=True)
class Request:
    """A whole request: the path as it was sent, names of headers in lower case, what the client asked for."""

    method: str
    path: str
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back; the connection adds Content-Length and Connection."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Answered = Response | asyncio.Future[Response]


def refusal(status: int, text: str, code: str = InputError.code) -> Response:
    """An error as a response."""
    retry = (("Retry-After", str(BusyError.retry_after_s)),) if status in (429, 503) else ()
    return _json({"error": text, "code": code}, status, retry)


def _json(value: dict[str, Any], status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, json.dumps(value, separators=(",", ":")).encode(), headers=headers)


def _refused(error: EdgehoneError) -> Response:
    text = f"{error.where}: {error.what}" if error.where else error.what
    if isinstance(error, BusyError):
        status = 429 if error.where == "queue" else 503
    else:  # a subclass of InputError speaks of the node's own files and settings, not of the request
        status = 400 if type(error) is InputError else 503
    return refusal(status, f"{text} ({error.do})" if error.do else text, error.code)


class Routes:
    """Answers requests for one host."""

    def __init__(self, host: Host, limits: Limits, traffic: Traffic) -> None:
        self._host = host
        self._limits = limits
        self._traffic = traffic
        self._lanes = Lanes(limits)
        self._side = Lanes(limits)  # figures must come while every model is busy

    def answer(self, request: Request) -> Answered:
        """The response, or a future of it. Called on the event loop."""
        started = time.perf_counter()
        route, answered = self._route(request)

        def record(response: Response) -> None:
            self._traffic.record(route, response.status, time.perf_counter() - started if route == "infer" else None)

        if isinstance(answered, Response):
            record(answered)
        else:
            answered.add_done_callback(
                lambda future: None if future.cancelled() or future.exception() else record(future.result())
            )
        return answered

    def record_refusal(self, status: int) -> None:
        """Count a request that a connection refused before it was whole."""
        self._traffic.record("connection", status)

    def close(self) -> None:
        """Take no more work."""
        self._lanes.close()
        self._side.close()

    def _route(self, request: Request) -> tuple[str, Answered]:
        parts = [unquote(part) if "%" in part else part for part in request.path.split("/")[1:]]
        name, wanted, act = self._find(parts, request)
        if act is None:
            return name, refusal(404, f"there is nothing at {request.path[:200]}")
        if request.method != wanted and (request.method, wanted) != ("HEAD", "GET"):
            text, allowed = f"{request.path[:200]} takes {wanted}", "GET, HEAD" if wanted == "GET" else wanted
            return name, Response(405, refusal(405, text).body, headers=(("Allow", allowed),))
        return name, _guarded(act)

    def _find(self, parts: list[str], request: Request) -> tuple[str, str, Callable[[], Answered] | None]:
        """Name of the route for the figures, its method, and what it does."""
        match parts:
            case ["v2", "models", task, *rest]:
                version = None
                if rest[:1] == ["versions"] and len(rest) > 1:
                    version, rest = rest[1], rest[2:]
                match rest:
                    case ["infer"]:
                        return "infer", "POST", partial(self._model, task, version, partial(self._infer, request))
                    case []:
                        return "model", "GET", partial(self._model, task, version, _described)
                    case ["ready"]:
                        return "model_ready", "GET", partial(self._model, task, version, _said_ready)
                    case ["feedback"] if version is None:
                        return "feedback", "POST", lambda: self._feedback(task, request)
            case ["v2", "health", "live"]:
                return "live", "GET", lambda: _json({"live": True})
            case ["v2", "health", "ready"]:
                return "ready", "GET", self._ready
            case ["v2"]:
                return "server", "GET", self._server
            case ["metrics"]:
                return "metrics", "GET", self._metrics
            case ["status"]:
                return "status", "GET", self._status
        return "other", "GET", None

    def _ready(self) -> Response:
        return _json({"ready": True}) if self._host.ready() else refusal(503, "not every model is ready")

    def _server(self) -> Response:
        return _json({"name": "edgehone-agent", "version": __version__, "extensions": ["binary_tensor_data"]})

    def _model(self, task: str, version: str | None, act: Callable[[Manifest], Answered]) -> Answered:
        """`act` with the manifest of a model that is there, else why it is not."""
        if task not in self._host.tasks():
            return refusal(404, f"there is no model {task[:80]!r}")
        if not self._host.ready(task):
            return refusal(503, f"{task}: has no model that answers yet", BusyError.code)
        manifest = self._host.manifest(task)
        if version is not None and version != str(manifest.version):
            return refusal(404, f"model {task!r} has version {manifest.version}, not {version[:80]!r}")
        return act(manifest)

    def _metrics(self) -> asyncio.Future[Response]:
        ours = self._traffic.metrics(self._lanes.in_flight)

        def work() -> Response:
            return Response(200, metrics.render((*self._host.metrics(), *ours)), metrics.CONTENT_TYPE)

        return self._side.lane("metrics").submit(partial(_guarded, work))

    def _status(self) -> asyncio.Future[Response]:
        return self._side.lane("status").submit(partial(_guarded, lambda: _json(self._host.status())))

    def _feedback(self, task: str, request: Request) -> Answered:
        if task not in self._host.tasks():
            return refusal(404, f"there is no model {task[:80]!r}")

        def work() -> Response:
            body = _inflated(request, self._limits.json_bytes)
            if body is None:
                return refusal(413, f"an event has at most {self._limits.json_bytes} bytes")
            event = oip.parse_object(body)
            if event.setdefault("task", task) != task:
                raise InputError(f"is not {task!r}, which the path names", where="task")
            self._host.feedback(event)
            return _json({"accepted": True})

        return self._lanes.lane("/feedback", _FEEDBACK_THREADS).submit(partial(_guarded, work))

    def _infer(self, request: Request, manifest: Manifest) -> Answered:
        header_length = _header_length(request.headers)
        lane = self._lanes.lane(manifest.task)
        if len(request.body) > _INLINE_BYTES or b"content-encoding" in request.headers:
            return lane.submit(partial(_guarded, lambda: self._decode_and_run(request, header_length, manifest, lane)))
        query = self._decode(request.body, header_length, manifest)
        if isinstance(query, Response):
            return query
        if lane.is_quick(len(query.x), self._host.digest(manifest.task)):
            return self._run(query, manifest, lane)
        return lane.submit(partial(_guarded, lambda: self._run(query, manifest, lane)))

    def _decode_and_run(self, request: Request, header_length: int | None, manifest: Manifest, lane: Lane) -> Response:
        body = _inflated(request, self._limits.body_bytes)
        if body is None:
            return refusal(413, f"a body has at most {self._limits.body_bytes} bytes")
        query = self._decode(body, header_length, manifest)
        return query if isinstance(query, Response) else self._run(query, manifest, lane)

    def _decode(self, body: bytes, header_length: int | None, manifest: Manifest) -> oip.Query | Response:
        if (len(body) if header_length is None else header_length) > self._limits.json_bytes:
            return refusal(
                413, f"the JSON has at most {self._limits.json_bytes} bytes (send the values as binary data)"
            )
        return oip.decode(body, header_length, manifest, self._limits)

    def _run(self, query: oip.Query, manifest: Manifest, lane: Lane) -> Response:
        rows = len(query.x)
        value_bytes = 4 if query.binary else _JSON_BYTES_PER_VALUE
        if rows * math.prod(manifest.output.shape) * value_bytes > self._limits.body_bytes:
            raise InputError(f"the answer to {rows} rows would be too long", where="shape", do="send several requests")
        started = time.perf_counter()
        answer = self._host.infer(manifest.task, query.x, top_k=query.top_k)
        lane.learn(rows, (time.perf_counter() - started) * 1e6)
        body, json_length = oip.encode(answer, query, manifest)
        if json_length is None:
            return Response(200, body)
        return Response(200, body, "application/octet-stream", ((oip.HEADER_LENGTH, str(json_length)),))


def _guarded(act: Callable[[], A]) -> A | Response:
    """What `act` answers; what it refuses is a response too."""
    try:
        return act()
    except EdgehoneError as error:
        return _refused(error)


def _described(manifest: Manifest) -> Response:
    return _json(oip.model_metadata(manifest))


def _said_ready(manifest: Manifest) -> Response:
    return _json({"name": manifest.task, "ready": True})


def _header_length(headers: dict[bytes, bytes]) -> int | None:
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise InputError("is no length", where=oip.HEADER_LENGTH)
    return int(value)


def _inflated(request: Request, max_bytes: int) -> bytes | None:
    """The body without its Content-Encoding; None when it is longer than `max_bytes`.

    Raises:
        InputError: damaged, or an encoding other than gzip and deflate.
    """
    body = request.body
    encoding = request.headers.get(b"content-encoding", b"identity").lower()
    if encoding != b"identity":
        if encoding not in (b"gzip", b"deflate"):
            raise InputError("is neither gzip nor deflate", where="Content-Encoding")
        reader = zlib.decompressobj(31 if encoding == b"gzip" else 15)
        try:
            body = reader.decompress(body, max_bytes + 1)
        except zlib.error as error:
            raise InputError("the compressed body is damaged", where="Content-Encoding") from error
        if len(body) <= max_bytes and (not reader.eof or reader.unused_data):
            raise InputError("the compressed body is cut off or followed by something", where="Content-Encoding")
    return body if len(body) <= max_bytes else None
