"""What was said about the samples of a task, read from the database; and putting poisoned labels aside.

Rules:
- A word of a node is about that node's own sample. A word of the core names the sample's node in its content.
- Feedback that was put aside for poison is read, so that the test goes on to count it; other feedback that was put
  aside is not. Samples of nodes that are not active teach nothing.
- Class names come from the family's study. A label may be a name or a number.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from edgehone.fleet.nodes import ACTIVE
from edgehone.loop.trust import CORE, POISONED, Label, Said, Sampled, Suspect, Vote
from edgehone.records.tables import feedback, node, sample
from edgehone_agent.feedback import SHARES

MOST_FEEDBACK = 100_000
_CUT = 0.5  # a single score above it means class 1


def read_said(conn: Connection, task: str, labels: Sequence[str], *, is_classes: bool = True) -> list[Said]:
    """Samples of a task about which something was said, with all that was said, in the order of (node, id).

    Args:
        labels: names of the classes, in their order.
        is_classes: the task answers with classes.
    """
    active = set(conn.execute(select(node.c.id).where(node.c.state == ACTIVE)).scalars())
    mine = feedback.c.task.in_((task, ""))
    live = or_(
        feedback.c.quarantined.is_(None), feedback.c.quarantined.startswith(POISONED), feedback.c.kind == "delete"
    )
    query = select(feedback).where(mine, live).order_by(feedback.c.received_s.desc()).limit(MOST_FEEDBACK)
    words: dict[tuple[str, str], list[Row[Any]]] = defaultdict(list)
    for row in conn.execute(query):
        of = str(row.content.get("node", "")) if row.node == CORE else row.node
        words[of, row.prediction].append(row)
    about = select(feedback.c.prediction).where(mine)
    samples = select(sample).where(sample.c.task == task, sample.c.id.in_(about)).order_by(sample.c.node, sample.c.id)
    found: list[Said] = []
    for row in conn.execute(samples):
        told = words.get((row.node, row.id))
        if told is None or row.node not in active:
            continue
        answered = _answered(row.answer, is_classes=is_classes)
        captured = Sampled(
            row.node, row.id, row.digest, row.blob, answered, row.share, row.propensity, row.source, row.licence
        )
        found.append((captured, [_vote(one, answered, labels, is_classes=is_classes) for one in told]))
    return found


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
        row.node, row.id, row.annotator, row.kind, label, unknown, row.trust, row.time_s, row.received_s,
        content.get("share") in SHARES, row.quarantined,
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
