"""zstd frames that lie one behind the other inside a file (RFC 8878): written whole, read as far as asked.

A reader holds one window of at most 1 MiB, whatever the frame claims, so many frames can be read side by side in little
memory and none can blow up: what is not asked for is not unpacked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from edgehone_agent.errors import BundleError

try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
except ImportError:
    from backports import zstd

WINDOW_LOG = 20  # 1 MiB: what a frame may ask a reader to hold

_CHUNK = 1 << 16
_SHORTEST_HINT = 8  # bytes that zstd wants at least
_AGAIN = "download it again"
_NOISE = {"strategy": 1, "hash_log": 6, "min_match": 7}  # repetitions are not looked for but where they are long


def write_frame(content: bytes, *, hint: bytes = b"", level: int = 1, noise: bool = False) -> bytes:
    """One frame; no bytes at all for no content.

    Args:
        content: what it unpacks to.
        hint: bytes that a reader will have beforehand; parts of it that come again cost nothing.
        level: of zstd, 1 is fast.
        noise: whether the content is noise that does not repeat itself, so that looking for repetitions does not pay.
    """
    if not content:
        return b""
    settings: Mapping[str, int] = {"compression_level": level, "window_log": WINDOW_LOG, **(_NOISE if noise else {})}
    options = {zstd.CompressionParameter[name]: value for name, value in settings.items()}
    return bytes(zstd.compress(content, options=options, zstd_dict=_prefix(hint)))


class Input:
    """A file that is read by offset; use it in a `with`. Whatever goes wrong is a BundleError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe does not hold us up
        except OSError as error:
            raise BundleError(f"cannot be read: {error.strerror}", where=str(path)) from error
        about = os.fstat(self._descriptor)
        self.size_bytes = about.st_size
        if not stat.S_ISREG(about.st_mode):
            os.close(self._descriptor)
            raise BundleError("this is no file", where=str(path))

    def __enter__(self) -> Input:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        try:
            content = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise BundleError(f"cannot be read: {error.strerror}", where=str(self.path)) from error
        if len(content) != size:
            raise BundleError("has been cut while it was read", where=str(self.path))
        return content


class Frame:
    """One frame at its place in a file.

    Order of calls: `take` any number of times → `finish`. All of them raise BundleError for a damaged frame.
    """

    def __init__(self, source: Input, start: int, length: int, *, hint: bytes = b"") -> None:
        self._source, self._at, self._end = source, start, start + length
        options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        self._reader = zstd.ZstdDecompressor(zstd_dict=_prefix(hint), options=options)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        parts, left = [], size
        while left:
            part = self._next(left)
            if not part:
                raise BundleError("is too short for its operations", where=str(self._source.path))
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def finish(self) -> None:
        """The frame must end here."""
        if self._next(1) or self._at < self._end or self._reader.unused_data:
            raise BundleError("holds more than its operations use", where=str(self._source.path))

    def _next(self, most: int) -> bytes:
        """Some bytes, none at the end of the frame."""
        while not self._reader.eof:
            content = b""
            if self._reader.needs_input:
                content = self._source.read(self._at, min(_CHUNK, self._end - self._at))
                if not content:
                    return b""
                self._at += len(content)
            try:
                found: bytes = self._reader.decompress(content, most)
            except zstd.ZstdError as error:
                raise BundleError(f"is damaged: {error}", where=str(self._source.path), do=_AGAIN) from error
            if found:
                return found
        return b""


def _prefix(hint: bytes) -> object:
    return zstd.ZstdDict(hint, is_raw=True).as_prefix if len(hint) >= _SHORTEST_HINT else None
