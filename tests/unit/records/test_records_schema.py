"""The migrations make exactly what `tables` declares, on both databases, and find it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, delete, inspect, select, update
from sqlalchemy.exc import DBAPIError

from edgehone.records import audit, migrations
from edgehone.records.database import Database, open_database
from edgehone.records.migrations import HEAD, REVISIONS, VERSION_TABLE
from edgehone.records.tables import METADATA
from edgehone.records.tables import audit as audit_table
from edgehone.testing.databases import new_url


def test_alembic_sees_no_difference_between_the_migrations_and_the_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True},
        )
        assert compare_metadata(context, METADATA) == []


def test_the_tables_are_made_as_declared_to_the_letter(tmp_path: Path, database: Database) -> None:
    declared_url = new_url(database.dialect, tmp_path, empty=True)
    driver = declared_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(driver)
    try:
        METADATA.create_all(engine)
        with engine.connect() as declared, database.read() as migrated:
            assert _shape(migrated) == _shape(declared)
    finally:
        engine.dispose()


def _shape(connection: Connection) -> dict[str, object]:
    """All that the database says of each table."""
    found = inspect(connection)
    shape: dict[str, object] = {}
    for name in sorted(set(found.get_table_names()) - {VERSION_TABLE, "sqlite_sequence"}):
        columns = [
            (c["name"], repr(c["type"]), c["nullable"], str(c["default"] or ""), str(c.get("autoincrement")))
            for c in found.get_columns(name)
        ]
        shape[name] = (
            columns,
            sorted(found.get_pk_constraint(name)["constrained_columns"]),
            sorted(map(repr, found.get_foreign_keys(name))),
            sorted(map(repr, found.get_unique_constraints(name))),
            sorted(map(repr, found.get_indexes(name))),
        )
    if connection.dialect.name == "sqlite":
        words = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name != :own"
        rows = connection.exec_driver_sql(words.replace(":own", f"'{VERSION_TABLE}'")).all()
        shape["autoincrement"] = sorted(name for name, sql in rows if "AUTOINCREMENT" in (sql or ""))
    return shape


def test_the_named_revisions_are_the_ones_on_disk() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_heads() == [HEAD]
    assert [step.revision for step in script.walk_revisions()][::-1] == list(REVISIONS)


def test_opening_twice_changes_nothing(database_url: str) -> None:
    for _ in range(2):
        database = open_database(database_url)
        with database.read() as connection:
            names = set(inspect(connection).get_table_names())
        database.close()
        assert names == set(METADATA.tables) | {VERSION_TABLE}


def test_the_audit_log_only_grows(database: Database) -> None:
    with database.write() as connection:
        audit.record(connection, now_s=1.0, actor="core", action="core.start", subject="core")
    for deed in (update(audit_table).values(actor="nobody"), delete(audit_table)):
        with pytest.raises(DBAPIError, match="only grows"), database.write() as connection:
            connection.execute(deed)
    with database.read() as connection:
        assert connection.scalars(select(audit_table.c.actor)).all() == ["core"]
