"""Where the weights lie in a model file, and which of an older file they belong to.

Files of other makers may be anything: what cannot be read has no weights here, and a delta treats it as plain bytes.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from flatbuffers import packer
from flatbuffers.encode import Get
from flatbuffers.table import Table
from numpy.typing import NDArray

_SMALLEST_BYTES = 16
_SAMPLE = 64  # values that tell which tensor is nearest
_MOST_DISTANCES = 1 << 14  # between tensors of one kind; beyond, order decides
_WORDS = ("float32", "int32", "uint32")
_TFLITE_WORDS = {0: "float32", 2: "int32", 15: "uint32"}  # TensorType of the schema
_ONNX_WORDS = {1: "float32", 6: "int32", 12: "uint32"}  # TensorProto.DataType


@dataclass(frozen=True)
class Tensor:
    """Weights, or the scales of weights, as they lie in a file.

    Attributes:
        name: as in the file; scales add "/scale" to the name of their tensor.
        dtype: numpy name where a value has 4 bytes, else the number that the format gives it.
        shape: as in the file.
        offset, length: in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def width(self) -> int:
        """Bytes of a value that changes as a whole: 4 for words, else 1."""
        return 4 if self.dtype in _WORDS and self.length % 4 == 0 else 1

    @property
    def kind(self) -> tuple[str, tuple[int, ...], int]:
        """What two tensors must have in common to be laid over each other."""
        return self.dtype, self.shape, self.length


def find_tensors(path: str, content: memoryview) -> tuple[Tensor, ...]:
    """Weights of a .tflite or .onnx file by offset; they do not overlap. None for other or damaged files."""
    read = {".tflite": _tflite, ".onnx": _onnx}.get(PurePosixPath(path).suffix)
    found: list[Tensor] = []
    try:
        everything = sorted(read(content), key=lambda t: t.offset) if read else []
    except (ValueError, TypeError, LookupError, struct.error):
        return ()
    at = 0
    for tensor in everything:
        if tensor.length >= _SMALLEST_BYTES and at <= tensor.offset <= len(content) - tensor.length:
            found.append(tensor)
            at = tensor.offset + tensor.length
    return tuple(found)


def align_tensors(
    old: Sequence[Tensor], new: Sequence[Tensor], before: memoryview, after: memoryview
) -> list[tuple[Tensor, Tensor]]:
    """Pairs (old, new) of tensors of one kind, in the order of the new ones.

    Weights that were trained further still are nearer to where they came from than to any others, so the nearest belong
    together. Names come second, as many are numbers, which move where a layer comes or goes. Then order.

    Args:
        old, new: weights by offset.
        before, after: the files that they lie in.
    """
    free: defaultdict[object, list[Tensor]] = defaultdict(list)
    waiting: defaultdict[object, list[Tensor]] = defaultdict(list)
    for tensors, groups in ((old, free), (new, waiting)):
        for tensor in tensors:
            groups[tensor.kind].append(tensor)
    pairs = [pair for kind, group in waiting.items() for pair in _nearest(free[kind], group, before, after)]
    return sorted(pairs, key=lambda pair: pair[1].offset)


