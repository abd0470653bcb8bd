"""Files that survive a power cut: written beside their place, synced, moved there, and the folder synced.

After `write_bytes` returns, the new content is on disk under its name. Before that the old content is, or none. There
is no state in between, whatever moment the power goes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edgehone_agent.errors import StateError


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all, and have it on disk on return; parent folders are made.

    Raises:
        StateError: the disk is full or read-only, or the folder may not be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # on a read-only disk there is nothing to remove, and removing fails too
            temporary.unlink(missing_ok=True)
        raise state_error(error, path) from error


def remove(path: Path) -> None:
    """Have a file gone from disk on return, or leave it where that is not possible."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def replace(temporary: Path, path: Path) -> None:
    """Move a file or folder that is already on disk to its place, and have the move on disk on return.

    Raises:
        OSError: as `os.replace` does.
    """
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk on return.

    Raises:
        OSError: as `os.fsync` does.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def state_error(error: OSError, path: Path) -> StateError:
    """What an operating system error on a file of the node's folder means to its owner."""
    return StateError(
        error.strerror or str(error), where=str(path), do="free space or fix the permission; the node tries again"
    )
