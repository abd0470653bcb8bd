"""Signing in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from edgehone.service import people
from edgehone.service.answers import Refused
from edgehone.service.api import set_cookie
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.visits import PageRoute, Signed, local_path
from edgehone.service.gate import COOKIE, SignIns, TheCore, check_origin, find_caller
from edgehone_agent.errors import TrustError

router = APIRouter(route_class=PageRoute)

Wanted = Annotated[str, Query(max_length=2000)]


@router.get("/sign-in")
def show(request: Request, core: TheCore, to: Wanted = "/") -> Response:
    """The form; straight on for whoever is signed in already."""
    if find_caller(core, None, request.cookies.get(COOKIE)) is not None:
        return RedirectResponse(local_path(to), 303)
    return page(request, "sign_in.html.j2", None, title="Sign in", to=local_path(to), name="", what="", do="")


@router.post("/sign-in")
def sign_in(
    request: Request,
    name: Annotated[str, Form(max_length=200)] = "",
    password: Annotated[str, Form(max_length=people.LONGEST_PASSWORD)] = "",
    to: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Open a session, or show the form again with what was wrong."""
    check_origin(request)
    attempts: SignIns = request.app.state.sign_ins
    status, wait_s = 403, 0.0
    try:
        text, _ = attempts.sign_in(name, password, request.client.host if request.client else "")
    except TrustError as wrong:
        what, do = wrong.what, wrong.do
    except Refused as refused:
        status, wait_s = refused.status, refused.wait_s
        what, do = refused.error.what, f"wait {max(1, round(wait_s))} s"
    else:
        answer = RedirectResponse(local_path(to), 303)
        set_cookie(answer, text, is_secure=request.url.scheme == "https")
        return answer
    again = page(
        request, "sign_in.html.j2", None, status=status, title="Sign in", to=local_path(to), name=name, what=what, do=do
    )  # fmt: skip
    if wait_s:
        again.headers["Retry-After"] = str(max(1, round(wait_s)))
    return again


@router.post("/sign-out")
def sign_out(core: TheCore, caller: Signed) -> Response:
    """End the session."""
    hashed = caller.session
    if hashed is not None:
        core.writer.run_now(lambda conn: people.close_session(conn, hashed))
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer
