"""Who looks at a page, and what becomes of an error: a page that says what to do, never a traceback.

Rules:
- Pages take a session's cookie and no token. Nobody signed in is sent to the sign-in page and back.
- A form repeats the session's CSRF token in a field; a viewer's forms are refused, whatever the page showed.
"""

from __future__ import annotations

import logging
import urllib.parse
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from edgehone.service.answers import Refused, status_of
from edgehone.service.dashboard.paper import page
from edgehone.service.gate import COOKIE, SAFE, check_csrf, core_of, find_caller
from edgehone.service.people import Caller
from edgehone_agent.errors import EdgehoneError, HostError, InputError

_LOG = logging.getLogger("edgehone.core")


class PageRoute(APIRoute):
    """A route that answers errors with a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await inner(request)
            except Refused as refused:
                if refused.status == 401:
                    return sign_in_first(request)
                return _sorry(request, refused.error, refused.status, refused.wait_s)
            except EdgehoneError as error:
                return _sorry(request, error, status_of(error))
            except RequestValidationError as invalid:
                where = "; ".join(str(one["loc"][-1]) for one in invalid.errors()[:5])
                unfit = InputError(f"the address or form does not fit: {where}"[:300], do="go back and try again")
                return _sorry(request, unfit, 422)
            except HTTPException as unread:  # a form that cannot be taken apart
                return _sorry(request, InputError(str(unread.detail), do="go back and try again"), unread.status_code)
            except Exception as defect:  # noqa: BLE001  a person gets a page, the log the rest
                _LOG.error("%s %r: a defect of edgehone", request.method, request.url.path, exc_info=defect)
                return _sorry(request, HostError("a defect of edgehone; the log of the core has more"), 500)

        return answer


def sign_in_first(request: Request) -> Response:
    """To the sign-in page, and back to where the visitor wanted to go."""
    wanted = request.url.path if request.method in SAFE else "/"
    if request.url.query and request.method in SAFE:
        wanted += f"?{request.url.query}"
    return RedirectResponse(f"/sign-in?{urllib.parse.urlencode({'to': wanted})}", 303)


def local_path(text: str) -> str:
    """A path of this site; "/" for whatever else was asked for."""
    is_local = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_local else "/"


def visitor(request: Request) -> Caller:
    """A dependency: whoever is signed in. Refuses with 401 everybody else."""
    caller = find_caller(core_of(request), None, request.cookies.get(COOKIE))
    if caller is None:
        raise Refused(401, "sign in first", do="sign in")
    request.state.caller = caller  # an error page shows the same frame
    return caller


Visitor = Annotated[Caller, Depends(visitor)]


def signed(request: Request, caller: Visitor, csrf: Annotated[str, Form(max_length=200)] = "") -> Caller:
    """A dependency for forms: whoever is signed in and sent this form on purpose. Refuses with 403."""
    check_csrf(request, caller, csrf)
    return caller


Signed = Annotated[Caller, Depends(signed)]


def acting(caller: Signed) -> Caller:
    """A dependency for forms that change something: an operator. Refuses with 403 a viewer."""
    if not caller.may_change:
        raise Refused(403, "only an operator may do this", do="ask one")
    return caller


Acting = Annotated[Caller, Depends(acting)]


def _sorry(request: Request, error: EdgehoneError, status: int, wait_s: float = 0.0) -> Response:
    response = page(
        request, "error.html.j2", getattr(request.state, "caller", None), status=status, title="This did not work",
        what=f"{error.where}: {error.what}" if error.where else error.what, do=error.do, code=status,
    )  # fmt: skip
    if wait_s:
        response.headers["Retry-After"] = str(max(1, round(wait_s)))
    return response
