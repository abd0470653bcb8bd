"""The fleet as rollouts see it, kept in memory between two steps: a step reads what has changed, not 100,000 nodes.

    calls = RollCall()
    with db.read() as conn:
        calls.refresh(conn, now_s)
        views = calls.views(rollout_id, task, offers, now_s, online_s=online_s, watched=ids)

Rules:
- What is kept of a node is small: when it was heard of, its tags and state, what it is, and of each task the version
  that answers and those that it went back from. The rest of a status is read for the few nodes that are watched or
  chosen, when a step asks for it; so the connection stays open as long as the views are used.
- Everybody is looked over page by page, in the order of their ids: a page at each refresh, and from the beginning again
  after the last. A fleet of one page is looked over at every refresh. Of a larger one the refresh also reads the nodes
  that were heard of since the last. What people change there (tags, states), and what was late on its way to the disk,
  is seen when its page comes.
- Until every page has been read once, the fleet is not known (`whole` is false): nothing may be decided from a part.
- Who calls seldom, or after a clock was set back, gets everybody at once.
- Views are those that `views.node_views` makes, in another order. A node whose row cannot be read is left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, Text, cast, select

from edgehone.fleet.choose import Offer, node_facts
from edgehone.fleet.cohorts import cohort_of, load_cohorts
from edgehone.fleet.nodes import QUARANTINED, REVOKED
from edgehone.fleet.observed import NodeView, position
from edgehone.fleet.views import Fitting
from edgehone.records.tables import node
from edgehone_agent.errors import BundleError, StateError
from edgehone_agent.fit import NodeFacts
from edgehone_agent.wire.uplink import TaskStatus

PAGE = 8000
"""Nodes that are looked over at a refresh: an even part of a second's work."""

_SELDOM_S = 15.0
_LATE_S = 5.0  # that a heartbeat may take from its time to the disk
_CHUNK = 500
_MOST_SHARED = 10_000
_LOG = logging.getLogger("edgehone.fleet")

_BRIEF = select(node.c.id, node.c.seen_s, node.c.beats, node.c.state, cast(node.c.tags, Text))
_WHOLE = select(node.c.id, cast(node.c.facts, Text), cast(node.c.status, Text))

Said = tuple[int | None, frozenset[int]]
"""Of a task: the version that answers, and those that the node went back from."""

_NEVER: frozenset[int] = frozenset()


@dataclass(slots=True, frozen=True)
class _Kept:
    """A node: what it is recognised by (seen_s, beats, state, tags as text), what it is, and what it says by task.

    Nodes that say the same share it: a million objects less, which the garbage collector would look over again and
    again, with everything else standing still. Memory, which is of each node its own, stands beside the shared facts.
    """

    mark: tuple[Any, ...]
    facts: NodeFacts
    memory_bytes: int | None
    said: Mapping[str, Said]


