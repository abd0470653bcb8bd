"""What each path answers, through a real server and a real model."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.hosts import FileHost, ServedFile, write_linear
from edgehone_agent.errors import ModelFileError, StateError
from edgehone_agent.serve.limits import Limits

Start = Callable[..., list[str]]
INFER = "/v2/models/gestures/infer"
READING = np.linspace(-1, 1, 20, dtype=np.float32)


@pytest.fixture
def client(start: Start, connect: Callable[[str], Any]) -> Any:
    return connect(start()[0])


def request(x: np.ndarray[Any, Any] = READING, **more: Any) -> dict[str, Any]:
    x = np.atleast_2d(x)
    tensor = {"name": "reading", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return {"inputs": [tensor], **more}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v2/health/live", {"live": True}), ("/v2/health/ready", {"ready": True}),
     ("/v2", {"name": "edgehone-agent", "version": "0.1.0", "extensions": ["binary_tensor_data"]}),
     ("/v2/models/gestures/ready", {"name": "gestures", "ready": True}),
     ("/v2/models/gestures/versions/3/ready?x=1", {"name": "gestures", "ready": True}),
     ("/v2/models/ges%74ures/ready", {"name": "gestures", "ready": True}),
     ("/status", {"tasks": {"gestures": {"version": 3}}})],
)  # fmt: skip
def test_what_a_get_says(client: Any, path: str, body: dict[str, Any]) -> None:
    assert client.json("GET", path) == (200, body)


def test_model_metadata(client: Any) -> None:
    for path in ("/v2/models/gestures", "/v2/models/gestures/versions/3"):
        status, body = client.json("GET", path)
        assert (status, body["versions"], body["inputs"][0]["shape"]) == (200, ["3"], [-1, 20])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v2/models", 404), ("GET", "/v2/models/other", 404), ("GET", "/v2/models//ready", 404),
     ("GET", "/v2/models/gestures/versions/2", 404), ("GET", "/v2/models/gestures/versions", 404),
     ("POST", "/v2/models/other/infer", 404), ("POST", "/v2/models/other/feedback", 404),
     ("GET", "/v2/../status", 404), ("GET", "/v2%2Fmodels%2Fgestures", 404), ("GET", "/%2Fstatus", 404),
     ("GET", INFER, 405), ("POST", "/metrics", 405), ("DELETE", "/v2", 405)],
)  # fmt: skip
def test_what_is_not_there(client: Any, method: str, path: str, status: int) -> None:
    got, headers, body = client.ask(method, path)
    assert got == status
    assert set(json.loads(body)) == {"error", "code"}
    assert headers.get("allow") == {INFER: "POST"}.get(path, "GET, HEAD" if status == 405 else None)


def test_an_answer_is_the_models_own_and_can_be_named(client: Any, host: FileHost) -> None:
    status, said = client.json("POST", INFER, request())
    assert status == 200
    np.testing.assert_array_equal(
        np.array(said["outputs"][0]["data"], np.float32), host.infer("gestures", READING[None]).values[0]
    )
    assert said["parameters"]["model_digest"] == host.digest("gestures")
    assert said["parameters"]["latency_us"] > 0
    event = {"prediction_id": said["parameters"]["prediction_id"], "kind": "confirm"}
    assert client.json("POST", "/v2/models/gestures/feedback", event) == (200, {"accepted": True})
    assert host.events == [{**event, "task": "gestures"}]


def test_labels_and_confidence_where_they_are_asked_for(client: Any) -> None:
    _, said = client.json("POST", INFER, request(np.stack([READING, -READING]), parameters={"top_k": 3}))
    outputs = {output["name"]: output for output in said["outputs"]}
    assert set(outputs) == {"scores", "confidence", "top_labels", "top_scores"}
    scores = np.array(outputs["scores"]["data"]).reshape(2, 4)
    labels = np.array(outputs["top_labels"]["data"]).reshape(2, 3)
    assert labels[:, 0].tolist() == [("rest", "swipe", "tap", "shake")[i] for i in scores.argmax(axis=1)]
    assert outputs["confidence"]["data"] == [outputs["top_scores"]["data"][0], outputs["top_scores"]["data"][3]]
    assert len(client.json("POST", INFER, request())[1]["outputs"]) == 1


@pytest.mark.parametrize("bad", [{"inputs": []}, request(id=3), request(np.zeros(19, np.float32))])
def test_a_bad_request_gets_400_and_the_connection_lives(client: Any, bad: dict[str, Any]) -> None:
    status, said = client.json("POST", INFER, bad)
    assert (status, said["code"]) == (400, "EH100")
    assert client.json("POST", INFER, request())[0] == 200


def test_values_beyond_float32_are_refused_as_not_finite(client: Any) -> None:
    body = json.dumps(request()).replace("1.0]", "1e300]").encode()
    status, _, said = client.ask("POST", INFER, body)
    assert (status, json.loads(said)["error"][:39]) == (400, "the input holds NaN or infinite values ")


@pytest.mark.parametrize("value", ["x", "-1", "1e3", "9" * 19, ""])
def test_a_header_length_that_is_none(client: Any, value: str) -> None:
    status, said = client.json("POST", INFER, request(), Inference_Header_Content_Length=value)
    assert (status, said["error"]) == (400, "Inference-Header-Content-Length: is no length")


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies(client: Any, name: str, pack: Callable[[bytes], bytes]) -> None:
    body = pack(json.dumps(request()).encode())
    assert client.ask("POST", INFER, body, Content_Encoding=name)[0] == 200
    for bad in (body[:-5], body + b"x", b"junk"):
        status, _, said = client.ask("POST", INFER, bad, Content_Encoding=name)
        assert (status, b"compressed body" in said) == (400, True)
    assert client.ask("POST", INFER, body, Content_Encoding="br")[0] == 400


def test_a_bomb_is_refused_by_its_unpacked_length(start: Start, connect: Callable[[str], Any]) -> None:
    client = connect(start(limits=Limits(body_bytes=100_000))[0])
    bomb = gzip.compress(b" " * 50_000_000)
    for path in (INFER, "/v2/models/gestures/feedback"):
        assert client.ask("POST", path, bomb, Content_Encoding="gzip")[0] == 413


def test_json_has_a_bound_of_its_own(start: Start, connect: Callable[[str], Any]) -> None:
    client = connect(start(limits=Limits(json_bytes=1000))[0])
    long = json.dumps(request()).encode().ljust(1001)
    status, said = client.json("POST", INFER, request(id="x" * 1000))
    assert (status, "binary data" in said["error"]) == (413, True)
    assert client.ask("POST", INFER, gzip.compress(long), Content_Encoding="gzip")[0] == 413
    assert client.ask("POST", "/v2/models/gestures/feedback", long)[0] == 413
    big = np.zeros((64, 20), np.float32)
    assert client.ask("POST", INFER, big.tobytes(), Inference_Header_Content_Length="0")[0] == 200


def test_an_answer_that_would_be_too_long_is_not_computed(
    host: FileHost, start: Start, connect: Callable[[str], Any]
) -> None:
    client = connect(start(limits=Limits(body_bytes=2000))[0])
    many = np.zeros((21, 20), np.float32)
    status, _, said = client.ask("POST", INFER, many.tobytes(), Inference_Header_Content_Length="0")
    assert (status, b"too long" in said, host.answers) == (400, True, 0)


def test_feedback_that_contradicts_its_path_or_is_malformed(client: Any, host: FileHost) -> None:
    path = "/v2/models/gestures/feedback"
    assert client.json("POST", path, {"prediction_id": "p-1", "task": "other"})[0] == 400
    assert client.json("POST", path, {"prediction_id": 1})[0] == 400
    assert client.json("POST", path, [1])[0] == 400
    assert client.ask("POST", path)[0] == 400
    assert host.events == []


def test_a_model_that_is_not_ready(client: Any, host: FileHost) -> None:
    host.unready.add("gestures")
    for method, path in (("GET", "/v2/health/ready"), ("GET", "/v2/models/gestures/ready"), ("POST", INFER)):
        status, headers, _ = client.ask(method, path)
        assert (status, headers["retry-after"]) == (503, "1")
    assert client.ask("GET", "/v2/health/live")[0] == 200


def test_what_is_wrong_with_the_node_is_not_blamed_on_the_caller(
    client: Any, host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (ModelFileError("the file is gone", where="model.tflite"), StateError("disk full")):

        def fail(*args: object, error: Exception = error, **settings: object) -> None:
            raise error

        monkeypatch.setattr(host, "infer", fail)
        status, said = client.json("POST", INFER, request())
        assert (status, error.what in said["error"]) == (503, True)


def test_another_bundle_answers_at_once(client: Any, host: FileHost, tmp_path: Path) -> None:
    first = client.json("POST", INFER, request())[1]
    host.replace("gestures", ServedFile(write_linear(tmp_path / "new.tflite", seed=1), version=4))
    second = client.json("POST", INFER, request())[1]
    assert (first["model_version"], second["model_version"]) == ("3", "4")
    assert first["parameters"]["model_digest"] != second["parameters"]["model_digest"]
    assert first["outputs"] != second["outputs"]


def test_metrics_count_what_was_asked(client: Any) -> None:
    client.ask("GET", "/nowhere")
    for _ in range(3):
        client.json("POST", INFER, request())
    status, headers, body = client.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    lines = body.decode().splitlines()
    assert "edgehone_answers_total 3" in lines
    assert 'edgehone_http_requests_total{route="infer",status="200"} 3' in lines
    assert 'edgehone_http_requests_total{route="other",status="404"} 1' in lines
    assert 'edgehone_http_infer_seconds_bucket{le="+Inf"} 3' in lines
    assert "edgehone_http_infer_seconds_count 3" in lines
    assert "edgehone_http_connections 1" in lines
