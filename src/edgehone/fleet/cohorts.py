"""Cohorts: which nodes want the same version of a task.

Rules:
- A node belongs to the cohort of a task whose tags it all carries. Of several the one with most tags, then the first by
  name. With none it belongs to the task's own cohort, which bears the task's name and has no tags.
- A cohort's channel says when its nodes are asked: those of "canary" try a new release before others.
- A cohort's version changes when a rollout is done, and by nothing else. A new cohort begins with the version of the
  cohort that its nodes come from.
- While a rollout of a task runs, its cohorts stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, delete, insert, select, update

from edgehone.errors import InputError
from edgehone.fleet import serial
from edgehone.fleet.nodes import check_tags
from edgehone.records import audit
from edgehone.records.tables import cohort as table
from edgehone.records.tables import rollout

Channel = Literal["canary", "stable"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


@dataclass(frozen=True)
class Cohort:
    """A cohort.

    Attributes:
        name: unique in the fleet.
        task: it is about.
        tags: that a node must carry to belong to it.
        channel: "canary" or "stable".
        version: that its nodes should serve; None for none yet.
        since_s: when it got that version.
        policy: what its nodes are allowed and told (JSON): `latency_us` and `memory_bytes` bound the choice of member.
    """

    name: str
    task: str
    tags: Mapping[str, str] = field(default_factory=dict)
    channel: Channel = "stable"
    version: int | None = None
    since_s: float = 0.0
    policy: Mapping[str, Any] = field(default_factory=dict)


def cohort_of(cohorts: Iterable[Cohort], task: str, tags: Mapping[str, str]) -> Cohort:
    """The cohort of a node for a task. Pure.

    Args:
        cohorts: all, of any task.
        task: the node's.
        tags: the node's.
    """
    fitting = [one for one in cohorts if one.task == task and one.tags.items() <= tags.items()]
    return min(fitting, key=lambda one: (-len(one.tags), one.name), default=Cohort(task, task))


def load_cohorts(conn: Connection, task: str | None = None) -> list[Cohort]:
    """Cohorts in the order of their names, of one task or of all."""
    query = select(table).order_by(table.c.name)
    return [_cohort(row) for row in conn.execute(query if task is None else query.where(table.c.task == task))]


def put_cohort(
    conn: Connection,
    name: str,
    task: str,
    *,
    tags: Mapping[str, str],
    channel: str = "stable",
    policy: Mapping[str, Any] | None = None,
    actor: str,
    now_s: float,
) -> Cohort:
    """Make a cohort, or change one; its version stays.

    Args:
        policy: None leaves what is there.

    Raises:
        InputError: a name, tag or channel that cannot be one; the name is another task's; another cohort of the task
            has the same tags; or a rollout of the task runs.
    """
    if not _NAME.fullmatch(name) or channel not in get_args(Channel):
        raise InputError(
            f"{name!r} on the channel {channel!r} is no cohort",
            where="cohort",
            do='use letters, digits, ".", "_", "/" and "-" for the name, and the channel canary or stable',
        )
    own = load_cohorts(conn, task)
    holder = conn.execute(select(table.c.task).where(table.c.name == name)).scalar()
    if holder not in (None, task) or any(one.tags == tags and one.name != name for one in own):
        raise InputError(
            "another cohort has this name or these tags", where=name, do="look at `edgehone fleet cohorts`"
        )
    _check_still(conn, task)
    before = next((one for one in own if one.name == name), None)
    version = before.version if before else cohort_of(own, task, tags).version
    kept = dict(before.policy) if before and policy is None else dict(policy or {})
    values = {"tags": check_tags(tags), "channel": channel, "policy": kept}
    if before is None:
        conn.execute(insert(table).values(name=name, task=task, version=version, since_s=now_s, **values))
    else:
        conn.execute(update(table).where(table.c.name == name).values(**values))
    audit.record(conn, now_s=now_s, actor=actor, action="cohort.put", subject=name, detail={"task": task, **values})
    serial.bump(conn, now_s)
    return next(one for one in load_cohorts(conn, task) if one.name == name)


def remove_cohort(conn: Connection, name: str, *, actor: str, now_s: float) -> None:
    """Take a cohort away; its nodes belong to the next that fits.

    Raises:
        InputError: there is none, or a rollout of its task runs.
    """
    row = conn.execute(select(table).where(table.c.name == name)).one_or_none()
    if row is None:
        raise InputError("there is no such cohort", where=name, do="look at `edgehone fleet cohorts`")
    _check_still(conn, row.task)
    conn.execute(delete(table).where(table.c.name == name))
    audit.record(conn, now_s=now_s, actor=actor, action="cohort.remove", subject=name, detail={"version": row.version})
    serial.bump(conn, now_s)


def set_versions(conn: Connection, task: str, names: Sequence[str], version: int, now_s: float) -> None:
    """Let cohorts be at a version; the task's own cohort is made where it is not there yet."""
    known = {one.name for one in load_cohorts(conn, task)}
    conn.execute(
        update(table).where(table.c.name.in_(names), table.c.task == task).values(version=version, since_s=now_s)
    )
    if task in names and task not in known:
        conn.execute(
            insert(table).values(
                name=task, task=task, tags={}, channel="stable", version=version, since_s=now_s, policy={}
            )
        )
    serial.bump(conn, now_s)


def _check_still(conn: Connection, task: str) -> None:
    running = conn.execute(
        select(rollout.c.id).where(rollout.c.task == task, rollout.c.state.in_(("running", "paused")))
    ).scalar()
    if running is not None:
        raise InputError(
            f"a rollout of {task!r} runs, so its cohorts stay as they are",
            where=running,
            do="wait until it is done, or abort it",
        )


def _cohort(row: Row[Any]) -> Cohort:
    return Cohort(row.name, row.task, row.tags, row.channel, row.version, row.since_s, row.policy)
