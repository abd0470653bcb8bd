"""An .onnx file opened: its model, its one input and output, and what makes a file unreadable as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from edgehone.errors import ModelFileError, NetworkError
from edgehone.graph.ir import Shape

OLDEST = 7
STANDARD = ("", "ai.onnx")
_MOST_VALUES = 1 << 27  # of one input, 512 MiB in float32
_EMBEDDING = "embedding"  # the second output of our own exporters
_DAMAGED = "export or copy it again, and compare its sha256 with the original's"


@dataclass(frozen=True)
class OnnxFile:
    """A model with what an importer needs to know of it.

    Attributes:
        path: where it came from, for messages.
        model: functions written out, weights inside.
        opset: version of the standard operators.
        batch: examples of one call; 1 when the file leaves it free.
        input, output: names of the two ends.
        shape: of the input, batch 1.
        input_range: least and largest value the input can have where the file quantizes it at once, else None.
        output_range: the same of the answer, where the file quantizes it at last.
    """

    path: Path
    model: ModelProto
    opset: int
    batch: int
    input: str
    output: str
    shape: Shape
    input_range: tuple[float, float] | None = None
    output_range: tuple[float, float] | None = None


def open_file(path: Path) -> OnnxFile:
    """Open a file. Nothing is computed.

    Raises:
        ModelFileError: damaged, not ONNX, too old or too new, or its external data is missing.
        NetworkError: not one float32 input with fixed axes and one float32 output.
    """
    where = str(path)
    model = _loaded(path)
    opset = max((each.version for each in model.opset_import if each.domain in STANDARD), default=0)
    newest = onnx.defs.onnx_opset_version()
    if not model.graph.node or opset == 0:
        raise ModelFileError("this is no ONNX model", where=where, do="give a file that an ONNX exporter wrote")
    if opset > newest:
        raise ModelFileError(
            f"the file uses operator set {opset}, and this onnx knows {OLDEST} to {newest}",
            where=where,
            do="pip install --upgrade onnx, or export with an older operator set",
        )
    if opset < OLDEST:
        raise ModelFileError(
            f"the file uses operator set {opset}, older than {OLDEST}",
            where=where,
            do="export it anew, or convert it with onnx.version_converter.convert_version(model, 14)",
        )
    source = _input(model, where)
    output = _output(model, where)
    batch, shape = _shape(source, where)
    return OnnxFile(path, model, opset, batch, source.name, output, shape)


def _loaded(path: Path) -> ModelProto:
    where = str(path)
    try:
        model = onnx.load(path)
        if model.functions:
            from onnx.inliner import inline_local_functions

            model = inline_local_functions(model)
    except DecodeError as error:
        raise ModelFileError("the file is damaged or no ONNX file", where=where, do=_DAMAGED) from error
    except OSError as error:
        raise ModelFileError(
            f"the file's weights lie in another file, which cannot be read: {error.filename or error}",
            where=where,
            do="keep the files of an export together",
        ) from error
    except (ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelFileError(f"the file is damaged: {first_line(error)}", where=where, do=_DAMAGED) from error
    return model


def damaged(path: Path, error: Exception, where: str = "") -> ModelFileError:
    """The error for a file whose nodes contradict themselves."""
    return ModelFileError(
        f"the file is damaged: {first_line(error)}", where=f"{path}: {where}" if where else str(path), do=_DAMAGED
    )


def place_of(node: NodeProto) -> str:
    """What a node is called in messages: its name, or its output's; of names that tf2onnx joined, the last."""
    return str(node.name or (node.output[0] if node.output else node.op_type)).split(";")[-1]


def first_line(error: Exception) -> str:
    """The first line of what a library said, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _input(model: ModelProto, where: str) -> ValueInfoProto:
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    inputs: list[ValueInfoProto] = [each for each in model.graph.input if each.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(repr(each.name) for each in inputs)
        raise NetworkError(
            f"the network has {len(inputs)} inputs ({names}), and one is supported",
            where=where,
            do="cut out the part with one input with onnx.utils.extract_model, or export with the others fixed",
        )
    _check_dtype(inputs[0], "input", where)
    return inputs[0]


def _output(model: ModelProto, where: str) -> str:
    outputs = list(model.graph.output)
    if len(outputs) == 2 and outputs[1].name == _EMBEDDING:
        outputs = outputs[:1]
    if len(outputs) != 1:
        names = ", ".join(repr(each.name) for each in outputs)
        raise NetworkError(
            f"the network has {len(outputs)} outputs ({names}), and one is supported",
            where=where,
            do="keep the one that is wanted at the edge, with onnx.utils.extract_model",
        )
    _check_dtype(outputs[0], "output", where)
    return str(outputs[0].name)


def _check_dtype(end: ValueInfoProto, which: str, where: str) -> None:
    dtype = end.type.tensor_type.elem_type
    if not end.type.HasField("tensor_type") or dtype != TensorProto.FLOAT:
        known = dtype in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(dtype).lower() if known else "no tensor"
        raise NetworkError(
            f"the {which} {end.name!r} is {name}, and float32 is supported",
            where=where,
            do=f"export with a float32 {which}; conversions and class ids belong outside the network",
        )


def _shape(source: ValueInfoProto, where: str) -> tuple[int, Shape]:
    """Batch and shape of the input; a free batch is 1."""
    dims = source.type.tensor_type.shape.dim
    if len(dims) < 2:
        raise NetworkError(
            f"the input {source.name!r} has {len(dims)} axes",
            where=where,
            do="export for an input of (batch, channels, height, width), (batch, channels, length), (batch, features)",
        )
    free = [axis for axis, dim in enumerate(dims) if axis > 0 and dim.dim_value <= 0]
    if free:
        sizes = ",".join(["1"] + [str(d.dim_value) if d.dim_value > 0 else "SIZE" for d in list(dims)[1:]])
        names = ", ".join(f"{axis} ({dims[axis].dim_param!r})" if dims[axis].dim_param else str(axis) for axis in free)
        raise NetworkError(
            f"axis {names} of the input {source.name!r} has no fixed size",
            where=where,
            do="fix it: python -m onnxruntime.tools.make_dynamic_shape_fixed "
            f"--input_name '{source.name}' --input_shape {sizes} OLD.onnx NEW.onnx",
        )
    batch, shape = max(1, dims[0].dim_value), tuple(dim.dim_value for dim in list(dims)[1:])
    if batch * prod(shape) > _MOST_VALUES:
        raise NetworkError(
            f"the input {source.name!r} of shape {(batch, *shape)} is too large",
            where=where,
            do="export for fewer examples at once, or smaller ones",
        )
    return batch, (1, *shape)
