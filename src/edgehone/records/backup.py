"""Backup of a running core, restore into a new one, and the move from one kind of database to another.

Rules:
- A backup is made while the core works. The database is the one of a single moment; every blob that was there at that
  moment is with it. Its manifest is written last and has a SHA-256 of everything.
- A restore checks all of the backup before it writes, and overwrites nothing. Blobs come first, the other files next,
  the database last, at once: a restore that was cut off is run again.
- A backup of SQLite can be restored into PostgreSQL, and the other way round. One of an older version is brought to
  this version's schema on the way.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import select

from edgehone import __version__
from edgehone.records.backup_manifest import (
    BLOB_LIST,
    BLOBS,
    DATABASE,
    FILES,
    MANIFEST,
    Backup,
    File,
    check_file,
    damaged_blob,
    measure,
    read_manifest,
)
from edgehone.records.blob_folder import BlobFolder
from edgehone.records.blobs import Blobs, is_digest
from edgehone.records.copying import Progress, copy, refuse_rows, silent
from edgehone.records.database import Database, open_database, sqlite_file, sqlite_url
from edgehone.records.faults import explain_sqlite
from edgehone.records.migrations import HEAD
from edgehone.records.tables import METADATA, dataset, sample
from edgehone_agent.durable import state_error, sync_folder, write_bytes
from edgehone_agent.errors import StateError

__all__ = ["Backup", "Progress", "backup", "copy", "restore", "verify"]

_TOGETHER_BYTES = 16 << 20  # of blobs, written before one sync of the folders
_TRIES = 20
_NO_FILES: Mapping[str, Path] = {}


def backup(
    database: Database, blobs: Blobs, folder: Path, *, now_s: float, files: Mapping[str, Path] = _NO_FILES,
    also: Callable[[Database], Mapping[str, Path]] | None = None, progress: Progress = silent,
) -> Backup:  # fmt: skip
    """Save everything in a new folder, while the core works.

    Args:
        folder: a new one, or an empty one. It holds secrets when `files` does: only its owner may read it.
        files: name → file or folder to save with it, like {"ca": CORE/ca}.
        also: gives more of them, found by the rows of the saved database. A name may have folders, like "rounds/ID".
        progress: told how far it is.

    Raises:
        StateError: the folder is not empty, the disk is full, or something cannot be read.
    """
    _make_empty(folder)
    saved = BlobFolder(folder / BLOBS)
    sizes: dict[str, int] = {}
    lost: set[str] = set()
    _save_blobs(blobs, saved, blobs.digests(), sizes, lost, progress)
    _save_database(database, folder / DATABASE, progress)
    rows, named = _look(folder / DATABASE)
    # Those that came between the first pass and that moment. Younger ones are saved as well, which does no harm.
    _save_blobs(blobs, saved, (d for d in blobs.digests() if d not in sizes), sizes, lost, progress)
    lost = (lost | named) - set(sizes)
    lines = "".join(f"{digest} {sizes[digest]}\n" for digest in sorted(sizes))
    write_bytes(folder / BLOB_LIST, lines.encode(), mode=0o600)
    _save_files({**files, **_others(folder / DATABASE, also)}, folder / FILES)
    made = Backup(
        made_s=now_s, version=__version__, revision=HEAD, rows=rows, blobs=len(sizes), blob_bytes=sum(sizes.values()),
        lost=tuple(sorted(lost)), files=_measured(folder),
    )  # fmt: skip
    write_bytes(folder / MANIFEST, made.to_json().encode(), mode=0o600)  # from here on it is a backup
    return made


def verify(folder: Path, *, progress: Progress = silent) -> Backup:
    """Check all of a backup, and return its manifest.

    Raises:
        StateError: it is no backup, not finished, damaged, or of a newer version of edgehone.
    """
    made = read_manifest(folder)
    for done, (name, file) in enumerate(made.files.items(), start=1):
        check_file(folder, name, file)
        progress("checking files", done, len(made.files))
    _check_database(folder / DATABASE)
    saved = BlobFolder(folder / BLOBS)
    found = 0
    for found, (digest, size_bytes) in enumerate(_listed(folder), start=1):
        try:
            content = saved.get(digest)
        except StateError as error:
            raise damaged_blob(folder, digest, error.what) from error
        if len(content) != size_bytes:
            raise damaged_blob(folder, digest, f"it has {len(content)} bytes, not {size_bytes}")
        progress("checking blobs", found, made.blobs)
    if found != made.blobs:
        raise damaged_blob(folder, "", f"{found} blobs are listed, not {made.blobs}")
    return made


def restore(
    folder: Path, url: str, blobs: Blobs, *, files: Mapping[str, Path] = _NO_FILES, progress: Progress = silent
) -> Backup:
    """Bring a backup back, into a database that has no rows. Every digest is checked before anything is written.

    Args:
        folder: of the backup.
        url: of the database: an SQLite file that is not there yet, or a PostgreSQL database without rows.
        blobs: where the blobs go; others may be there already.
        files: name → where the files saved under that name go; those left out are not restored.

    Raises:
        StateError: the backup is damaged, something of another core is in the way, or there is no room.
        ConfigError, MissingExtraError: as `open_database`.
    """
    made = verify(folder, progress=progress)
    _refuse_other_files(folder, made, files)
    _refuse_database(url)
    saved = BlobFolder(folder / BLOBS)
    done = 0
    for part in _together((digest, saved.get(digest)) for digest, _ in _listed(folder)):
        blobs.put_many(content for _, content in part)
        done += len(part)
        progress("restoring blobs", done, made.blobs)
    for name, place in _places(made, files):
        write_bytes(place, (folder / name).read_bytes(), mode=made.files[name].mode)
    _restore_database(folder / DATABASE, url, progress)
    return made


# The database ------------------------------------------------------------------------------------------------


def _save_database(database: Database, file: Path, progress: Progress) -> None:
    """The database of one moment, as one SQLite file on disk."""
    if database.file is None:
        with closing(open_database(sqlite_url(file), create=True)) as target:
            copy(database, target, progress=progress)
    else:
        try:
            file.touch(mode=0o600)
            with closing(sqlite3.connect(database.file)) as source, closing(sqlite3.connect(file)) as target_file:
                source.execute("PRAGMA query_only=ON")
                source.backup(target_file)  # in one step: the core goes on writing, and it is seen as of one moment
        except sqlite3.Error as error:
            raise explain_sqlite(error, str(file)) or error from error
        progress("database", 1, 1)
    _check_database(file)
    _settle(file)


def _others(file: Path, also: Callable[[Database], Mapping[str, Path]] | None) -> Mapping[str, Path]:
    """More files to save, by what the saved database says."""
    if also is None:
        return _NO_FILES
    with closing(open_database(sqlite_url(file))) as saved:
        found = also(saved)
    _settle(file)
    return found


def _settle(file: Path) -> None:
    """One file, without a log beside it, on disk."""
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(file.parent)
    except sqlite3.Error as error:
        raise explain_sqlite(error, str(file)) or error from error
    except OSError as error:
        raise state_error(error, file) from error


def _check_database(file: Path) -> None:
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA query_only=ON")
            said = connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        raise explain_sqlite(error, str(file)) or error from error
    if said != "ok":
        raise StateError(f"the database is damaged: {said}", where=str(file), do="restore an older backup")


def _look(file: Path) -> tuple[dict[str, int], set[str]]:
    """How many rows each table of the saved database has, and the blobs that they need."""
    needed = (str(select(sample.c.blob).where(sample.c.blob.is_not(None))), str(select(dataset.c.digest)))
    with closing(sqlite3.connect(file)) as connection:
        rows = {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in sorted(METADATA.tables)
        }
        return rows, {row[0] for query in needed for row in connection.execute(query)}


def _refuse_database(url: str) -> None:
    if url.startswith("sqlite:"):
        file = sqlite_file(url)
        if file.exists():
            raise StateError(
                "there is a database already", where=str(file), do="give a new file; what is there is not overwritten"
            )
        return
    with closing(open_database(url, create=True)) as database, database.read() as connection:
        refuse_rows(connection, database.url)


def _restore_database(saved: Path, url: str, progress: Progress) -> None:
    """The saved database at its place, in this version's schema."""
    is_file = url.startswith("sqlite:")
    place = sqlite_file(url) if is_file else None
    try:
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=place.parent if place else None) as scratch:
            file = Path(scratch) / DATABASE
            shutil.copyfile(saved, file)
            file.chmod(0o600)
            with closing(open_database(sqlite_url(file))) as source:  # brings an older one to this schema
                if place is None:
                    with closing(open_database(url, create=True)) as target:
                        copy(source, target, progress=progress)
            if place is not None:
                _settle(file)
                os.link(file, place)  # fails where something is
                sync_folder(place.parent)
    except OSError as error:
        raise state_error(error, place or saved) from error
    progress("database", 1, 1)


