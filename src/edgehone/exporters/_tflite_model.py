"""A .tflite model while it grows: tensors, operators, constant data. Knows the format, nothing of networks.

    model = ModelWriter()
    x = model.tensor((1, 8, 8, 3), "int8", name="input", params=...)
    ...
    data = model.finish(x, {"output": y})

Operator versions are the lowest that TensorFlow Lite's `op_version.cc` asks for with these types, so that old runtimes
take the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehone.exporters._flatbuffer import UNION_MEMBER, Options, Table, Value, pack_model
from edgehone.graph.ir import FloatArray, Shape
from edgehone.graph.quantized import QuantParams

Dtype = Literal["float32", "int8", "int32", "int4"]
Data = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.int32]

_TENSOR_TYPE = {"float32": 0, "int32": 2, "int8": 9, "int4": 17}  # enum TensorType
_SCHEMA_VERSION = 3
_LAST_SMALL_CODE = 127  # larger codes do not fit `deprecated_builtin_code`, which then holds 127


class _Operator(NamedTuple):
    """Number in enum BuiltinOperator, lowest version with float32 and with int8 tensors, table of options."""

    code: int
    float_version: int
    int8_version: int
    options: str | None


_OPERATORS = {
    "ADD": _Operator(0, 1, 2, "AddOptions"),
    "AVERAGE_POOL_2D": _Operator(1, 1, 2, "Pool2DOptions"),
    "CONCATENATION": _Operator(2, 1, 2, "ConcatenationOptions"),
    "CONV_2D": _Operator(3, 1, 3, "Conv2DOptions"),
    "DEPTHWISE_CONV_2D": _Operator(4, 1, 3, "DepthwiseConv2DOptions"),
    "DEQUANTIZE": _Operator(6, 1, 2, "DequantizeOptions"),
    "FULLY_CONNECTED": _Operator(9, 1, 4, "FullyConnectedOptions"),
    "LOGISTIC": _Operator(14, 1, 2, None),
    "MAX_POOL_2D": _Operator(17, 1, 2, "Pool2DOptions"),
    "MUL": _Operator(18, 1, 2, "MulOptions"),
    "RELU": _Operator(19, 1, 2, None),
    "RELU6": _Operator(21, 1, 2, None),
    "RESHAPE": _Operator(22, 1, 1, "ReshapeOptions"),
    "RESIZE_BILINEAR": _Operator(23, 1, 2, "ResizeBilinearOptions"),
    "SOFTMAX": _Operator(25, 1, 2, "SoftmaxOptions"),
    "TANH": _Operator(28, 1, 2, None),
    "PAD": _Operator(34, 1, 2, "PadOptions"),
    "TRANSPOSE": _Operator(39, 1, 2, "TransposeOptions"),
    "MEAN": _Operator(40, 1, 2, "ReducerOptions"),
    "SUB": _Operator(41, 1, 2, "SubOptions"),
    "STRIDED_SLICE": _Operator(45, 1, 2, "StridedSliceOptions"),
    "PADV2": _Operator(60, 1, 2, "PadV2Options"),
    "RESIZE_NEAREST_NEIGHBOR": _Operator(97, 1, 2, "ResizeNearestNeighborOptions"),
    "LEAKY_RELU": _Operator(98, 1, 2, "LeakyReluOptions"),
    "QUANTIZE": _Operator(114, 1, 2, "QuantizeOptions"),
    "HARD_SWISH": _Operator(117, 1, 1, "HardSwishOptions"),
}


@dataclass(frozen=True)
class ChannelParams:
    """Quantization of a constant with one scale per channel (float32, (O)) along an axis; zero points are 0."""

    scale: FloatArray
    axis: int = 0


class ModelWriter:
    """Collects one subgraph; tensors are known by their index."""

    def __init__(self) -> None:
        self._tensors: list[Table] = []
        self._operators: list[Table] = []
        self._codes: list[tuple[str, int]] = []
        self._buffers: list[bytes] = [b""]  # number 0 stands for "no data"
        self._buffer_of: dict[bytes, int] = {}
        self._constant_of: dict[tuple[object, ...], int] = {}

    def tensor(
        self,
        shape: Shape,
        dtype: Dtype,
        params: QuantParams | ChannelParams | None = None,
        *,
        buffer: int = 0,
        name: str = "",
    ) -> int:
        """A new tensor; without a name it is called by its number, since names are half of a small file."""
        index = len(self._tensors)
        tensor: dict[str, Value] = {
            "shape": shape,
            "type": _TENSOR_TYPE[dtype],
            "buffer": buffer,
            "name": name or str(index),
        }
        if isinstance(params, QuantParams):
            tensor["quantization"] = {
                "scale": np.asarray([params.scale], np.float32),
                "zero_point": [params.zero_point],
            }
        elif params is not None:
            tensor["quantization"] = {
                "scale": params.scale,
                "zero_point": np.zeros(params.scale.size, np.int64),
                "quantized_dimension": params.axis,
            }
        self._tensors.append(tensor)
        return index

    def constant(self, data: Data, params: QuantParams | ChannelParams | None = None, bits: int = 8) -> int:
        """A constant tensor; the same data with the same quantization is one tensor, the same bytes one buffer.

        Args:
            data: its values.
            params: its quantization.
            bits: of int8 values; 4 stores two of them (-8..7) in a byte, the first one in the low half.
        """
        raw = _halves(data) if bits == 4 else data.tobytes()
        dtype: Dtype = "int4" if bits == 4 else data.dtype.name  # type: ignore[assignment]
        quantization = (params.scale.tobytes(), params.axis) if isinstance(params, ChannelParams) else params
        key = (raw, dtype, data.shape, quantization)
        if key not in self._constant_of:
            if raw not in self._buffer_of:
                self._buffer_of[raw] = len(self._buffers)
                self._buffers.append(raw)
            self._constant_of[key] = self.tensor(data.shape, dtype, params, buffer=self._buffer_of[raw])
        return self._constant_of[key]

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        output: int,
        options: Table | None = None,
        *,
        int8: bool,
        version: int = 1,
    ) -> None:
        """Append an operator.

        Args:
            name: of enum BuiltinOperator.
            inputs: tensor indices; output: the one it writes.
            options: fields of its options table.
            int8: whether it works on int8 tensors.
            version: at least this one, for an option that newer versions brought.
        """
        known = _OPERATORS[name]
        kind = (name, max(known.int8_version if int8 else known.float_version, version))
        if kind not in self._codes:
            self._codes.append(kind)
        operator: dict[str, Value] = {"opcode_index": self._codes.index(kind), "inputs": inputs, "outputs": [output]}
        if known.options is not None:
            operator["options_type"] = UNION_MEMBER[known.options]
            operator["options"] = Options(known.options, options or {})
        self._operators.append(operator)

    def finish(self, input: int, outputs: Mapping[str, int]) -> bytes:
        """The file, with one signature `serving_default` from "input" to the outputs of these names, in order."""
        subgraph: Table = {
            "tensors": self._tensors,
            "inputs": [input],
            "outputs": list(outputs.values()),
            "operators": self._operators,
            "name": "main",
        }
        signature: Table = {
            "inputs": [{"name": "input", "tensor_index": input}],
            "outputs": [{"name": name, "tensor_index": tensor} for name, tensor in outputs.items()],
            "signature_key": "serving_default",
        }
        return pack_model(
            {
                "version": _SCHEMA_VERSION,
                "description": "edgehone",
                "operator_codes": [_operator_code(name, version) for name, version in self._codes],
                "subgraphs": [subgraph],
                "buffers": [{"data": data} if data else {} for data in self._buffers],
                "signatures": [signature],
            }
        )


def _halves(values: Data) -> bytes:
    """int4 as the format stores it: the last byte of an odd number of values is filled up with 0."""
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, values.dtype)).astype(np.uint8) & 15
    return (flat[0::2] | flat[1::2] << 4).tobytes()


def _operator_code(name: str, version: int) -> Table:
    code = _OPERATORS[name].code
    return {"deprecated_builtin_code": min(code, _LAST_SMALL_CODE), "version": version, "builtin_code": code}
