"""The registry's static files, wherever they lie: one folder of this machine (`store`) or a bucket (`bucket`).

Rules:
- Every file appears whole or not at all, and is kept before the next one is written.
- What is named appears before what names it: blobs, task role, targets, snapshot, and the timestamp last.
- Blobs carry their digest in the name and never change. They are read back and hashed after they were put.
- One command at a time changes a registry: it holds the lock from before it reads until after its last write.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgehone.errors import HostError
from edgehone_agent.errors import RegistryError

LOCK = ".lock"


@dataclass(frozen=True)
class Entry:
    """One file: path inside the registry, size, and when it was written (UTC)."""

    path: str
    size_bytes: int
    modified: datetime


class Objects(ABC):
    """A registry's files. Paths are relative, with forward slashes. Everything but the lock goes through obstore."""

    @abstractmethod
    def place(self, path: str = "") -> str:
        """Where a file lies, as people write it; the registry itself without a path."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a metadata file whole or not at all, kept on return.

        Raises:
            HostError: there is no room, or it may not be written.
            BusyError: the lock was lost meanwhile.
        """

    @abstractmethod
    def lock(self, *, new: bool = False) -> AbstractContextManager[None]:
        """Keep other publishers out.

        Args:
            new: make the place if need be; without it nothing is made where no registry is.

        Raises:
            BusyError: somebody else has it.
            RegistryError: there is no registry.
            HostError: the place cannot be written.
        """

    @abstractmethod
    def sweep(self) -> int:
        """Remove what killed writers left half done, and return how many files that were."""

    @abstractmethod
    def fetch(self, path: str, scratch: Path) -> Path:
        """A blob as a local file that may be read until `scratch` goes; its content is not checked.

        Raises:
            RegistryError: it is not there, or cannot be read.
            HostError: there is no room in `scratch`.
        """

    def serves(self, folder: Path) -> bool:  # noqa: ARG002  a bucket holds no folder of this machine
        """Whether a folder of this machine would be shown to everybody."""
        return False

    def read(self, path: str) -> bytes | None:
        """A file's content, None when there is no such file.

        Raises:
            RegistryError: it cannot be read.
        """
        try:
            return b"".join(self._chunks(path))
        except FileNotFoundError:
            return None

    def put(self, path: str, file: Path, sha256: str) -> None:
        """Put a blob, whole or not at all, kept on return; does nothing when it is there already.

        Raises:
            RegistryError: what arrived is not what was sent.
            HostError: it cannot be written.
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
                f"the blob cannot be written: {first_line(error)}",
                where=self.place(path),
                do="free space or fix the permission, then run the same command again",
            ) from error
        if not self.holds(path, sha256):
            self.delete(path)
            raise RegistryError(
                "what was stored is not what was sent", where=str(file), do="leave the file alone, then publish again"
            )

    def holds(self, path: str, sha256: str) -> bool:
        """Whether a blob is there with this digest; all of it is read.

        Raises:
            RegistryError: it cannot be read.
        """
        digest = hashlib.sha256()
        try:
            for chunk in self._chunks(path):
                digest.update(chunk)
        except FileNotFoundError:
            return False
        return digest.hexdigest() == sha256

    def entries(self, prefix: str) -> list[Entry]:
        """Every file under a prefix, sorted by path.

        Raises:
            RegistryError: they cannot be listed.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            found = obstore.list(self._objects(), prefix).collect()
        except FileNotFoundError:
            return []
        except (OSError, BaseError) as error:
            raise unreadable(error, self.place(prefix)) from error
        return sorted(
            (Entry(str(item["path"]), int(item["size"]), item["last_modified"]) for item in found),
            key=lambda entry: entry.path,
        )

    def delete(self, path: str) -> None:
        """Remove a file; fine when it is gone already.

        Raises:
            HostError: it may not be removed.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.delete(self._objects(), path)
        except FileNotFoundError:
            return
        except (OSError, BaseError) as error:
            raise HostError(
                f"the file cannot be removed: {first_line(error)}", where=self.place(path), do="fix the permission"
            ) from error

    @abstractmethod
    def _objects(self) -> Any:
        """obstore's store.

        Raises:
            FileNotFoundError: the place is not there.
        """

    @abstractmethod
    def _sync(self, path: str) -> None:
        """Have a file that was put kept on return."""

    def _chunks(self, path: str) -> Iterator[bytes]:
        """A file's content.

        Raises:
            FileNotFoundError: there is no such file.
            RegistryError: it cannot be read.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            for chunk in obstore.get(self._objects(), path).stream():
                yield bytes(chunk)
        except FileNotFoundError:
            raise
        except (OSError, BaseError) as error:
            raise unreadable(error, self.place(path)) from error


def no_registry(place: str) -> RegistryError:
    """What to say about a place that holds no registry."""
    return RegistryError(
        "there is no registry in this folder",
        where=place,
        do="give the right folder, or make one with `edgehone registry init`",
    )


def unreadable(error: Exception, place: str) -> RegistryError:
    """What to say about a file that does not let itself be read."""
    return RegistryError(first_line(error), where=place, do="fix the permission or the connection, or restore the file")


def first_line(error: Exception) -> str:
    """An error without obstore's debug output."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