class _Statuses:
    """Statuses of a task, read when they are asked for, from one moment of the database."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._conn: Connection | None = None
        self._found: dict[str, TaskStatus | None] = {}

    def open(self, conn: Connection, ids: Iterable[str]) -> set[str]:
        """Begin anew, with these; those of them that cannot be read."""
        self._conn = conn
        self._found = dict(self._read(sorted(ids)))
        return {id for id, status in self._found.items() if status is None}

    def of(self, id: str) -> TaskStatus:
        """One; an empty one where it cannot be read."""
        if id not in self._found:
            self._found.update(self._read([id]))
        return self._found.get(id) or TaskStatus()

    def _read(self, ids: Sequence[str]) -> Iterator[tuple[str, TaskStatus | None]]:
        if self._conn is None:
            raise StateError("a view of a node was used before it was shown", where="fleet")
        for start in range(0, len(ids), _CHUNK):
            query = select(node.c.id, node.c.status).where(node.c.id.in_(ids[start : start + _CHUNK]))
            for id, status in self._conn.execute(query):
                try:
                    yield id, TaskStatus.from_json(status.get(self._task))
                except BundleError as error:  # one node's bad row must not stop the fleet
                    _LOG.warning("node %s is left out: %s", id, error)
                    yield id, None


class StoredView(NodeView):
    """A view that knows what most of a step asks, and reads the node's status when that is asked for."""

    kept: _Kept
    _place: tuple[str, float]
    _said: Said
    _statuses: _Statuses

    @classmethod
    def of(cls, id: str, kept: _Kept, said: Said, statuses: _Statuses, **more: Any) -> StoredView:
        """A node as it is kept; `more` are the other fields of a `NodeView`."""
        made = cls.__new__(cls)  # a frozen dataclass takes five times as long to fill its fields
        more |= {"id": id, "seen_s": kept.mark[0], "quarantined": kept.mark[2] == QUARANTINED, "kept": kept}
        more |= {"_said": said, "_statuses": statuses}
        for name, value in more.items():  # one by one they need no dictionary of their own
            object.__setattr__(made, name, value)
        return made

    @property
    def status(self) -> TaskStatus:
        """See `NodeView`."""
        return self._statuses.of(self.id)

    def has(self, version: int) -> bool:
        """See `NodeView`."""
        return self._said[0] == version

    def refused(self, version: int) -> bool:
        """See `NodeView`."""
        return version in self._said[1]

    def place(self, rollout: str) -> float:
        """See `NodeView`."""
        return self._place[1] if self._place[0] == rollout else position(rollout, self.id)


@dataclass
class _Shown:
    """The views of one rollout, and what they were made for."""

    key: tuple[Any, ...]
    statuses: _Statuses
    fitting: Fitting
    views: dict[str, StoredView] = field(default_factory=dict)
    kinds: dict[str, tuple[Mapping[str, str], str]] = field(default_factory=dict)  # tags as text → tags, cohort


