"""The serial number of what the fleet is told: whoever changes something fleet-wide counts it up in that transaction.

A number alone would not do for a cache: a transaction that is rolled back gives its number to the next one. So a random
mark stands beside it, and a cache is good while the mark is the same.
"""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, insert, select, update

from edgehone.records.tables import setting

_KEY = "fleet.serial"


def current(conn: Connection) -> tuple[int, str]:
    """The serial number and its mark; (0, "") before the first change."""
    value = conn.execute(select(setting.c.value).where(setting.c.key == _KEY)).scalar()
    return (0, "") if value is None else (int(value["serial"]), str(value["mark"]))


def bump(conn: Connection, now_s: float) -> int:
    """Count up; the new serial number."""
    number = current(conn)[0] + 1
    values = {"value": {"serial": number, "mark": secrets.token_hex(8)}, "changed_s": now_s}
    if not conn.execute(update(setting).where(setting.c.key == _KEY).values(**values)).rowcount:
        conn.execute(insert(setting).values(key=_KEY, **values))
    return number
