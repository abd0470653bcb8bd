"""One connection by hand: pipelining, bounds, deadlines, refusals, and the end of a server."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.hosts import FileHost, ServedFile, serving
from edgehone_agent.serve.limits import Limits

Start = Callable[..., list[str]]
Connect = Callable[[str], Any]
LIVE = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
INFER = "/v2/models/gestures/infer"
RAW = np.zeros((1, 20), np.float32).tobytes()


def test_requests_sent_ahead_are_answered_in_order(start: Start, connect: Connect) -> None:
    client = connect(start()[0])
    raw = (
        b"POST "
        + INFER.encode()
        + b" HTTP/1.1\r\nContent-Length: 80\r\nInference-Header-Content-Length: 0\r\n\r\n"
        + RAW
    )
    client.send(LIVE + raw + b"GET /status HTTP/1.1\r\n\r\n" + raw + LIVE)
    bodies = [client.read()[2][:8] for _ in range(5)]
    assert bodies == [b'{"live":', b'{"model_', b'{"tasks"', b'{"model_', b'{"live":']


def test_a_request_in_pieces(start: Start, connect: Connect) -> None:
    client = connect(start()[0])
    for byte in LIVE:
        client.send(bytes([byte]))
    assert client.read()[0] == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"hello\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400), (b"GET / HTTP/9.9\r\n\r\n", 400),
     (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400), (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 404),
     (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400), (b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
     (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
     (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
     (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
     (b"GET / HTTP/1.1\r\nOrigin: http://evil.example\r\n\r\n", 403),
     (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431), (b"GET /" + b"x" * 600_000, 431),
     (b"GET / HTTP/1.1\r\na: " + b"b" * 20_000, 431), (LIVE + b"GET / HTTP/1.1\r\na: " + b"b" * 900_000, 431),
     (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 4000 + b"\r\n", 431), (b"GET / HTTP/1.1\r\na: " + b"b" * 600_000, 431),
     (LIVE * 100, 503)],
    ids=lambda value: value[:24] if isinstance(value, bytes) else value,
)  # fmt: skip
def test_what_is_refused_at_once(start: Start, connect: Connect, content: bytes, status: int) -> None:
    client = connect(start()[0])
    client.send(content)
    got = [client.read()]
    while got[-1][0] == 200:
        got.append(client.read())
    assert got[-1][0] == status
    assert got[-1][1]["connection"] == "close"
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()


def test_a_client_that_asks_before_it_sends(start: Start, connect: Connect) -> None:
    client = connect(start()[0])
    head = b"POST " + INFER.encode() + b" HTTP/1.1\r\nExpect: 100-continue\r\nInference-Header-Content-Length: 0\r\n"
    client.send(head + b"Content-Length: 80\r\n\r\n")
    assert client._file.readline() + client._file.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(RAW)
    assert client.read()[0] == 200
    client.send(head + b"Content-Length: 999999999\r\n\r\n")
    assert client.read()[0] == 413


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_connections_close_when_the_client_says_so(start: Start, connect: Connect, version: str) -> None:
    client = connect(start()[0])
    client.send(f"GET /v2/health/live HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
    assert client.read()[1]["connection"] == "close"
    assert client.is_closed()


def test_who_offers_another_protocol_is_answered_in_this_one(start: Start, connect: Connect) -> None:
    client = connect(start()[0])
    status, headers, _ = client.ask("GET", "/v2", Connection="Upgrade", Upgrade="h2c")
    assert (status, headers["connection"], client.is_closed()) == (200, "close", True)
    client = connect(start()[0])
    status, _, body = client.ask("POST", INFER, RAW, Connection="Upgrade", Upgrade="h2c")
    assert (status, b"use HTTP/1.1 alone" in body) == (400, True)


@pytest.mark.parametrize(("path", "status"), [("/v2", 200), ("/metrics", 200), ("/none", 404), (INFER, 405)])
def test_head_is_answered_as_get_without_the_body(start: Start, connect: Connect, path: str, status: int) -> None:
    client = connect(start()[0])
    client.send(f"HEAD {path} HTTP/1.1\r\n\r\nHEAD {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    first, second, rest = client._file.read().split(b"\r\n\r\n")
    for head in (first, second):
        assert head.startswith(f"HTTP/1.1 {status} ".encode()) and b"Content-Length: 0" not in head
    assert rest == b""


def test_a_whole_address_in_the_request_line_is_its_path(start: Start, connect: Connect) -> None:
    client = connect(start()[0])
    for target in ("http://node/v2/health/live", "HTTPS://node:1/v2/health/live?a=/b", "/v2/health/live?c=%2F"):
        client.send(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        assert client.read()[0] == 200
    client.send(b"GET http://node HTTP/1.1\r\n\r\n")
    assert client.read()[0] == 404


@pytest.mark.parametrize("name", ["Content-Encoding", "Inference-Header-Content-Length"])
def test_a_header_that_counts_comes_once(start: Start, connect: Connect, name: str) -> None:
    client = connect(start()[0])
    client.send(f"POST {INFER} HTTP/1.1\r\n{name}: 0\r\n{name.lower()}: 0\r\nContent-Length: 80\r\n\r\n".encode() + RAW)
    status, headers, body = client.read()
    assert (status, headers["connection"], b"twice" in body) == (400, "close", True)


def test_a_host_that_a_name_server_could_lead_here_is_refused(start: Start, connect: Connect, tmp_path: Path) -> None:
    tcp, unix = start("127.0.0.1:0", f"unix:{tmp_path}/s")
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "10.1.2.3"):
        assert connect(tcp).ask("GET", "/v2", Host=host)[0] == 200
    for host in ("evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "a@localhost"):
        status, headers, _ = connect(tcp).ask("GET", "/v2", Host=host)
        assert (status, headers["connection"]) == (403, "close")
    assert connect(unix).ask("GET", "/v2", Host="node")[0] == 200


def test_who_asks_before_it_sends_is_told_to_in_its_turn(start: Start, connect: Connect) -> None:
    client = connect(start()[0])
    head = (
        f"POST {INFER} HTTP/1.1\r\nExpect: 100-continue\r\nInference-Header-Content-Length: 0\r\nContent-Length: 80\r\n"
    )
    client.send(b"GET /status HTTP/1.1\r\n\r\n" + head.encode() + b"\r\n")  # the first is answered on a lane
    assert client.read()[0] == 200
    assert client._file.readline() + client._file.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(RAW)
    assert client.read()[0] == 200
    client.send(head.encode() + b"\r\n" + RAW)  # it did not wait, so there is nothing to tell
    assert client.read()[0] == 200


def test_a_client_that_has_closed_its_side_still_gets_its_answer(
    host: FileHost, start: Start, connect: Connect
) -> None:
    client = connect(start()[0])
    client.send(b"GET /status HTTP/1.1\r\n\r\n")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.read()[0] == 200
    assert client.is_closed()


@pytest.mark.parametrize(
    ("field", "sent", "status"),
    [("header_timeout_s", b"GET / HTTP/1.1\r\n", 408), ("idle_timeout_s", LIVE, 200), ("idle_timeout_s", b"", None),
     ("idle_timeout_s", b"\r\n" * 50, None),
     ("body_timeout_s", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n12", 408)],
)  # fmt: skip
def test_slow_clients_time_out(start: Start, connect: Connect, field: str, sent: bytes, status: int | None) -> None:
    client = connect(start(limits=Limits(**{field: 0.2}))[0])
    started = time.monotonic()
    client.send(sent)
    if status is not None:
        assert client.read()[0] == status
    client.socket.shutdown(socket.SHUT_WR) if status == 408 else None
    assert client.is_closed()
    assert time.monotonic() - started < 5


def test_a_trickle_does_not_extend_the_deadline(start: Start, connect: Connect) -> None:
    client = connect(start(limits=Limits(header_timeout_s=0.4))[0])
    client.send(b"GET / HTTP/1.1\r\n")
    started = time.monotonic()
    client.socket.settimeout(0.05)
    while time.monotonic() - started < 5:
        client.send(b"a: b\r\n")
        try:
            if client.socket.recv(100).startswith(b"HTTP/1.1 408"):
                break
        except TimeoutError:
            continue
    assert 0.3 < time.monotonic() - started < 2


def test_a_client_that_does_not_read_is_cut(host: FileHost, start: Start, connect: Connect) -> None:
    address = start(limits=Limits(write_timeout_s=0.3))[0]
    client = connect(address)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.socket.setblocking(False)
    ask = f"POST {INFER} HTTP/1.1\r\nContent-Length: 81920\r\nInference-Header-Content-Length: 0\r\n\r\n".encode()
    rows = np.zeros((1024, 20), np.float32).tobytes()
    until, pending = time.monotonic() + 10, b""
    with pytest.raises(ConnectionError):
        while time.monotonic() < until:
            pending = pending or ask + rows
            try:
                pending = pending[client.socket.send(pending) :]
            except BlockingIOError:
                time.sleep(0.01)
    assert connect(address).ask("GET", "/v2/health/live")[0] == 200


def test_who_leaves_little_unread_does_not_stay_either(start: Start, connect: Connect, tmp_path: Path) -> None:
    address = start(f"unix:{tmp_path}/s", limits=Limits(idle_timeout_s=0.5))[0]
    client = connect(address)
    client.socket.settimeout(10)
    for _ in range(20):  # more than the system buffers and less than what asyncio calls too much
        client.send(LIVE * 25)
        time.sleep(0.01)
    until = time.monotonic() + 8
    while b"edgehone_http_connections 1\n" not in connect(address).ask("GET", "/metrics", Connection="close")[2]:
        assert time.monotonic() < until, "the connection stays open"
        time.sleep(0.1)


def test_one_connection_too_many_is_told_so(start: Start, connect: Connect) -> None:
    address = start(limits=Limits(connections=2))[0]
    first, second = connect(address), connect(address)
    assert {client.ask("GET", "/v2")[0] for client in (first, second)} == {200}
    third = connect(address)
    status, headers, _ = third.read()
    assert (status, headers["retry-after"]) == (503, "1")
    first.close()
    until = time.monotonic() + 5
    status = 503
    while status == 503 and time.monotonic() < until:
        again = connect(address)
        status, _, _ = again.ask("GET", "/v2")
        again.close()
        time.sleep(0.02)
    assert status == 200


def test_bodies_of_all_connections_together_are_bounded(start: Start, connect: Connect) -> None:
    address = start(limits=Limits(body_bytes=50_000, buffered_bytes=80_000))[0]
    head = f"POST {INFER} HTTP/1.1\r\nInference-Header-Content-Length: 0\r\nContent-Length: 50000\r\n\r\n".encode()
    first, second = connect(address), connect(address)
    first.send(head + b"\0" * 49_000)
    time.sleep(0.2)
    second.send(head + b"\0" * 49_000)
    status, headers, _ = second.read()
    assert (status, headers["retry-after"]) == (503, "1")
    first.close()
    time.sleep(0.2)
    third = connect(address)
    third.send(head + b"\0" * 50_000)
    assert third.read()[0] == 400  # read whole, and 12,500 values are no readings of 20


def test_memory_is_free_again_after_every_answer(start: Start, connect: Connect) -> None:
    client = connect(start(limits=Limits(buffered_bytes=100_000))[0])
    rows = np.zeros((1000, 20), np.float32).tobytes()
    for _ in range(5):
        assert client.ask("POST", INFER, rows, Inference_Header_Content_Length="0")[0] == 200


def test_a_defect_costs_one_answer_and_is_logged(
    host: FileHost, start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = start()[0]
    client = connect(address)
    for _ in range(3):
        assert client.ask("POST", INFER, RAW, Inference_Header_Content_Length="0")[0] == 200
    infer = host.infer

    def broken(*args: object, **settings: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(host, "infer", broken)
    with caplog.at_level(logging.ERROR):
        status, _, body = client.ask("POST", INFER, RAW, Inference_Header_Content_Length="0")  # where it is read
        assert (status, b"defect" in body, client.is_closed()) == (500, True, True)
        client = connect(address)
        status = client.ask("POST", INFER, RAW * 1000, Inference_Header_Content_Length="0")[0]  # on the lane
        assert (status, client.is_closed()) == (500, True)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2
    monkeypatch.setattr(host, "infer", infer)
    assert connect(address).ask("POST", INFER, RAW, Inference_Header_Content_Length="0")[0] == 200


def test_what_runs_is_answered_when_the_server_stops(host: FileHost, model_file: Any, connect: Connect) -> None:
    host.replace("gestures", ServedFile(model_file, delay_s=0.5))
    statuses: list[tuple[int, str]] = []
    with serving(host) as (address,):
        busy, idle = connect(address), connect(address)
        idle.ask("GET", "/v2")

        def ask() -> None:
            status, headers, _ = busy.ask("POST", INFER, RAW, Inference_Header_Content_Length="0")
            statuses.append((status, headers["connection"]))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)
    thread.join()
    assert statuses == [(200, "close")]
    assert idle.is_closed()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def test_what_does_not_end_is_cut_when_the_server_stops(host: FileHost, connect: Connect) -> None:
    with serving(host, limits=Limits(drain_s=0.2)) as (address,):
        client = connect(address)
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n1")
        time.sleep(0.1)
    assert client.is_closed()
