"""Writing what was captured into a folder that a person carries to the core. docs/formats/capture.md describes it.

Rules:
- A batch gets its number in the database first, then its files are written whole and synced, then it is marked as done
  and its samples leave the database. Cut anywhere, the next export writes the same batch into the same files.
- Within a folder no id stands twice; two nodes, and two databases of one node, never use the same file name.
- The files are not sealed: they are for others to read. Only their owner may open them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgehone_agent._capture_seal import Seal, UnreadableError, unpack
from edgehone_agent._capture_store import Batch, SampleRow, Store, open_event, open_sample
from edgehone_agent.durable import write_bytes

Result = TypeVar("Result")
Ask = Callable[[Callable[[Store], Any]], Any]
_PRIVATE = 0o600


def export_all(ask: Ask, seal: Seal, folder: Path, report: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Write all samples and events that were not exported yet, then `report`.

    Args:
        ask: runs a function on the store and returns its result.
        seal: what the payloads are sealed with.
        folder: where to; made when it is not there.
        report: JSON-able, such as evidence and counters.
        now: seconds since 1970.

    Returns:
        samples, feedback: how many were written; unreadable: how many were damaged and left out; files: their names.

    Raises:
        StateError: the folder cannot be written, or the database cannot.
    """
    done: dict[str, Any] = {"samples": 0, "feedback": 0, "unreadable": 0, "files": []}
    store = ask(lambda store: store.name)

    def write(kind: str, number: int, suffix: str, content: bytes) -> str:
        name = f"{kind}/{store}-{number:06d}{suffix}"
        write_bytes(folder / name, content, mode=_PRIVATE)
        done["files"].append(name)
        return name

    while (batch := ask(lambda store: store.plan_samples())) is not None:
        lines, arrays = _read_samples(seal, batch, done)
        if lines:
            stem = f"{store}-{batch.number:06d}.npz"
            write("samples", batch.number, ".npz", _npz(arrays))
            write("samples", batch.number, ".jsonl", _lines([{**line, "file": stem} for line in lines]))
        done["samples"] += len(lines)
        _finish(ask, batch.number, now)
    while (batch := ask(lambda store: store.plan_feedback())) is not None:
        lines = _read_events(seal, batch, done)
        if lines:
            write("feedback", batch.number, ".jsonl", _lines(lines))
        done["feedback"] += len(lines)
        _finish_feedback(ask, batch.number)
    number = ask(lambda store: store.next_batch())
    content = {"store": store, "time": now, **report, "exported": {k: v for k, v in done.items() if k != "files"}}
    write("evidence", number, ".json", json.dumps(content, indent=1, sort_keys=True).encode())
    return done


def _finish(ask: Ask, number: int, now: float) -> None:
    ask(lambda store: store.finish_samples(number, now))


def _finish_feedback(ask: Ask, number: int) -> None:
    ask(lambda store: store.finish_feedback(number))


def _read_samples(
    seal: Seal, batch: Batch, done: dict[str, Any]
) -> tuple[list[dict[str, Any]], tuple[list[Any], list[Any]]]:
    """For each sample that opens: what stands beside it, its reading and its answer."""
    lines: list[dict[str, Any]] = []
    arrays: tuple[list[Any], list[Any]] = ([], [])
    for row in batch.rows:
        try:
            x, values = unpack(row.layout, open_sample(seal, row))
        except UnreadableError:
            done["unreadable"] += 1
            continue
        arrays[0].append(x)
        arrays[1].append(values)
        lines.append(_about(row, len(lines)))
    return lines, arrays


def _about(row: SampleRow, place: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "task": row.task,
        "digest": row.digest,
        "time": row.time,
        "informativeness": row.informativeness,
        "stratum": row.stratum,
        "shares": dict(row.places),
        "row": place,
    }


def _read_events(seal: Seal, batch: Batch, done: dict[str, Any]) -> list[dict[str, Any]]:
    lines = []
    for name, received, sealed in batch.rows:
        try:
            lines.append({"received": received, "event": json.loads(open_event(seal, name, sealed))})
        except UnreadableError:
            done["unreadable"] += 1
    return lines


def _npz(arrays: tuple[list[Any], list[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.stack(arrays[0]), values=np.stack(arrays[1]))
    return file.getvalue()


def _lines(objects: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line, sort_keys=True, ensure_ascii=False).encode() + b"\n" for line in objects)
