"""Make a delta between two bundles that knows what weights are.

A network that was trained a little further has the same layers with slightly other weights: nearly every byte changes,
by a little. Tools that look for equal bytes find none. Here the weights of both files are laid over each other, tensor
by tensor, and their differences, which are small numbers, get codes of so few bits that several share a byte: an
entropy coder that spends whole bits on a byte then spends fractions of one on a weight.

The format, and what a node makes of it, is `edgehone_agent.delta`; docs/formats/delta.md.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehone.bundle._layout import Span, Stretch, stretches
from edgehone_agent.bundle import open_bundle
from edgehone_agent.delta import (
    ADD,
    ADD32,
    BITS,
    COPY,
    HEADER,
    HINT,
    INSERT,
    MAGIC,
    MAX_HINT_BYTES,
    MAX_OPERATIONS,
    OPERATION,
)
from edgehone_agent.errors import BundleError
from edgehone_agent.frames import write_frame

WORTH = 0.6
"""Of the full file: a longer delta is not worth a node's work."""

_SAMPLE = 1 << 14  # weights that decide whether a tensor is laid over the old one
_CHUNK = 1 << 16
_TRIAL = 1 << 19  # weights that decide about the bits of a code
_THOROUGH_BYTES = 1 << 18  # what may be compressed slowly
_THOROUGH, _FAST = 19, 3  # levels of zstd
_WORD_BITS = 24  # of a difference between words above which it saves nothing
Bytes = NDArray[np.uint8]


def make_delta(old: Path, new: Path, *, worth: float = WORTH) -> bytes | None:
    """A delta from one bundle to another; None when it is not worth it.

    Args:
        old, new: the bundles.
        worth: the longest delta that is, as a share of the new bundle.

    Raises:
        BundleError: one of them is no bundle.
    """
    (before, old_digest), (after, new_digest) = _content(old), _content(new)
    one, two = np.frombuffer(before, np.uint8), np.frombuffer(after, np.uint8)
    steps, near = _steps(one, two, stretches(before, after))
    hints = [_Step(HINT, start, 0, end - start) for start, end in _hints(near)]
    if len(hints) + len(steps) > MAX_OPERATIONS:
        return None
    chunks = _chunks(steps)
    bits = _bits(one, two, chunks)
    inserts = b"".join(step.of_new(two).tobytes() for step in steps if step.kind == INSERT)
    hint = b"".join(step.of_old(one).tobytes() for step in hints)
    frames = [
        write_frame(_operations([*hints, *steps]), level=_THOROUGH),
        write_frame(inserts, hint=hint, level=_THOROUGH if len(inserts) + len(hint) <= _THOROUGH_BYTES else _FAST),
        *(write_frame(content, noise=True) for content in (*_coded(one, two, chunks, bits), *_planes(one, two, steps))),
    ]
    head = HEADER.pack(MAGIC, old_digest, new_digest, len(before), len(after), bits, *map(len, frames))
    body = b"".join((head, *frames))
    delta = body + hashlib.sha256(body).digest()
    return delta if len(delta) <= worth * len(after) else None


def _content(path: Path) -> tuple[bytes, bytes]:
    """A bundle's bytes and their digest."""
    with open_bundle(path) as bundle:
        digest, size_bytes = bundle.digest, bundle.size_bytes
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(content) != size_bytes:
        raise BundleError("changed while it was read", where=str(path), do="leave it alone until the delta is made")
    return content, bytes.fromhex(digest)


@dataclass
class _Step:
    """One operation: kind, where it is in the old and in the new file, and its length."""

    kind: int
    old: int
    new: int
    length: int

    def of_old(self, content: Bytes) -> Bytes:
        return content[self.old : self.old + self.length]

    def of_new(self, content: Bytes) -> Bytes:
        return content[self.new : self.new + self.length]


def _steps(old: Bytes, new: Bytes, parts: Iterable[Stretch]) -> tuple[list[_Step], set[Span]]:
    """An operation for each stretch, or for several that follow each other, and what resembles the inserted ones."""
    steps: list[_Step] = []
    near: set[Span] = set()
    for part in parts:
        if part.start == part.end:
            continue
        step = _Step(INSERT, part.old or 0, part.start, part.end - part.start)
        if part.old is not None:
            step.kind = _kind(step.of_old(old), step.of_new(new), part.width)
        if step.kind == INSERT:
            near.add(part.near)
        last = steps[-1] if steps else None
        if last and last.kind == step.kind and (step.kind == INSERT or last.old + last.length == step.old):
            last.length += step.length
        else:
            steps.append(step)
    return steps, near


