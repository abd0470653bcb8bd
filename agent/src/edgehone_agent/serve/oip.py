"""Open Inference Protocol v2: infer requests to arrays and answers to bytes, with the binary tensor extension.

    query = decode(body, header_length, manifest, limits)       bytes in
    body, header_length = encode(answer, query, manifest)       bytes out

Pure functions; what they refuse is an InputError that names the field. Rules:
- One input tensor with the manifest's name, shape [N, *input shape] in torch order, any numeric datatype; it becomes
  float32. Its values are `data` (flat or nested JSON), or `binary_data_size` bytes after the JSON, little endian.
- `Inference-Header-Content-Length` says how long the JSON is. 0 means: no JSON, the body is float32 values alone.
- One output tensor, binary where the request says so (`binary_data`, else `binary_data_output`).
- Request parameter `top_k` adds the outputs `top_labels`, `top_scores` and, where there is one, `confidence`.
Sources: the protocol's "required_api.md" and Triton's "extension_binary_data.md".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError
from edgehone_agent.serve.host import Answer, Array
from edgehone_agent.serve.limits import Limits
from edgehone_agent.wire.manifest import Manifest, Values

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_TOP_K = 1000
MAX_ID_CHARS = 256
DTYPES = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "BF16": "<u2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """A decoded infer request.

    Attributes:
        x: (N, *input shape) float32, torch order; not yet checked for NaN.
        id: the caller's own name for the request, "" without one.
        top_k: labels wanted per row.
        binary: whether the output goes out as bytes.
    """

    x: Array
    id: str = ""
    top_k: int = 0
    binary: bool = False


def decode(body: bytes, header_length: int | None, manifest: Manifest, limits: Limits) -> Query:
    """An infer request's body as a query.

    Args:
        body: the whole body, decompressed.
        header_length: value of `Inference-Header-Content-Length`; None without that header.
        manifest: of the bundle that is to answer.
        limits: for the number of rows; how long a body may be is checked where it is read.

    Raises:
        InputError: anything that the module's rules do not allow.
    """
    if header_length == 0:
        return Query(as_rows(values_from_bytes(body, "FP32", "the body"), None, manifest.input, limits))
    json_length = len(body) if header_length is None else header_length
    if json_length > len(body):
        raise InputError(f"says {json_length} bytes of JSON, the body has {len(body)}", where=HEADER_LENGTH)
    request = parse_object(body[:json_length])
    parameters = field(request, "parameters", dict, {})
    inputs = field(request, "inputs", list)
    if len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError("expected one tensor", where="inputs")
    x = _tensor(inputs[0], body[json_length:], manifest.input, limits)
    return Query(
        x,
        id=short_id(field(request, "id", str, "")),
        top_k=top_k(parameters),
        binary=_wants_binary(request, parameters, manifest.output),
    )


def parse_object(content: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8; NaN and Infinity, which Python would take, are none.

    Raises:
        InputError: no JSON, or another kind of value.
    """
    try:
        found = _DECODER.decode(content.decode())
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise InputError(f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError("the body is no JSON object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


# Made once: json.loads and json.dumps with arguments make a new one each time, which takes longer than their work here.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def field(of: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """The field `name` of a JSON object. Raises InputError when it is of another kind, or missing without a default."""
    value = of.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {dict: "an object", list: "a list", str: "a string", int: "a whole number", bool: "true or false"}
        raise InputError("is missing" if name not in of else f"is not {wanted[kind]}", where=name)
    return value


def short_id(text: str) -> str:
    """A caller's own id. Raises InputError when it is too long to be kept."""
    if len(text) > MAX_ID_CHARS:
        raise InputError(f"is longer than {MAX_ID_CHARS} characters", where="id")
    return text


def top_k(parameters: dict[str, Any]) -> int:
    """The parameter `top_k`, 0 without it. Raises InputError when it is no count."""
    value: int = field(parameters, "top_k", int, 0)
    if not 0 <= value <= MAX_TOP_K:
        raise InputError(f"is not between 0 and {MAX_TOP_K}", where="top_k")
    return value


def _wants_binary(request: dict[str, Any], parameters: dict[str, Any], output: Values) -> bool:
    binary: bool = field(parameters, "binary_data_output", bool, False)
    wanted = field(request, "outputs", list, [])
    for entry in wanted:
        if not isinstance(entry, dict) or entry.get("name") != output.name:
            raise InputError(f"this model has one output, {output.name!r}", where="outputs")
        of_output = field(entry, "parameters", dict, {})
        if "classification" in of_output:
            raise InputError("is not offered", where="classification", do="ask with the request parameter top_k")
        if "shared_memory_region" in of_output:
            raise InputError("is not offered", where="shared_memory_region", do="send and take the values themselves")
        binary = field(of_output, "binary_data", bool, binary)
    return binary


def _tensor(tensor: dict[str, Any], rest: bytes, values: Values, limits: Limits) -> Array:
    name, datatype = field(tensor, "name", str), field(tensor, "datatype", str)
    if name != values.name:
        raise InputError(f"this model's input is {values.name!r}, not {_quoted(name)}", where="inputs")
    if datatype not in DTYPES:
        raise InputError(f"{_quoted(datatype)} is none of {', '.join(DTYPES)}", where="datatype")
    shape = tuple(field(tensor, "shape", list))
    size = tensor.get("parameters", {})
    size = field(size, "binary_data_size", int, -1) if isinstance(size, dict) else -1
    if size < 0:
        if rest:
            raise InputError(f"{len(rest)} bytes follow the JSON and no tensor claims them", where="binary_data_size")
        return as_rows(values_from_json(field(tensor, "data", list), datatype), shape, values, limits)
    if "data" in tensor:
        raise InputError("stands beside binary_data_size; give one of them", where="data")
    if size != len(rest):
        raise InputError(f"says {size} bytes, {len(rest)} follow the JSON", where="binary_data_size")
    return as_rows(values_from_bytes(rest, datatype, "binary_data_size"), shape, values, limits)


def values_from_bytes(content: bytes, datatype: str, where: str) -> NDArray[Any]:
    """Little-endian values of a datatype, flat. Raises InputError when the last one is cut off."""
    dtype = np.dtype(DTYPES[datatype])
    if len(content) % dtype.itemsize:
        raise InputError(f"{len(content)} bytes are no whole number of {datatype} values", where=where)
    found = np.frombuffer(content, dtype)
    if datatype == "BF16":  # the upper half of a float32
        return (found.astype("<u4") << 16).view("<f4")
    return found


def values_from_json(data: list[Any], datatype: str) -> NDArray[Any]:
    """A flat or nested list of numbers. Raises InputError when they are of another kind, or rows differ in length."""
    try:
        found = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError("the rows differ in length, or are nested too deep", where="data") from error
    kind = "f" if "F" in datatype else np.dtype(DTYPES[datatype]).kind
    if found.size and found.dtype.kind not in {"f": "fiu", "b": "b", "i": "iu", "u": "iu"}[kind]:
        raise InputError(f"holds values that are not {datatype}", where="data")
    if found.size and kind in "iu":
        limits = np.iinfo(DTYPES[datatype])
        if found.min() < limits.min or found.max() > limits.max:
            raise InputError(f"holds values that do not fit into {datatype}", where="data")
    return found


def as_rows(found: NDArray[Any], shape: tuple[Any, ...] | None, values: Values, limits: Limits) -> Array:
    """`found` as (N, *input shape) float32; N follows from the size where no shape is given.

    Raises:
        InputError: another shape than the model takes, or too many rows.
    """
    example = values.shape
    if shape is None:
        rows, left = divmod(found.size, math.prod(example))
        if left or not rows:
            raise InputError(f"{found.size} values are no whole number of examples {list(example)}", where="the body")
        shape = (rows, *example)
    if not all(type(length) is int for length in shape) or shape[1:] != example or shape[0] < 1:
        wanted = ", ".join(["N", *map(str, example)])
        raise InputError(f"expected [{wanted}] with N of at least 1, got {_quoted(list(shape))}", where="shape")
    if shape[0] > limits.rows:
        raise InputError(f"{shape[0]} rows are more than {limits.rows}", where="shape", do="send several requests")
    if found.size != math.prod(shape) or (found.ndim > 1 and found.shape != shape):
        raise InputError(f"has shape {list(found.shape)}, which is not {list(shape)}", where="data")
    if found.dtype != np.float32 or not found.flags.aligned:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which the host refuses
            found = found.astype(np.float32)
    return found.reshape(shape)  # (N, *input shape)


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse_infinite(values: Array) -> None:
    """Raises InputError when a model answered NaN or infinity, which JSON cannot say and nobody can use."""
    if not np.isfinite(values).all():
        raise InputError("the model's answer to this input is not finite", do="check that the readings are in range")


def encode(answer: Answer, query: Query, manifest: Manifest) -> tuple[bytes, int | None]:
    """An answer as a response body, and the length of its JSON where bytes follow it (else None).

    Raises:
        InputError: the model answered NaN or infinity.
    """
    values = answer.values
    refuse_infinite(values)
    output: dict[str, Any] = {"name": manifest.output.name, "datatype": "FP32", "shape": list(values.shape)}
    raw = b""
    if query.binary:
        raw = values.astype("<f4", copy=False).tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
    else:
        output["data"] = values.ravel().tolist()
    response = {
        "model_name": answer.task,
        "model_version": str(manifest.version),
        "id": query.id or answer.id,
        "parameters": {
            "prediction_id": answer.id,
            "model_digest": answer.digest,
            "latency_us": float(answer.latency_us),
        },
        "outputs": [output, *_top_outputs(answer)] if query.top_k else [output],
    }
    content = _ENCODER.encode(response).encode()
    return (content + raw, len(content)) if query.binary else (content, None)


def _top_outputs(answer: Answer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if answer.confidence is not None:
        shape = list(answer.confidence.shape)
        found.append({"name": "confidence", "datatype": "FP32", "shape": shape, "data": answer.confidence.tolist()})
    if answer.top:
        shape = [len(answer.top), len(answer.top[0])]
        labels = [label for row in answer.top for label, _ in row]
        scores = [float(score) for row in answer.top for _, score in row]
        found.append({"name": "top_labels", "datatype": "BYTES", "shape": shape, "data": labels})
        found.append({"name": "top_scores", "datatype": "FP32", "shape": shape, "data": scores})
    return found


def model_metadata(manifest: Manifest) -> dict[str, Any]:
    """What `GET /v2/models/{name}` says; the batch is free, hence -1."""

    def tensor(values: Values) -> dict[str, Any]:
        return {"name": values.name, "datatype": "FP32", "shape": [-1, *values.shape]}

    platform = "_".join(("edgehone", *sorted({part.runtime for part in manifest.parts if part.runtime})))
    return {
        "name": manifest.task,
        "versions": [str(manifest.version)],
        "platform": platform,
        "inputs": [tensor(manifest.input)],
        "outputs": [tensor(manifest.output)],
    }
