"""Everything that answers on the core's port, put together: nodes, registry, people, dashboard.

    /v1/node/...   nodes (`node_api`); /v1/...  people and their programs (`api`); /openapi.json
    /registry/...  signed releases, static; for this machine and for nodes
    /healthz       whether the core answers; for anybody
    the rest       the dashboard

Rules:
- The dashboard attaches itself: `edgehone.service.dashboard.attach(app, core)` adds its routes to the FastAPI app. In
  them `app.state.core` is the core, `app.state.sign_ins` checks passwords, and `gate` says who asks.
- An error is never a page with a traceback: known errors say what to do, unknown ones say 500 and are in the log.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from edgehone import __version__
from edgehone.service import api
from edgehone.service.answers import Refused, answer, answer_error, error_body, status_of
from edgehone.service.core import Core
from edgehone.service.gate import SignIns, check_host
from edgehone.service.listen import PEER, Peer, is_loopback
from edgehone.service.node_api import PREFIX, NodeApi
from edgehone_agent.errors import EdgehoneError, HostError, InputError, TrustError

REGISTRY = "/registry"
_LOG = logging.getLogger("edgehone.core")
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
)


class Front:
    """The ASGI application of a core.

    Attributes:
        people: the FastAPI application behind it.
    """

    def __init__(self, core: Core, *, dashboard: bool = True) -> None:
        self._core = core
        self._nodes = NodeApi(core)
        self._registry = StaticFiles(directory=core.place.registry, check_dir=False)
        self.people = people_app(core, dashboard=dashboard)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI 3."""
        path: str = scope["path"]
        if path.startswith(PREFIX):
            await self._nodes(scope, receive, send)
        elif path == "/healthz":
            await answer(send, 200, b'{"ok":true}')
        elif path.startswith(REGISTRY + "/"):
            await self._serve_registry(scope, receive, send)
        else:
            await self._serve_people(scope, receive, send)

    async def _serve_registry(self, scope: Any, receive: Any, send: Any) -> None:
        peer: Peer | None = scope.get(PEER)
        is_known = peer is not None and peer.not_after_s > self._core.clock()
        if peer is not None and self._core.standing.refuses(peer.node, peer.serial):
            is_known = False
        if not is_known and not is_loopback((scope.get("client") or ("", 0))[0]):
            error = TrustError("the registry is for nodes of this core", do="enrol the node; speak TLS")
            await answer_error(send, error)
            return
        try:
            if not is_known:  # a page of another site, under a name of its own that leads here
                check_host(scope["scheme"], dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
        except Refused as refused:
            await answer_error(send, refused.error, status=refused.status)
            return
        inner = {**scope, "path": scope["path"][len(REGISTRY) :], "root_path": ""}
        if any(part.startswith(".") for part in inner["path"].split("/")):  # lock and unfinished files
            await answer_error(send, InputError("there is no such file"), status=404)
            return
        try:
            await self._registry(inner, receive, send)
        except HTTPException as error:
            await answer_error(send, InputError("there is no such file"), status=error.status_code)

    async def _serve_people(self, scope: Any, receive: Any, send: Any) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        most = self._core.limits.body_bytes
        length = headers.get(b"content-length", b"0")
        try:
            check_host(scope["scheme"], headers.get(b"host", b"").decode("latin-1"))
            if not length.isdigit() or int(length) > most:
                raise Refused(413, f"the body has more than {most} bytes", do="send less in one call")
        except Refused as refused:
            await answer_error(send, refused.error, status=refused.status)
            return
        await self.people(scope, _bounded(receive, most), _hardened(send))


def people_app(core: Core, *, dashboard: bool = True) -> FastAPI:
    """The FastAPI application of people and their programs, with the dashboard or without."""
    app = FastAPI(
        title="edgehone core", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.core = core
    app.state.sign_ins = SignIns(core)
    app.include_router(api.router)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(EdgehoneError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_defect)
    if dashboard and importlib.util.find_spec("edgehone.service.dashboard") is not None:
        importlib.import_module("edgehone.service.dashboard").attach(app, core)
    return app


def _bounded(receive: Any, most: int) -> Any:
    """A `receive` that ends a request whose body is longer than it may be."""
    size = 0

    async def bounded() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise Refused(413, f"the body has more than {most} bytes", do="send less in one call")
        return message

    return bounded


def _hardened(send: Any) -> Any:
    """A `send` that adds headers that keep a browser from being used against its user."""

    async def hardened(message: Any) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", ())}
            extra = [header for header in _SAFE if header[0] not in given]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return hardened


async def _on_refused(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    refused = error if isinstance(error, Refused) else Refused(500, str(error))
    headers = {"Retry-After": str(max(1, round(refused.wait_s)))} if refused.wait_s else {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(refused.error), refused.status, headers)


async def _on_error(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    known = error if isinstance(error, EdgehoneError) else HostError(str(error))
    headers = {"Retry-After": "5"} if isinstance(known, HostError) else {}
    return JSONResponse(error_body(known), status_of(known), headers)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    found = error.errors() if isinstance(error, RequestValidationError) else []
    where = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:5])
    known = InputError(f"the request does not fit: {where}"[:1000], do="compare it with /openapi.json")
    return JSONResponse(error_body(known), 422)


async def _on_http(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    what = str(error.detail) if isinstance(error, HTTPException) else "error"
    return JSONResponse(error_body(InputError(what, do="compare it with /openapi.json")), status, headers)


async def _on_defect(request: Request, error: Exception) -> JSONResponse:
    _LOG.error("%s %r: a defect of edgehone", request.method, request.url.path, exc_info=error)
    return JSONResponse(error_body(HostError("a defect of edgehone; the log has more")), 500)
