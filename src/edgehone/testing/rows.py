"""Rows for every table of the core's database that point to each other as they must, for tests of backup and copy.

fill(database, random.Random(7), rows=5)
assert everything(database) == everything(copied)
"""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, Table, insert, select, text

from edgehone.records.columns import OBJECT, REAL, WHOLE
from edgehone.records.database import Database
from edgehone.records.tables import METADATA

TEXTS = (
    "",
    " ",
    "ascii",
    "Größe",
    "日本語",
    "🛰️",
    "\u202e",
    "\ufeff",
    "'; --",
    "\\u0000",
    "\x01\x7f\x80",
    "é",
    "é",
    "\n\r\t",
)
REALS = (0.0, -0.0, 0.1, 1 / 3, -1e-308, 5e-324, sys.float_info.max, float("inf"), float("-inf"), 1764000000.123456)
WHOLES = (0, 1, -1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63))


def fill(database: Database, chance: random.Random, *, rows: int, longest: int = 100_000) -> dict[str, int]:
    """Add rows to every table, and return how many each has got; `longest` is the length of the longest text."""
    made: dict[str, list[dict[str, Any]]] = {}
    with database.write() as connection:
        for table in METADATA.sorted_tables:
            made[table.name] = [_row(table, chance, number, made, longest) for number in range(rows)]
            connection.execute(insert(table), made[table.name])
    return {name: len(found) for name, found in made.items()}


def everything(database: Database) -> Mapping[str, list[tuple[Any, ...]]]:
    """Every row of every table, with JSON as the text that is kept, and each number with its sign and all its bits."""
    found = {}
    with database.read() as connection:
        for table in METADATA.sorted_tables:
            columns = [_as_kept(column) for column in table.columns]
            found[table.name] = [
                tuple(value.hex() if isinstance(value, float) else value for value in row)
                for row in connection.execute(select(*columns).order_by(*table.primary_key))
            ]
    return found


def _as_kept(column: Column[Any]) -> Any:
    return text(f'CAST("{column.table.name}"."{column.name}" AS TEXT)') if column.type is OBJECT else column


def _row(
    table: Table, chance: random.Random, number: int, made: Mapping[str, list[dict[str, Any]]], longest: int
) -> dict[str, Any]:  # fmt: skip
    row: dict[str, Any] = {}
    for column in table.columns:
        if column.name == "id" and column.type is WHOLE:
            row[column.name] = number * 3 + 1
        elif column.foreign_keys:
            other = next(iter(column.foreign_keys)).column
            row[column.name] = chance.choice(made[other.table.name])[other.name]
        elif column.nullable and chance.random() < 0.3:
            row[column.name] = None
        elif column.primary_key or column.unique or column.name == "version":
            row[column.name] = number if column.type is WHOLE else f"{number} {chance.choice(TEXTS)}"
        else:
            row[column.name] = _value(column, chance, longest)
    return row


def _value(column: Column[Any], chance: random.Random, longest: int) -> Any:
    if column.type is OBJECT:
        return json_value(chance, longest=longest)
    if column.type is REAL:
        return chance.choice(REALS) if chance.random() < 0.5 else chance.uniform(-1e12, 1e12)
    if column.type is WHOLE:
        return chance.choice(WHOLES)
    return chance.choice(TEXTS) + "".join(chance.choices(string.printable, k=chance.randrange(8)))


def json_value(chance: random.Random, depth: int = 3, *, longest: int = 100_000) -> Any:
    """A JSON value other than null at the top; now and then a large one."""
    kind = chance.randrange(8 if depth else 5)
    if kind == 0:
        return chance.choice(TEXTS)
    if kind == 1:
        return chance.choice((*WHOLES, 10**40))
    if kind == 2:
        return chance.choice((0.1, -0.0, 1e308, 5e-324, 1e16, 123456789.123456789))
    if kind == 3:
        return chance.random() < 0.5
    if kind == 4:
        return "x" * chance.choice((0, 10, longest))
    inside = [
        json_value(chance, depth - 1, longest=longest) if chance.random() < 0.9 else None
        for _ in range(chance.randrange(5))
    ]
    if kind == 5:
        return inside
    return {f"{chance.choice(TEXTS)}{position}": value for position, value in enumerate(inside)}