def _nearest(
    old: Sequence[Tensor], new: Sequence[Tensor], before: memoryview, after: memoryview
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of tensors of one kind. Each new one takes the nearest that is left."""
    if len(old) * len(new) > _MOST_DISTANCES or len(old) == len(new) == 1:
        yield from zip(old, new, strict=False)
        return
    distances = _distances(_sampled(old, before), _sampled(new, after))  # (old, new)
    left = list(range(len(old)))
    for place, tensor in enumerate(new):
        if not left:
            return
        chosen = min(left, key=lambda index: (distances[index, place], old[index].name != tensor.name, index))
        left.remove(chosen)
        yield old[chosen], tensor


def _sampled(tensors: Sequence[Tensor], content: memoryview) -> NDArray[np.uint8] | NDArray[np.uint32]:
    """(tensors, values): some of the values of each, spread over it."""
    rows = []
    for tensor in tensors:
        body = np.frombuffer(content[tensor.offset : tensor.offset + tensor.length], f"<u{tensor.width}")
        rows.append(body[:: 1 + len(body) // _SAMPLE])
    return np.array(rows)


def _distances(
    old: NDArray[np.uint8] | NDArray[np.uint32], new: NDArray[np.uint8] | NDArray[np.uint32]
) -> NDArray[np.float64]:
    """(old, new): about how many bits it takes to get from each row of values to each other."""
    rows = []
    for row in old:
        away = row - new  # modulo 256 or 2^32
        rows.append(np.log2(1.0 + np.minimum(away, 0 - away)).sum(axis=1))
    return np.array(rows)


def _onnx(content: memoryview) -> Iterator[Tensor]:
    """Initializers in their order, found by their bytes: protobuf keeps no offsets."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    whole = bytes(content)
    try:
        graph = onnx.load_model_from_string(whole).graph
    except DecodeError as error:
        raise ValueError(error) from error
    at = 0
    for tensor in graph.initializer:
        raw = tensor.raw_data
        place = whole.find(raw, at) if len(raw) >= _SMALLEST_BYTES else -1
        if place >= 0:
            dtype = _ONNX_WORDS.get(tensor.data_type, str(tensor.data_type))
            yield Tensor(tensor.name, dtype, tuple(tensor.dims), place, len(raw))
            at = place + len(raw)


def _tflite(content: memoryview) -> Iterator[Tensor]:
    """Constants and scales. Source: TensorFlow Lite schema 3, tables Model, SubGraph, Tensor, Buffer, Quantization."""
    model = Table(content, Get(packer.uoffset, content, 0))
    buffers = list(_tables(model, 4))
    for graph in _tables(model, 2):
        for tensor in _tables(graph, 0):
            name = str(content[slice(*_span(tensor, 3))], errors="replace")
            shape = tuple(np.frombuffer(content[slice(*_span(tensor, 0, 4))], "<i4").tolist())
            kind, number = _scalar(tensor, 1, packer.int8), _scalar(tensor, 2, packer.uint32)
            start, end = _data(buffers[number], len(content))
            yield Tensor(name, _TFLITE_WORDS.get(kind, str(kind)), shape, start, end - start)
            for quantization in _child(tensor, 4):
                start, end = _span(quantization, 2, 4)
                yield Tensor(f"{name}/scale", "float32", ((end - start) // 4,), start, end - start)


def _data(buffer: Table, size: int) -> tuple[int, int]:
    """Where a buffer's bytes lie: inside it, or behind the flatbuffer."""
    start, end = _span(buffer, 0)
    if end == start and (outside := _scalar(buffer, 1, packer.uint64)) > 1:
        return outside, min(size, outside + _scalar(buffer, 2, packer.uint64))
    return start, end


def _place(table: Table, field: int) -> int:
    """Where a field's value lies; 0 when the field is left out."""
    offset = table.Offset(4 + 2 * field)
    return table.Pos + offset if offset else 0


def _scalar(table: Table, field: int, kind: struct.Struct) -> int:
    place = _place(table, field)
    return int(Get(kind, table.Bytes, place)) if place else 0


def _span(table: Table, field: int, width: int = 1) -> tuple[int, int]:
    """Start and end of a vector of scalars, or of a string; nothing when the field is left out."""
    if not (offset := table.Offset(4 + 2 * field)):
        return 0, 0
    start = table.Vector(offset)
    return start, start + width * table.VectorLen(offset)


def _child(table: Table, field: int) -> Iterator[Table]:
    """The table in a field, if there is one."""
    if place := _place(table, field):
        yield Table(table.Bytes, table.Indirect(place))


def _tables(table: Table, field: int) -> Iterator[Table]:
    """The tables of a vector."""
    if offset := table.Offset(4 + 2 * field):
        start = table.Vector(offset)
        for index in range(table.VectorLen(offset)):
            yield Table(table.Bytes, table.Indirect(start + 4 * index))
