"""A registry in a folder of this machine, on disk before anything that follows. The rules are those of `objects`.

The lock is the kernel's, so it ends with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgehone.errors import HostError
from edgehone.registry.objects import LOCK, Objects, no_registry
from edgehone_agent.durable import sync_folder, write_bytes
from edgehone_agent.errors import BusyError, StateError

_UNFINISHED = re.compile(r"#\d+$|^\..*\.partial$")  # what obstore and durable.write_bytes leave when they are killed


class Store(Objects):
    """A registry's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, path: str = "") -> str:
        """See `Objects`."""
        return str(self.folder / path)

    def serves(self, folder: Path) -> bool:
        """See `Objects`."""
        return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self.folder))

    def write(self, path: str, content: bytes) -> None:
        """See `Objects`."""
        try:
            write_bytes(self.folder / path, content)
        except StateError as error:  # whose advice is for a node
            raise HostError(
                error.what, where=error.where, do="free space or fix the permission, then run the same command again"
            ) from error

    def fetch(self, path: str, scratch: Path) -> Path:  # noqa: ARG002  the blob is a local file already
        """See `Objects`."""
        return self.folder / path

    def sweep(self) -> int:
        """See `Objects`."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and _UNFINISHED.search(path.name)]
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    @contextmanager
    def lock(self, *, new: bool = False) -> Iterator[None]:
        """See `Objects`."""
        if not new and not (self.folder / "metadata").is_dir():
            raise no_registry(self.place())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise HostError(
                error.strerror or str(error), where=self.place(), do="give a folder that you may write to"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    "another command is changing this registry", where=self.place(), do="try again when it is done"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def _objects(self) -> Any:
        from obstore.store import LocalStore

        if not self.folder.is_dir():
            raise FileNotFoundError(self.folder)
        return LocalStore(prefix=self.folder)

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