class RollCall:
    """The nodes of one core. For one thread.

    Args:
        page: nodes that are looked over at a refresh, at least 1.

    Attributes:
        whole: every node has been read at least once.
    """

    def __init__(self, page: int = PAGE) -> None:
        self._page = page
        self._conn: Connection | None = None
        self._empty()

    def _empty(self) -> None:
        self.whole = False
        self._nodes: dict[str, _Kept] = {}
        self._facts: dict[NodeFacts, NodeFacts] = {}
        self._said: dict[tuple[tuple[str, Said], ...], Mapping[str, Said]] = {}
        self._shown: dict[str, _Shown] = {}
        self._last_s: float | None = None
        self._after = ""  # the last node of the last page
        self._met: set[str] = set()  # since the first page

    def refresh(self, conn: Connection, now_s: float) -> int:
        """Take in what has changed, and return of how many nodes. Call it at the beginning of a read."""
        marks: dict[str, tuple[Any, ...]] = {}
        for row in self._look(conn, now_s):
            known, mark = self._nodes.get(row[0]), row[1:]
            if known is None or known.mark != mark:
                marks[row[0]] = mark
        for id, facts, said in _whole(conn, marks):
            self._nodes[id] = self._keep(marks[id], facts, said)
        self._last_s, self._conn = now_s, conn
        return len(marks)

    def _keep(self, mark: tuple[Any, ...], facts: NodeFacts, said: Mapping[str, Said]) -> _Kept:
        """A node, with what others have alike shared with them."""
        for shared in (self._facts, self._said):
            if len(shared) >= _MOST_SHARED:
                shared.clear()
        alike = replace(facts, memory_bytes=None)
        return _Kept(
            mark, self._facts.setdefault(alike, alike), facts.memory_bytes,
            self._said.setdefault(tuple(said.items()), said),
        )  # fmt: skip

    def _look(self, conn: Connection, now_s: float) -> Iterator[Row[Any]]:
        """The nodes that are looked over now; what is not there any more is dropped when everybody was."""
        last_s = self._last_s
        is_seldom = last_s is not None and not 0 <= now_s - last_s < _SELDOM_S
        if is_seldom:
            self._after, self._met = "", set()
            page = conn.execute(_BRIEF).all()
        else:
            page = conn.execute(_BRIEF.where(node.c.id > self._after).order_by(node.c.id).limit(self._page)).all()
        self._met.update(row[0] for row in page)
        yield from page
        is_last = is_seldom or len(page) < self._page
        if last_s is not None and not is_seldom and (self._after or not is_last):
            for row in conn.execute(_BRIEF.where(node.c.seen_s >= last_s - _LATE_S)):
                self._met.add(row[0])
                yield row
        if not is_last:
            self._after = page[-1][0]
            return
        for id in self._nodes.keys() - self._met:
            del self._nodes[id]
        self._after, self._met, self.whole = "", set(), True

    def views(
        self,
        rollout: str,
        task: str,
        offers: Sequence[Offer],
        now_s: float,
        *,
        online_s: float,
        watched: Iterable[str] = (),
    ) -> list[NodeView]:
        """Every node that reports a task and is not revoked, as of the last `refresh`, whose connection is still open.

        Args:
            rollout: its id; views are kept for it.
            task, offers, now_s, online_s: as for `views.node_views`.
            watched: ids of nodes whose statuses are needed. Others are read one by one.

        Raises:
            StateError: there was no refresh.
        """
        if self._conn is None:
            raise StateError("the fleet was not called before it is shown", where="fleet")
        cohorts = load_cohorts(self._conn, task)
        key = (task, tuple(map(repr, offers)), tuple(map(repr, cohorts)))
        shown = self._shown.get(rollout)
        if shown is None or shown.key != key:
            shown = self._shown[rollout] = _Shown(key, _Statuses(task), Fitting(offers))
        old, new = shown.views, {}
        for id, kept in self._nodes.items():
            seen_s, _, state, tags = kept.mark
            view = old.get(id)
            online = seen_s is not None and -online_s <= now_s - seen_s <= online_s
            if view is None or view.kept is not kept or view.online is not online:
                said = kept.said.get(task)
                if said is None or state == REVOKED:
                    continue
                kind = shown.kinds.get(tags)
                if kind is None:
                    carried = json.loads(tags)
                    kind = shown.kinds[tags] = (carried, cohort_of(cohorts, task, carried).name)
                place = (rollout, position(rollout, id)) if view is None else view._place
                view = StoredView.of(
                    id, kept, said, shown.statuses, cohort=kind[1], online=online, tags=kind[0],
                    fits=shown.fitting.one(kept.facts, kept.memory_bytes), _place=place,
                )  # fmt: skip
            new[id] = view
        shown.views = new
        bad = shown.statuses.open(self._conn, new.keys() & set(watched))
        return [view for view in new.values() if view.id not in bad] if bad else list(new.values())

    def forget(self, rollouts: Iterable[str]) -> None:
        """Keep no more than these rollouts need: nothing when there is none."""
        wanted = set(rollouts)
        self._shown = {id: shown for id, shown in self._shown.items() if id in wanted}
        if not wanted:
            self._empty()
        self._conn = None


def _whole(conn: Connection, ids: Mapping[str, Any]) -> Iterator[tuple[str, NodeFacts, Mapping[str, Said]]]:
    """Facts and statuses of nodes, as far as they can be read."""
    ordered = sorted(ids)
    chunks = (ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK))
    found = (row for chunk in chunks for row in conn.execute(_WHOLE.where(node.c.id.in_(chunk))))
    for id, facts, status in map(tuple, found):
        try:
            yield id, node_facts(json.loads(facts)), {task: _said(told) for task, told in json.loads(status).items()}
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            _LOG.warning("node %s is left out: %r", id, error)
            yield id, NodeFacts("", ()), {}


def _said(told: Any) -> Said:
    version, failed = told.get("version"), told.get("failed")
    if not (version is None or isinstance(version, int)):
        raise ValueError("a version that is no number")
    return version, frozenset(one["version"] for one in failed) if failed else _NEVER
