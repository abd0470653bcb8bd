"""Databases for tests: each test runs on SQLite and on a real PostgreSQL, on a fresh database of this version's schema.

    from edgehone.testing.databases import database, database_url, dialect  # in conftest.py: fixtures

    def test_something(database: Database) -> None: ...

PostgreSQL is one server per test process, started when the first test needs it. Where it is not installed, the tests on
it are skipped with the package's name, and fail in CI.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehone.records.database import Database, open_database, sqlite_url
from edgehone.testing.postgres import Server, find_binaries, launch

DIALECTS = ("sqlite", "postgresql")
_TEMPLATE = "edgehone_template"


@functools.cache
def server() -> Server:
    """This process's PostgreSQL, with a template of an empty core in it.

    Raises:
        HostError: it does not start.
    """
    made = launch()

    def end() -> None:
        made.stop(signal="QUIT")
        shutil.rmtree(made.folder, ignore_errors=True)

    atexit.register(end)
    made.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
    open_database(made.url(_TEMPLATE), create=True).close()
    return made


def need_postgres() -> None:
    """Skip the test where PostgreSQL is not installed; fail it in CI."""
    if find_binaries() is not None:
        return
    message = "Debian package `postgresql` is not installed"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def new_url(dialect: str, folder: Path, *, empty: bool = False) -> str:
    """The URL of a fresh database.

    Args:
        dialect: "sqlite" or "postgresql".
        folder: where an SQLite file goes; its name is free there.
        empty: without tables; an SQLite file is not even made.
    """
    if dialect == "postgresql":
        need_postgres()
        return server().new_database(template="template0" if empty else _TEMPLATE)
    names = (folder / f"core{number}.sqlite" for number in range(1_000_000))
    file = next(path for path in names if not path.exists())
    if not empty:
        shutil.copyfile(_empty_file(), file)
    return sqlite_url(file)


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    return str(request.param)


@pytest.fixture
def database_url(dialect: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database that has its tables."""
    url = new_url(dialect, tmp_path)
    yield url
    if dialect == "postgresql":
        server().drop_database(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh open database, of each kind in turn."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@functools.cache
def _empty_file() -> Path:
    """An SQLite file of an empty core, to be copied: faster than its migrations."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="edgehone-sqlite-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "empty.sqlite"
    open_database(sqlite_url(file), create=True).close()
    return file
