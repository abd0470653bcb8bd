"""Transactions, and what is said when a database cannot be used."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from edgehone.errors import EdgehoneError, InputError, MissingExtraError
from edgehone.records.database import Database, insert_new, open_database, sqlite_url, upsert
from edgehone.records.migrations import VERSION_TABLE
from edgehone.records.tables import certificate, person, setting
from edgehone.testing.databases import need_postgres, new_url, server
from edgehone_agent.errors import ConfigError, StateError


def put(database: Database, key: str, value: object = 1) -> None:
    with database.write() as connection:
        connection.execute(insert(setting), {"key": key, "value": value, "changed_s": 1.0})


def keys(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(select(setting.c.key).order_by(setting.c.key)))


# Transactions ------------------------------------------------------------------------------------------------


def test_what_a_write_did_is_there_for_another_connection(database: Database, database_url: str) -> None:
    put(database, "a")
    with closing(open_database(database_url)) as other:
        assert keys(other) == ["a"]


def test_an_exception_takes_all_of_a_write_back(database: Database) -> None:
    put(database, "a")
    with pytest.raises(LookupError), database.write() as connection:
        connection.execute(insert(setting), {"key": "b", "value": 1, "changed_s": 1.0})
        raise LookupError
    assert keys(database) == ["a"]
    put(database, "c")
    assert keys(database) == ["a", "c"]


def test_a_read_sees_one_moment(database: Database) -> None:
    put(database, "a")
    with database.read() as connection:
        assert connection.scalars(select(setting.c.key)).all() == ["a"]
        put(database, "b")
        assert connection.scalars(select(setting.c.key)).all() == ["a"]
    assert keys(database) == ["a", "b"]


def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises((DBAPIError, StateError)), database.read() as connection:
        connection.execute(insert(setting), {"key": "a", "value": 1, "changed_s": 1.0})
    assert keys(database) == []
    put(database, "b")  # the connection is of use afterwards


def test_rows_point_to_rows_that_are_there(database: Database) -> None:
    row = {"serial": "1", "node": "nobody", "pem": "", "not_before_s": 0.0, "not_after_s": 1.0}
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(certificate), row)


def test_many_threads_count_without_losing_one(database: Database) -> None:
    put(database, "count", 0)

    def add() -> None:
        for _ in range(10):
            with database.write() as connection:
                count = connection.scalar(select(setting.c.value))
                connection.execute(setting.update().values(value=count + 1))

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.scalar(select(setting.c.value)) == 60


def test_two_cores_on_one_database_count_without_losing_one(database: Database, database_url: str) -> None:
    put(database, "count", 0)

    def add(mine: Database) -> None:
        for _ in range(10):
            with mine.write() as connection:
                count = connection.scalar(select(setting.c.value))
                connection.execute(setting.update().values(value=count + 1))

    with closing(open_database(database_url)) as other:
        threads = [threading.Thread(target=add, args=(mine,)) for mine in (database, other, database, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with database.read() as connection:
        assert connection.scalar(select(setting.c.value)) == 40


def test_readers_go_on_while_one_writes(database: Database) -> None:
    put(database, "a")
    with database.write() as connection:
        connection.execute(insert(setting), {"key": "b", "value": 1, "changed_s": 1.0})
        found: list[list[str]] = []
        threads = [threading.Thread(target=lambda: found.append(keys(database))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == [["a"]] * 8


def test_a_write_in_a_write_is_an_error_and_no_deadlock(database: Database) -> None:
    with database.write(), pytest.raises(StateError, match="open in this thread"), database.write():
        raise AssertionError
    put(database, "a")


def test_sqlite_is_set_up_to_lose_nothing(tmp_path: Path) -> None:
    with closing(open_database(new_url("sqlite", tmp_path))) as database, database.write() as connection:
        found = {
            name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_new_file_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    open_database(sqlite_url(tmp_path / "core.sqlite"), create=True).close()
    assert (tmp_path / "core.sqlite").stat().st_mode & 0o777 == 0o600


# Values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, {"a": [math.nan]}, "\0", {"\0": 1}, {"a": "x\\\0"}, "\ud800", {1, 2}, b"x"],
    ids=["nan", "inf", "deep-nan", "nul", "nul-name", "nul-after-backslash", "surrogate", "set", "bytes"],
)
def test_what_is_no_json_is_refused_alike(database: Database, value: object) -> None:
    with pytest.raises(InputError):
        put(database, "a", value)
    assert keys(database) == []


@pytest.mark.parametrize("name", ["a\0b", "ä\0", "\ud800"])
def test_text_that_one_of_them_cannot_keep_is_refused_by_both(database: Database, name: str) -> None:
    with pytest.raises(InputError):
        put(database, name)


def test_nan_is_refused_and_a_number_of_numpy_is_not(database: Database) -> None:
    import numpy as np

    row = {"key": "a", "value": 1, "changed_s": math.nan}
    with pytest.raises(InputError, match="NaN"), database.write() as connection:
        connection.execute(insert(setting), row)
    with database.write() as connection:
        connection.execute(insert(setting), row | {"changed_s": np.float32(0.5)})
        assert connection.scalar(select(setting.c.changed_s)) == 0.5


@pytest.mark.parametrize("value", [1.5, 10**30, "1.10", "\\u0000", True, [], {"b": 1, "a": {"ü": None}}, [1.0, 1]])
def test_json_comes_back_as_it_was(database: Database, value: object) -> None:
    put(database, "a", value)
    with database.read() as connection:
        found = connection.scalar(select(setting.c.value))
    assert (repr(found), type(found)) == (repr(value), type(value))


def test_names_sort_alike_on_both(database: Database) -> None:
    for name in ("b", "B", "a", "ä", "_", "Z"):
        put(database, name)
    assert keys(database) == ["B", "Z", "_", "a", "b", "ä"]


# Inserting once ----------------------------------------------------------------------------------------------


def rows(*names: str, value: int = 1) -> list[dict[str, object]]:
    return [{"key": name, "value": value, "changed_s": 1.0} for name in names]


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_upsert_leaves_or_sets_what_was_there(database: Database, names: list[str]) -> None:
    put(database, "a", 0)
    with database.write() as connection:
        connection.execute(upsert(setting, rows(*names), keys=["key"], update=None))
        assert connection.scalar(select(setting.c.value).where(setting.c.key == "a")) == 0
        connection.execute(upsert(setting, rows(*names, value=7), keys=["key"], update=["value"]))
        assert connection.execute(select(setting.c.key, setting.c.value).order_by(setting.c.key)).all() == [
            (name, 7) for name in names
        ]
        connection.execute(upsert(setting, [], keys=["key"], update=None))


def test_insert_new_says_which_were_new_whatever_their_number(database: Database) -> None:
    many = [f"{number:05d}" for number in range(5000)]
    with database.write() as connection:
        assert insert_new(connection, setting, rows(*many[:10]), keys=["key"]) == {(name,) for name in many[:10]}
        assert insert_new(connection, setting, rows(*many, "x", "x"), keys=["key"]) == {(n,) for n in [*many[10:], "x"]}
        assert insert_new(connection, setting, rows("x"), keys=["key"]) == set()
        assert insert_new(connection, setting, [], keys=["key"]) == set()


# What is said ------------------------------------------------------------------------------------------------


def said(error: EdgehoneError) -> str:
    assert error.where
    assert error.do
    return error.what


def test_a_missing_file_is_not_made_by_the_way(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no database") as caught:
        open_database(sqlite_url(tmp_path / "core.sqlite"))
    assert said(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StateError, match="no such folder"):
        open_database(sqlite_url(tmp_path / "a" / "core.sqlite"), create=True)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_an_empty_database_is_filled_only_on_demand(dialect: str, tmp_path: Path) -> None:
    url = new_url(dialect, tmp_path, empty=True)
    if dialect == "sqlite":
        (tmp_path / url.rpartition("/")[2]).touch()
    with pytest.raises(StateError, match="the database is empty"):
        open_database(url)
    open_database(url, create=True).close()
    open_database(url).close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but a text of some length" * 40, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "core.sqlite"
    file.write_bytes(content)
    with pytest.raises(StateError, match=r"no database|damaged") as caught:
        open_database(sqlite_url(file))
    assert said(caught.value)
    assert file.read_bytes() == content


def test_a_newer_schema_is_refused_and_left_alone(database: Database, database_url: str) -> None:
    with database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StateError, match=r"newer version of edgehone \(schema 9999\)") as caught:
        open_database(database_url)
    assert said(caught.value)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_database_of_another_program_is_refused(dialect: str, tmp_path: Path) -> None:
    url = new_url(dialect, tmp_path, empty=True)
    if dialect == "sqlite":
        with closing(sqlite3.connect(tmp_path / url.rpartition("/")[2])) as connection:
            connection.execute("CREATE TABLE studies (id INTEGER)")
    else:
        server().execute("CREATE TABLE studies (id INTEGER)", database=url.rpartition("/")[2].partition("?")[0])
    with pytest.raises(StateError, match="belongs to another program: it has a table 'studies'"):
        open_database(url, create=True)


def test_another_process_that_keeps_it_busy(database_url: str, dialect: str) -> None:
    with closing(open_database(database_url)) as busy, closing(open_database(database_url, wait_s=0.3)) as waiting:
        with busy.write():
            started_s = time.monotonic()
            with pytest.raises(StateError, match="another process keeps the database busy") as caught:
                put(waiting, "a")
            assert time.monotonic() - started_s < 20
        assert said(caught.value)
        put(waiting, "a")


def test_other_threads_that_keep_it_busy(database_url: str) -> None:
    with closing(open_database(database_url, wait_s=0.2)) as database:
        errors: list[StateError] = []

        def wait() -> None:
            try:
                put(database, "a")
            except StateError as error:
                errors.append(error)

        with database.write():
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
    assert "other writes have kept the database busy" in said(errors[0])


def test_too_many_readers_are_told_so(database_url: str) -> None:
    from contextlib import ExitStack

    with closing(open_database(database_url, wait_s=0.2)) as database, ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(database.read())
        with pytest.raises(StateError, match="too many readers"), database.read():
            raise AssertionError


def test_a_full_disk_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    with closing(open_database(new_url("sqlite", tmp_path))) as database:
        with database.write() as connection:
            pages = connection.scalar(text("PRAGMA page_count"))
            connection.execute(text(f"PRAGMA max_page_count = {pages + 20}"))
        kept = []
        with pytest.raises(StateError, match="the disk is full") as caught:
            for number in range(1000):
                put(database, f"{number:04d}", "x" * 4000)
                kept.append(f"{number:04d}")
        assert said(caught.value)
        assert kept
        assert keys(database) == kept
        with database.write() as connection:
            connection.execute(text("PRAGMA max_page_count = 100000"))
        put(database, "x", "x" * 4000)
        assert keys(database) == [*kept, "x"]


@contextmanager
def powerless() -> Iterator[None]:
    """As somebody who is not root, for whom permissions count."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o777, 0o444), (0o777, 0o000), (0o755, 0o666)])
