"""The unmodified tritonclient.http, every call that the protocol has, JSON and binary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from edgehone.testing.hosts import FileHost

READINGS = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)


@pytest.fixture
def client(start: Callable[..., list[str]]) -> Iterator[Any]:
    client = triton.InferenceServerClient(start()[0])
    yield client
    client.close()


def reading(values: np.ndarray[Any, Any], datatype: str = "FP32", *, binary: bool = True) -> Any:
    tensor = triton.InferInput("reading", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def test_health_and_metadata(client: Any, host: FileHost) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("gestures")
    assert client.is_model_ready("gestures", "3")
    assert not client.is_model_ready("gestures", "4")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    for metadata in (client.get_model_metadata("gestures"), client.get_model_metadata("gestures", "3")):
        assert metadata["inputs"] == [{"name": "reading", "datatype": "FP32", "shape": [-1, 20]}]
        assert metadata["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}]
    host.unready.add("gestures")
    assert not client.is_server_ready()
    assert not client.is_model_ready("gestures")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", [None, True, False])
def test_infer(client: Any, host: FileHost, binary_in: bool, outputs: bool | None) -> None:
    wanted = None if outputs is None else [triton.InferRequestedOutput("scores", binary_data=outputs)]
    result = client.infer(
        "gestures", [reading(READINGS, binary=binary_in)], outputs=wanted, request_id="r1", parameters={"top_k": 2}
    )
    np.testing.assert_array_equal(result.as_numpy("scores"), host.infer("gestures", READINGS).values)
    labels = result.as_numpy("top_labels")
    assert labels.shape == result.as_numpy("top_scores").shape == (3, 2)
    assert labels[:, 0].tolist() == [("rest", "swipe", "tap", "shake")[i] for i in result.as_numpy("scores").argmax(1)]
    assert result.as_numpy("confidence").shape == (3,)
    said = result.get_response()
    assert (said["id"], said["model_version"]) == ("r1", "3")
    assert said["parameters"]["model_digest"] == host.digest("gestures")


@pytest.mark.parametrize(
    ("datatype", "dtype"), [("FP64", "f8"), ("FP16", "f2"), ("INT32", "i4"), ("UINT8", "u1"), ("BOOL", "?")]
)
def test_other_datatypes(client: Any, host: FileHost, datatype: str, dtype: str) -> None:
    values = np.abs(READINGS * 9).astype(dtype)
    result = client.infer("gestures", [reading(values, datatype)])
    np.testing.assert_array_equal(result.as_numpy("scores"), host.infer("gestures", values.astype(np.float32)).values)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client: Any, algorithm: str) -> None:
    result = client.infer(
        "gestures", [reading(READINGS)], request_compression_algorithm=algorithm, response_compression_algorithm="gzip"
    )
    assert result.as_numpy("scores").shape == (3, 4)


def test_asynchronous_requests(client: Any) -> None:
    waiting = [client.async_infer("gestures", [reading(READINGS)]) for _ in range(8)]
    assert {request.get_result().as_numpy("scores").shape for request in waiting} == {(3, 4)}


def test_errors_arrive_as_the_clients_own(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"shape: expected \[N, 20\]") as caught:
        client.infer("gestures", [reading(READINGS[:, :19])])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="NaN or infinite"):
        client.infer("gestures", [reading(READINGS * np.float32("nan"))])
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        client.infer("other", [reading(READINGS)])
    words = triton.InferInput("reading", [1, 20], "BYTES")
    words.set_data_from_numpy(np.full((1, 20), b"x", dtype=object))
    with pytest.raises(InferenceServerException, match="'BYTES' is none of"):
        client.infer("gestures", [words])
