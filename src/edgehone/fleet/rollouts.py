"""Rollouts in the database: begun and steered by people and by the loop, carried on by `advance`.

Rules:
- One rollout at a time runs for a cohort. What a gate sent back, or a person ended after nodes had it, is not rolled
  out again under the same version: its nodes remember it as failed. Publish it again under a higher one.
- A change is one transaction: the rollout, its events, the audit, the cohorts' versions and the fleet's serial number.
  Whoever is killed has done all of a step or nothing, and the next call goes on.
- `advance` reads the fleet without holding up writers and decides; then it writes, if neither the rollout nor a canary
  that it takes back has changed meanwhile. Otherwise it leaves the step to the next call. What it knows of the fleet it
  keeps from one call to the next while something is to do (`roll_call`). The first calls may do no more than read a
  large fleet, a part of it each.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, insert, select, update

from edgehone.errors import InputError
from edgehone.fleet import rollout as machine
from edgehone.fleet import serial
from edgehone.fleet.choose import Offer
from edgehone.fleet.cohorts import Cohort, load_cohorts, set_versions
from edgehone.fleet.releases import load_offers, no_release
from edgehone.fleet.roll_call import RollCall
from edgehone.fleet.rollout import Event, Rollout, RolloutPlan
from edgehone.fleet.views import ONLINE_S
from edgehone.records import audit
from edgehone.records.database import Database
from edgehone.records.tables import node, rollout_event
from edgehone.records.tables import rollout as table

CORE = "core"
_UNSETTLED = 20  # of the rollouts that were given up, the newest that may still have to report
_calls: WeakKeyDictionary[Database, RollCall] = WeakKeyDictionary()
_AUDITED = ("canaries", "step", "rolled back", "done", "stranded")


@dataclass(frozen=True)
class Happened:
    """An event of a rollout."""

    rollout: str
    event: Event


def start(
    db: Database,
    task: str,
    version: int,
    *,
    now_s: float,
    actor: str,
    plan: RolloutPlan | None = None,
    cohorts: Sequence[str] | None = None,
    round: str | None = None,
    supersede: bool = False,
    id: str | None = None,
) -> Rollout:
    """Begin a rollout of a release.

    Args:
        db: the core's database.
        task, version: a release that the registry lists.
        now_s: the core's clock.
        actor: as in the audit.
        plan: how; by default with the latency that the manifests allow as a bound.
        cohorts: names of those to cover; None for all of the task.
        round: of the loop that made the release.
        supersede: end a rollout that runs there.
        id: unique; random when None.

    Raises:
        InputError: no such release or cohort; a cohort is at this version or a higher one; the version was given up
            before; or a rollout runs there.
    """
    with db.write() as conn:
        offers = load_offers(conn)[0].get((task, version))
        if not offers:
            raise no_release(task, version)
        covered = _covered(conn, task, cohorts)
        _check_version(conn, task, version, covered)
        names = [one.name for one in covered]
        if not supersede:
            check_free(conn, task, names)
        for running in _running_there(conn, task, names):
            why = f"superseded by version {version}"
            _change(conn, running, machine.abort(running, now_s, why), (), now_s, actor, "rollout.abort")
        bounds = [offer.fit.latency_us for offer in offers]
        if plan is None:
            plan = RolloutPlan()
        if plan.limits.latency_us is None and all(bound is not None for bound in bounds):
            limits = replace(plan.limits, latency_us=max(bound for bound in bounds if bound is not None))
            plan = replace(plan, limits=limits)
        new = machine.begin(
            id or secrets.token_hex(8), task, version, {one.name: one.version for one in covered}, now_s,
            plan=plan, first=[one.name for one in covered if one.channel == "canary"],
        )  # fmt: skip
        versions = {one.version for one in covered}
        conn.execute(
            insert(table).values(
                id=new.id, task=task, version=version, before=versions.pop() if len(versions) == 1 else None,
                state=new.state, stage=new.stage, content=new.to_json(), started_s=now_s, round=round,
            )
        )  # fmt: skip
        serial.bump(conn, now_s)
        detail = {"task": task, "version": version, "cohorts": sorted(new.before), "round": round}
        audit.record(conn, now_s=now_s, actor=actor, action="rollout.start", subject=new.id, detail=detail)
        _write_events(conn, new.id, [Event(now_s, "started", {"words": f"version {version} of {task}", **detail})])
    return new


def check_free(conn: Connection, task: str, cohorts: Sequence[str]) -> None:
    """Check that no rollout runs for any of these cohorts. Raises InputError."""
    for running in _running_there(conn, task, cohorts):
        raise InputError(
            f"version {running.version} is being rolled out there",
            where=running.id,
            do="wait until it is done, abort it, or say --supersede",
        )


def _running_there(conn: Connection, task: str, cohorts: Sequence[str]) -> list[Rollout]:
    return [one for one in list_rollouts(conn, task, running=True) if one.before.keys() & set(cohorts)]


def pause(db: Database, id: str, *, now_s: float, actor: str) -> Rollout:
    """Hold a rollout where it is; its gates still send it back. Raises InputError."""
    with db.write() as conn:
        before = find_rollout(conn, id)
        return _change(conn, before, machine.pause(before, now_s), (), now_s, actor, "rollout.pause")


def resume(db: Database, id: str, *, now_s: float, actor: str) -> Rollout:
    """Let a paused rollout go on. Raises InputError."""
    with db.write() as conn:
        before = find_rollout(conn, id)
        return _change(conn, before, machine.resume(before, now_s), (), now_s, actor, "rollout.resume")


def abort(db: Database, id: str, *, now_s: float, actor: str, why: str = "") -> Rollout:
    """End a rollout; its nodes go back to what they had. Raises InputError."""
    with db.write() as conn:
        before = find_rollout(conn, id)
        after = machine.abort(before, now_s, why or f"ended by {actor}")
        return _change(conn, before, after, (), now_s, actor, "rollout.abort")


def find_rollout(conn: Connection, id: str) -> Rollout:
    """A rollout by its id, or by the first characters of it. Raises InputError when there is none or several."""
    query = select(table.c.id, table.c.content).where(table.c.id.startswith(id, autoescape=True)).order_by(table.c.id)
    found = conn.execute(query.limit(2)).all() if id else []
    if not found or (len(found) > 1 and found[0].id != id):  # the shortest comes first
        raise InputError(
            "several rollouts begin like this" if found else "no rollout has this id",
            where=id[:64],
            do="look at `edgehone fleet rollout status`",
        )
    return Rollout.from_json(found[0].content)


def list_rollouts(
    conn: Connection, task: str | None = None, *, running: bool = False, limit: int = 100
) -> list[Rollout]:
    """Rollouts, newest first; only those that run or are paused where that is wanted."""
    query = select(table.c.content).order_by(table.c.started_s.desc(), table.c.id).limit(limit)
    if task is not None:
        query = query.where(table.c.task == task)
    if running:
        query = query.where(table.c.state.in_(("running", "paused")))
    return [Rollout.from_json(content) for content in conn.execute(query).scalars()]


def list_events(conn: Connection, id: str) -> list[Event]:
    """What a rollout did, in order."""
    query = select(rollout_event).where(rollout_event.c.rollout == id).order_by(rollout_event.c.id)
    return [Event(row.time_s, row.what, row.detail) for row in conn.execute(query)]


def note(db: Database, id: str, what: str, detail: Mapping[str, Any], *, now_s: float, actor: str) -> None:
    """Add to the events of a rollout what somebody did about it, and to the audit."""
    with db.write() as conn:
        _write_events(conn, id, [Event(now_s, what, {"actor": actor, **detail})])
        action = f"rollout.{what.replace(' ', '-')}"
        audit.record(conn, now_s=now_s, actor=actor, action=action, subject=id, detail=detail)


def advance(db: Database, now_s: float, *, online_s: float = ONLINE_S) -> list[Happened]:
    """Take every rollout as far as it can go now. Call it again and again, from one process.

    Args:
        db: the core's database.
        now_s: the core's clock.
        online_s: how long ago a node that is online may have been heard of; three heartbeats are a good choice.

    Returns:
        What happened.
    """
    calls = _calls.setdefault(db, RollCall())
    todo = _to_do(db)
    calls.forget(before.id for before in todo)
    if not todo:
        return []
    with db.read() as conn:
        calls.refresh(conn, now_s)
        offers = load_offers(conn)[0]
        of = {before.id: offers.get((before.task, before.version), ()) for before in todo}
        if not calls.whole:  # the rest of a large fleet is read by the next calls; views are made as it comes
            for before in todo:
                calls.views(before.id, before.task, of[before.id], now_s, online_s=online_s)
            return []
        steps = [_decide(calls, before, of[before.id], now_s, online_s) for before in todo]
    happened = []
    for one in steps:
        if one.after == one.before:
            continue
        with db.write() as conn:
            if find_rollout(conn, one.before.id) != one.before or not _still(conn, one.dropped):
                continue
            _change(conn, one.before, one.after, one.events, now_s, CORE, "")
        happened += [Happened(one.before.id, event) for event in one.events]
    return happened


@dataclass(frozen=True)
class _Decided:
    """A step that is to be written; `dropped` are canaries that it takes back, with when each was heard of."""

    before: Rollout
    after: Rollout
    events: tuple[Event, ...]
    dropped: Mapping[str, float | None]


def _decide(calls: RollCall, before: Rollout, offers: Sequence[Offer], now_s: float, online_s: float) -> _Decided:
    if not offers and not before.ended:
        after = machine.abort(before, now_s, "the registry has taken the release back")
        return _Decided(before, after, (Event(now_s, "aborted", {"words": after.why, "stage": after.stage}),), {})
    watched = {one.node for one in (*before.canaries, *before.witnesses, *before.others)}
    views = calls.views(before.id, before.task, offers, now_s, online_s=online_s, watched=watched)
    after, events = machine.step(before, views, now_s)
    gone = before.canary_ids - after.canary_ids
    seen_s = {view.id: view.seen_s for view in views if view.id in gone} if gone else {}
    return _Decided(before, after, events, {id: seen_s.get(id) for id in gone})


def _to_do(db: Database) -> list[Rollout]:
    """Rollouts that run, or have yet to report that their nodes went back."""
    with db.read() as conn:
        found = list_rollouts(conn, running=True)
        query = select(table.c.content).where(table.c.state.in_(("aborted", "rolled back")))
        ended = conn.execute(query.order_by(table.c.started_s.desc(), table.c.id).limit(_UNSETTLED)).scalars()
        return found + [Rollout.from_json(content) for content in ended if not content.get("settled", True)]


def _still(conn: Connection, seen_s: Mapping[str, float | None]) -> bool:
    """Whether none of these nodes has been heard of since."""
    rows = conn.execute(select(node.c.id, node.c.seen_s).where(node.c.id.in_(seen_s)))
    return all(row.seen_s == seen_s[row.id] for row in rows)


def _change(
    conn: Connection,
    before: Rollout,
    after: Rollout,
    events: Sequence[Event],
    now_s: float,
    actor: str,
    action: str,
) -> Rollout:
    """Write a rollout as it is now, and all that follows from it."""
    conn.execute(
        update(table)
        .where(table.c.id == after.id)
        .values(state=after.state, stage=after.stage, content=after.to_json(), ended_s=after.ended_s)
    )
    if action:
        audit.record(conn, now_s=now_s, actor=actor, action=action, subject=after.id, detail={"why": after.why})
        events = [*events, Event(now_s, action.removeprefix("rollout."), {"words": after.why, "actor": actor})]
    _write_events(conn, after.id, events)
    for event in events:
        if event.what in _AUDITED:
            said = f"rollout.{event.what.replace(' ', '-')}"
            detail = {"words": event.detail.get("words", ""), "version": after.version}
            audit.record(conn, now_s=now_s, actor=CORE, action=said, subject=after.id, detail=detail)
    if after.state == "done" and before.state != "done":
        set_versions(conn, after.task, sorted(after.before), after.version, now_s)
    if _tells(before) != _tells(after):
        serial.bump(conn, now_s)
    return after


def _tells(rollout: Rollout) -> tuple[Any, ...]:
    """What of a rollout desired states depend on."""
    return rollout.ended, rollout.stage, rollout.canary_ids


def _write_events(conn: Connection, id: str, events: Sequence[Event]) -> None:
    rows = [
        {"rollout": id, "time_s": event.time_s, "what": event.what, "detail": dict(event.detail)} for event in events
    ]
    if rows:
        conn.execute(insert(rollout_event), rows)


def _covered(conn: Connection, task: str, names: Sequence[str] | None) -> list[Cohort]:
    """The cohorts of a rollout; the task's own is always one of all, though nobody has made it."""
    known = {one.name: one for one in load_cohorts(conn, task)}
    known.setdefault(task, Cohort(task, task))
    if names is None:
        return list(known.values())
    strange = [name for name in names if name not in known]
    if strange or not names:
        raise InputError(
            f"{', '.join(strange) or 'nothing'} is no cohort of {task!r}",
            where="cohort",
            do=f"name some of: {', '.join(sorted(known))}",
        )
    return [known[name] for name in dict.fromkeys(names)]


def _check_version(conn: Connection, task: str, version: int, covered: Sequence[Cohort]) -> None:
    for one in covered:
        if one.version is not None and version <= one.version:
            raise InputError(
                f"version {version} is not higher than {one.version}, which its nodes have",
                where=one.name,
                do="publish the model again under a higher version; nodes do not go down",
            )
    query = select(table.c.content).where(
        table.c.task == task, table.c.version == version, table.c.state.in_(("aborted", "rolled back"))
    )
    for content in conn.execute(query).scalars():
        given_up = Rollout.from_json(content)
        if given_up.stage != machine.SHADOW or given_up.state == "rolled back":
            raise InputError(
                f"version {version} was given up: {given_up.why}",
                where=given_up.id,
                do="publish the model again under a higher version, if it is to be tried again",
            )
