"""The dashboard: pages that a person reads, and the few forms that change something.

    attach(app, core)        all pages, at the root of the core's address

Rules:
- Pages are written by the server and complete without scripts. `static/dashboard.js` only keeps them fresh, and takes
  keys for the label queue. Nothing is loaded from elsewhere; the content security policy forbids it.
- No rule of the fleet lives here: a form calls one function of the fleet, inside one transaction.
- Whatever nodes and people wrote is text. Templates escape everything; SVG is made by `report.svg`, which does too.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from edgehone.service.core import Core
from edgehone.service.dashboard.paper import files
from edgehone.service.dashboard.snapshot import Snapshots
from edgehone.service.dashboard.views import audit as audit
from edgehone.service.dashboard.views import datasets, enrol, fleet, labels, node, releases, rollouts, rounds, sign_in

__all__ = ["attach", "dashboard"]

_VIEWS = (sign_in, fleet, enrol, node, labels, rollouts, releases, rounds, datasets, audit)


def dashboard() -> APIRouter:
    """Every page, every form, and the files that pages load."""
    router = APIRouter(include_in_schema=False)
    router.include_router(files)
    for view in _VIEWS:
        router.include_router(view.router)
    return router


def attach(app: FastAPI, core: Core) -> None:
    """Add the dashboard to an application whose `state.core` and `state.sign_ins` are set."""
    app.state.snapshots = Snapshots(core)
    app.include_router(dashboard())
