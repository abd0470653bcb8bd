"""Readings and answers as MQTT carries them: JSON objects, or float32 values with user properties. Pure functions.

{"id": "r17", "data": [0.1, 0.2], "shape": [1, 2], "top_k": 3}      all but `data` may be left out
{"id", "prediction_id", "task", "model_version", "model_digest", "latency_us", "shape", "data", "confidence", "top"}
"""

from __future__ import annotations

from typing import Any

from edgehone_agent.errors import InputError
from edgehone_agent.serve import oip
from edgehone_agent.serve.host import Answer
from edgehone_agent.serve.limits import Limits
from edgehone_agent.wire.manifest import Manifest

RAW = "application/octet-stream"


def read_reading(
    payload: bytes, kind: str, properties: dict[str, str], manifest: Manifest, limits: Limits
) -> oip.Query:
    """A reading as a query.

    Args:
        payload: JSON {"data", "shape", "id", "top_k"}, where all but the first may be left out; or float32 values,
            little endian, when `kind` is "application/octet-stream" or `properties` has a "shape".
        kind: content type.
        properties: user properties; "id", "shape" ("1,3,32,32") and "top_k" of values without JSON.
        manifest: of the bundle that is to answer.
        limits: for the length of JSON and the number of rows.

    Raises:
        InputError: anything that does not fit.
    """
    shape: tuple[Any, ...] | None = None
    if kind == RAW or "shape" in properties:
        values = oip.values_from_bytes(payload, "FP32", "the payload")
        name, top_k = properties.get("id", ""), _whole(properties.get("top_k", "0"), "top_k")
        if "shape" in properties:
            shape = tuple(_whole(length, "shape") for length in properties["shape"].split(","))
    else:
        if len(payload) > limits.json_bytes:
            raise InputError(f"{len(payload)} bytes of JSON are more than {limits.json_bytes}", where="the payload")
        reading = oip.parse_object(payload)
        values = oip.values_from_json(oip.field(reading, "data", list), "FP32")
        name, top_k = oip.field(reading, "id", str, ""), oip.top_k(reading)
        if "shape" in reading:
            shape = tuple(oip.field(reading, "shape", list))
        elif values.ndim > 1:
            shape = values.shape
    if shape == manifest.input.shape:  # one reading without the batch
        shape = (1, *shape)
        values = values.ravel()
    return oip.Query(oip.as_rows(values, shape, manifest.input, limits), oip.short_id(name), top_k)


def _whole(text: str, where: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{text[:40]!r} is no whole number", where=where)
    return int(text)


def write_answer(answer: Answer, query: oip.Query, manifest: Manifest) -> dict[str, Any]:
    """An answer as the JSON object that is published.

    Raises:
        InputError: the model answered NaN or infinity.
    """
    oip.refuse_infinite(answer.values)
    said: dict[str, Any] = {
        "id": query.id or answer.id,
        "prediction_id": answer.id,
        "task": answer.task,
        "model_version": str(manifest.version),
        "model_digest": answer.digest,
        "latency_us": float(answer.latency_us),
        "shape": list(answer.values.shape),
        "data": answer.values.ravel().tolist(),
    }
    if query.top_k and answer.confidence is not None:
        said["confidence"] = answer.confidence.tolist()
    if query.top_k and answer.top:
        said["top"] = [[[label, float(score)] for label, score in row] for row in answer.top]
    return said


def id_in(payload: bytes) -> str:
    """The id of a JSON reading that could not be answered, where it has a good one."""
    try:
        return oip.short_id(oip.field(oip.parse_object(payload), "id", str, ""))
    except InputError:
        return ""
