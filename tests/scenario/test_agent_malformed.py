"""Requests that are wrong, to a running agent over TCP and its Unix socket: 4xx, why, and the next one is answered."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.agents import TASK, Field

pytestmark = pytest.mark.slow

ROW = [0.5] * 20
GIGABYTE = 1 << 30


@dataclass(frozen=True)
class Sent:
    """A request that is wrong, the status of its answer, and a part of what that says."""

    content: bytes
    status: int
    says: str


def tensor(**changes: Any) -> bytes:
    """A request in JSON with its tensor changed; None takes a field away."""
    found = {"name": "reading", "shape": [1, 20], "datatype": "FP32", "data": ROW, **changes}
    return json.dumps({"inputs": [{name: value for name, value in found.items() if value is not None}]}).encode()


def binary(size_bytes: int, content: bytes) -> tuple[bytes, int]:
    """A request with a binary tensor that says how long it is, and the length of its head."""
    head = tensor(data=None, parameters={"binary_data_size": size_bytes})
    return head + content, len(head)


def post(body: bytes, *heads: str, path: str = "infer", length: int | str | None = None) -> bytes:
    lines = [f"POST /v2/models/{TASK}/{path} HTTP/1.1", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *heads, "", ""]).encode() + body


def with_head(found: tuple[bytes, int], *heads: str) -> bytes:
    return post(found[0], f"Inference-Header-Content-Length: {found[1]}", *heads)


NAN = np.full((1, 20), np.nan, np.float32).tobytes()
WRONG = {
    "no body": Sent(post(b""), 400, "no JSON"),
    "no JSON": Sent(post(b"{"), 400, "no JSON"),
    "not UTF-8": Sent(post(b"\xff\xfe" + tensor()), 400, "no JSON"),
    "cut JSON": Sent(post(tensor()[:-9]), 400, "no JSON"),
    "deep JSON": Sent(post(b"[" * 100_000), 400, "no JSON"),
    "a list": Sent(post(b"[]"), 400, "object"),
    "no inputs": Sent(post(b"{}"), 400, "inputs: is missing"),
    "two inputs": Sent(post(b'{"inputs": [{}, {}]}'), 400, "expected one tensor"),
    "another name": Sent(post(tensor(name="x")), 400, "this model's input is 'reading'"),
    "unknown dtype": Sent(post(tensor(datatype="F32")), 400, "'F32' is none of"),
    "text dtype": Sent(post(tensor(datatype="BYTES", data=["a"] * 20)), 400, "'BYTES' is none of"),
    "dtype and values differ": Sent(post(tensor(datatype="INT8")), 400, "values that are not INT8"),
    "values out of range": Sent(post(tensor(datatype="UINT8", data=[300] * 20)), 400, "do not fit into UINT8"),
    "wrong shape": Sent(post(tensor(shape=[1, 19], data=ROW[:19])), 400, "expected [N, 20]"),
    "shape and data differ": Sent(post(tensor(data=ROW[:19])), 400, "has shape [19]"),
    "negative shape": Sent(post(tensor(shape=[-1, 20])), 400, "expected [N, 20]"),
    "huge shape": Sent(post(tensor(shape=[10**12, 20])), 400, "rows are more than"),
    "ragged": Sent(post(tensor(shape=[2, 20], data=[ROW, ROW[:3]])), 400, "differ in length"),
    "NaN in JSON": Sent(post(tensor().replace(b"0.5", b"NaN")), 400, "NaN"),
    "Infinity in JSON": Sent(post(tensor().replace(b"0.5", b"-Infinity")), 400, "Infinity"),
    "text for a number": Sent(post(tensor(data=["1"] * 20)), 400, "values that are not FP32"),
    "null for a number": Sent(post(tensor(data=[None] * 20)), 400, "values that are not FP32"),
    "data missing": Sent(post(tensor(data=None)), 400, "data: is missing"),
    "binary cut": Sent(with_head(binary(80, bytes(40))), 400, "says 80 bytes, 40 follow"),
    "binary too long": Sent(with_head(binary(80, bytes(81))), 400, "says 80 bytes, 81 follow"),
    "binary of another length": Sent(with_head(binary(79, bytes(79))), 400, "79"),
    "binary NaN": Sent(with_head(binary(80, NAN)), 400, "finite"),
    "values alone, cut": Sent(post(bytes(79), "Inference-Header-Content-Length: 0"), 400, "79"),
    "head longer than the body": Sent(
        post(tensor(), "Inference-Header-Content-Length: 999999"), 400, "Inference-Header-Content-Length"
    ),
    "head of no length": Sent(
        post(tensor(), "Inference-Header-Content-Length: -1"), 400, "Inference-Header-Content-Length"
    ),
    "bad gzip": Sent(post(b"\x1f\x8b nonsense", "Content-Encoding: gzip"), 400, "compressed body is damaged"),
    "gzip bomb": Sent(post(gzip.compress(bytes(200 << 20), 1), "Content-Encoding: gzip"), 413, "bytes"),
    "length that is none": Sent(post(tensor(), length="ten"), 400, ""),
    "negative length": Sent(post(tensor(), length=-5), 400, ""),
    "two lengths": Sent(post(tensor(), "Content-Length: 3"), 400, ""),
    "a gigabyte of body": Sent(post(b"", length=GIGABYTE), 413, "bytes"),
    "no HTTP": Sent(b"\x16\x03\x01\x02\x00\x01\x00 hello\r\n\r\n", 400, ""),
    "another model": Sent(post(tensor()).replace(TASK.encode(), b"nobody"), 404, "no model 'nobody'"),
    "another version": Sent(post(tensor()).replace(b"/infer", b"/versions/99/infer"), 404, "99"),
    "another path": Sent(b"GET /etc/passwd HTTP/1.1\r\n\r\n", 404, ""),
    "another method": Sent(b"DELETE /v2/health/live HTTP/1.1\r\n\r\n", 405, ""),
    "feedback of no kind": Sent(
        post(b'{"id": "e", "prediction_id": "p", "kind": "praise"}', path="feedback"), 400, "praise"
    ),
    "feedback that is no object": Sent(post(b"3", path="feedback"), 400, "object"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Field, str, int]]:
    """An agent that keeps feedback too, and its TCP address."""
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    field = Field(folder)
    (folder / "agent.toml").write_text("[capture]\nenabled = true\n")
    field.publish(1)
    field.start("--config", str(folder / "agent.toml"))
    field.wait_for(1)
    host, _, port = next(one for one in field.status()["listening"] if "unix" not in one).rpartition(":")
    yield field, host.rpartition("/")[2], int(port)
    field.close()
    shutil.rmtree(folder, ignore_errors=True)


def connected(running: tuple[Field, str, int], over: str) -> socket.socket:
    field, host, port = running
    client = socket.socket(socket.AF_UNIX if over == "unix" else socket.AF_INET)
    client.settimeout(10)
    client.connect(str(field.state / "agent.sock") if over == "unix" else (host, port))
    return client


def answered(client: socket.socket, sent: Sent) -> tuple[int, bytes]:
    """Status and body of the answer."""
    with suppress(ConnectionError):  # it has answered and hung up before it had all of it
        client.sendall(sent.content)
    found = b""
    while b"\r\n\r\n" not in found or len(found.partition(b"\r\n\r\n")[2]) < length_of(found):
        piece = client.recv(1 << 16)
        if not piece:
            break
        found += piece
    assert found.startswith(b"HTTP/1.1 "), found
    return int(found.split()[1]), found.partition(b"\r\n\r\n")[2]


def length_of(answer: bytes) -> int:
    heads = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in heads if line.startswith(b"content-length:")), 0)


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(running: tuple[Field, str, int], name: str, over: str) -> None:
    sent = WRONG[name]
    with connected(running, over) as client:
        status, body = answered(client, sent)
    said = json.loads(body)["error"]
    assert (status, sent.says in said) == (sent.status, True) and len(said) < 500, (status, said)
    assert running[0].version() == 1  # the next one is answered


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_client_that_leaves_within_its_body_is_hung_up_on(running: tuple[Field, str, int], over: str) -> None:
    with connected(running, over) as client:
        client.sendall(post(tensor(), length=5000))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1 << 16) == b""
    assert running[0].version() == 1


def test_none_of_them_left_a_trace(running: tuple[Field, str, int]) -> None:
    field = running[0]
    assert field.version() == 1 and field.process is not None and field.process.poll() is None
    assert "Traceback" not in field.log.read_text()
