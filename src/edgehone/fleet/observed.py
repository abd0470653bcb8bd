"""What the core knows of a node for one task, as values that a rollout and its gates decide from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgehone_agent.errors import StateError
from edgehone_agent.wire.uplink import TaskStatus

T = TypeVar("T")


def position(rollout: str, node: str) -> float:
    """Where a node stands in the order of a rollout, in [0, 1), evenly spread: a stage of 25 % has those below 0.25."""
    digest = hashlib.sha256(f"{rollout}\0{node}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class NodeView:
    """One node as a rollout sees it.

    Attributes:
        id: of the node.
        cohort: the one that it belongs to for this task.
        online: it was heard of recently enough to be asked now.
        seen_s: time of its last heartbeat, by the core's clock; None before the first.
        status: what that heartbeat said about the task.
        tags: of the node; canaries are spread over them.
        fits: a member of the release that is rolled out can run here.
        quarantined: nothing is changed on it, and nothing is judged by it.
    """

    id: str
    cohort: str
    online: bool
    seen_s: float | None
    status: TaskStatus = field(default_factory=TaskStatus)
    tags: Mapping[str, str] = field(default_factory=dict)
    fits: bool = True
    quarantined: bool = False

    def has(self, version: int) -> bool:
        """Whether it answers with this version."""
        return self.status.version == version

    def refused(self, version: int) -> bool:
        """Whether it tried this version and went back."""
        return any(failure.version == version for failure in self.status.failed)

    def place(self, rollout: str) -> float:
        """Where it stands in the order of a rollout, see `position`."""
        return position(rollout, self.id)


@dataclass(frozen=True)
class Watched:
    """A node that a step of a rollout is judged by, with what it was like before the step.

    Attributes:
        node: its id.
        offered_s: when the step offered it the release.
        version: that answered then; None for none.
        heard: it has had a heartbeat since the release was first offered, so it may have taken it.
        took: it was seen with the release; in the shadow step, beside its own.
        latency_us, memory_bytes, watch_level, crashes, rows, wrong: from its status then; the last two are labels.
    """

    node: str
    offered_s: float
    version: int | None = None
    heard: bool = False
    took: bool = False
    latency_us: float | None = None
    memory_bytes: int | None = None
    watch_level: int = 0
    crashes: int = 0
    rows: int = 0
    wrong: int = 0

    @classmethod
    def of(cls, view: NodeView, now_s: float, *, heard: bool = False) -> Watched:
        """A node as it is now."""
        status, labelled = view.status, view.status.labelled
        return cls(
            node=view.id,
            offered_s=now_s,
            version=status.version,
            heard=heard,
            latency_us=status.latency_us,
            memory_bytes=status.memory_bytes,
            watch_level=status.watch_level,
            crashes=status.crashes,
            rows=labelled.rows if labelled else 0,
            wrong=labelled.wrong if labelled else 0,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field; all of them are plain values."""
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Watched:
        """Read one back; fields it does not know are dropped. Raises StateError."""
        return known_fields(cls, data)


def known_fields(kind: type[T], data: Mapping[str, Any]) -> T:
    """A dataclass from an object that this program wrote once, maybe a newer version of it.

    Raises:
        StateError: a field is missing, or the object is none.
    """
    fields: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    try:
        return kind(**{name: value for name, value in data.items() if name in fields})
    except (TypeError, AttributeError) as error:
        raise StateError(
            f"what is stored of a rollout cannot be read: {error}", where=kind.__name__, do="restore the last backup"
        ) from error
