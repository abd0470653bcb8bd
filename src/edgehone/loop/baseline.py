"""What the nodes of a task see now: since when a node alarms, and the readings for a cohort's drift reference.

Rules:
- A node alarms since the first of the last reports in a row that alarm, about the bundle that it serves.
- A reference is made of readings that were drawn uniformly: whatever else a node keeps is chosen for being odd.
- A cohort whose nodes mostly alarm is represented by its readings since then. What is older is another world.
- A cohort that has a reference of its own keeps one: of its readings since the beginning of the last, and where they
  are few by now, of those that the last was made of.
- Every other cohort keeps the reference of the task, which has more rows and does not follow slow drift.
- Nodes give evenly, each its newest readings.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from sqlalchemy import Connection, select

from edgehone.loop.dataset import Readings
from edgehone.records.tables import evidence, node, sample

MOST_READINGS = 4000  # of a cohort; a reference gains little by more
MOST_CONTEXTS = 40  # a bundle has room for 64 parts
_MOST_ROWS = 100_000  # that are looked through, newest first
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a card in a bundle
_HALF = 0.5


@dataclass(frozen=True)
class Place:
    """A node: its cohort, and since when it alarms by the core's clock; None for a calm one."""

    node: str
    cohort: str
    since_s: float | None = None


def alarms_since(conn: Connection, name: str, task: str, digest: str, level: int) -> float | None:
    """Since when a node alarms at a level or above about a bundle; None when its newest report does not."""
    mine = (evidence.c.node == name, evidence.c.task == task, evidence.c.digest == digest)
    newest = select(evidence.c.watch_level, evidence.c.received_s).where(*mine).order_by(evidence.c.id.desc())
    since_s = None
    for row in conn.execute(newest):
        if row.watch_level < level:
            break
        since_s = row.received_s
    return since_s


def moved(places: Sequence[Place]) -> frozenset[str]:
    """Cohorts of which most nodes alarm. Pure."""
    found = set()
    for name in {one.cohort for one in places}:
        mine = [one for one in places if one.cohort == name]
        if sum(one.since_s is not None for one in mine) > _HALF * len(mine):
            found.add(name)
    return frozenset(found)


def readings(
    conn: Connection,
    task: str,
    places: Sequence[Place],
    *,
    own: Mapping[str, Readings] | None = None,
    only: Collection[str] = (),
) -> dict[str, Readings]:
    """Readings for the drift reference of each cohort that gets one, see the module.

    Args:
        conn: to read with.
        task: its name.
        places: its nodes.
        own: cohorts that have a reference now, with what that was made of.
        only: at most these cohorts move; empty for all that do.
    """
    shifted, own = moved(places), own or {}
    new = shifted & frozenset(only) if only else shifted
    wanted = [name for name in (*sorted(new), *sorted(set(own) - new)) if _NAME.fullmatch(name)][:MOST_CONTEXTS]
    from_s = {name: _from_s(name, places) if name in new else own[name].from_s for name in wanted}
    drawn = _drawn(conn, task, places, from_s)
    found = {}
    for name in wanted:
        newest = _evenly(drawn.get(name, {}))
        if name not in new:  # where it has not moved, what there was is as good
            newest = ([] if name in shifted else newest) + list(reversed(own[name].blobs))
        found[name] = Readings(from_s[name], tuple(reversed(list(dict.fromkeys(newest))[:MOST_READINGS])))
    return found


def can_be_named(cohort: str) -> bool:
    """Whether a bundle can hold a reference of a cohort by its name."""
    return _NAME.fullmatch(cohort) is not None


def clocks(conn: Connection) -> dict[str, float]:
    """Node → how far its clock is ahead of the core's, in seconds: it has dated its readings by that."""
    found = {}
    for row in conn.execute(select(node.c.id, node.c.facts)):
        ahead_s = row.facts.get("clock_skew_s")
        found[row.id] = float(ahead_s) if isinstance(ahead_s, int | float) else 0.0
    return found


def _from_s(cohort: str, places: Sequence[Place]) -> float:
    return min(one.since_s for one in places if one.cohort == cohort and one.since_s is not None)


def _drawn(
    conn: Connection, task: str, places: Sequence[Place], from_s: Mapping[str, float]
) -> dict[str, dict[str, list[str]]]:
    """Cohort → node → digests of its uniformly drawn readings since then, the newest first."""
    if not from_s:
        return {}
    ahead_s = clocks(conn)
    start_s = {
        one.node: max(one.since_s or 0.0, from_s[one.cohort]) + ahead_s.get(one.node, 0.0)
        for one in places
        if one.cohort in from_s
    }
    if not start_s:
        return {}
    query = (
        select(sample.c.node, sample.c.blob, sample.c.time_s)
        .where(
            sample.c.task == task, sample.c.share == "uniform", sample.c.blob.is_not(None),
            sample.c.time_s >= min(start_s.values()),
        )
        .order_by(sample.c.time_s.desc(), sample.c.node, sample.c.id)
        .limit(_MOST_ROWS)
    )  # fmt: skip
    cohorts = {one.node: one.cohort for one in places}
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in conn.execute(query):
        if row.node in start_s and row.time_s >= start_s[row.node]:
            found[cohorts[row.node]][row.node].append(row.blob)
    return found


def _evenly(nodes: Mapping[str, Sequence[str]]) -> list[str]:
    """The newest readings of all nodes in turn, newest first."""
    turns = zip_longest(*(nodes[name] for name in sorted(nodes)))
    return [blob for turn in turns for blob in turn if blob is not None]