def test_a_database_that_may_not_be_written(tmp_path: Path, folder_mode: int, file_mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders let nobody else in
        file = Path(shutil.copy(tmp_path / new_url("sqlite", tmp_path).rpartition("/")[2], name))
        file.chmod(file_mode)
        Path(name).chmod(folder_mode)
        with powerless(), pytest.raises(StateError, match=r"may not be written|cannot be opened") as caught:
            put(open_database(sqlite_url(file)), "a")
    assert said(caught.value)


def test_postgres_that_may_only_be_read(tmp_path: Path) -> None:
    url = new_url("postgresql", tmp_path)
    name = url.rpartition("/")[2].partition("?")[0]
    server().execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with closing(open_database(url)) as database, pytest.raises(StateError, match="may not be written") as caught:
        put(database, "a")
    assert said(caught.value)


def test_postgres_that_does_not_answer(tmp_path: Path) -> None:
    need_postgres()
    with pytest.raises(StateError, match="cannot be reached") as caught:
        open_database(f"postgresql://someone:secret@/core?host={tmp_path}")
    assert said(caught.value)
    assert "secret" not in str(caught.value)


def test_postgres_without_that_database(tmp_path: Path) -> None:
    need_postgres()
    with pytest.raises(StateError, match=r"no such database|cannot be reached") as caught:
        open_database(server().url("nowhere"))
    assert said(caught.value)


def test_postgres_that_throws_us_out_and_comes_back(tmp_path: Path) -> None:
    url = new_url("postgresql", tmp_path)
    name = url.rpartition("/")[2].partition("?")[0]
    with closing(open_database(url)) as database:
        put(database, "a")
        with pytest.raises(StateError, match="the database") as caught, database.write() as connection:
            server().execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            connection.execute(insert(setting), {"key": "b", "value": 1, "changed_s": 1.0})
        assert said(caught.value)
        put(database, "c")
        assert keys(database) == ["a", "c"]


def test_psycopg_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match="PostgreSQL needs psycopg") as caught:
        open_database("postgresql://localhost/core")
    assert "edgehone[postgres]" in caught.value.do


@pytest.mark.parametrize(
    "url", ["mysql://localhost/core", "core.sqlite", "", "sqlite://", "sqlite:///:memory:", "oracle:x"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_database(url)
    assert caught.value.do


def test_a_mistake_of_the_program_stays_what_it_is(database: Database) -> None:
    with pytest.raises(DBAPIError), database.write() as connection:
        connection.execute(text("SELECT nonsense FROM nowhere"))
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(person), {"name": None})
