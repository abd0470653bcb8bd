"""The measuring service: what it measures, what it refuses, and that nothing a client or a file does ends it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import logging
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.hosts import write_linear
from edgehone.testing.measuring import install_odd_runtime, measuring
from edgehone_agent.errors import ConfigError, HostError, ModelFileError
from edgehone_agent.measure.isolated import Isolated
from edgehone_agent.measure.latency import ranks, ratio
from edgehone_agent.measure.tokens import read_token
from edgehone_agent.model import open_model
from edgehone_agent.wire.measuring import PATH, Candidate, MeasureRequest, Told, read_told

TOKEN = "0123456789abcdef0123456789abcdef"
LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where services of a test keep files; processes they start know the runtime `odd`."""
    runtime, disk = tmp_path / "runtime", tmp_path / "disk"
    runtime.mkdir()
    disk.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(install_odd_runtime(runtime)))
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    return disk


def ask(address: str, method: str, path: str = PATH, body: bytes = b"", token: str = TOKEN) -> tuple[int, Any, Any]:
    """Status, headers and JSON of one request."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())
    finally:
        connection.close()


def odd(*words: str, rounds: int = 5, **more: Any) -> bytes:
    """A request of one file per line of words, each called by its first word."""
    files = tuple(Candidate(line.split()[0], "odd", line.encode()) for line in words)
    return MeasureRequest(files, rounds, **more).to_bytes()


def post(address: str, body: bytes) -> str:
    status, _, told = ask(address, "POST", body=body)
    assert status == 202, told
    return str(told["id"])


def told(address: str, id: str) -> Told:
    status, _, data = ask(address, "GET", f"{PATH}/{id}")
    assert status == 200
    return read_told(json.dumps(data).encode())


def ended(address: str, id: str) -> Told:
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        found = told(address, id)
        if found.state in ("done", "failed"):
            return found
    raise AssertionError("it does not end")


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def open_socket(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(address: str, size: int, token: str = TOKEN) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def test_files_of_one_job_can_be_compared_and_answer_as_here(disk: Path, tmp_path: Path) -> None:
    small, large = write_linear(tmp_path / "s.tflite"), write_linear(tmp_path / "l.tflite", (20, 2048, 2048, 4))
    x = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    request = MeasureRequest(
        (
            Candidate("../small", "litert", small.read_bytes()),
            Candidate("large", "litert", large.read_bytes()),
        ),
        rounds=6, fresh_repeats=1, inputs=x,
    )  # fmt: skip
    with measuring() as address:
        found = ended(address, post(address, request.to_bytes()))
        assert found.error is None and found.files is not None and found.machine is not None
        assert [path.name for path in disk.rglob("*") if path.is_file()] == []
    assert list(disk.iterdir()) == []
    first, second = found.files["../small"], found.files["large"]
    assert ranks(first.latency, second.latency) == "faster"
    assert ratio(second.latency, first.latency).rounds == 6
    assert first.session["runtime"] == "litert" and first.session["threads"] == 1
    assert first.fresh_process is not None and second.fresh_process is not None
    assert second.fresh_process.model_bytes > first.fresh_process.model_bytes
    with open_model(small) as model:
        digest = hashlib.sha256(model.predict(x).astype("<f4").tobytes()).hexdigest()
    assert first.answers is not None and (first.answers.sha256, first.answers.rows) == (digest, 3)
    assert found.machine["cores"] >= 1


def test_a_file_that_kills_its_runtime_is_named_and_the_service_goes_on() -> None:
    with measuring() as address:
        died = ended(address, post(address, odd("fine", "dies")))
        assert isinstance(died.error, ModelFileError)
        assert died.error.where == "dies" and "SIGSEGV" in died.error.what
        raised = ended(address, post(address, odd("raises")))
        assert isinstance(raised.error, HostError) and "a defect of the runtime" in raised.error.what
        cut = Candidate("cut", "litert", b"\0\0\0\0TFL3" + bytes(100))
        refused = ended(address, post(address, MeasureRequest((cut,), 5).to_bytes()))
        assert isinstance(refused.error, ModelFileError) and refused.error.where == "cut"
        assert ended(address, post(address, odd("prints"))).state == "done"


def test_a_job_that_takes_too_long_is_killed() -> None:
    with measuring(limit_s=1.0) as address:
        late = ended(address, post(address, odd("hangs")))
        assert isinstance(late.error, HostError) and "more than 1 s" in late.error.what


@pytest.mark.parametrize("token", ["", "0" * 32, TOKEN + "0", TOKEN[:-1], "ü"])
def test_a_stranger_is_refused_before_its_body(token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with measuring(token=TOKEN) as address, open_socket(address) as client:
        client.sendall(head(address, 1_000_000, token))
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 401 ") and b"WWW-Authenticate: Bearer" in answer
        assert ask(address, "GET")[0] == 200
        assert ask(address, "GET", "/status", token="")[0] == 401
    assert TOKEN not in caplog.text


def test_too_much_is_refused_at_once() -> None:
    with measuring(max_bytes=1000) as address:
        with open_socket(address) as client:
            client.sendall(head(address, 200_000))
            assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert ended(address, post(address, odd("fine"))).state == "done"


def test_a_full_queue_says_when_to_come_again_and_is_worked_off_in_order() -> None:
    with measuring(queue=1) as address:
        first = post(address, odd("hangs"))
        wait_until(lambda: told(address, first).state == "measuring")
        second = post(address, odd("fine"))
        assert told(address, second).before == 1
        with open_socket(address) as client:  # its body is not waited for
            client.sendall(head(address, 500_000))
            answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 429 ") and b"\r\nRetry-After: 1\r\n" in answer
        assert ask(address, "DELETE", f"{PATH}/{first}")[0] == 200
        assert ended(address, second).state == "done"
        assert isinstance(told(address, first).error, HostError)
        metrics = http.client.HTTPConnection(address)
        metrics.request("GET", "/metrics")
        text = metrics.getresponse().read().decode()
        metrics.close()
        assert 'edgehone_measure_jobs_total{how="refused"} 1' in text


def test_jobs_are_measured_one_after_another(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with measuring() as address:
        jobs = [post(address, odd(f"notes {notes}")) for _ in range(3)]
        assert [ended(address, job).state for job in jobs] == ["done"] * 3
    spans = [tuple(map(float, line.split())) for line in notes.read_text().splitlines()]
    assert len(spans) == 3
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_a_slow_client_keeps_nobody_waiting() -> None:
    body = odd("fine")
    with measuring() as address, open_socket(address) as slow:
        slow.sendall(head(address, len(body)) + body[:20])
        assert ended(address, post(address, odd("fine"))).state == "done"
        slow.sendall(body[20:])
        assert slow.recv(4096).startswith(b"HTTP/1.1 202 ")


def test_a_job_that_nobody_asks_about_is_dropped() -> None:
    with measuring(abandoned_s=1.0) as address:
        post(address, odd("hangs"))
        wait_until(lambda: ask(address, "GET")[2]["jobs"] == 0)
        post(address, odd("fine"))


def test_a_stop_does_not_wait_for_what_is_measured(disk: Path) -> None:
    with measuring() as address:
        job = post(address, odd("hangs"))
        wait_until(lambda: told(address, job).state == "measuring")
        post(address, odd("fine"))
        began = time.monotonic()
    assert time.monotonic() - began < LIMIT_S
    assert list(disk.iterdir()) == []


def test_neither_a_defect_nor_a_cleaned_disk_ends_the_service(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    with measuring() as address:
        with monkeypatch.context() as patch:
            patch.setattr(Isolated, "measure", broken)
            error = ended(address, post(address, odd("fine"))).error
            assert isinstance(error, HostError) and "its log has the details" in error.what
        for folder in disk.iterdir():
            shutil.rmtree(folder)
        assert ended(address, post(address, odd("fine"))).state == "done"


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with measuring() as address:
        yield address


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no request"),
        (b"EHMEASR1\xff\xff\xff\xff{}", "head is cut"),
        (odd("fine")[:-1], "bytes where its head says"),
        (odd("fine") + b"x", "bytes where its head says"),
        (odd("fine", "fine"), "two by one name"),
        (odd("fine", rounds=4), "rounds is 4"),
        (odd("fine", rounds=10_000), "rounds is 10000"),
        (odd("fine", fresh_repeats=100), "fresh_repeats is 100"),
        (MeasureRequest(()).to_bytes(), "names no file"),
        (MeasureRequest((Candidate("a", "nothing", b"x"),)).to_bytes(), "no runtime 'nothing'"),
        (MeasureRequest((Candidate("a", "litert", b"not a model"),)).to_bytes(), "no file of the runtime litert"),
        (MeasureRequest((Candidate("a\n", "odd", b"fine"),)).to_bytes(), "control characters"),
    ],
)
def test_what_is_no_request_is_refused(service: str, body: bytes, said: str) -> None:
    status, _, answer = ask(service, "POST", body=body)
    assert status == 400 and said in answer["error"] and answer["code"] == "EH100"


def test_what_is_asked_wrongly_is_refused(service: str) -> None:
    assert ask(service, "GET", f"{PATH}/none")[0] == 404
    assert ask(service, "PUT")[0] == 405
    assert ask(service, "GET", "/v2/models/x")[0] == 404
    assert ask(service, "GET", "/v2/health/live")[2] == {"live": True}
    about = ask(service, "GET", "/status")[2]
    assert about["runtimes"]["odd"] == "1.0" and about["limits"]["queue"] == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "0.0.0.0:0"},
        {"listen": "0.0.0.0:0", "token": TOKEN},
        {"listen": "0.0.0.0:0", "certificate": (Path("a"), Path("b"))},
        {"listen": "unix:/run/measure.sock"},
        {"listen": "nowhere"},
        {"certificate": (Path("a"), Path("b")), "token": TOKEN},
        {"queue": 0},
        {"limit_s": float("nan")},
    ],
)
def test_it_does_not_start_with_settings_that_are_unsafe_or_wrong(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError), measuring(**settings):
        pass


def test_the_token_is_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN} \nsomething else\n")
    assert read_token(file) == TOKEN
    for content in (b"", b"short\n", b"with a space in it all\n", b"\xff" * 40):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="no token"):
            read_token(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "missing")


def test_the_connections_it_takes_are_bounded() -> None:
    with measuring(connections=2) as address, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(open_socket(address)) for _ in range(3)]
        assert clients[2].recv(4096).startswith(b"HTTP/1.1 503 ")
