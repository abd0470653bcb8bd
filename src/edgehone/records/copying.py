"""Every row from one database to another: SQLite to PostgreSQL, or back. Values and counters arrive as they were.

The source is read as of one moment and goes on being used. The target takes all of it in one transaction, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Table, func, insert, select, text

from edgehone.records.database import Database
from edgehone.records.tables import METADATA
from edgehone_agent.errors import StateError

Progress = Callable[[str, int, int], None]
"""(what is going on, done, of so many)"""

_ROWS = 1000  # at a time


def silent(what: str, done: int, total: int) -> None:
    """A progress that says nothing."""


def copy(source: Database, target: Database, *, progress: Progress = silent) -> dict[str, int]:
    """Copy every row, and the counters that give the next ids. Returns how many rows each table had.

    Raises:
        StateError: the target has rows already, or one of the two cannot be read or written.
    """
    with source.read() as reader, target.write() as writer:
        refuse_rows(writer, target.url)
        found = counts(reader)
        total, done = sum(found.values()), 0
        for table in METADATA.sorted_tables:  # what is pointed to comes first
            query = select(table).order_by(*table.primary_key)
            rows = reader.execute(query, execution_options={"yield_per": _ROWS})
            for part in rows.mappings().partitions():
                writer.execute(insert(table), [dict(row) for row in part])
                done += len(part)
                progress(table.name, done, total)
            if _counts_up(table):
                _set_next_id(writer, table, _next_id(reader, table))
    return found


def counts(connection: Connection) -> dict[str, int]:
    """How many rows each table has."""
    return {
        name: connection.scalar(select(func.count()).select_from(table)) or 0
        for name, table in sorted(METADATA.tables.items())
    }


def refuse_rows(connection: Connection, place: str) -> None:
    """See that a database is empty.

    Raises:
        StateError: it is not.
    """
    full = next(
        (table.name for table in METADATA.sorted_tables if connection.execute(select(table).limit(1)).first()), ""
    )
    if full:
        raise StateError(
            f"the database is in use: its table {full!r} has rows",
            where=place,
            do="give a new database; what is there is not overwritten",
        )


def _counts_up(table: Table) -> bool:
    return table.autoincrement_column is not None and bool(table.dialect_options["sqlite"]["autoincrement"])


def _next_id(connection: Connection, table: Table) -> int:
    """The id that the table gives next; ids of rows that are gone are not given again."""
    if connection.dialect.name == "sqlite":
        last = connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
        return int(last or 0) + 1
    sequence = connection.scalar(text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": table.name})
    last, is_used = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()
    return int(last) + 1 if is_used else int(last)


def _set_next_id(connection: Connection, table: Table, number: int) -> None:
    if connection.dialect.name == "sqlite":
        name = {"name": table.name, "seq": number - 1}
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), name)
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), name)
        return
    words = text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :number, false)")
    connection.execute(words, {"name": table.name, "number": number})
