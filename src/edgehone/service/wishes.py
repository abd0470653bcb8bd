"""What nodes are told, remembered: a node's answer is worked out anew only when something it depends on changed.

A fleet of 100,000 nodes asks 1,667 times in a second, and the answer changes a few times in a day. It depends on the
fleet's serial number, on the node's tags, state and facts, and on what the node reports of its tasks. What ends at a
time (`Wish.until_s`) ends then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from edgehone.fleet import serial
from edgehone.fleet.heartbeat import Asking, Wish, Wishes
from edgehone_agent.wire.uplink import TaskStatus

_FOR_S = 600.0  # what depends on anything else may be this late
_MOST = 200_000
_MEMORY_STEP = 64 << 20


@dataclass(frozen=True)
class _Entry:
    key: int
    until_s: float
    wish: Wish


class Remembered:
    """Wishes that are worked out once. Used by the writer's thread alone.

    Args:
        work_out: says what a node is told, from the database.
    """

    def __init__(self, work_out: Wishes) -> None:
        self._work_out = work_out
        self._entries: dict[str, _Entry] = {}
        self._mark: tuple[int, str] | None = None

    def refresh(self, conn: Connection) -> None:
        """Forget everything if the serial number has another mark. Call it at the beginning of a transaction."""
        mark = serial.current(conn)
        if mark != self._mark or len(self._entries) > _MOST:
            self._mark = mark
            self._entries.clear()

    def __call__(self, conn: Connection, asking: Asking) -> Wish:
        """See `Wishes`."""
        key = hash((asking.state, tuple(sorted(asking.tags.items())), _facts(asking), _tasks(asking)))
        entry = self._entries.get(asking.node)
        if entry is None or entry.key != key or not entry.until_s - _FOR_S <= asking.now_s < entry.until_s:
            wish = self._work_out(conn, asking)
            entry = _Entry(key, min(asking.now_s + _FOR_S, wish.until_s), wish)
            self._entries[asking.node] = entry
        return entry.wish


def _facts(asking: Asking) -> tuple[Any, ...]:
    facts = asking.facts
    memory = (facts.get("memory_bytes") or 0) // _MEMORY_STEP  # what is free moves with every heartbeat
    return facts.get("machine"), tuple(facts.get("runtimes", ())), facts.get("agent"), memory


def _tasks(asking: Asking) -> tuple[Any, ...]:
    return tuple((name, _matters(told)) for name, told in asking.tasks.items())


def _matters(told: TaskStatus) -> tuple[Any, ...]:
    """What of a report may change the answer. Counts do not: they move rollouts, which count the serial number up."""
    return told.digest, told.version, told.ready, told.failed, told.latency_us, told.memory_bytes
