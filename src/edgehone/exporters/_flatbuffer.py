"""Packs plain dictionaries into a TensorFlow Lite flatbuffer, for the part of the schema that edgehone writes.

The slot numbers are the positions of the fields in `schema.fbs`, version 3 (file identifier "TFL3") of TensorFlow Lite.

- A field that has the schema's default is left out, as the format asks.
- Equal strings, vectors and tables are written once and shared: most of a small file is repeated quantization data.
- Constant data starts at a multiple of 16 bytes and stands inside the flatbuffer, where every runtime finds it.
- The same dictionaries give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import flatbuffers
import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = Sequence[int] | NDArray[np.integer] | NDArray[np.floating]
Value: TypeAlias = "int | float | str | bytes | Numbers | Sequence[Table] | Table | Options"
Table: TypeAlias = Mapping[str, Value]


class Options(NamedTuple):
    """A member of the union `BuiltinOptions`: the name of its table and the fields."""

    table: str
    fields: Table


class _Field(NamedTuple):
    """Slot, type and default of one field. Types: a scalar, [scalar], string, blob, Table, [Table], options."""

    slot: int
    type: str
    default: int | float = 0


_F = _Field
_ACTIVATION = {"activation": _F(0, "i8")}

SCHEMA: dict[str, dict[str, _Field]] = {
    "Model": {
        "version": _F(0, "u32"),
        "operator_codes": _F(1, "[OperatorCode]"),
        "subgraphs": _F(2, "[SubGraph]"),
        "description": _F(3, "string"),
        "buffers": _F(4, "[Buffer]"),
        "signatures": _F(7, "[SignatureDef]"),
    },
    "OperatorCode": {
        "deprecated_builtin_code": _F(0, "i8"),
        "version": _F(2, "i32", 1),
        "builtin_code": _F(3, "i32"),
    },
    "SubGraph": {
        "tensors": _F(0, "[Tensor]"),
        "inputs": _F(1, "[i32]"),
        "outputs": _F(2, "[i32]"),
        "operators": _F(3, "[Operator]"),
        "name": _F(4, "string"),
    },
    "Tensor": {
        "shape": _F(0, "[i32]"),
        "type": _F(1, "i8"),
        "buffer": _F(2, "u32"),
        "name": _F(3, "string"),
        "quantization": _F(4, "QuantizationParameters"),
    },
    "QuantizationParameters": {
        "scale": _F(2, "[f32]"),
        "zero_point": _F(3, "[i64]"),
        "quantized_dimension": _F(6, "i32"),
    },
    "Buffer": {"data": _F(0, "blob")},
    "Operator": {
        "opcode_index": _F(0, "u32"),
        "inputs": _F(1, "[i32]"),
        "outputs": _F(2, "[i32]"),
        "options_type": _F(3, "u8"),
        "options": _F(4, "options"),
    },
    "SignatureDef": {
        "inputs": _F(0, "[TensorMap]"),
        "outputs": _F(1, "[TensorMap]"),
        "signature_key": _F(2, "string"),
    },
    "TensorMap": {"name": _F(0, "string"), "tensor_index": _F(1, "u32")},
    "Conv2DOptions": {
        "padding": _F(0, "i8"),
        "stride_w": _F(1, "i32"),
        "stride_h": _F(2, "i32"),
        "activation": _F(3, "i8"),
        "dilation_w": _F(4, "i32", 1),
        "dilation_h": _F(5, "i32", 1),
    },
    "DepthwiseConv2DOptions": {
        "padding": _F(0, "i8"),
        "stride_w": _F(1, "i32"),
        "stride_h": _F(2, "i32"),
        "depth_multiplier": _F(3, "i32"),
        "activation": _F(4, "i8"),
        "dilation_w": _F(5, "i32", 1),
        "dilation_h": _F(6, "i32", 1),
    },
    "Pool2DOptions": {
        "padding": _F(0, "i8"),
        "stride_w": _F(1, "i32"),
        "stride_h": _F(2, "i32"),
        "filter_width": _F(3, "i32"),
        "filter_height": _F(4, "i32"),
    },
    "FullyConnectedOptions": _ACTIVATION,
    "AddOptions": _ACTIVATION,
    "MulOptions": _ACTIVATION,
    "SubOptions": _ACTIVATION,
    "ConcatenationOptions": {"axis": _F(0, "i32")},
    "SoftmaxOptions": {"beta": _F(0, "f32")},
    "ReshapeOptions": {"new_shape": _F(0, "[i32]")},
    "ReducerOptions": {"keep_dims": _F(0, "bool")},
    "ResizeBilinearOptions": {"align_corners": _F(2, "bool"), "half_pixel_centers": _F(3, "bool")},
    "ResizeNearestNeighborOptions": {"align_corners": _F(0, "bool"), "half_pixel_centers": _F(1, "bool")},
    "LeakyReluOptions": {"alpha": _F(0, "f32")},
    "StridedSliceOptions": {},
    "PadOptions": {},
    "PadV2Options": {},
    "TransposeOptions": {},
    "QuantizeOptions": {},
    "DequantizeOptions": {},
    "HardSwishOptions": {},
}

UNION_MEMBER = {  # union BuiltinOptions
    "Conv2DOptions": 1,
    "DepthwiseConv2DOptions": 2,
    "Pool2DOptions": 5,
    "FullyConnectedOptions": 8,
    "SoftmaxOptions": 9,
    "ConcatenationOptions": 10,
    "AddOptions": 11,
    "ResizeBilinearOptions": 15,
    "ReshapeOptions": 17,
    "MulOptions": 21,
    "PadOptions": 22,
    "TransposeOptions": 26,
    "ReducerOptions": 27,
    "SubOptions": 28,
    "StridedSliceOptions": 32,
    "DequantizeOptions": 38,
    "PadV2Options": 43,
    "ResizeNearestNeighborOptions": 74,
    "LeakyReluOptions": 75,
    "QuantizeOptions": 89,
    "HardSwishOptions": 91,
}

_SCALARS = {  # type → (the builder's method, dtype of a vector of it)
    "bool": ("PrependBoolSlot", "?"),
    "i8": ("PrependInt8Slot", "i1"),
    "u8": ("PrependUint8Slot", "u1"),
    "i32": ("PrependInt32Slot", "<i4"),
    "u32": ("PrependUint32Slot", "<u4"),
    "i64": ("PrependInt64Slot", "<i8"),
    "f32": ("PrependFloat32Slot", "<f4"),
}
_BLOB_ALIGNMENT = 16  # `force_align: 16` of Buffer.data
_ROOM = 1 << 16  # for everything that is not constant data; the builder grows when it is too little


def pack_model(model: Table) -> bytes:
    """The file of a `Model` table. Keys are those of `SCHEMA`; an unknown one is a KeyError."""
    buffers = model["buffers"]
    data = sum(len(buffer.get("data", b"")) for buffer in buffers)  # type: ignore[union-attr, arg-type, misc]
    packer = _Packer(_ROOM + data)
    packer.builder.Finish(packer.table("Model", model), file_identifier=b"TFL3")
    return bytes(packer.builder.Output())


class _Packer:
    """Writes children before parents, since a flatbuffer grows from its end to its start."""

    def __init__(self, size_bytes: int) -> None:
        self.builder = flatbuffers.Builder(size_bytes)
        self._written: dict[object, int] = {}

    def table(self, name: str, fields: Table) -> int:
        schema = SCHEMA[name]
        stored = {key: self._stored(schema[key], value) for key, value in fields.items()}
        signature = (name, tuple(stored.items()))
        if signature not in self._written:
            self._written[signature] = self._object(schema, stored)
        return self._written[signature]

    def _stored(self, field: _Field, value: Value) -> int | float:
        """What stands in the table itself: a scalar, or the offset of what was written before."""
        if field.type in _SCALARS:
            return value  # type: ignore[return-value]
        if isinstance(value, Options):
            return self.table(value.table, value.fields)
        if isinstance(value, str):
            return int(self.builder.CreateSharedString(value))
        if isinstance(value, bytes):
            return self._blob(value)
        if isinstance(value, Mapping):
            return self.table(field.type, value)
        return self._vector(field.type[1:-1], value)  # type: ignore[arg-type]

    def _vector(self, element: str, values: Numbers | Sequence[Table]) -> int:
        if element not in _SCALARS:
            offsets = [self.table(element, fields) for fields in values]  # type: ignore[arg-type]
            self.builder.StartVector(4, len(offsets), 4)
            for offset in reversed(offsets):
                self.builder.PrependUOffsetTRelative(offset)
            return int(self.builder.EndVector())
        array = np.asarray(values, _SCALARS[element][1])
        signature = (element, array.tobytes())
        if signature not in self._written:
            self._written[signature] = int(self.builder.CreateNumpyVector(array))
        return self._written[signature]

    def _blob(self, data: bytes) -> int:
        self.builder.StartVector(1, len(data), _BLOB_ALIGNMENT)
        self.builder.head -= len(data)
        self.builder.Bytes[self.builder.head : self.builder.head + len(data)] = data
        return int(self.builder.EndVector())

    def _object(self, schema: Mapping[str, _Field], stored: Mapping[str, int | float]) -> int:
        self.builder.StartObject(1 + max((field.slot for field in schema.values()), default=-1))
        for key, value in stored.items():
            slot, kind, default = schema[key]
            if kind in _SCALARS:
                getattr(self.builder, _SCALARS[kind][0])(slot, value, default)
            else:
                self.builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return int(self.builder.EndObject())
