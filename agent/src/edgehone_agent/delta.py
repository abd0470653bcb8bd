"""Make the new bundle from the old one and a delta. The node copies, adds and inserts bytes; it parses no model.

    "EHDELTA1"  old sha256 (32)  new sha256 (32)  old size (u64)  new size (u64)  bits (u8)
    lengths of the frames (8 × u64)
    the frames: operations · new bytes · codes · escapes · planes 0 to 3
    sha256 (32) of all that stands before

Operations cover the new file from its first byte to its last:

    COPY    bytes of the old file
    INSERT  new bytes
    ADD     bytes of the old file, each plus a difference modulo 256, which is a code of 2, 4 or 8 bits
    ADD32   words of the old file (u32), each plus a difference modulo 2^32, whose bytes are in planes 0 to 3
    HINT    makes nothing: these bytes of the old file stand before the new bytes when those are unpacked

The core decides what is a weight and aligns it, see `edgehone.bundle.delta`; docs/formats/delta.md.

Nothing is believed: the old file must have its digest, no operation may leave it, the new file may not get longer than
it says, nothing may be left over, and the result takes its place only when it has the digest that signed metadata
promises. Memory is bounded whatever the delta says: a window of 1 MiB per frame, and pieces of the files.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.bundle import MAX_BUNDLE_BYTES
from edgehone_agent.durable import replace, state_error
from edgehone_agent.errors import BundleError
from edgehone_agent.frames import Frame, Input

MAGIC = b"EHDELTA1"
HEADER = struct.Struct("<8s32s32sQQB8Q")
OPERATION = struct.Struct("<BqQ")
COPY, INSERT, ADD, ADD32, HINT = range(5)
BITS = (2, 4, 8)
SEAL_BYTES = 32
MAX_OPERATIONS = 1 << 16
MAX_HINT_BYTES = 1 << 20

_ESCAPE = 0x80  # -128, which no code means: the difference is a byte of another frame
_OPERATIONS, _NEW, _CODES, _ESCAPES, _PLANES = range(5)
_CHUNK = 1 << 18
_AGAIN = "download it again"


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
        with Input(old) as source, Input(delta) as script:
            header = _header(script)
            if header.new.hex() != sha256:
                raise BundleError("makes another file than the signed one", where=str(delta))
            if source.size_bytes != header.old_bytes or _digest(source, source.size_bytes) != header.old:
                raise BundleError("is for another old file", where=str(delta), do="download the whole bundle instead")
            _write(_pieces(source, script, header), header, temporary, delta)
        replace(temporary, new)
    except OSError as error:
        raise state_error(error, new) from error
    finally:
        with suppress(OSError):  # it was moved, or never made
            temporary.unlink()


@cache
def _meanings(bits: int) -> NDArray[np.unsignedinteger]:
    """(256): the differences modulo 256 that a byte of codes stands for, as the bytes of one number, lowest bits first.

    Code 0, 1, 2, 3, 4... is a difference of 0, -1, 1, -2, 2...; the highest code is an escape.
    """
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1  # (256, codes in a byte)
    differences = np.where(codes == (1 << bits) - 1, _ESCAPE, (codes >> 1 ^ -(codes & 1)) & 255)
    return differences.astype(np.uint8).view(f"<u{8 // bits}")[:, 0]


class _Header(NamedTuple):
    """Digests and lengths."""

    old: bytes
    new: bytes
    old_bytes: int
    new_bytes: int
    bits: int
    frames: tuple[int, ...]


def _header(script: Input) -> _Header:
    if script.size_bytes < HEADER.size + SEAL_BYTES or script.read(0, len(MAGIC)) != MAGIC:
        raise BundleError("this is no delta", where=str(script.path), do=_AGAIN)
    _, old, new, old_bytes, new_bytes, bits, *frames = HEADER.unpack(script.read(0, HEADER.size))
    sealed = script.size_bytes - SEAL_BYTES
    if HEADER.size + sum(frames) != sealed or _digest(script, sealed) != script.read(sealed, SEAL_BYTES):
        raise BundleError("is damaged or cut off", where=str(script.path), do=_AGAIN)
    if new_bytes > MAX_BUNDLE_BYTES:
        raise BundleError(f"makes more than {MAX_BUNDLE_BYTES} bytes", where=str(script.path))
    if bits not in BITS:
        raise BundleError(f"has codes of {bits} bits", where=str(script.path), do=_AGAIN)
    return _Header(old, new, old_bytes, new_bytes, bits, tuple(frames))


def _write(pieces: Iterator[bytes], header: _Header, temporary: Path, delta: Path) -> None:
    sha = hashlib.sha256()
    with temporary.open("wb") as target:
        for piece in pieces:
            sha.update(piece)
            target.write(piece)
        if sha.digest() != header.new:
            raise BundleError("does not make the file that it promises", where=str(delta), do=_AGAIN)
        target.flush()
        os.fsync(target.fileno())


def _pieces(source: Input, script: Input, header: _Header) -> Iterator[bytes]:
    """The new file piece by piece, never more than it should have."""
    starts = [HEADER.size + sum(header.frames[:index]) for index in range(len(header.frames))]
    operations, hint = _operations(Frame(script, starts[0], header.frames[0]), source, header, script.path)
    frames = [
        Frame(script, start, length, hint=hint if index == _NEW else b"")
        for index, (start, length) in enumerate(zip(starts, header.frames, strict=True))
    ]
    for kind, at, length in operations:
        for start in range(at, at + length, _CHUNK):
            size = min(_CHUNK, at + length - start)
            if kind == COPY:
                yield source.read(start, size)
            elif kind == INSERT:
                yield frames[_NEW].take(size)
            elif kind == ADD:
                yield _added(source.read(start, size), header.bits, frames[_CODES], frames[_ESCAPES])
            else:
                yield _added32(source.read(start, size), frames[_PLANES:])
    for frame in frames[_NEW:]:
        frame.finish()


def _operations(frame: Frame, source: Input, header: _Header, path: Path) -> tuple[list[tuple[int, int, int]], bytes]:
    """Every operation as (kind, place in the old file, length), all of them checked, and the hint."""
    (count,) = struct.unpack("<I", frame.take(4))
    if count > MAX_OPERATIONS:
        raise BundleError("has too many operations", where=str(path))
    content = frame.take(count * OPERATION.size)
    frame.finish()
    found, hints = [], []
    at, left, hint_left = 0, header.new_bytes, MAX_HINT_BYTES
    for kind, seek, length in OPERATION.iter_unpack(content):
        at += seek
        known = kind <= HINT and (kind != ADD32 or length % 4 == 0)
        inside = kind == INSERT or (at >= 0 and at + length <= source.size_bytes)
        if not known or not inside or length > (hint_left if kind == HINT else left):
            raise BundleError("an operation leaves the old or the new file", where=str(path), do=_AGAIN)
        if kind == HINT:
            hint_left -= length
            hints.append(source.read(at, length))
            continue
        found.append((kind, at, length))
        left -= length
        at += length if kind != INSERT else 0  # so that what follows in both files needs no seek
    if left:
        raise BundleError("does not make all of the new file", where=str(path), do=_AGAIN)
    return found, b"".join(hints)


def _added(old: bytes, bits: int, codes: Frame, escapes: Frame) -> bytes:
    differences = np.frombuffer(codes.take((len(old) * bits + 7) // 8), np.uint8)
    if bits < 8:  # codes of 8 bits are the differences themselves
        differences = _meanings(bits).take(differences).view(np.uint8)[: len(old)]
        escaped = np.flatnonzero(differences == _ESCAPE)
        differences[escaped] = np.frombuffer(escapes.take(len(escaped)), np.uint8)
    sums: bytes = (np.frombuffer(old, np.uint8) + differences).tobytes()  # modulo 256, as uint8 adds
    return sums


def _added32(old: bytes, planes: list[Frame]) -> bytes:
    words = np.frombuffer(old, "<u4")
    bytes_ = [np.frombuffer(plane.take(len(words)), np.uint8) for plane in planes]
    folded = np.ascontiguousarray(np.stack(bytes_, axis=1)).view("<u4")[:, 0]  # (words, 4) → (words)
    differences = folded >> 1 ^ -(folded & 1)  # 0, 1, 2, 3... is 0, -1, 1, -2...; modulo 2^32, as uint32 counts
    sums: bytes = (words + differences).tobytes()
    return sums


def _digest(source: Input, size: int) -> bytes:
    """sha256 of the first `size` bytes."""
    sha = hashlib.sha256()
    for start in range(0, size, _CHUNK):
        sha.update(source.read(start, min(_CHUNK, size - start)))
    return sha.digest()
