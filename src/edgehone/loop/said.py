"""What was said about the samples of a task, read from the database; and putting poisoned labels aside.

Rules:
- A word of a node is about that node's own sample. A word of the core names the sample's node in its content.
- Feedback that was put aside for poison is read, so that the test goes on to count it; other feedback that was put
  aside is not. Samples of nodes that are not active teach nothing.
- Class names come from the family's study. A label may be a name or a number.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, Select, case, func, or_, select, update

from edgehone.fleet.nodes import ACTIVE
from edgehone.loop.trust import CORE, POISONED, Label, Said, Sampled, Suspect, Vote
from edgehone.records.tables import feedback, node, sample
from edgehone_agent.feedback import SHARES

MOST_FEEDBACK = 100_000
_FEW, _BATCH = 2000, 500
_OVERLAP_S = 60.0  # rows of two writers may come in another order than their times
_CUT = 0.5  # a single score above it means class 1


def read_said(conn: Connection, task: str, labels: Sequence[str], *, is_classes: bool = True) -> list[Said]:
    """Samples of a task about which something was said, with all that was said, in the order of (node, id).

    Args:
        conn: to read with.
        task: its name.
        labels: names of the classes, in their order.
        is_classes: the task answers with classes.
    """
    return Heard().read(conn, task, labels, is_classes=is_classes)


@dataclass(frozen=True)
class _Mark:
    """What tells whether everything has to be read anew: rows of feedback, those put aside, and what labels mean."""

    rows: int
    aside: int
    task: str
    labels: tuple[str, ...]
    is_classes: bool


class Heard:
    """What was said about a task, remembered between looks: 50,000 words take seconds to read, the new ones none.

    Feedback is only added, or put aside. So a look reads what has come since the last; where the counts do not agree
    with that, it reads everything. One thread at a time.
    """

    def __init__(self) -> None:
        self._mark: _Mark | None = None
        self._said: dict[tuple[str, str], tuple[Sampled, list[Vote]]] = {}
        self._waiting: dict[tuple[str, str], list[Row[Any]]] = {}  # words about samples that are not here yet
        self._events: dict[tuple[str, str], None] = {}
        self._newest_s = 0.0

    def read(self, conn: Connection, task: str, labels: Sequence[str], *, is_classes: bool = True) -> list[Said]:
        """See `read_said`."""
        mine = feedback.c.task.in_((task, ""))
        aside = func.sum(case((feedback.c.quarantined.is_not(None), 1), else_=0))
        rows, put_aside = conn.execute(select(func.count(), aside).where(mine)).one()
        mark = _Mark(rows, int(put_aside or 0), task, tuple(labels), is_classes)
        known = self._mark
        if known is None or replace(known, rows=mark.rows) != mark or not self._catch_up(conn, mark, known):
            self._begin_anew(conn, mark)
        self._mark = mark
        active = set(conn.execute(select(node.c.id).where(node.c.state == ACTIVE)).scalars())
        return [self._said[key] for key in sorted(self._said) if key[0] in active]

    def put_aside(self, conn: Connection, found: Sequence[Suspect]) -> dict[tuple[str, str], int]:
        """Mark the feedback of suspects here and in the database; (kind, name) → rows that were not marked before."""
        if self._mark is None:
            return {}
        marked = put_aside(conn, self._mark.task, found)
        for suspect in found if marked else ():
            for _, votes in self._said.values():
                for place, vote in enumerate(votes):
                    name = vote.sender if suspect.kind == "node" else vote.annotator
                    if name == suspect.name and vote.quarantined is None and not vote.is_audit:
                        votes[place] = replace(vote, quarantined=suspect.why)
        is_all_here = not self._waiting
        aside = self._mark.aside + sum(marked.values())
        self._mark = replace(self._mark, aside=aside) if is_all_here else None
        return marked

    def _catch_up(self, conn: Connection, mark: _Mark, known: _Mark) -> bool:
        """Read what is new; whether that is all there is."""
        if mark.rows > MOST_FEEDBACK:
            return False
        recent = _live(mark.task).where(feedback.c.received_s >= self._newest_s - _OVERLAP_S)
        new = [row for row in conn.execute(recent) if (row.node, row.id) not in self._events]
        if mark.rows - known.rows != len(new):
            return False
        self._take(conn, mark, new)
        return True

    def _begin_anew(self, conn: Connection, mark: _Mark) -> None:
        self._said, self._waiting, self._events, self._newest_s = {}, {}, {}, 0.0
        newest = _live(mark.task).order_by(feedback.c.received_s.desc()).limit(MOST_FEEDBACK)
        self._take(conn, mark, conn.execute(newest).all())

    def _take(self, conn: Connection, mark: _Mark, rows: Sequence[Row[Any]]) -> None:
        for row in rows:
            of = str(row.content.get("node", "")) if row.node == CORE else row.node
            self._waiting.setdefault((of, row.prediction), []).append(row)
            self._events[_one(row.node), row.id] = None
            self._newest_s = max(self._newest_s, row.received_s)
        for found in _samples(conn, mark.task, self._waiting):
            key = (_one(found.node), found.id)
            told = self._waiting.pop(key, None)
            if told is None:
                continue
            if key not in self._said:
                self._said[key] = (_sampled(found, is_classes=mark.is_classes), [])
            captured, votes = self._said[key]
            votes += [_vote(one, captured.answered, mark.labels, is_classes=mark.is_classes) for one in told]


def _sampled(row: Row[Any], *, is_classes: bool) -> Sampled:
    return Sampled(
        _one(row.node), row.id, _one(row.digest), row.blob, _answered(row.answer, is_classes=is_classes),
        _one(row.share), row.propensity, _one(row.source), _one(row.licence), row.time_s,
    )  # fmt: skip


def _one(text: str) -> str:
    """The text as one object for all rows that say it: a database gives each row its own, a third of what is kept."""
    return sys.intern(text)


def _live(task: str) -> Select[Any]:
    """Feedback that counts, see the module."""
    columns = [column for column in feedback.c if column.name != "task"]
    kept = or_(
        feedback.c.quarantined.is_(None), feedback.c.quarantined.startswith(POISONED), feedback.c.kind == "delete"
    )
    return select(*columns).where(feedback.c.task.in_((task, "")), kept)


def _samples(conn: Connection, task: str, wanted: Mapping[tuple[str, str], object]) -> Iterator[Row[Any]]:
    """The samples of a task that something was said about; more than are wanted, where many are."""
    query = select(sample).where(sample.c.task == task)
    if len(wanted) > _FEW:
        about = select(feedback.c.prediction).where(feedback.c.task.in_((task, "")))
        yield from conn.execute(query.where(sample.c.id.in_(about)))
        return
    ids = sorted({id for _, id in wanted})
    for start in range(0, len(ids), _BATCH):
        yield from conn.execute(query.where(sample.c.id.in_(ids[start : start + _BATCH]))).all()


def put_aside(conn: Connection, task: str, found: Sequence[Suspect]) -> dict[tuple[str, str], int]:
    """Mark the feedback of suspects; (kind, name) → rows that were not marked before."""
    marked = {}
    for suspect in found:
        source = feedback.c.node if suspect.kind == "node" else feedback.c.annotator
        done = conn.execute(
            update(feedback)
            .where(
                source == suspect.name, feedback.c.node != CORE, feedback.c.task.in_((task, "")),
                feedback.c.quarantined.is_(None),
            )
            .values(quarantined=suspect.why)
        )  # fmt: skip
        if done.rowcount:
            marked[suspect.kind, suspect.name] = done.rowcount
    return marked


def _vote(row: Row[Any], answered: Label | None, labels: Sequence[str], *, is_classes: bool) -> Vote:
    label, unknown = _label(row, answered, labels, is_classes=is_classes)
    content: Mapping[str, Any] = row.content
    return Vote(
        _one(row.node), row.id, _one(row.annotator), _one(row.kind), label, unknown, row.trust, row.time_s,
        row.received_s, content.get("share") in SHARES, row.quarantined,
    )  # fmt: skip


def _label(
    row: Row[Any], answered: Label | None, labels: Sequence[str], *, is_classes: bool
) -> tuple[Label | None, str]:
    """The right answer, and the name of a class that the task does not have."""
    if row.kind == "confirm":
        return answered, ""
    if row.kind == "new_class":
        known = labels.index(row.label) if row.label in labels else None
        return known, "" if known is not None else str(row.label)
    if row.kind != "correct":
        return None, ""
    if not is_classes:
        return _numbers(row.value), ""
    if row.label is None:
        return None, ""
    if row.label in labels:
        return list(labels).index(row.label), ""
    if row.label.isascii() and row.label.isdigit() and len(row.label) < 9 and int(row.label) < len(labels):
        return int(row.label), ""
    return None, str(row.label)


def _answered(values: Any, *, is_classes: bool) -> Label | None:
    numbers = _numbers(values)
    if numbers is None or not is_classes:
        return numbers
    if isinstance(numbers, float):
        return int(numbers > _CUT)
    return max(range(len(numbers)), key=numbers.__getitem__)


def _numbers(values: Any) -> float | tuple[float, ...] | None:
    if isinstance(values, str):
        values = json.loads(values)
    if isinstance(values, int | float) and not isinstance(values, bool):
        return float(values)
    if not isinstance(values, list) or not values:
        return None
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return None
    return float(values[0]) if len(values) == 1 else tuple(map(float, values))
