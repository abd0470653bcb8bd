"""Open Inference Protocol: request bytes to arrays, answers to bytes, and every refusal by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgehone_agent.errors import InputError
from edgehone_agent.serve.host import Answer
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.oip import DTYPES, Query, decode, encode, model_metadata
from edgehone_agent.wire.manifest import Manifest, Part, Values

MANIFEST = Manifest(
    task="t", kind="classification", version=7, member="m", created="",
    parts=(Part("m.onnx", "model", "", 1, "onnxruntime"),),
    input=Values("reading", (2, 3)), output=Values("scores", (4,)), labels=("a", "b", "c", "d"),
)  # fmt: skip
LIMITS = Limits(rows=8)
ROW = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "reading", "shape": [1, 2, 3], "datatype": "FP32", "data": ROW, **changes.pop("tensor", {})}
    return {"inputs": [{k: v for k, v in tensor.items() if v is not None}], **changes}


def decoded(value: object) -> Query:
    return decode(json.dumps(value).encode(), None, MANIFEST, LIMITS)


def as_binary(array: np.ndarray[Any, Any], datatype: str, **parameters: Any) -> tuple[bytes, int]:
    raw = array.tobytes()
    tensor = {
        "data": None,
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps(request(tensor=tensor, parameters=parameters)).encode()
    return head + raw, len(head)


@pytest.mark.parametrize("data", [ROW, [[ROW[:3], ROW[3:]]]], ids=["flat", "nested"])
def test_json_values_in_either_form(data: list[Any]) -> None:
    query = decoded(request(tensor={"data": data}, id="mine", parameters={"top_k": 2, "priority": 1}))
    assert query.x.dtype == np.float32
    np.testing.assert_array_equal(query.x, np.array(ROW, np.float32).reshape(1, 2, 3))
    assert (query.id, query.top_k, query.binary) == ("mine", 2, False)


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_numeric_datatype_in_bytes(datatype: str) -> None:
    values = np.array([[[0, 1, 1], [1, 0, 1]]])
    array = values.astype(np.float32).view("<u4") >> 16 if datatype == "BF16" else values
    query = decode(*as_binary(array.astype(DTYPES[datatype]), datatype), MANIFEST, LIMITS)
    assert query.x.dtype == np.float32
    np.testing.assert_array_equal(query.x, values)


@given(hnp.arrays(np.float32, (3, 2, 3)), st.integers(0, 3))
def test_bytes_arrive_as_they_were_sent(array: np.ndarray[Any, np.dtype[np.float32]], spaces: int) -> None:
    body, length = as_binary(array, "FP32")
    query = decode(b" " * spaces + body, length + spaces, MANIFEST, LIMITS)  # any alignment
    assert query.x.flags.aligned
    assert query.x.tobytes() == array.tobytes()


def test_a_body_of_values_alone() -> None:
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(decode(array.tobytes(), 0, MANIFEST, LIMITS).x, array)


@pytest.mark.parametrize(
    ("outputs", "default", "binary"),
    [(None, True, True), ([{"name": "scores"}], True, True), ([{"name": "scores"}], False, False),
     ([{"name": "scores", "parameters": {"binary_data": True}}], False, True),
     ([{"name": "scores", "parameters": {"binary_data": False}}], True, False)],
)  # fmt: skip
def test_who_asks_for_bytes_gets_them(outputs: list[Any] | None, default: bool, binary: bool) -> None:
    extra = {} if outputs is None else {"outputs": outputs}
    assert decoded(request(parameters={"binary_data_output": default}, **extra)).binary is binary


BAD = {
    "inputs: is missing": {},
    "inputs: is not a list": {"inputs": 3},
    "inputs: expected one tensor": {"inputs": [{}, {}]},
    "name: is missing": {"inputs": [{}]},
    "inputs: this model's input is 'reading', not 'x'": request(tensor={"name": "x"}),
    "datatype: 'BYTES' is none of": request(tensor={"datatype": "BYTES"}),
    "datatype: 'F32' is none of": request(tensor={"datatype": "F32"}),
    "shape: expected [N, 2, 3] with N of at least 1, got [2, 3]": request(tensor={"shape": [2, 3]}),
    "got [0, 2, 3]": request(tensor={"shape": [0, 2, 3], "data": []}),
    "got [-1, 2, 3]": request(tensor={"shape": [-1, 2, 3]}),
    "got [1.0, 2, 3]": request(tensor={"shape": [1.0, 2, 3]}),
    "got [True, 2, 3]": request(tensor={"shape": [True, 2, 3]}),
    "got [1, '2', 3]": request(tensor={"shape": [1, "2", 3]}),
    "shape: 9 rows are more than 8": request(tensor={"shape": [9, 2, 3], "data": ROW * 9}),
    "shape: 1000": request(tensor={"shape": [10**40, 2, 3]}),
    "data: has shape [5], which is not [1, 2, 3]": request(tensor={"data": ROW[:5]}),
    "data: has shape [2, 3], which is not": request(tensor={"data": [ROW[:3], ROW[3:]]}),
    "data: the rows differ in length": request(tensor={"data": [[1.0], [2.0, 3.0]]}),
    "data: holds values that are not FP32": request(tensor={"data": ["1", 2, 3, 4, 5, 6]}),
    "data: holds values that are not INT8": request(tensor={"datatype": "INT8"}),
    "data: holds values that do not fit into INT8": request(tensor={"datatype": "INT8", "data": [300, 0, 0, 0, 0, 0]}),
    "data: holds values that do not fit into UINT8": request(tensor={"datatype": "UINT8", "data": [-1, 0, 0, 0, 0, 0]}),
    "data: holds values that are not INT64": request(tensor={"datatype": "INT64", "data": [10**30, 0, 0, 0, 0, 0]}),
    "data: holds values that are not BOOL": request(tensor={"datatype": "BOOL"}),
    "data: is missing": request(tensor={"data": None}),
    "data: is not a list": request(tensor={"data": "AAAA"}),
    "binary_data_size: is not a whole number": request(tensor={"parameters": {"binary_data_size": "24"}}),
    "binary_data_size: says 24 bytes, 0 follow": request(tensor={"data": None, "parameters": {"binary_data_size": 24}}),
    "data: stands beside binary_data_size": request(tensor={"parameters": {"binary_data_size": 0}}),
    "id: is not a string": request(id=5),
    "id: is longer than 256 characters": request(id="x" * 257),
    "top_k: is not a whole number": request(parameters={"top_k": "2"}),
    "top_k: is not between 0 and 1000": request(parameters={"top_k": -1}),
    "parameters: is not an object": request(parameters=[]),
    "binary_data_output: is not true or false": request(parameters={"binary_data_output": 1}),
    "outputs: this model has one output, 'scores'": request(outputs=[{"name": "logits"}]),
    "classification: is not offered": request(outputs=[{"name": "scores", "parameters": {"classification": 3}}]),
    "shared_memory_region: is not": request(outputs=[{"name": "scores", "parameters": {"shared_memory_region": "r"}}]),
}


@pytest.mark.parametrize(("message", "value"), BAD.items(), ids=BAD)
def test_what_does_not_fit_is_refused_by_name(message: str, value: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        decoded(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [(b"", None, "no JSON"), (b"\xff\xfe", None, "no JSON"), (b"[1]", None, "no JSON object"),
     (b"[" * 100_000, None, "no JSON"), (b'{"inputs": NaN}', None, "NaN is no JSON number"),
     (b"{}", 3, "says 3 bytes of JSON, the body has 2"), (b"abc", 0, "3 bytes are no whole number of FP32 values"),
     (b"abcd", 0, "1 values are no whole number of examples [2, 3]"), (b"", 0, "0 values are no whole"),
     (json.dumps(request()).encode() + b"1234", len(json.dumps(request())), "4 bytes follow the JSON")],
)  # fmt: skip
def test_bytes_that_are_no_request(body: bytes, length: int | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(body, length, MANIFEST, LIMITS)
    assert message in str(caught.value)


def test_a_long_nested_refusal_is_cut_short() -> None:
    with pytest.raises(InputError) as caught:
        decoded(request(tensor={"shape": list(range(10_000))}))
    assert len(str(caught.value)) < 250


def answer(values: Any, **more: Any) -> Answer:
    return Answer("p-1", "t", "ab" * 32, np.array(values, np.float32), 12.5, **more)


def test_an_answer_in_json() -> None:
    body, length = encode(answer([[1, 2, 3, 0.1]]), Query(np.zeros((1, 2, 3), np.float32)), MANIFEST)
    assert length is None
    said = json.loads(body)
    assert said["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [1, 4], "data": np.array([1, 2, 3, 0.1], np.float32).tolist()}
    ]
    assert said["parameters"] == {"prediction_id": "p-1", "model_digest": "ab" * 32, "latency_us": 12.5}
    assert (said["model_name"], said["model_version"], said["id"]) == ("t", "7", "p-1")


def test_an_answer_in_bytes_with_labels_and_the_callers_id() -> None:
    given = answer([[1, 2, 3, 4]], confidence=np.array([0.5], np.float32), top=((("d", 0.5), ("c", 0.25)),))
    body, length = encode(given, Query(np.zeros((1, 2, 3), np.float32), "mine", 2, True), MANIFEST)
    assert length is not None
    said = json.loads(body[:length])
    assert said["id"] == "mine"
    assert np.frombuffer(body[length:], "<f4").tolist() == [1, 2, 3, 4]
    scores, confidence, labels, top = said["outputs"]
    assert scores["parameters"] == {"binary_data_size": 16}
    assert confidence["data"] == [0.5]
    assert (labels["datatype"], labels["shape"], labels["data"]) == ("BYTES", [1, 2], ["d", "c"])
    assert (top["shape"], top["data"]) == ([1, 2], [0.5, 0.25])


@pytest.mark.parametrize("binary", [True, False])
def test_an_answer_that_is_not_finite_is_no_answer(binary: bool) -> None:
    with pytest.raises(InputError, match="not finite"):
        encode(answer([[1, np.inf, 3, 4]]), Query(np.zeros((1, 2, 3), np.float32), binary=binary), MANIFEST)


def test_metadata_has_a_free_batch() -> None:
    assert model_metadata(MANIFEST) == {
        "name": "t",
        "versions": ["7"],
        "platform": "edgehone_onnxruntime",
        "inputs": [{"name": "reading", "datatype": "FP32", "shape": [-1, 2, 3]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}],
    }
