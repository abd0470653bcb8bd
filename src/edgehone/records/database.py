"""The core's database: one SQLite file, or a PostgreSQL database, by URL. The same code and the same answers.

Rules:
- Nothing is read or written outside `read` and `write`. A `read` sees one moment and can write nothing.
- One `write` runs at a time, in all processes together: what it read stays true until it commits. It commits when its
  block ends, and is then on disk (SQLite: WAL, synchronous=FULL). An exception takes all of it back.
- A write does not contain another write: pass the connection on. Keep blocks short, and files out of them.
- A database is brought to this version's schema when it is opened. One of a newer version is refused, and so is one
  that belongs to another program.
"""

from __future__ import annotations

import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    Table,
    create_engine,
    event,
    false,
    inspect,
    literal,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from edgehone.errors import EdgehoneError, MissingExtraError
from edgehone.records.columns import to_json
from edgehone.records.faults import explain
from edgehone.records.migrations import HEAD, REVISIONS, VERSION_TABLE, migrate
from edgehone_agent.durable import state_error, sync_folder
from edgehone_agent.errors import ConfigError, StateError

WAIT_S = 30.0
"""How long a write waits for another one, and a read for a free connection."""

_READERS = 16
_LOCK_ID = 0x65646765  # "edge": PostgreSQL's advisory lock that lets one write run at a time


