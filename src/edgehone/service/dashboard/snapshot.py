"""The whole fleet in a few figures and one line per node, read at most every two seconds however many look.

Rules:
- A node's trouble is the worst of its tasks: the higher of watch and risk, and whether something does not answer.
- A node is online when it was heard of within three heartbeats, as everywhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgehone.fleet.nodes import ACTIVE, QUARANTINED, REVOKED, Node, list_nodes
from edgehone.service.core import Core
from edgehone.service.dashboard.words import level_number

FRESH_S = 2.0
MOST_NODES = 100_000
SHOWN = ("attention", "online", "offline", "quarantined", "revoked")


@dataclass(frozen=True)
class Line:
    """A node in the list.

    Attributes:
        node: what the core knows of it.
        online: heard of recently.
        watch, risk: highest level of its tasks, 0 to 3.
        fault: why one of its tasks does not answer; "" when all do.
    """

    node: Node
    online: bool
    watch: int
    risk: int
    fault: str

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Task → what the last heartbeat said."""
        return self.node.status

    @property
    def needs_attention(self) -> bool:
        """Whether a person should look."""
        if self.node.state == REVOKED:
            return False
        return max(self.watch, self.risk) >= 2 or bool(self.fault) or self.node.state == QUARANTINED


@dataclass(frozen=True)
class Snapshot:
    """The fleet at a moment: every node by name, and how many of each kind."""

    lines: tuple[Line, ...]
    counts: Mapping[str, int]
    tags: tuple[str, ...]
    taken_s: float

    def select(self, *, tag: str = "", show: str = "") -> tuple[Line, ...]:
        """Those that carry a tag "KEY=VALUE" and are of a kind of `SHOWN`; all where nothing is asked for."""
        key, _, value = tag.partition("=")
        return tuple(
            line for line in self.lines if (not tag or line.node.tags.get(key) == value) and _is(line, show)
        )  # fmt: skip


def take(nodes: Sequence[Node], now_s: float, online_s: float) -> Snapshot:
    """Sum a fleet up. Pure."""
    lines = tuple(_line(node, now_s, online_s) for node in nodes)
    here = [line for line in lines if line.node.state != REVOKED]
    counts = {
        "nodes": len(here),
        "online": sum(line.online for line in here),
        "offline": sum(not line.online for line in here),
        "alarms": sum(max(line.watch, line.risk) >= 2 for line in here),
        "attention": sum(line.needs_attention for line in here),
        "quarantined": sum(line.node.state == QUARANTINED for line in here),
        "revoked": len(lines) - len(here),
        "predictions": sum(_whole(status.get("predictions")) for line in here for status in line.tasks.values()),
    }
    tags = sorted({f"{key}={value}" for line in here for key, value in line.node.tags.items()})
    return Snapshot(lines, counts, tuple(tags), now_s)


class Snapshots:
    """The last snapshot of a core, shared by all who look."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._last: Snapshot | None = None

    def now(self) -> Snapshot:
        """A snapshot that is at most `FRESH_S` old. Call it from a thread that may wait."""
        with self._lock:
            now_s = self._core.clock()
            if self._last is None or not 0 <= now_s - self._last.taken_s < FRESH_S:
                with self._core.database.read() as conn:
                    nodes = list_nodes(conn, limit=MOST_NODES)
                self._last = take(nodes, now_s, 3 * self._core.place.settings.interval_s)
            return self._last

    def forget(self) -> None:
        """Read again next time: somebody has just changed something."""
        with self._lock:
            self._last = None


def _line(node: Node, now_s: float, online_s: float) -> Line:
    statuses = [status for status in node.status.values() if isinstance(status, Mapping)]
    online = node.seen_s is not None and abs(now_s - node.seen_s) <= online_s
    return Line(
        node=node,
        online=online,
        watch=max((level_number(status.get("watch_level")) for status in statuses), default=0),
        risk=max((level_number(status.get("risk_level")) for status in statuses), default=0),
        fault=next((str(status["fault"]) for status in statuses if status.get("fault")), ""),
    )


def _is(line: Line, show: str) -> bool:
    if show == "attention":
        return line.needs_attention
    if show in (QUARANTINED, REVOKED):
        return line.node.state == show
    if show in ("online", "offline"):
        return line.node.state != REVOKED and line.online == (show == "online")
    return line.node.state in (ACTIVE, QUARANTINED)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
