"""Rollouts: where each is, what its gates say, how far its nodes are, and the buttons that steer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection, select

from edgehone.errors import InputError
from edgehone.fleet import rollouts
from edgehone.fleet.nodes import REVOKED
from edgehone.fleet.observed import NodeView
from edgehone.fleet.releases import load_offers
from edgehone.fleet.rollout import CANARY, SHADOW, STABLE, Rollout
from edgehone.fleet.views import node_views
from edgehone.records.tables import node
from edgehone.service.core import Core
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.visits import Acting, PageRoute, Visitor
from edgehone.service.gate import TheCore, not_found

router = APIRouter(route_class=PageRoute)

MOST_ROLLOUTS, MOST_EVENTS = 50, 200

RolloutId = Annotated[str, Path(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


@dataclass(frozen=True)
class Stage:
    """A step of a rollout: its name, "done", "now", "ended" or "ahead", and the share of nodes it reaches."""

    name: str
    standing: str
    reach: str


@dataclass(frozen=True)
class Reach:
    """How far a rollout's nodes are.

    Attributes:
        nodes: that take part.
        have: that answer with the release.
        shadow: that answer with it unseen.
        refused: that tried it and went back.
        offline: that are not heard of.
    """

    nodes: int
    have: int
    shadow: int
    refused: int
    offline: int


@router.get("/rollouts")
def show_all(request: Request, core: TheCore, caller: Visitor) -> Response:
    """Rollouts, newest first."""
    with core.database.read() as conn:
        found = rollouts.list_rollouts(conn, limit=MOST_ROLLOUTS)
        shown = [(one, stages(one), _reach(core, conn, one) if not one.ended else None) for one in found]
    return page(request, "rollouts.html.j2", caller, title="Rollouts", rollouts=shown)


@router.get("/rollouts/{id}")
def show(request: Request, core: TheCore, caller: Visitor, id: RolloutId) -> Response:
    """One rollout."""
    with core.database.read() as conn:
        try:
            found = rollouts.find_rollout(conn, id)
        except InputError:
            not_found("rollout")
        events = rollouts.list_events(conn, found.id)[-MOST_EVENTS:]
        reached = _reach(core, conn, found)
        names = {
            row.id: row.name for row in conn.execute(select(node.c.id, node.c.name).where(node.c.state != REVOKED))
        }
    return page(
        request, "rollout.html.j2", caller, title=f"{found.task} v{found.version}", rollout=found,
        stages=stages(found), reach=reached, events=events[::-1], names=names,
    )  # fmt: skip


@router.post("/rollouts/{id}/steer")
def steer(
    core: TheCore,
    caller: Acting,
    id: RolloutId,
    do: Annotated[str, Form(max_length=20)],
    why: Annotated[str, Form(max_length=300)] = "",
    sure: Annotated[str, Form(max_length=10)] = "",
) -> Response:
    """Pause, resume or abort it. An abort needs the box that says so."""
    now_s, actor = core.clock(), caller.actor
    if do == "pause":
        rollouts.pause(core.database, id, now_s=now_s, actor=actor)
    elif do == "resume":
        rollouts.resume(core.database, id, now_s=now_s, actor=actor)
    elif do == "abort" and sure == "yes":
        rollouts.abort(core.database, id, now_s=now_s, actor=actor, why=why.strip())
    else:
        raise InputError("nothing was changed", where="rollout", do="choose pause, resume or abort, and tick the box")
    core.wake_on_change()
    return RedirectResponse(f"/rollouts/{id}", 303)


def stages(rollout: Rollout) -> list[Stage]:
    """The steps of a rollout with where it is."""
    names = [*((SHADOW,) if rollout.plan.shadow_rows else ()), CANARY]
    reach = [f"{100 * rollout.plan.canary_share:g} %"] * len(names)
    names += [f"stage {at + 1}" for at in range(len(rollout.plan.stages))] + [STABLE]
    reach += [f"{100 * share:g} %" for share in rollout.plan.stages] + ["all"]
    at = names.index(rollout.stage) if rollout.stage in names else 0
    here = "done" if rollout.state == "done" else "ended" if rollout.ended else "now"
    found = []
    for index, name in enumerate(names):
        standing = "done" if index < at or rollout.state == "done" else here if index == at else "ahead"
        found.append(Stage(name, standing, reach[index]))
    return found


def reach(rollout: Rollout, views: Sequence[NodeView]) -> Reach:
    """Count a rollout's nodes. Pure."""
    mine = [view for view in views if view.cohort in rollout.before and view.fits and not view.quarantined]
    version = rollout.version
    return Reach(
        nodes=len(mine),
        have=sum(view.has(version) for view in mine),
        shadow=sum(view.status.shadow is not None and view.status.shadow.version == version for view in mine),
        refused=sum(view.refused(version) for view in mine),
        offline=sum(not view.online for view in mine),
    )


def _reach(core: Core, conn: Connection, rollout: Rollout) -> Reach:
    offers = load_offers(conn)[0].get((rollout.task, rollout.version), ())
    online_s = 3 * core.place.settings.interval_s
    return reach(rollout, node_views(conn, rollout.task, offers, core.clock(), online_s=online_s))
