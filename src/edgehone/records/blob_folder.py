"""Blobs in a folder of this machine: FOLDER/ab/ab12... Each is written beside its place, synced, and moved there.

obstore is not used here: it links a file to its name before anything is on disk, so a power cut can leave an empty
blob. Here a name is there only when its content is on disk.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from edgehone.records.blobs import Blobs, Stored, checked, is_digest
from edgehone_agent.durable import state_error, sync_folder

_UNFINISHED = ".part"
_LEFT_S = 3600.0  # younger ones may be written right now, by another process
_FEW = 4
_SYNCERS = 16


class BlobFolder(Blobs):
    """A folder of blobs. Several processes may open it: a core, its training, a command beside it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if there is none, and remove what writers left that were killed an hour ago or more.

        Raises:
            StateError: it cannot be made or written.
        """
        self.folder = folder
        self._settled: set[str] = set()  # folders inside whose own names are on disk
        self._ages = threading.Lock()  # a blob is made young, or removed for its age: one or the other
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True)
                sync_folder(folder.parent)
            for path in folder.glob(f"*/*{_UNFINISHED}"):
                with suppress(FileNotFoundError):  # its writer was faster
                    if time.time() - path.stat().st_mtime >= _LEFT_S:
                        path.unlink()
        except OSError as error:
            raise state_error(error, folder) from error

    @property
    def url(self) -> str:
        """See `Blobs`."""
        return str(self.folder)

    def put_many(self, contents: Iterable[bytes]) -> list[str]:
        """See `Blobs`. Every file is on disk before the first gets its name; then the folders are synced, once each."""
        digests: list[str] = []
        unfinished: dict[Path, Path] = {}
        touched: set[Path] = set()
        try:
            for content in contents:
                digest = hashlib.sha256(content).hexdigest()
                digests.append(digest)
                path = self._path(digest)
                if path in unfinished:
                    continue
                touched.add(path.parent)
                if not self._renew(path, content):
                    self._settle(digest[:2])
                    unfinished[path] = self._write(path, content)
            _sync_all(list(unfinished.values()))
            for path, temporary in unfinished.items():
                with self._ages:
                    temporary.replace(path)
            _sync_all(list(touched))  # also of blobs that were there: another thread may not have come to this yet
        except OSError as error:
            raise state_error(error, self.folder) from error
        finally:
            for temporary in unfinished.values():
                temporary.unlink(missing_ok=True)
        return digests

    def has(self, digest: str) -> bool:
        """See `Blobs`."""
        return self._path(checked(digest)).is_file()

    def delete(self, digest: str) -> None:
        """See `Blobs`."""
        path = self._path(checked(digest))
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)
        except OSError as error:
            raise state_error(error, path) from error

    def delete_older(self, digest: str, than_s: float) -> bool:
        """See `Blobs`."""
        path = self._path(checked(digest))
        try:
            with self._ages:
                if path.stat().st_mtime >= than_s:
                    return False
                path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise state_error(error, path) from error
        return True

    def stored(self) -> Iterator[Stored]:
        """See `Blobs`."""
        try:
            for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if is_digest(entry.name) and (found := _stat(entry)) is not None:
                            yield Stored(entry.name, found.st_size, found.st_mtime)
        except OSError as error:
            raise state_error(error, self.folder) from error

    def _read(self, digest: str) -> bytes | None:
        path = self._path(digest)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise state_error(error, path) from error

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _renew(self, path: Path, content: bytes) -> bool:
        """Make a blob that is there, and whole, young again; False where it has to be written."""
        with self._ages:
            try:
                if path.read_bytes() != content:
                    return False
                os.utime(path)
            except FileNotFoundError:
                return False
        return True

    def _settle(self, name: str) -> None:
        """Make a folder inside, with its name on disk."""
        if name not in self._settled:
            (self.folder / name).mkdir(exist_ok=True)
            sync_folder(self.folder)
            self._settled.add(name)

    def _write(self, path: Path, content: bytes) -> Path:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
        try:
            with temporary.open("xb") as file:
                file.write(content)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _sync_all(paths: list[Path]) -> None:
    """Have files or folders on disk. The system joins what several threads ask for at once into one turn of the disk.

    Raises:
        OSError: as `os.fsync` does.
    """
    if len(paths) < _FEW:
        for path in paths:
            _sync(path)
        return
    with ThreadPoolExecutor(_SYNCERS) as syncers:
        for _ in syncers.map(_sync, paths):
            pass


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What the system says of a file, None when it went away meanwhile."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None
