"""What nodes are told, remembered: a node's desired state is worked out anew only when something it depends on changed.

A fleet of 100,000 nodes asks 1,667 times in a second, and the answer changes a few times in a day. It depends on the
node's tags and state, on what the node reports of its tasks, and on a few small tables. `Remembered` reads a
fingerprint of those tables once per group of heartbeats, and forgets everything when that differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from edgehone.fleet.heartbeat import Asking, Wish, Wishes
from edgehone.records.tables import cohort, release, rollout, setting
from edgehone_agent.wire.uplink import TaskStatus

_FOR_S = 600.0  # what depends on the clock alone may be this late
_MOST = 200_000
_ENDED = ("done", "aborted", "rolled back")


def fingerprint(conn: Connection) -> int:
    """A number that changes when what nodes are told may change: cohorts, rollouts, releases, settings."""
    running = select(rollout.c.id, rollout.c.state, rollout.c.stage, rollout.c.content)
    counts = select(
        select(func.count()).select_from(release).scalar_subquery(),
        select(func.count(release.c.revoked_s)).scalar_subquery(),
        select(func.count()).select_from(rollout).scalar_subquery(),
        select(func.max(rollout.c.ended_s)).scalar_subquery(),
    )
    parts = (
        *map(tuple, conn.execute(select(cohort).order_by(cohort.c.name))),
        *map(tuple, conn.execute(running.where(rollout.c.state.not_in(_ENDED)).order_by(rollout.c.id))),
        *map(tuple, conn.execute(counts)),
        *map(tuple, conn.execute(select(setting.c.key, setting.c.changed_s).order_by(setting.c.key))),
    )
    return hash(repr(parts))


@dataclass(frozen=True)
class _Entry:
    key: int
    until_s: float
    wish: Wish


class Remembered:
    """Wishes that are worked out once. Used by the writer's thread alone.

    Args:
        work_out: says what a node is told, from the database.
    """

    def __init__(self, work_out: Wishes) -> None:
        self._work_out = work_out
        self._entries: dict[str, _Entry] = {}
        self._fingerprint: int | None = None

    def refresh(self, conn: Connection) -> None:
        """Forget everything if the tables changed. Call it at the beginning of a transaction."""
        now = fingerprint(conn)
        if now != self._fingerprint or len(self._entries) > _MOST:
            self._fingerprint = now
            self._entries.clear()

    def __call__(self, conn: Connection, asking: Asking) -> Wish:
        """See `Wishes`."""
        tasks = tuple((name, _matters(told)) for name, told in asking.tasks.items())
        key = hash((asking.state, tuple(sorted(asking.tags.items())), tasks))
        entry = self._entries.get(asking.node)
        if entry is None or entry.key != key or entry.until_s < asking.now_s:
            entry = _Entry(key, asking.now_s + _FOR_S, self._work_out(conn, asking))
            self._entries[asking.node] = entry
        return entry.wish


def _matters(told: TaskStatus) -> tuple[Any, ...]:
    """What of a report may change the answer; counts of predictions and labels do not, without a rollout's step."""
    shadow = None if told.shadow is None else told.shadow.digest
    return told.digest, told.version, told.ready, told.fault, told.failed, told.latency_us, told.crashes, shadow
