"""The schema's history: one file under `versions` per change, applied in one transaction when a database is opened.

Rules:
- A file that was released never changes. A change of the schema is a new file and a new `HEAD`, and `tables` shows the
  result; a test holds the two together on SQLite and PostgreSQL.
- The version is kept in a table of our own name, so that other programs with Alembic can share a server.
- No alembic.ini: what runs is decided here alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

VERSION_TABLE = "edgehone_version"

REVISIONS = ("0001",)
"""Every revision, oldest first."""

HEAD = REVISIONS[-1]


def migrate(connection: Connection) -> None:
    """Bring the schema to `HEAD`, inside the transaction that the connection is in."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    from edgehone.records.tables import METADATA

    script = ScriptDirectory(str(Path(__file__).parent))

    def steps(revision: Any, context: Any) -> Any:  # noqa: ARG001
        return script._upgrade_revs(HEAD, revision)

    with EnvironmentContext(Config(), script, fn=steps, destination_rev=HEAD) as environment:
        environment.configure(
            connection=connection, target_metadata=METADATA, version_table=VERSION_TABLE, render_as_batch=True
        )
        environment.run_migrations()