def _kind(old: Bytes, new: Bytes, width: int) -> int:
    """The cheapest way to make weights from those of the old file."""
    if np.array_equal(old, new):
        return COPY
    if width == 4:
        differences = _folded(old[: 4 * _SAMPLE], new[: 4 * _SAMPLE])
        return ADD32 if np.log2(differences + 1.0).mean() <= _WORD_BITS else INSERT
    every = 1 + len(new) // _SAMPLE
    one, two = old[::every], new[::every]
    return ADD if _entropy(two - one) < _entropy(two) else INSERT


def _chunks(steps: Iterable[_Step]) -> list[_Step]:
    """Weights of one byte, in pieces that stay in the processor's cache."""
    return [
        _Step(ADD, step.old + start, step.new + start, min(_CHUNK, step.length - start))
        for step in steps
        if step.kind == ADD
        for start in range(0, step.length, _CHUNK)
    ]


def _bits(old: Bytes, new: Bytes, chunks: Sequence[_Step]) -> int:
    """Bits of a code: the best of a trial. One number for all weights, so that the entropy coder sees one alphabet."""
    every = 1 + sum(chunk.length for chunk in chunks) // _TRIAL
    sizes = {
        bits: sum(len(write_frame(content, noise=True)) for content in _coded(old, new, chunks[::every], bits))
        for bits in BITS
    }
    return min(sizes, key=lambda bits: sizes[bits])


def _coded(old: Bytes, new: Bytes, chunks: Iterable[_Step], bits: int) -> tuple[bytes, bytes]:
    """Codes of all differences between weights of one byte, and the differences that have none."""
    packed, escaped = [], []
    for chunk in chunks:
        differences = chunk.of_new(new) - chunk.of_old(old)  # modulo 256
        if bits == 8:
            packed.append(differences.tobytes())
            continue
        codes = _codes(differences, bits)
        packed.append(_packed(codes, bits).tobytes())
        escaped.append(differences.take(np.flatnonzero(codes == (1 << bits) - 1)).tobytes())
    return b"".join(packed), b"".join(escaped)


def _planes(old: Bytes, new: Bytes, steps: Iterable[_Step]) -> list[bytes]:
    """Lowest to highest bytes of all differences between words."""
    words = [_folded(step.of_old(old), step.of_new(new)) for step in steps if step.kind == ADD32]
    planes = np.concatenate([np.empty(0, "<u4"), *words]).view(np.uint8).reshape(-1, 4).T  # (words, 4) → (4, words)
    return [plane.tobytes() for plane in planes]


def _folded(old: Bytes, new: Bytes) -> NDArray[np.uint32]:
    """Differences between words modulo 2^32: 0, 1, 2, 3... for 0, -1, 1, -2..."""
    differences = new.view("<u4") - old.view("<u4")
    folded: NDArray[np.uint32] = differences << 1 ^ np.where(differences >> 31, np.uint32(0xFFFFFFFF), np.uint32(0))
    return folded


def _hints(near: Iterable[Span]) -> list[Span]:
    """Spans of the old file without overlap, as far as a node takes them."""
    found: list[Span] = []
    left = MAX_HINT_BYTES
    for start, end in sorted(near):
        start = max(start, found[-1][1]) if found else start
        end = min(end, start + left)
        if start >= end:
            continue
        left -= end - start
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


def _operations(steps: Iterable[_Step]) -> bytes:
    """The frame of the operations: their number, and each with the way to go in the old file."""
    parts, at = [], 0
    for step in steps:
        place = at if step.kind == INSERT else step.old
        parts.append(OPERATION.pack(step.kind, place - at, step.length))
        at = place if step.kind in (INSERT, HINT) else place + step.length
    return struct.pack("<I", len(parts)) + b"".join(parts)


def _codes(differences: Bytes, bits: int) -> Bytes:
    """The code of each difference: 0, 1, 2, 3... for 0, -1, 1, -2...; the highest one is an escape."""
    negative = np.negative((differences > 127).view(np.uint8))  # 255 where it is, else 0
    codes: Bytes = np.minimum(differences + differences ^ negative, np.uint8((1 << bits) - 1))
    return codes


def _packed(codes: Bytes, bits: int) -> Bytes:
    """Codes side by side, the lowest bits first: (n) → (n * bits / 8), rounded up."""
    each = 8 // bits
    padded = np.concatenate((codes, np.zeros(-len(codes) % each, np.uint8)))
    groups = padded.view(f"<u{each}")  # a byte per code
    together = groups.copy()
    for index in range(1, each):
        together |= groups >> np.array(index * (8 - bits), groups.dtype)
    return together.astype(np.uint8)  # the lowest byte


def _entropy(values: Bytes) -> float:
    """Bits per value."""
    counts = np.bincount(values, minlength=256)
    shares = counts[counts > 0] / len(values)
    return float(-(shares * np.log2(shares)).sum())
