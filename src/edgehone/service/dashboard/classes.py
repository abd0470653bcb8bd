"""What a task answers with: the names of its classes, read from the bundle that answered.

Rules:
- The registry's bundles are believed for names only. Where one is not on this machine, classes go by numbers.
- A bundle never changes, so what was read once is remembered by its digest.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from edgehone.records.tables import feedback, release
from edgehone.registry.names import blob_path, bundle_path
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import EdgehoneError

_MOST = 256
_lock = threading.Lock()
_known: OrderedDict[str, Kind] = OrderedDict()


@dataclass(frozen=True)
class Kind:
    """How a task answers: "classification", "regression", "anomaly", or "" where that is not known; class names."""

    kind: str = ""
    labels: tuple[str, ...] = ()

    def is_classes(self, answer: Sequence[float]) -> bool:
        """Whether an answer is a choice among classes."""
        return self.kind == "classification" or (not self.kind and len(answer) > 1)

    def names(self, answer: Sequence[float]) -> tuple[str, ...]:
        """The names of the classes that an answer chooses among."""
        if self.labels or not self.is_classes(answer):
            return self.labels
        return tuple(map(str, range(len(answer) if len(answer) > 1 else 2)))

    def said(self, answer: Any) -> str:
        """What a model said, in words: the name of the class, or the numbers."""
        numbers = [float(one) for one in answer if isinstance(one, int | float)] if isinstance(answer, list) else []
        if not numbers:
            return ""
        if self.is_classes(numbers):
            names = self.names(numbers)
            at = max(range(len(numbers)), key=numbers.__getitem__) if len(numbers) > 1 else int(numbers[0] > 0.5)
            return names[at] if at < len(names) else str(at)
        return ", ".join(f"{number:.5g}" for number in numbers[:6])


def kind_of(conn: Connection, registry: Path, task: str, digest: str) -> Kind:
    """How the model with a digest answers; else how the newest release of its task does; else nothing is known."""
    newest = select(release.c.digest).where(release.c.task == task).order_by(release.c.version.desc()).limit(1)
    for one in (digest, conn.execute(newest).scalar_one_or_none()):
        if one is None:
            continue
        with _lock:
            known = _known.get(one)
        known = known or _read(conn, registry, one)
        if known is not None:
            with _lock:
                _known[one] = known
                while len(_known) > _MOST:
                    _known.popitem(last=False)
            return known
    return Kind()


def new_classes(conn: Connection, task: str) -> tuple[str, ...]:
    """Names of classes that people have named for a task and that no release knows, in order."""
    query = select(feedback.c.label).where(
        feedback.c.task == task, feedback.c.kind == "new_class", feedback.c.label.is_not(None)
    )
    return tuple(sorted(set(conn.execute(query.distinct().limit(100)).scalars())))


def _read(conn: Connection, registry: Path, digest: str) -> Kind | None:
    row = conn.execute(
        select(release.c.task, release.c.version, release.c.member).where(release.c.digest == digest)
    ).one_or_none()
    if row is None:
        return None
    path = registry / blob_path(bundle_path(row.task, row.version, row.member), digest)
    try:
        with open_bundle(path) as bundle:
            return Kind(bundle.manifest.kind, bundle.manifest.labels)
    except EdgehoneError:
        return None
