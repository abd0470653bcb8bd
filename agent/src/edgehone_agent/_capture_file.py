"""The database file of a capture: SQLite in WAL mode, every commit on disk before it returns.

Rules:
- Freed pages are overwritten with zeros (secure_delete). The file and its log may be opened by their owner only.
- A damaged file, one sealed with another key, or one of a newer schema is put aside under another name, and a new one
  is begun. The newest three that were put aside are kept.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path

from edgehone_agent._capture_seal import Seal, UnreadableError
from edgehone_agent._capture_shares import Shares
from edgehone_agent._capture_store import Store
from edgehone_agent.durable import state_error, sync_folder
from edgehone_agent.errors import StateError

FILE = "capture.sqlite"
_SCHEMA = 1
_KEPT_ASIDE = 3
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WAIT_S = 10.0  # for another process that holds the database, such as an export by hand

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sample (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, task TEXT, digest TEXT, time REAL,
    informativeness REAL, stratum TEXT, layout TEXT, size INTEGER, sealed BLOB, batch INTEGER);
CREATE INDEX IF NOT EXISTS sample_time ON sample (time);
CREATE INDEX IF NOT EXISTS sample_batch ON sample (batch) WHERE batch IS NOT NULL;
CREATE TABLE IF NOT EXISTS place (
    share TEXT, stratum TEXT, rank REAL, sample INTEGER, size INTEGER, propensity REAL,
    PRIMARY KEY (share, stratum, rank, sample)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS place_sample ON place (sample);
CREATE TABLE IF NOT EXISTS pool (share TEXT, stratum TEXT, threshold REAL, PRIMARY KEY (share, stratum)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feedback (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, prediction_id TEXT, kind TEXT, received REAL,
    size INTEGER, sealed BLOB, batch INTEGER, exported INTEGER DEFAULT 0);
CREATE INDEX IF NOT EXISTS feedback_prediction ON feedback (prediction_id);
CREATE TABLE IF NOT EXISTS gone (row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, time REAL);
"""
_LATER = """
CREATE TABLE IF NOT EXISTS answer (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, task TEXT, digest TEXT, stratum TEXT, sealed BLOB,
    time REAL);
"""  # tables that databases of the same schema may lack; an agent that does not know them leaves them alone


class DamagedError(Exception):
    """The database file cannot be used any more; the message says why."""


def open_store(
    folder: Path, seal: Seal, shares: Shares, max_bytes: int, *, check: bool = True
) -> tuple[Store, list[str]]:
    """Open the database of a folder, or begin one; a file that cannot be used is put aside first.

    Args:
        folder: made when it is not there.
        seal, shares, max_bytes: what payloads are sealed with, which samples are kept, and for how many bytes.
        check: read the whole file to see that it is sound.

    Returns:
        The store, and a text for every file that was put aside.

    Raises:
        StateError: the folder cannot be written, or the disk is full.
    """
    path, said = folder / FILE, list[str]()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sync_folder(folder.parent)
        while True:
            try:
                return _open(path, seal, shares, max_bytes, check), said
            except DamagedError as error:
                if len(said) == _KEPT_ASIDE:
                    raise StateError(f"the database cannot be begun anew: {error}", where=str(path)) from error
                said.append(put_aside(path, str(error)))
    except OSError as error:
        raise state_error(error, path) from error
    except sqlite3.Error as error:
        raise database_error(error, path) from error


def _open(path: Path, seal: Seal, shares: Shares, max_bytes: int, check: bool) -> Store:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # its log takes the same mode
    connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
    try:
        _prepare(connection, seal, check)
        sync_folder(path.parent)
        return Store(connection, path, seal, shares, max_bytes)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error) and is_damage(error):
            raise DamagedError(str(error)) from error
        raise


def _prepare(connection: sqlite3.Connection, seal: Seal, check: bool) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "journal_size_limit = 4194304"):
        connection.execute(f"PRAGMA {pragma}")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if check else "ok"
    if found != "ok":
        raise DamagedError(str(found))
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if schema > _SCHEMA:
        raise DamagedError(f"it was written by a newer agent (schema {schema})")
    if schema == 0:
        if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise DamagedError("it is not a database of captured samples")
        connection.executescript("BEGIN IMMEDIATE;" + _TABLES + f"PRAGMA user_version = {_SCHEMA};")
        values = {"store": uuid.uuid4().hex[:12], "batch": 0, "openings": 0, "seal": seal.close(b"capture", "meta")}
        connection.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", values.items())
        connection.execute("COMMIT")
    connection.executescript("BEGIN IMMEDIATE;" + _LATER + "COMMIT;")
    try:
        seal.open(connection.execute("SELECT value FROM meta WHERE key = 'seal'").fetchone()[0], "meta")
    except (UnreadableError, TypeError) as error:
        raise DamagedError("it is sealed with another key") from error


def put_aside(path: Path, why: str) -> str:
    """Rename a database that cannot be used, with its log; says what was done.

    Raises:
        OSError: the folder cannot be written.
    """
    taken = [int(old.name.rsplit("-", 1)[1]) for old in path.parent.glob(f"{path.name}.aside-*[0-9]")]
    number = 1 + max(taken, default=0)
    aside = path.with_name(f"{path.name}.aside-{number}")
    for ending in ("-wal", "-shm"):
        log = path.with_name(path.name + ending)
        if log.exists():
            log.replace(path.with_name(f"{aside.name}{ending}"))
    path.replace(aside)
    for old in sorted(taken)[: -_KEPT_ASIDE + 1]:
        for file in path.parent.glob(f"{path.name}.aside-{old}*"):
            file.unlink(missing_ok=True)
    sync_folder(path.parent)
    return f"{aside.name}: {why}"


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file is no sound database."""
    code = getattr(error, "sqlite_errorcode", None)  # the module's own errors have none
    return code is not None and code & 0xFF in _DAMAGED


def database_error(error: sqlite3.Error, path: Path) -> StateError:
    """What an error of the database means to the owner of the node."""
    return StateError(
        f"the database cannot be written: {error}",
        where=str(path),
        do="free space or fix the permission; the node tries again",
    )
