"""What a node remembers of signed metadata, so that nobody can show it an older state: versions and times.

Kept twice, as a file (written whole, synced, moved into place) and as a row in SQLite; one may be lost or damaged.
Each copy carries a counter and a digest of itself. The newer one counts, and where both speak of the same keys the
higher floor of either. Floors are bound to the keys that signed: a new key starts anew, or a stolen one that signed
version 2⁵³ would stop updates for ever (compare the TUF specification, section 5.3.11). That opens nothing: which key
counts is said by the delegating role, whose own floor stands, and the root's floor is bound to the registry alone.

Two kinds of floors:
- `roles`: version of each metadata role, the root included. Metadata below it is a replay.
- `tasks`: version of the newest release that a node took. Older ones are not offered. A new key takes this floor over
  as far as it knows of such releases; see `verify`.
and one time: when the newest timestamp was signed, plus the time that this node ran since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgehone_agent.durable import state_error, write_bytes
from edgehone_agent.errors import StateError

_MAX_BYTES = 1 << 20
_SCHEMA = "CREATE TABLE IF NOT EXISTS floors (id INTEGER PRIMARY KEY CHECK (id = 1), content BLOB NOT NULL)"
# The error codes that mean the file itself is no use: SQLITE_ERROR (other tables), SQLITE_CORRUPT, SQLITE_NOTADB.
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True)
class Mark:
    """A version, and a name for the keys that signed it."""

    keys: str
    version: int


@dataclass(frozen=True)
class Floors:
    """Everything that is remembered.

    Attributes:
        serial: counts the changes.
        time_s: Unix time before which now cannot be; 0 when nothing was seen.
        time_keys: the keys that signed what `time_s` comes from.
        period_s: the longest life of a timestamp that a root stated under these keys.
        roles, tasks: floors by name of role and of task.
    """

    serial: int = 0
    time_s: float = 0.0
    time_keys: str = ""
    period_s: float = 0.0
    roles: Mapping[str, Mark] = field(default_factory=dict)
    tasks: Mapping[str, Mark] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """JSON with a digest of itself."""
        body = {
            "serial": self.serial,
            "time_s": self.time_s,
            "time_keys": self.time_keys,
            "period_s": self.period_s,
            "roles": {name: [mark.keys, mark.version] for name, mark in sorted(self.roles.items())},
            "tasks": {name: [mark.keys, mark.version] for name, mark in sorted(self.tasks.items())},
        }
        return json.dumps({"floors": body, "sha256": _digest(body)}, indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Floors | None:
        """Read one back; None when it is damaged."""
        try:
            data = json.loads(content)
            body = data["floors"]
            if data["sha256"] != _digest(body):
                return None
            roles, tasks = (
                {str(name): Mark(str(keys), int(version)) for name, (keys, version) in body[kind].items()}
                for kind in ("roles", "tasks")
            )
            return cls(
                int(body["serial"]),
                float(body["time_s"]),
                str(body["time_keys"]),
                float(body["period_s"]),
                roles,
                tasks,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def merge(one: Floors, two: Floors) -> Floors:
    """The newer of two memories, raised to whatever the other knows better under the same keys."""
    newer, older = (one, two) if one.serial >= two.serial else (two, one)
    same = newer.time_keys == older.time_keys
    return replace(
        newer,
        time_s=max(newer.time_s, older.time_s) if same else newer.time_s,
        period_s=max(newer.period_s, older.period_s) if same else newer.period_s,
        roles=_higher(newer.roles, older.roles),
        tasks=_higher(newer.tasks, older.tasks),
    )


def _higher(newer: Mapping[str, Mark], older: Mapping[str, Mark]) -> dict[str, Mark]:
    found = {**older, **newer}
    for name, mark in older.items():
        if found[name].keys == mark.keys and found[name].version < mark.version:
            found[name] = mark
    return found


class FloorStore:
    """The two copies in a node's folder: `floor.json` and `floor.sqlite`."""

    def __init__(self, folder: Path) -> None:
        self._file, self._database = folder / "floor.json", folder / "floor.sqlite"

    def load(self) -> tuple[Floors, bool]:
        """What the copies say together, and whether both say exactly that.

        Raises:
            StateError: no copy is good, and one that is there cannot be read at all, so its floor is not known.
        """
        copies: list[Floors | None] = []
        unread: OSError | None = None
        for read in (self._read_file, self._read_database):
            try:
                copies.append(read())
            except (FileNotFoundError, IsADirectoryError):
                copies.append(None)
            except OSError as error:
                copies.append(None)
                unread = error
        found = [copy for copy in copies if copy is not None]
        if not found and unread is not None:
            raise state_error(unread, self._file.parent)
        floors = Floors()
        for copy in found:
            floors = merge(floors, copy)
        return floors, copies == [floors, floors]

    def save(self, floors: Floors) -> None:
        """Put both copies on disk.

        Raises:
            StateError: the disk is full or read-only.
        """
        content = floors.to_bytes()
        try:
            if self._file.is_dir() and not self._file.is_symlink():
                shutil.rmtree(self._file)
            write_bytes(self._file, content)
        except OSError as error:
            raise state_error(error, self._file) from error
        try:
            self._write_database(content)
        except sqlite3.Error as error:
            if not _is_damage(error) and not self._database.is_dir():
                raise self._failed(error) from error
            self._throw_away()
            try:
                self._write_database(content)
            except sqlite3.Error as again:
                raise self._failed(again) from again

    def _read_file(self) -> Floors | None:
        with self._file.open("rb") as file:
            return Floors.from_bytes(file.read(_MAX_BYTES))

    def _read_database(self) -> Floors | None:
        self._database.stat()  # connecting would make it
        try:
            with closing(sqlite3.connect(self._database, timeout=5.0, isolation_level=None)) as database:
                row: Any = database.execute("SELECT content FROM floors WHERE id = 1").fetchone()
        except sqlite3.Error as error:
            if _is_damage(error) or self._database.is_dir():
                return None
            raise OSError(None, str(error)) from error
        return Floors.from_bytes(row[0]) if row is not None and isinstance(row[0], bytes) else None

    def _write_database(self, content: bytes) -> None:
        with closing(sqlite3.connect(self._database, timeout=5.0, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = EXTRA")  # the folder is synced too when the journal goes
            database.execute("BEGIN IMMEDIATE")
            database.execute(_SCHEMA)
            database.execute("INSERT OR REPLACE INTO floors VALUES (1, ?)", (content,))
            database.execute("COMMIT")

    def _throw_away(self) -> None:
        try:
            if self._database.is_dir() and not self._database.is_symlink():
                shutil.rmtree(self._database)
            self._database.unlink(missing_ok=True)
            self._database.with_name(f"{self._database.name}-journal").unlink(missing_ok=True)
        except OSError as error:
            raise state_error(error, self._database) from error

    def _failed(self, error: sqlite3.Error) -> StateError:
        return StateError(
            f"the floors cannot be written: {error}",
            where=str(self._database),
            do="free space or fix the permission; the node tries again",
        )


def _is_damage(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF) in _DAMAGED


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
