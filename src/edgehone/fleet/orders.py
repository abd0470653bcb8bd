"""What the loop has all nodes of a task told besides a version: two rows of the table `setting` for each task.

    "told:TASK"    an object that is merged into the policy of its nodes
    "wants:TASK"   {"samples": how many each node may send at a heartbeat, "until_s": when that ends,
                    "cohorts": [names], or [] for all}

Rules:
- Who writes one counts the fleet's serial number up in the same transaction; `tell` and `collect` do both.
- A row that cannot be used is left out with a line in the log. It came from another version, and must not stop a fleet.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select

from edgehone.fleet import serial
from edgehone.records.database import upsert
from edgehone.records.tables import setting

TOLD, WANTS = "told:", "wants:"
_MOST_SAMPLES = 1_000_000  # what a node reads, see `wire.uplink.Wants`
_LOG = logging.getLogger("edgehone.fleet")


@dataclass(frozen=True)
class Collect:
    """Readings that are wanted of a task.

    Attributes:
        samples: how many a node may send at a heartbeat.
        until_s: when it ends, by the core's clock.
        cohorts: whose nodes are asked; empty for all.
    """

    samples: int
    until_s: float
    cohorts: frozenset[str] = frozenset()


def tell(conn: Connection, task: str, told: Mapping[str, Any], now_s: float) -> None:
    """Have the nodes of a task told something, in the transaction of the caller; an empty object takes it back."""
    _put(conn, TOLD + task, dict(told), now_s)


def collect(
    conn: Connection, task: str, samples: int, until_s: float, now_s: float, cohorts: Sequence[str] = ()
) -> None:
    """Ask the nodes of a task for readings, in the transaction of the caller; no samples take it back."""
    value = {"samples": samples, "until_s": until_s, "cohorts": list(cohorts)} if samples else {}
    _put(conn, WANTS + task, value, now_s)


def load_orders(conn: Connection) -> tuple[dict[str, Mapping[str, Any]], dict[str, Collect]]:
    """What nodes are told, and what they are asked for; both by task."""
    told: dict[str, Mapping[str, Any]] = {}
    wanted: dict[str, Collect] = {}
    query = select(setting.c.key, setting.c.value)
    for row in conn.execute(query.where(setting.c.key.startswith(TOLD))):
        if isinstance(row.value, Mapping):
            told[row.key.removeprefix(TOLD)] = row.value
        else:
            _LOG.warning("the setting %s is no object, and left out", row.key)
    for row in conn.execute(query.where(setting.c.key.startswith(WANTS))):
        found = _read(row.value)
        if found is not None:
            wanted[row.key.removeprefix(WANTS)] = found
        else:
            _LOG.warning("the setting %s cannot be read, and is left out", row.key)
    return told, wanted


def _put(conn: Connection, key: str, value: dict[str, Any], now_s: float) -> None:
    if value:
        row = {"key": key, "value": value, "changed_s": now_s}
        conn.execute(upsert(setting, [row], keys=["key"], update=["value", "changed_s"]))
    else:
        conn.execute(delete(setting).where(setting.c.key == key))
    serial.bump(conn, now_s)


def _read(value: Any) -> Collect | None:
    if not isinstance(value, Mapping):
        return None
    samples, until_s, cohorts = value.get("samples"), value.get("until_s"), value.get("cohorts", [])
    if type(samples) is not int or samples < 0 or not isinstance(until_s, int | float) or isinstance(until_s, bool):
        return None
    if not isinstance(cohorts, list | tuple) or not all(isinstance(name, str) for name in cohorts):
        return None
    return Collect(min(samples, _MOST_SAMPLES), float(until_s), frozenset(cohorts))
