"""What nodes send up besides heartbeats: evidence, captured samples, feedback. Each id counts once from each node.

Rules:
- (node, id) is unique. Sent again, in any order, late or from two connections at once, an id is known, not new.
- What a quarantined node sends is kept and marked: it teaches nothing.
- A reading is checked before it is stored: a .npy without pickles whose header and length agree. Nothing of it is
  interpreted here.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, delete, insert, select, update

from edgehone.errors import InputError
from edgehone.fleet.nodes import QUARANTINED
from edgehone.records.database import insert_new
from edgehone.records.tables import evidence as evidence_table
from edgehone.records.tables import feedback, node, sample
from edgehone_agent.errors import TrustError
from edgehone_agent.feedback import Event, read_event
from edgehone_agent.wire.uplink import Evidence, SampleLine, Taken

MAX_READING_BYTES = 4 << 20
KEPT_EVIDENCE = 500  # per node and task
_HEADER_BYTES = 4096
_KINDS = "biuf"
_CHUNK = 500
_LEVELS = (0, 3)


@dataclass(frozen=True)
class Reading:
    """A captured sample, checked, with its reading as .npy and the digest under which that is stored."""

    line: SampleLine
    content: bytes


def check_reading(line: SampleLine) -> Reading:
    """The reading of a sample line.

    Raises:
        InputError: no base64, no .npy, one with objects in it, or a length that its header does not say.
    """
    try:
        content = base64.b64decode(line.x, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("x is no base64", where=f"sample {line.id}") from error
    if len(content) > MAX_READING_BYTES:
        raise InputError(f"the reading has more than {MAX_READING_BYTES} bytes", where=f"sample {line.id}")
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise InputError("x is no .npy file of version 1.0", where=f"sample {line.id}") from error
    if dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise InputError("x is no whole .npy file of numbers", where=f"sample {line.id}")
    return Reading(line, content)


def known_samples(conn: Connection, id: str, samples: Sequence[str]) -> set[str]:
    """Those of a node's sample ids that are here already."""
    found: set[str] = set()
    for start in range(0, len(samples), _CHUNK):
        part = samples[start : start + _CHUNK]
        found |= set(conn.execute(select(sample.c.id).where(sample.c.node == id, sample.c.id.in_(part))).scalars())
    return found


def take_samples(conn: Connection, id: str, readings: Sequence[tuple[Reading, str]], now_s: float) -> Taken:
    """Keep samples whose readings are in the blob store.

    Args:
        id: of the node.
        readings: each with the digest of its blob.

    Raises:
        TrustError: the node is unknown.
    """
    _state(conn, id)
    known = known_samples(conn, id, [reading.line.id for reading, _ in readings])
    fresh = {reading.line.id: (reading, blob) for reading, blob in readings if reading.line.id not in known}
    rows = [
        {
            "node": id, "id": line.id, "task": line.task, "digest": line.digest, "time_s": line.time_s,
            "received_s": now_s, "share": line.share, "propensity": line.propensity,
            "informativeness": line.informativeness, "stratum": line.stratum, "answer": list(line.answer),
            "blob": blob, "size_bytes": len(reading.content), "source": "field", "licence": "",
        }
        for reading, blob in fresh.values()
        for line in (reading.line,)
    ]  # fmt: skip
    return _taken([r.line.id for r, _ in readings], insert_new(conn, sample, rows, keys=["node", "id"]))


def read_events(body: Any) -> tuple[Event, ...]:
    """The events of a feedback call, checked.

    Raises:
        InputError: no list of events, or one of them is not one.
    """
    events = body.get("events") if isinstance(body, dict) else None
    if not isinstance(events, list):
        raise InputError("there is no list of events", where="events", do='send {"events": [...]}')
    return tuple(map(read_event, events))


def take_feedback(conn: Connection, id: str, events: Sequence[Event], now_s: float) -> Taken:
    """Keep feedback of a node.

    Raises:
        TrustError: the node is unknown.
    """
    why = "the node is quarantined" if _state(conn, id) == QUARANTINED else None
    tasks = _tasks_of(conn, id, [event.prediction_id for event in events])
    rows = [_feedback_row(id, event, tasks, why, now_s) for event in events]
    return _taken([event.id for event in events], insert_new(conn, feedback, rows, keys=["node", "id"]))


def _taken(ids: Sequence[str], new: set[tuple[Any, ...]]) -> Taken:
    ids = list(dict.fromkeys(ids))
    fresh = {key[1] for key in new}
    return Taken(tuple(id for id in ids if id in fresh), tuple(id for id in ids if id not in fresh))


def _feedback_row(id: str, event: Event, tasks: Mapping[str, str], why: str | None, now_s: float) -> dict[str, Any]:
    content = json.loads(event.content)
    label, trust, time_s = content.get("label"), content.get("trust"), content.get("time")
    return {
        "node": id, "id": event.id, "task": tasks.get(event.prediction_id, str(content.get("task") or "")[:200]),
        "prediction": event.prediction_id, "kind": event.kind, "label": None if label is None else str(label),
        "value": content.get("value"), "annotator": content.get("annotator") or "",
        "trust": 1.0 if trust is None else float(trust), "time_s": now_s if time_s is None else float(time_s),
        "received_s": now_s, "content": content, "quarantined": why,
    }  # fmt: skip


def _tasks_of(conn: Connection, id: str, predictions: Sequence[str]) -> dict[str, str]:
    """Prediction id → task, for samples of a node that are here."""
    found: dict[str, str] = {}
    for start in range(0, len(predictions), _CHUNK):
        part = predictions[start : start + _CHUNK]
        query = select(sample.c.id, sample.c.task).where(sample.c.node == id, sample.c.id.in_(part))
        found |= {row.id: row.task for row in conn.execute(query)}
    return found


def take_evidence(conn: Connection, id: str, told: Evidence, now_s: float) -> None:
    """Keep what a node's watch found; the newest `KEPT_EVIDENCE` of each node and task stay.

    Raises:
        TrustError: the node is unknown.
    """
    _state(conn, id)
    facts = dict(conn.execute(select(node.c.facts).where(node.c.id == id)).scalar_one())
    conn.execute(
        insert(evidence_table).values(
            node=id, task=told.task, digest=told.digest, received_s=now_s,
            watch_level=_level(told.content), risk_level=_level(told.content.get("risk")),
            rows=_whole(told.content.get("rows")), content=dict(told.content),
        )
    )  # fmt: skip
    facts["evidence_s"] = {**facts.get("evidence_s", {}), told.task: now_s}
    conn.execute(update(node).where(node.c.id == id).values(facts=facts))
    mine = (evidence_table.c.node == id) & (evidence_table.c.task == told.task)
    oldest = select(evidence_table.c.id).where(mine).order_by(evidence_table.c.id.desc()).offset(KEPT_EVIDENCE).limit(1)
    last = conn.execute(oldest).scalar_one_or_none()
    if last is not None:
        conn.execute(delete(evidence_table).where(mine, evidence_table.c.id <= last))


def _state(conn: Connection, id: str) -> str:
    state = conn.execute(select(node.c.state).where(node.c.id == id)).scalar_one_or_none()
    if state is None:
        raise TrustError("this node is not one of ours", do="enrol it with a new token")
    return str(state)


def _level(content: Any) -> int:
    found = content.get("level") if isinstance(content, Mapping) else None
    return min(max(_whole(found), _LEVELS[0]), _LEVELS[1])


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 1 << 53 else 0
