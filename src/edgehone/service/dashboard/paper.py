"""Templates and static files: how a page is put together and sent.

A page is never stored by the browser. Files have the digest of their content in their address, so they are for a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgehone import __version__
from edgehone.report import theme
from edgehone.service.answers import Refused
from edgehone.service.dashboard import words
from edgehone.service.people import Caller

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
THEME_COOKIE = "edgehone_theme"
THEMES = ("light", "dark")

_FOLDER = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_MARK = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 22 22">'
    '<path d="M2 18.500h5.500v-5h5v-5.500h7.500" fill="none" '
    f'stroke="{theme.TOKENS["accent"].light}" stroke-width="2.400" stroke-linejoin="round" stroke-linecap="round"/>'
    f'<circle cx="19" cy="4" r="2.500" fill="{theme.TOKENS["accent"].light}"/></svg>'
)

files = APIRouter()


def _read() -> Mapping[str, bytes]:
    found = {path.name: path.read_bytes() for path in (_FOLDER / "static").iterdir() if path.suffix in _TYPES}
    found["dashboard.css"] = theme.variables().encode() + found["dashboard.css"]
    return {**found, "mark.svg": _MARK.encode()}


_FILES = _read()
_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_TEMPLATES.filters.update(words.FILTERS)
_TEMPLATES.globals.update(
    version=__version__,
    asset=lambda name: f"/static/{name}?v={hashlib.sha256(_FILES[name]).hexdigest()[:12]}",
)


def page(request: Request, template: str, caller: Caller | None, *, status: int = 200, **values: Any) -> Response:
    """A whole page.

    Args:
        request: that it answers.
        template: file in `templates/`.
        caller: whoever looks at it; None for nobody that is signed in.
        status: of HTTP.
        values: for the template.
    """
    asked = request.cookies.get(THEME_COOKIE, "")
    html = _TEMPLATES.get_template(template).render(
        request=request, me=caller, theme=asked if asked in THEMES else "", here=request.url.path,
        now_s=request.app.state.core.clock(), **values,
    )  # fmt: skip
    return HTMLResponse(html, status, {"Cache-Control": "no-store", "Content-Security-Policy": POLICY})


@files.get("/static/{name}")
def static(name: str) -> Response:
    """A file that pages load."""
    content = _FILES.get(name)
    if content is None:
        raise Refused(404, "there is no such file")
    return Response(
        content, media_type=_TYPES[Path(name).suffix], headers={"Cache-Control": "public, max-age=86400, immutable"}
    )
