"""The registry's static files, and the lock that lets one publisher at a time change them.

Rules:
- Every file appears whole or not at all, and is on disk before the next one is written.
- What is named appears before what names it: blobs, task role, targets, snapshot, and the timestamp last.
- Blobs carry their digest in the name and never change. They are read back and hashed after they were put.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgehone.errors import HostError
from edgehone_agent.durable import sync_folder, write_bytes
from edgehone_agent.errors import BusyError, RegistryError

_LOCK = ".lock"
_UNFINISHED = re.compile(r"#\d+$|^\..*\.partial$")  # what obstore and durable.write_bytes leave when they are killed


@dataclass(frozen=True)
class Entry:
    """One file: path inside the registry, size, and when it was written (UTC)."""

    path: str
    size_bytes: int
    modified: datetime


def no_registry(folder: Path) -> RegistryError:
    """What to say about a folder that holds no registry."""
    return RegistryError(
        "there is no registry in this folder",
        where=str(folder),
        do="give the right folder, or make one with `edgehone registry init`",
    )


class Store:
    """A registry's folder. Paths are relative, with forward slashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        """A file's content, None when there is no such file.

        Raises:
            RegistryError: it cannot be read.
        """
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RegistryError(
                error.strerror or str(error), where=str(self.folder / path), do="fix the permission or restore the file"
            ) from error

    def write(self, path: str, content: bytes) -> None:
        """Write a metadata file whole or not at all, on disk on return.

        Raises:
            StateError: the disk is full or read-only, or the folder may not be written.
        """
        write_bytes(self.folder / path, content)

    def put(self, path: str, file: Path, sha256: str) -> None:
        """Put a blob, whole or not at all, on disk on return; does nothing when it is there already.

        Raises:
            RegistryError: what arrived is not what was sent.
            HostError: the folder cannot be written.
        """
        if self.holds(path, sha256):
            return
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.put(self._objects(), path, file)
            self._sync(path)
        except (OSError, BaseError) as error:
            raise HostError(
                f"the blob cannot be written: {str(error).splitlines()[0]}",
                where=str(self.folder / path),
                do="free space or fix the permission, then run the same command again",
            ) from error
        if not self.holds(path, sha256):
            obstore.delete(self._objects(), path)
            raise RegistryError(
                "what was stored is not what was sent", where=str(file), do="leave the file alone, then publish again"
            )

    def holds(self, path: str, sha256: str) -> bool:
        """Whether a blob is there with this digest."""
        try:
            with (self.folder / path).open("rb") as blob:
                return hashlib.file_digest(blob, "sha256").hexdigest() == sha256
        except OSError:
            return False

    def local(self, path: str) -> Path:
        """A blob as a local file."""
        return self.folder / path

    def entries(self, prefix: str) -> list[Entry]:
        """Every file under a prefix, sorted by path."""
        import obstore

        found = obstore.list(self._objects(), prefix).collect() if (self.folder / prefix).is_dir() else []
        return sorted(
            (Entry(str(item["path"]), int(item["size"]), item["last_modified"]) for item in found),
            key=lambda entry: entry.path,
        )

    def delete(self, path: str) -> None:
        """Remove a file; fine when it is gone already."""
        (self.folder / path).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what killed writers left half done, and return how many files that were."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and _UNFINISHED.search(path.name)]
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    @contextmanager
    def lock(self, *, new: bool = False) -> Iterator[None]:
        """Keep other publishers out. The lock ends with the process, however it ends.

        Args:
            new: make the folder if need be; without it nothing is made where no registry is.

        Raises:
            BusyError: somebody else has it.
            RegistryError: there is no registry.
            HostError: the folder cannot be written.
        """
        if not new and not (self.folder / "metadata").is_dir():
            raise no_registry(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise HostError(
                error.strerror or str(error), where=str(self.folder), do="give a folder that you may write to"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    "another command is changing this registry", where=str(self.folder), do="try again when it is done"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def _objects(self) -> Any:
        from obstore.store import LocalStore

        return LocalStore(prefix=self.folder, mkdir=True)

    def _sync(self, path: str) -> None:
        file = self.folder / path
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for folder in (file.parent, *file.parent.parents):
            sync_folder(folder)
            if folder == self.folder:
                break
