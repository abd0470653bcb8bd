"""What a backup says about itself: `backup.json` and `blobs.txt`. See docs/formats/records.md.

FOLDER/backup.json      written last: a folder without it is no backup
FOLDER/database.sqlite  every row, whatever kind of database it came from
FOLDER/blobs.txt        a line per blob: digest, a space, size in bytes; sorted
FOLDER/blobs/ab/ab12…   the blobs
FOLDER/files/NAME/…     other files of the core, like its CA
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehone_agent.durable import state_error
from edgehone_agent.errors import StateError

MANIFEST = "backup.json"
DATABASE = "database.sqlite"
BLOB_LIST = "blobs.txt"
BLOBS = "blobs"
FILES = "files"
SCHEMA = 1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class File:
    """A file of the backup: SHA-256, size, and permission bits."""

    sha256: str
    size_bytes: int
    mode: int = 0o600


@dataclass(frozen=True)
class Backup:
    """A backup.

    Attributes:
        made_s: when it was begun, seconds since 1970.
        version: of edgehone that made it.
        revision: of the database's schema.
        rows: of each table.
        blobs: how many.
        blob_bytes: of all blobs together.
        lost: digests that a row or the store names and whose content was missing or damaged already.
        files: path inside the folder, with forward slashes → file; `database.sqlite` and `blobs.txt` are among them.
    """

    made_s: float
    version: str
    revision: str
    rows: Mapping[str, int]
    blobs: int
    blob_bytes: int
    lost: tuple[str, ...]
    files: Mapping[str, File]

    def to_json(self) -> str:
        """The text of `backup.json`."""
        files = {
            name: {"sha256": file.sha256, "size": file.size_bytes, "mode": f"{file.mode:o}"}
            for name, file in sorted(self.files.items())
        }
        content = {
            "schema": SCHEMA, "made_s": self.made_s, "edgehone": self.version, "revision": self.revision,
            "rows": dict(self.rows), "blobs": self.blobs, "blob_bytes": self.blob_bytes, "lost": list(self.lost),
            "files": files,
        }  # fmt: skip
        return json.dumps(content, indent=1) + "\n"


def read_manifest(folder: Path) -> Backup:
    """The manifest of a backup.

    Raises:
        StateError: there is none, it is damaged, or of a newer version of edgehone.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StateError(
            "this is no backup, or one that was not finished", where=str(folder), do="give the folder of a backup"
        ) from None
    except OSError as error:
        raise state_error(error, path) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise StateError(
            f"the backup was made by a newer version of edgehone (schema {schema})",
            where=str(path),
            do="restore it with that version",
        )
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from error


def _parse(content: Any) -> Backup:
    files = {
        _inside(name): File(str(file["sha256"]), int(file["size"]), int(file["mode"], 8) & 0o777)
        for name, file in content["files"].items()
    }
    if not {DATABASE, BLOB_LIST} <= set(files):
        raise KeyError(DATABASE)
    return Backup(
        made_s=float(content["made_s"]), version=str(content["edgehone"]), revision=str(content["revision"]),
        rows={str(name): int(rows) for name, rows in content["rows"].items()}, blobs=int(content["blobs"]),
        blob_bytes=int(content["blob_bytes"]), lost=tuple(map(str, content["lost"])), files=files,
    )  # fmt: skip


def _inside(name: str) -> str:
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "" in parts:
        raise ValueError(f"{name!r} leaves the folder")
    return name


def measure(path: Path) -> File:
    """A file's SHA-256, size and permission.

    Raises:
        OSError: it cannot be read.
    """
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        mode = path.stat().st_mode & 0o777
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return File(digest.hexdigest(), size_bytes, mode)


def check_file(folder: Path, name: str, expected: File) -> None:
    """See that a file of the backup is what the manifest says.

    Raises:
        StateError: it is missing, cannot be read, or is another one.
    """
    path = folder / name
    try:
        found = measure(path)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if (found.sha256, found.size_bytes) != (expected.sha256, expected.size_bytes):
        raise _damaged(path, "its content is not the one that was saved")


def _damaged(path: Path, why: str) -> StateError:
    return StateError(f"the backup is damaged: {why}", where=str(path), do="use another backup; nothing was written")


def damaged_blob(folder: Path, digest: str, why: str) -> StateError:
    """What to say about a blob that is not in its backup as it should be."""
    return _damaged(folder / BLOBS / digest[:2] / digest, why)
