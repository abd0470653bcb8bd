"""Whether the graph inside a .tflite file hangs together, looked at before the library is given it.

LiteRT checks that the file is a sound flatbuffer and trusts the rest. A damaged file can be a sound flatbuffer whose
operators read tensors that nothing writes; the library then dies, and the process with it. So: every index is in
range, every tensor is written once and before it is read, and the outputs are written.

Reads only what it needs, by the flatbuffers binary format (flatbuffers.dev, "FlatBuffer Internals") and the field
numbers of TensorFlow Lite schema version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_BUFFER, _TENSOR_VARIABLE = 0, 2, 5
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS = 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET = 0, 1
_ABSENT = -1  # an optional operator input that is left out
_MOST_VALUES = 1 << 31


class DamagedGraphError(ValueError):
    """The file is no sound flatbuffer, or its graph does not hang together."""


class _Table:
    """One flatbuffers table; absent fields read as their defaults."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._vtable = position - _read(data, "<i", position)
        self._fields = (_read(data, "<H", self._vtable) - 4) // 2

    def _at(self, field: int) -> int:
        """Position of a field's value, 0 when it is absent."""
        offset = _read(self._data, "<H", self._vtable + 4 + 2 * field) if field < self._fields else 0
        return self._position + offset if offset else 0

    def number(self, field: int, kind: str) -> int:
        """A scalar field; absent is 0."""
        at = self._at(field)
        return _read(self._data, kind, at) if at else 0

    def _vector(self, field: int) -> tuple[int, int]:
        """Position of the first element and number of elements of a vector field."""
        at = self._at(field)
        if not at:
            return 0, 0
        start = at + _read(self._data, "<I", at)
        return start + 4, _read(self._data, "<I", start)

    def length(self, field: int) -> int:
        """Number of elements of a vector field."""
        return self._vector(field)[1]

    def integers(self, field: int) -> tuple[int, ...]:
        """A vector of int32."""
        start, count = self._vector(field)
        if start + 4 * count > len(self._data):
            raise DamagedGraphError("a list reaches beyond the end of the file")
        return struct.unpack_from(f"<{count}i", self._data, start)

    def tables(self, field: int) -> Iterator[_Table]:
        """A vector of tables."""
        start, count = self._vector(field)
        for at in range(start, start + 4 * count, 4):
            yield _Table(self._data, at + _read(self._data, "<I", at))


def _read(data: bytes, kind: str, at: int) -> int:
    if not 0 <= at <= len(data) - struct.calcsize(kind):
        raise DamagedGraphError("an offset points beyond the end of the file")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value


def check_graph(data: bytes) -> None:
    """Return when the graphs in a .tflite file hang together, see the module docstring.

    Raises:
        DamagedGraphError: they do not; the message says how.
    """
    model = _Table(data, _read(data, "<I", 0))
    codes = model.length(_MODEL_CODES)
    filled = [
        buffer.length(_BUFFER_DATA) > 0 or buffer.number(_BUFFER_OFFSET, "<Q") > 1
        for buffer in model.tables(_MODEL_BUFFERS)
    ]
    graphs = list(model.tables(_MODEL_SUBGRAPHS))
    if not graphs:
        raise DamagedGraphError("the file holds no graph")
    for graph in graphs:
        _check_order(graph, filled, codes)


def _check_order(graph: _Table, filled: list[bool], codes: int) -> None:
    tensors = list(graph.tables(_GRAPH_TENSORS))
    readable = {index for index, tensor in enumerate(tensors) if _is_given(tensor, filled)}
    constants = frozenset(readable)
    inputs, outputs = graph.integers(_GRAPH_INPUTS), graph.integers(_GRAPH_OUTPUTS)
    _check_indices((*inputs, *outputs), len(tensors))
    readable.update(inputs)
    for operator in graph.tables(_GRAPH_OPERATORS):
        if operator.number(_OPERATOR_CODE, "<I") >= codes:
            raise DamagedGraphError("an operator has no code")
        reads = [index for index in operator.integers(_OPERATOR_INPUTS) if index != _ABSENT]
        writes = operator.integers(_OPERATOR_OUTPUTS)
        _check_indices((*reads, *writes), len(tensors))
        if not readable.issuperset(reads):
            raise DamagedGraphError("an operator reads a tensor that nothing has written")
        if len(set(writes)) < len(writes) or not readable.isdisjoint(writes):
            raise DamagedGraphError("a tensor is written twice")
        readable.update(writes)
    if not outputs or not readable.issuperset(outputs) or not constants.isdisjoint(outputs):
        raise DamagedGraphError("nothing writes the output")


def _is_given(tensor: _Table, filled: list[bool]) -> bool:
    """Whether a tensor has its value from the start: a constant, or a variable."""
    values = 1
    for size in tensor.integers(_TENSOR_SHAPE):
        if size < 0:
            raise DamagedGraphError("a tensor has a negative size")
        values *= size
    if values >= _MOST_VALUES:
        raise DamagedGraphError("a tensor is too large to be meant")
    buffer = tensor.number(_TENSOR_BUFFER, "<I")
    if buffer >= len(filled):
        raise DamagedGraphError("a tensor names a buffer that is not there")
    return filled[buffer] or bool(tensor.number(_TENSOR_VARIABLE, "<B"))


def _check_indices(indices: tuple[int, ...], tensors: int) -> None:
    if indices and not (min(indices) >= 0 and max(indices) < tensors):
        raise DamagedGraphError("the graph names a tensor that is not there")