class Database:
    """An open database. Threads may share it; a process that forks opens its own.

    Attributes:
        url: that it was opened by, without a password.
        dialect: "sqlite" or "postgresql".
    """

    def __init__(self, url: URL, *, wait_s: float = WAIT_S) -> None:
        self.url = url.render_as_string(hide_password=True)
        self.dialect = url.get_backend_name()
        self._wait_s = wait_s
        self._gate = threading.Lock()
        self._writer_thread: int | None = None
        if self.dialect == "sqlite":
            self._readers = _sqlite_engine(url, wait_s, write=False)
            self._writer = _sqlite_engine(url, wait_s, write=True)
        else:
            self._readers = _postgres_engine(url, wait_s)
            self._writer = self._readers

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for PostgreSQL."""
        return sqlite_file(self.url) if self.dialect == "sqlite" else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment. It cannot write.

        Raises:
            StateError: the database cannot be reached or read.
        """
        with self._explained(), self._readers.connect() as connection, connection.begin():
            if self.dialect == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes, alone. It is on disk when the block ends.

        Raises:
            StateError: the disk is full or read-only, another process keeps the database busy, the connection was lost,
                or this thread has a write open already.
            InputError: a value that no column can keep.
        """
        with self._turn(), self._explained(), self._writer.connect() as connection, connection.begin():
            if self.dialect == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_ID})")
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        me = threading.get_ident()
        if self._writer_thread == me:
            raise StateError(
                "a write is open in this thread already", where=self.url, do="pass the connection of that write on"
            )
        if not self._gate.acquire(timeout=self._wait_s):
            raise StateError(
                f"other writes have kept the database busy for {self._wait_s:g} s",
                where=self.url,
                do="look for a disk that is failing or overloaded, and try again",
            )
        self._writer_thread = me
        try:
            yield
        finally:
            self._writer_thread = None
            self._gate.release()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None)
            if isinstance(cause, EdgehoneError):  # said by a column, see `columns`
                raise cause from None
            known = explain(error, self.url)
            if known is None:
                raise
            raise known from error

    def _prepare(self, *, create: bool) -> None:
        """Bring the schema to this version, if it is not there yet."""
        with self.read() as connection:
            if self._revision(connection, create=create) == HEAD:
                return
        with self._turn(), self._explained(), self._writer.connect() as connection:
            if self.dialect == "sqlite":  # tables that are made anew would otherwise drop what points to them
                connection.connection.execute("PRAGMA foreign_keys=OFF")
            with connection.begin():
                if self.dialect == "postgresql":
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_ID})")
                if self._revision(connection, create=create) != HEAD:  # another process may have been faster
                    migrate(connection)
                    self._check_references(connection)
            connection.invalidate()

    def _revision(self, connection: Connection, *, create: bool) -> str | None:
        """The schema's revision, None for an empty database that may be filled.

        Raises:
            StateError: it is empty and may not be filled, of a newer version, or another program's.
        """
        names = inspect(connection).get_table_names()
        if VERSION_TABLE in names:
            revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
            if revision in REVISIONS:
                return str(revision)
            raise StateError(
                f"the database was written by a newer version of edgehone (schema {revision})",
                where=self.url,
                do="install that version or a newer one; nothing was changed",
            )
        if names:
            raise StateError(
                f"the database belongs to another program: it has a table {min(names)!r}",
                where=self.url,
                do="give edgehone a database of its own",
            )
        if not create:
            raise StateError(
                "the database is empty", where=self.url, do="make it with `edgehone core init`, or restore a backup"
            )
        return None

    def _check_references(self, connection: Connection) -> None:
        if self.dialect == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
            raise StateError(
                f"{len(broken)} rows of table {broken[0][0]} point to rows that are not there",
                where=self.url,
                do="restore the last backup; nothing was changed",
            )

    def close(self) -> None:
        """Close every connection. Fine to call twice."""
        self._readers.dispose()
        self._writer.dispose()


def open_database(url: str, *, create: bool = False, wait_s: float = WAIT_S) -> Database:
    """Open the core's database and bring it to this version's schema.

    Args:
        url: "sqlite:///relative.sqlite", "sqlite:////absolute.sqlite" or "postgresql://user:password@host/name".
        create: fill it when it is empty, and make the SQLite file when there is none.
        wait_s: how long to wait for others that write.

    Raises:
        ConfigError: no such kind of database.
        MissingExtraError: it is PostgreSQL and psycopg is not installed.
        StateError: there is none, it cannot be read or written, it is of a newer version, or another program's.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(str(parsed.database))
        if not create and not file.is_file():
            raise StateError(
                "there is no database", where=str(file), do="make it with `edgehone core init`, or restore a backup"
            )
        if create and not file.parent.is_dir():
            raise StateError("there is no such folder", where=str(file.parent), do="make the folder first")
        if create:
            _make_file(file)
    database = Database(parsed, wait_s=wait_s)
    try:
        database._prepare(create=create)
    except BaseException:
        database.close()
        raise
    return database


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite file."""
    return URL.create("sqlite", database=str(file)).render_as_string()


def sqlite_file(url: str) -> Path:
    """The file of an SQLite URL."""
    return Path(str(make_url(url).database))


def upsert(
    table: Table, values: Sequence[Mapping[str, Any]], *, keys: Sequence[str], update: Sequence[str] | None
) -> Executable:
    """Insert rows; where a row with the same keys is there, leave it (`update=None`) or set these columns of it.

    Every row must have the same columns. Up to about 1,000 rows; `insert_new` takes any number.

    Args:
        keys: the columns of a primary key or unique constraint.
        update: columns that take the new row's values; None leaves the old row as it is.
    """
    if not values:
        return select(literal(1)).where(false())
    statement = insert(table).values(dict(values[0]) if len(values) == 1 else [dict(row) for row in values])
    if not update:
        return statement.on_conflict_do_nothing(index_elements=list(keys))
    return statement.on_conflict_do_update(
        index_elements=list(keys), set_={name: statement.excluded[name] for name in update}
    )


def insert_new(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, keys: Sequence[str]
) -> set[tuple[Any, ...]]:
    """Insert the rows whose keys are not there yet, and return the keys of exactly those. Any number of rows.

    This is how an event is taken once: what is not returned was known before, or came twice in `rows`.
    """
    if not rows:
        return set()
    statement = insert(table).on_conflict_do_nothing(index_elements=list(keys)).returning(*(table.c[k] for k in keys))
    return {tuple(row) for row in connection.execute(statement, [dict(row) for row in rows])}


def _make_file(file: Path) -> None:
    """An empty file that only its owner reads: it will hold hashes of passwords."""
    try:
        file.touch(mode=0o600)
        sync_folder(file.parent)
    except OSError as error:
        raise state_error(error, file) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            "this is no URL of a database", where=url.partition("://")[0], do="write sqlite:///FILE or postgresql://…"
        ) from error
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite":
        raise ConfigError(
            f"{parsed.drivername} is no kind of database that edgehone knows",
            where=parsed.render_as_string(hide_password=True),
            do="write sqlite:///FILE or postgresql://USER@HOST/NAME",
        )
    if parsed.database in (None, "", ":memory:") or parsed.query:
        raise ConfigError("an SQLite database needs a file, and no options", where=url, do="write sqlite:///FILE")
    return parsed


def _sqlite_engine(url: URL, wait_s: float, *, write: bool) -> Engine:
    file = str(url.database)
    target = f"file:{urllib.parse.quote(file)}?mode=rw"  # a file that went away is not made anew

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(target, uri=True, timeout=wait_s, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            if write:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
            else:
                connection.execute("PRAGMA query_only=ON")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "sqlite://", creator=connect, json_serializer=to_json, poolclass=QueuePool, pool_timeout=wait_s,
        pool_size=1 if write else _READERS, max_overflow=0,
    )  # fmt: skip
    begin = "BEGIN IMMEDIATE" if write else "BEGIN"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgres_engine(url: URL, wait_s: float) -> Engine:
    try:
        import psycopg  # noqa: F401  only to say what is missing
    except ImportError as error:
        raise MissingExtraError(
            "PostgreSQL needs psycopg", where=str(url.host or "postgresql"), do="pip install 'edgehone[postgres]'"
        ) from error
    options = f"-c lock_timeout={int(wait_s * 1000)} -c idle_in_transaction_session_timeout=0"
    return create_engine(
        url, json_serializer=to_json, pool_timeout=wait_s, pool_size=_READERS, max_overflow=0, pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "options": options, "application_name": "edgehone"},
    )  # fmt: skip
