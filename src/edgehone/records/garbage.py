"""Blobs that no row names any more: found, and removed once they are so old that no row can be on its way.

A row names a blob in a column of digests, or anywhere in the JSON of what plans, decides and trains. A blob that only
another blob names (an example in the manifest of a dataset) is not seen from here: the caller passes its digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select

from edgehone.records.blobs import Blobs, Stored
from edgehone.records.database import Database
from edgehone.records.tables import (
    cohort,
    dataset,
    decision,
    release,
    rollout,
    rollout_event,
    sample,
    setting,
)
from edgehone.records.tables import round as round_table

GRACE_S = 24 * 3600.0

_DIGESTS = (sample.c.blob, dataset.c.digest, dataset.c.parent, release.c.digest, release.c.dataset, release.c.parent)
_JSON = (
    cohort.c.policy, dataset.c.counts, decision.c.evidence, release.c.fit, release.c.measured, rollout.c.content,
    rollout_event.c.detail, round_table.c.content, setting.c.value,
)  # fmt: skip
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Garbage:
    """What was found: how many blobs, and their bytes."""

    blobs: int
    size_bytes: int


def named(connection: Connection) -> set[str]:
    """Every digest that a row names."""
    found: set[str] = set()
    for column in _DIGESTS:
        found.update(connection.scalars(select(column).where(column.is_not(None)).distinct()))
    for column in _JSON:
        for value in connection.scalars(select(column), execution_options={"yield_per": 1000}):
            found.update(_DIGEST.findall(json.dumps(value)))
    return found


def find_garbage(
    database: Database, blobs: Blobs, *, now_s: float, grace_s: float = GRACE_S, keep: Collection[str] = ()
) -> Iterator[Stored]:
    """Blobs that no row names and that were last put longer than `grace_s` ago.

    Args:
        keep: digests that only other blobs name.

    Raises:
        StateError: the database or the blobs cannot be read.
    """
    old = [blob for blob in blobs.stored() if blob.put_s < now_s - grace_s and blob.digest not in keep]
    with database.read() as connection:  # after the listing: what was named meanwhile is seen
        in_use = named(connection)
    return (blob for blob in old if blob.digest not in in_use)


def remove_garbage(
    database: Database, blobs: Blobs, *, now_s: float, grace_s: float = GRACE_S, keep: Collection[str] = ()
) -> Garbage:
    """Remove what `find_garbage` finds; a blob that was put again meanwhile stays.

    Raises:
        StateError: the database or the blobs cannot be read, or a blob may not be removed.
    """
    removed = size_bytes = 0
    for blob in find_garbage(database, blobs, now_s=now_s, grace_s=grace_s, keep=keep):
        if blobs.delete_older(blob.digest, now_s - grace_s):
            removed += 1
            size_bytes += blob.size_bytes
    return Garbage(removed, size_bytes)
