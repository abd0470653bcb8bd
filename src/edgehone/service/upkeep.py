"""What a core throws away by itself: blobs that nothing needs any more.

Rules:
- A blob goes when no row names it, no example of a version of the data needs it, and it was not put for a day: by then
  the row of whoever was storing it is there. Putting it again makes it young again.
- A reading that a person deleted is needed by nobody, whatever a version of the data lists.
- If a version of the data cannot be read, nothing goes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import select

from edgehone.records import audit
from edgehone.records.blobs import Blobs
from edgehone.records.database import Database
from edgehone.records.garbage import GRACE_S, Garbage, find_garbage, remove_garbage
from edgehone.records.tables import dataset, sample

if TYPE_CHECKING:
    from edgehone.service.core import Core

DAY_S = 86_400.0
FIRST_S = 600.0  # after the start of a core, so that restarts in a row do not look through everything each time
_LOG = logging.getLogger("edgehone.core")


class Upkeep:
    """Removes garbage once a day. A driver: it has a thread of its own, because a large store takes minutes to list."""

    def __init__(self, core: Core, *, every_s: float = DAY_S, first_s: float = FIRST_S) -> None:
        self._core, self._every_s = core, every_s
        self._due_s = core.clock() + first_s

    def tick(self, now_s: float) -> None:
        """Remove garbage when it is time.

        Raises:
            StateError: the database or the blobs cannot be read, or a blob may not be removed.
        """
        if 0 < self._due_s - now_s <= self._every_s:  # a clock that was set back must not put it off for longer
            return
        self._due_s = now_s + self._every_s
        clean(self._core.database, self._core.blobs, now_s=now_s, actor="core")

    def close(self) -> None:
        """Nothing runs between two ticks."""


def clean(database: Database, blobs: Blobs, *, now_s: float, actor: str, grace_s: float = GRACE_S) -> Garbage:
    """Remove blobs that nothing needs, and tell the audit log when there were some.

    Raises:
        StateError: as `remove_garbage`.
    """
    found = {one.digest for one in find_garbage(database, blobs, now_s=now_s, grace_s=grace_s)}
    if not found:
        return Garbage(0, 0)
    removed = remove_garbage(
        database, blobs, now_s=now_s, grace_s=grace_s, keep=needed_by_data(database, blobs, found)
    )  # fmt: skip
    if removed.blobs:
        _LOG.info("%d blobs that nothing needs are gone, %d bytes", removed.blobs, removed.size_bytes)
        detail = {"blobs": removed.blobs, "size_bytes": removed.size_bytes}
        with database.write() as conn:
            audit.record(conn, now_s=now_s, actor=actor, action="blobs.clean", subject="-", detail=detail)
    return removed


def needed_by_data(database: Database, blobs: Blobs, digests: set[str]) -> set[str]:
    """Those of some digests that a version of the data lists, unless their reading was deleted.

    Raises:
        StateError: a manifest cannot be read: nothing may be thrown away then.
    """
    from edgehone.loop.dataset import read_manifest

    with database.read() as conn:
        versions = conn.execute(select(dataset.c.digest)).scalars().all()
        deleted = {
            (row.node, row.id)
            for row in conn.execute(select(sample.c.node, sample.c.id).where(sample.c.blob.is_(None)))
        }
    needed: set[str] = set()
    for version in versions:
        if not blobs.has(version):  # lost before; a backup tells of it, and it lists nothing
            continue
        for example in read_manifest(blobs, version).examples:
            if example.blob in digests and (example.node, example.id) not in deleted:
                needed.add(example.blob)
    return needed
