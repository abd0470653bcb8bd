"""Make the new bundle from the old one and a delta. The node copies, adds and inserts bytes; it parses no model.

    "EHDELTA1"  old sha256 (32)  new sha256 (32)  new size (u64)  lengths of three frames (u64 each)
    frame 1: operations, each kind (u8), offset in the old file (u64), length (u64); little endian
    frame 2: bytes to add, modulo 256, for the operations of kind ADD, one after the other
    frame 3: new bytes for those of kind INSERT

COPY takes bytes of the old file, ADD takes them and adds those of frame 2, INSERT takes those of frame 3. Frames are
zstd (RFC 8878). The core decides what is a weight and aligns it, see `edgehone.bundle.delta`; docs/formats/delta.md.

Nothing is believed: the old file must have its digest, no operation may leave it, the new file may not get longer than
it says, and it takes its place only when it has the digest that signed metadata promises.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgehone_agent.bundle import MAX_BUNDLE_BYTES
from edgehone_agent.durable import replace, state_error
from edgehone_agent.errors import BundleError

try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
except ImportError:
    from backports import zstd

MAGIC = b"EHDELTA1"
HEADER = struct.Struct("<8s32s32sQQQQ")
OPERATION = struct.Struct("<BQQ")
COPY, ADD, INSERT = 0, 1, 2
MAX_OPERATIONS = 1 << 20

_CHUNK = 1 << 20
_MAX_WINDOW_LOG = 27  # 128 MiB: what a frame may ask a reader to hold


def apply_delta(old: Path, delta: Path, new: Path, sha256: str) -> None:
    """Write the new bundle, whole or not at all; it is on disk on return.

    Args:
        old: the bundle that is there.
        delta: the delta.
        new: where the result goes; its folder is there.
        sha256: digest that the result must have, from signed metadata, hex.

    Raises:
        BundleError: the delta is damaged, belongs to another old file, or does not give the promised result.
        StateError: the result cannot be written.
    """
    temporary = new.with_name(f".{new.name}.partial")
    try:
        with old.open("rb") as source, delta.open("rb") as changes:
            header = _header(changes, delta)
            if header.new.hex() != sha256:
                raise BundleError("makes another file than the signed one", where=str(delta))
            if _digest(source) != header.old:
                raise BundleError("is for another old file", where=str(delta), do="download the whole bundle instead")
            _write(source, changes, header, temporary, delta)
            replace(temporary, new)
    except OSError as error:
        raise state_error(error, new) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Header:
    """Digests and lengths."""

    def __init__(self, fields: tuple[Any, ...]) -> None:
        self.old: bytes
        self.new: bytes
        _, self.old, self.new, self.size_bytes, *self.lengths = fields


def _header(changes: IO[bytes], path: Path) -> _Header:
    content = changes.read(HEADER.size)
    if len(content) != HEADER.size or not content.startswith(MAGIC):
        raise BundleError("this is no delta", where=str(path), do="download it again")
    header = _Header(HEADER.unpack(content))
    if header.size_bytes > MAX_BUNDLE_BYTES:
        raise BundleError(f"makes more than {MAX_BUNDLE_BYTES} bytes", where=str(path))
    if HEADER.size + sum(header.lengths) != os.fstat(changes.fileno()).st_size:
        raise BundleError("is cut off, or followed by something", where=str(path), do="download it again")
    return header


def _digest(file: IO[bytes]) -> bytes:
    sha = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        sha.update(chunk)
    return sha.digest()


def _write(source: IO[bytes], changes: IO[bytes], header: _Header, temporary: Path, path: Path) -> None:
    starts = [HEADER.size + sum(header.lengths[:index]) for index in range(3)]
    frames = [_Frame(changes, start, length, path) for start, length in zip(starts, header.lengths, strict=True)]
    operations = frames[0].all(MAX_OPERATIONS * OPERATION.size)
    if len(operations) % OPERATION.size:
        raise BundleError("its operations are cut off", where=str(path))
    old_bytes = os.fstat(source.fileno()).st_size
    sha, left = hashlib.sha256(), header.size_bytes
    with temporary.open("wb") as target:
        for kind, offset, length in OPERATION.iter_unpack(operations):
            if kind not in (COPY, ADD, INSERT) or length > left or (kind != INSERT and offset + length > old_bytes):
                raise BundleError("an operation leaves the old or the new file", where=str(path))
            left -= length
            source.seek(offset if kind != INSERT else 0)
            while length:
                size = min(length, _CHUNK)
                length -= size
                chunk = frames[2].take(size) if kind == INSERT else source.read(size)
                if kind == ADD:
                    sums = np.frombuffer(chunk, np.uint8) + np.frombuffer(frames[1].take(size), np.uint8)
                    chunk = sums.tobytes()  # modulo 256, as uint8 adds
                sha.update(chunk)
                target.write(chunk)
        if left or sha.digest() != header.new:
            raise BundleError("does not make the file that it promises", where=str(path), do="download it again")
        target.flush()
        os.fsync(target.fileno())


class _Frame:
    """One zstd frame inside the delta, read as far as asked."""

    def __init__(self, file: IO[bytes], start: int, length: int, path: Path) -> None:
        self._file, self._at, self._end, self._path = file, start, start + length, path
        options = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        self._reader = zstd.ZstdDecompressor(options=options)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        parts, left = [], size
        while left:
            part = self._next(left)
            if not part:
                raise BundleError("is too short for its operations", where=str(self._path))
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def all(self, most: int) -> bytes:
        """Everything, at most `most` bytes."""
        parts, total = [], 0
        while part := self._next(_CHUNK):
            parts.append(part)
            total += len(part)
            if total > most:
                raise BundleError("has too many operations", where=str(self._path))
        return b"".join(parts)

    def _next(self, most: int) -> bytes:
        """Some bytes, none at the end of the frame."""
        while not self._reader.eof:
            content = b""
            if self._reader.needs_input:
                self._file.seek(self._at)
                content = self._file.read(min(_CHUNK, self._end - self._at))
                self._at += len(content)
                if not content:
                    return b""
            try:
                found: bytes = self._reader.decompress(content, most)
            except zstd.ZstdError as error:
                raise BundleError(f"is damaged: {error}", where=str(self._path), do="download it again") from error
            if found:
                return found
        return b""