# Blobs -------------------------------------------------------------------------------------------------------


def _save_blobs(
    blobs: Blobs, saved: BlobFolder, digests: Iterable[str], sizes: dict[str, int], lost: set[str], progress: Progress
) -> None:
    """Copy blobs, and note their sizes. Those that are gone or damaged are noted as lost."""

    def contents() -> Iterator[tuple[str, bytes]]:
        for digest in digests:
            try:
                yield digest, blobs.get(digest)
            except StateError:
                lost.add(digest)

    for part in _together(contents()):
        saved.put_many(content for _, content in part)
        sizes.update((digest, len(content)) for digest, content in part)
        progress("saving blobs", len(sizes), len(sizes))


def _together(contents: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    part: list[tuple[str, bytes]] = []
    size_bytes = 0
    for digest, content in contents:
        part.append((digest, content))
        size_bytes += len(content)
        if size_bytes >= _TOGETHER_BYTES or len(part) >= 256:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


def _listed(folder: Path) -> Iterator[tuple[str, int]]:
    with (folder / BLOB_LIST).open(encoding="ascii") as lines:
        for line in lines:
            digest, _, size = line.rstrip("\n").partition(" ")
            if not is_digest(digest) or not size.isdecimal():
                raise damaged_blob(folder, digest[:64], "the list of blobs cannot be read")
            yield digest, int(size)


# Other files -------------------------------------------------------------------------------------------------


def _save_files(files: Mapping[str, Path], place: Path) -> None:
    """Copy other files, again where they changed meanwhile: a release that is being published belongs together."""
    for name, path in files.items():
        for _ in range(_TRIES):
            before = _look_at(path)
            _clear(place / name)
            with suppress(FileNotFoundError):  # it went away: seen below
                for file in before:
                    target = place / name / file.relative_to(path) if file != path else place / name
                    _save_file(file, target)
            if _look_at(path) == before:
                break
        else:
            raise StateError("these files change all the time", where=str(path), do="try again when that is over")


def _clear(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)


def _look_at(path: Path) -> dict[Path, tuple[int, int]]:
    """Every file of a folder, or the one file, with what shows that it changed."""
    found = {}
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        with suppress(FileNotFoundError):
            if file.is_file():
                told = file.stat()
                found[file] = (told.st_mtime_ns, told.st_size)
    return found


def _save_file(file: Path, target: Path) -> None:
    try:
        content, mode = file.read_bytes(), file.stat().st_mode & 0o777
    except FileNotFoundError:
        raise
    except OSError as error:
        raise state_error(error, file) from error
    write_bytes(target, content, mode=mode)


def _places(made: Backup, files: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Each saved file that is to be restored, and where it goes."""
    for saved in made.files:
        top, _, rest = saved.partition("/")
        name, _, inside = rest.partition("/")
        if top == FILES and name in files:
            yield saved, files[name] / inside if inside else files[name]


def _refuse_other_files(folder: Path, made: Backup, files: Mapping[str, Path]) -> None:
    for name, place in _places(made, files):
        if place.exists() and (not place.is_file() or place.read_bytes() != (folder / name).read_bytes()):
            raise StateError(
                "there is another file already", where=str(place), do="restore into a new folder; nothing was written"
            )


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StateError(
                "the folder is not empty", where=str(folder), do="give a new folder; what is there is not overwritten"
            )
        folder.chmod(0o700)
    except OSError as error:
        raise state_error(error, folder) from error


def _measured(folder: Path) -> dict[str, File]:
    """Every file of the backup but its blobs, whose names are their digests."""
    paths = [folder / DATABASE, folder / BLOB_LIST, *sorted(p for p in (folder / FILES).rglob("*") if p.is_file())]
    try:
        return {path.relative_to(folder).as_posix(): measure(path) for path in paths}
    except OSError as error:
        raise state_error(error, folder) from error
