"""What the errors of SQLite and PostgreSQL mean to the person who runs the core."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from edgehone_agent.errors import StateError

_SQLITE = {
    "SQLITE_NOTADB": ("this file is no database", "give the right file, or restore a backup"),
    "SQLITE_CORRUPT": ("the database is damaged", "stop the core and restore the last backup"),
    "SQLITE_BUSY": ("another process keeps the database busy", "stop that process, or try again when it is done"),
    "SQLITE_LOCKED": ("another process keeps the database busy", "stop that process, or try again when it is done"),
    "SQLITE_FULL": ("the disk is full", "free space; nothing that was acknowledged is lost"),
    "SQLITE_READONLY": ("the database may not be written", "fix the permission of the file and of its folder"),
    "SQLITE_CANTOPEN": ("the database cannot be opened", "fix the permission of the file and of its folder"),
    "SQLITE_PERM": ("the database may not be opened", "fix the permission of the file and of its folder"),
    "SQLITE_IOERR": ("the disk does not read or write", "look for a disk that is full or failing"),
}

_POSTGRES = (  # by the first characters of the SQLSTATE; PostgreSQL, appendix A
    ("53100", "the disk of the database is full", "free space there; nothing that was acknowledged is lost"),
    ("53", "the database is out of room for more work", "give PostgreSQL more memory or connections"),
    ("55P03", "another process keeps the database busy", "stop that process, or try again when it is done"),
    ("40", "another process was in the way", "try again"),
    ("25006", "the database may not be written", "give the address of the primary server"),
    ("28", "the database does not let this user in", "check user and password of the URL"),
    ("3D000", "there is no such database", "make it with PostgreSQL's `createdb`"),
    ("42501", "this user may not do that in the database", "make the user the owner of the database"),
    ("57", "the database stopped", "start PostgreSQL; nothing that was acknowledged is lost"),
    ("08", "the database cannot be reached", "start PostgreSQL, or check the address"),
)


def explain(error: SQLAlchemyError, place: str) -> StateError | None:
    """The error to raise instead, or None where the fault is the program's own (a constraint, a wrong statement).

    Args:
        error: what SQLAlchemy raised.
        place: the database's URL, without a password.
    """
    if isinstance(error, PoolTimeoutError):
        return StateError("too many readers at once", where=place, do="try again; nothing was lost")
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(error.orig, sqlite3.Error):
        return explain_sqlite(error.orig, place)
    state = getattr(error.orig, "sqlstate", None)
    for prefix, what, do in _POSTGRES:
        if state is not None and state.startswith(prefix):
            return StateError(f"{what}: {_first_line(error.orig)}", where=place, do=do)
    if isinstance(error, OperationalError) and state is None:  # no answer at all, or the connection is gone
        do = "start PostgreSQL, or check host, user and name in the URL"
        return StateError(f"the database cannot be reached: {_first_line(error.orig)}", where=place, do=do)
    return None


def explain_sqlite(error: sqlite3.Error, place: str) -> StateError | None:
    """As `explain`, for an error that comes from SQLite itself."""
    name = getattr(error, "sqlite_errorname", "")  # "SQLITE_IOERR_WRITE"; the program's own mistakes have none
    for prefix, (what, do) in _SQLITE.items():
        if name.startswith(prefix):
            return StateError(f"{what}: {error}", where=place, do=do)
    return None


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
