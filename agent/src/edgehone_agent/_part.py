"""A file that arrives in pieces: `NAME.part` beside its place, whatever was there before is kept and built upon.

Rules:
- Open, then `write` in order, then `finish`. What was written stays when the process ends; the next opening goes on.
- `finish` looks at size and digest, has the bytes on disk, moves the file to its place and has the move on disk.
- Never more than the announced size is written. A part whose digest is wrong is deleted.
- Where the disk is full the part is deleted too: what serves needs the room more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from types import TracebackType

from edgehone_agent.durable import replace, state_error
from edgehone_agent.errors import StateError, TrustError

_CHUNK_BYTES = 1 << 20


class PartFile:
    """The part of one download. Use it in a `with`.

    Args:
        to: where the whole file goes.
        size_bytes: of the whole file.
        sha256: digest of the whole file, hex.

    Raises:
        StateError: the folder cannot be written, or has too little room for the rest.
    """

    def __init__(self, to: Path, size_bytes: int, sha256: str) -> None:
        self.to, self.size_bytes, self.sha256 = to, size_bytes, sha256
        self.path = to.with_name(f"{to.name}.part")
        self.have = 0
        self._digest = hashlib.sha256()
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise state_error(error, self.path) from error
        try:
            self._take_up()
            free = shutil.disk_usage(to.parent).free
        except OSError as error:
            self._file.close()
            raise state_error(error, self.path) from error
        if free < size_bytes - self.have:
            self.delete()
            raise StateError(
                f"{size_bytes} bytes are to come and {free} are free",
                where=str(to.parent),
                do="free space on this disk",
            )

    def _take_up(self) -> None:
        """Read what an earlier call left."""
        if os.fstat(self._file.fileno()).st_size > self.size_bytes:
            self._file.truncate(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            self._digest.update(chunk)
            self.have += len(chunk)

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return self.size_bytes - self.have

    def write(self, chunk: bytes) -> None:
        """Add the next bytes.

        Raises:
            TrustError: more bytes than announced; the part is deleted.
            StateError: the disk is full or read-only.
        """
        if len(chunk) > self.missing:
            self.delete()
            raise TrustError(
                f"the file is larger than the {self.size_bytes} bytes that were signed",
                where=self.to.name,
                do="have the registry looked at: this is not the file that was published",
            )
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.delete()
            raise state_error(error, self.path) from error
        self._digest.update(chunk)
        self.have += len(chunk)

    def restart(self) -> None:
        """Forget what is there.

        Raises:
            StateError: the file cannot be written.
        """
        try:
            self._file.truncate(0)
            self._file.seek(0)
        except OSError as error:
            raise state_error(error, self.path) from error
        self.have, self._digest = 0, hashlib.sha256()

    def is_right(self) -> bool:
        """Whether all bytes are there and are the right ones."""
        return not self.missing and self._digest.hexdigest() == self.sha256

    def finish(self) -> None:
        """Put the file in its place, on disk.

        Raises:
            TrustError: these are not the bytes that were signed; the part is deleted.
            StateError: the disk is full or read-only.
        """
        if not self.is_right():
            self.delete()
            raise TrustError(
                "the file is not the one that was signed: its digest differs",
                where=self.to.name,
                do="have the registry looked at: this is not the file that was published",
            )
        try:
            os.fsync(self._file.fileno())
            replace(self.path, self.to)
        except OSError as error:
            raise state_error(error, self.to) from error

    def delete(self) -> None:
        """Close and remove the part."""
        self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
