"""Make a delta between two bundles that knows what weights are.

A network that was trained a little further has the same layers with slightly other weights: nearly every byte changes,
by a little. Tools that look for equal bytes find none. Here int8 weights of both files are laid over each other, tensor
by tensor, and the differences, which are small numbers, are what is compressed. docs/formats/delta.md.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from backports import zstd

from edgehone_agent.bundle import open_bundle
from edgehone_agent.delta import ADD, COPY, HEADER, INSERT, MAGIC, OPERATION

WORTH = 0.6  # of the full file: a longer delta is not worth a node's work
_LEVEL = 1
_SMALL = 64  # bytes below which a tensor is not looked for
Span = tuple[int, int]  # offset and length


def make_delta(old: Path, new: Path) -> bytes | None:
    """A delta from one bundle to another; None when it is longer than 60 % of the new one.

    Raises:
        BundleError: one of them is no bundle.
    """
    for path in (old, new):
        open_bundle(path).close()
    before, after = old.read_bytes(), new.read_bytes()
    operations = _operations(before, after)
    adds, inserts, coded = [], [], []
    one, two = np.frombuffer(before, np.uint8), np.frombuffer(after, np.uint8)
    at = 0
    for kind, offset, length in operations:
        if kind == ADD:
            adds.append((two[at : at + length] - one[offset : offset + length]).tobytes())  # modulo 256
        elif kind == INSERT:
            inserts.append(after[at : at + length])
        coded.append(OPERATION.pack(kind, offset, length))
        at += length
    frames = [zstd.compress(b"".join(parts), _LEVEL) for parts in (coded, adds, inserts)]
    digests = hashlib.sha256(before).digest(), hashlib.sha256(after).digest()
    head = HEADER.pack(MAGIC, *digests, len(after), *(len(frame) for frame in frames))
    delta = b"".join((head, *frames))
    return delta if len(delta) <= WORTH * len(after) else None


def _operations(before: bytes, after: bytes) -> list[tuple[int, int, int]]:
    """(kind, offset in the old file, length), covering the new file from its first byte to its last."""
    old, new = _members(before), _members(after)
    found: list[tuple[int, int, int]] = []
    at = 0
    for name, (start, length) in sorted(new.items(), key=lambda item: item[1]):
        _cover(found, after, None, before, at, start - at)
        if name in old:
            _cover_member(found, name, before, after, old[name], (start, length))
        else:
            _cover(found, after, None, before, start, length)
        at = start + length
    _cover(found, after, None, before, at, len(after) - at)
    return found


def _cover_member(
    found: list[tuple[int, int, int]], name: str, before: bytes, after: bytes, old: Span, new: Span
) -> None:
    if old[1] == new[1]:  # one layout: every byte has its counterpart
        _cover(found, after, old[0], before, *new)
        return
    pairs = _paired(name, before[old[0] : sum(old)], after[new[0] : sum(new)])
    at = 0
    for theirs, (start, length) in pairs:
        _cover(found, after, None, before, new[0] + at, start - at)
        _cover(found, after, old[0] + theirs, before, new[0] + start, length)
        at = start + length
    _cover(found, after, None, before, new[0] + at, new[1] - at)


def _cover(
    found: list[tuple[int, int, int]], after: bytes, offset: int | None, before: bytes, start: int, length: int
) -> None:
    """Add the operation for a stretch of the new file, laid over the old one at `offset` where there is one."""
    if not length:
        return
    if offset is None:
        found.append((INSERT, 0, length))
    elif before[offset : offset + length] == after[start : start + length]:
        found.append((COPY, offset, length))
    else:
        found.append((ADD, offset, length))


def _members(content: bytes) -> dict[str, Span]:
    """Name → where the bytes of a stored member lie."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return {
            info.filename: (info.header_offset + 30 + len(info.filename), info.file_size) for info in archive.infolist()
        }


def _paired(name: str, old: bytes, new: bytes) -> list[tuple[int, Span]]:
    """Weights of equal length under one key: offset in the old file, and where they lie in the new one, in order."""
    read = {".tflite": _tflite_weights, ".onnx": _onnx_weights}.get(Path(name).suffix)
    if read is None:
        return []
    theirs, ours = read(old), read(new)
    pairs, at = [], 0
    for key, (start, length) in sorted(ours.items(), key=lambda item: item[1]):
        if start >= at and key in theirs and theirs[key][1] == length:
            pairs.append((theirs[key][0], (start, length)))
            at = start + length
    return pairs


def _tflite_weights(content: bytes) -> Mapping[str, Span]:
    """Buffers in their order. Source: TensorFlow Lite schema, Model.buffers and Buffer.data; FlatBuffers internals."""

    def field(table: int, index: int) -> int:
        """Where a field of a table lies, 0 when it is left out."""
        (back,) = struct.unpack_from("<i", content, table)
        (size,) = struct.unpack_from("<H", content, table - back)
        slot = 4 + 2 * index
        return table + struct.unpack_from("<H", content, table - back + slot)[0] if slot < size else 0

    def follow(place: int) -> int:
        return int(place + struct.unpack_from("<I", content, place)[0])

    found: dict[str, Span] = {}
    vector = follow(field(follow(0), 4))
    (count,) = struct.unpack_from("<I", content, vector)
    for index in range(count):
        buffer = follow(vector + 4 + 4 * index)
        place = field(buffer, 0)
        if place > buffer:
            data = follow(place)
            (length,) = struct.unpack_from("<I", content, data)
            if length >= _SMALL:
                found[f"{index}"] = (data + 4, length)
    return found


def _onnx_weights(content: bytes) -> Mapping[str, Span]:
    """Initializers by name, found in the file by their raw bytes."""
    import onnx

    found: dict[str, Span] = {}
    for tensor in onnx.load_model_from_string(content).graph.initializer:
        raw = tensor.raw_data
        place = content.find(raw) if len(raw) >= _SMALL else -1
        if place >= 0:
            found[tensor.name] = (place, len(raw))
    return found
