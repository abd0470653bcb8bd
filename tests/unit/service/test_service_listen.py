"""The one port: TLS or plain by the first byte, who is answered how, and what hanging on costs."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.fleet.authority import Authority
from edgehone.records.database import open_database
from edgehone.service import people
from edgehone.service.limits import Limits
from edgehone.service.listen import Guests, is_loopback
from edgehone.testing.certificates import Authority as Strangers

Start = Callable[..., Any]
REQUEST = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def ask(port: int, data: bytes, host: str = "127.0.0.1", timeout_s: float = 10.0) -> bytes:
    """Everything that a plain connection answers until it ends."""
    with socket.create_connection((host, port), timeout_s) as sock:
        sock.sendall(data)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def own_address() -> str | None:
    """An address of this machine that is not loopback, where there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(sock.getsockname()[0])


def test_one_port_speaks_both(start: Start) -> None:
    core = start()
    assert b"200 OK" in ask(core.port, REQUEST)
    context = ssl.create_default_context(cafile=str(core.place.authority / "ca.pem"))
    with context.wrap_socket(socket.create_connection(("127.0.0.1", core.port)), server_hostname="localhost") as tls:
        assert tls.version() == "TLSv1.3"
        tls.sendall(REQUEST)
        assert b"200 OK" in read_all(tls)


def test_plain_http_from_another_address_is_told_to_use_tls(start: Start) -> None:
    address = own_address()
    if address is None or is_loopback(address):
        pytest.skip("this machine has no address but loopback")
    core = start(listen="0.0.0.0:0")
    answer = ask(core.port, REQUEST, address)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"https://" in answer
    context = ssl.create_default_context(cafile=str(core.place.authority / "ca.pem"))
    context.check_hostname = False
    with context.wrap_socket(socket.create_connection((address, core.port))) as tls:
        tls.sendall(REQUEST)
        assert b"200 OK" in read_all(tls)
    with context.wrap_socket(socket.create_connection((address, core.port))) as tls:
        tls.sendall(REQUEST.replace(b"/healthz", b"/registry/metadata/timestamp.json"))
        assert b" 403 " in read_all(tls)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(start: Start, version: ssl.TLSVersion) -> None:
    core = start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(core.place.authority / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", core.port)) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock, server_hostname="localhost")


def test_certificates_of_others_and_of_the_core_itself_are_no_nodes(start: Start, tmp_path: Path) -> None:
    core = start()
    Strangers.make(tmp_path / "other")
    cert, key = Strangers.make(tmp_path / "other").issue("0123456789abcdef")
    own = core.place.authority / "server.pem", core.place.authority / "server.key"
    for chain in ((cert, key), own):
        context = ssl.create_default_context(cafile=str(core.place.authority / "ca.pem"))
        context.load_cert_chain(*chain)
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            context.wrap_socket(socket.create_connection(("127.0.0.1", core.port)), server_hostname="localhost") as tls,
        ):
            tls.sendall(REQUEST)
            if not tls.recv(100):  # TLS 1.3 tells the client after its own handshake is over
                raise ConnectionResetError


def test_a_certificate_that_has_run_out_is_refused(start: Start, tmp_path: Path) -> None:
    core = start()
    node = core.node(tmp_path)
    from edgehone.testing.cores import make_request

    authority = Authority.load(core.place.authority)
    issued = authority.sign_node(make_request(node.key), node.id, time.time(), life_s=2.0)
    node.use(node.id, issued.pem)
    assert node.beat().nonce  # over this connection, which stays open
    time.sleep(2.1)
    with pytest.raises(AssertionError, match="run out"):
        node.beat()


@pytest.mark.parametrize("what", ["nothing", "half a head", "half a body", "half a handshake"])
def test_whoever_dawdles_is_cut_off(start: Start, what: str) -> None:
    core = start(limits=Limits(handshake_s=0.5, head_s=0.5, body_s=0.5))
    data = {
        "nothing": b"",
        "half a head": b"GET / HTTP/1.1\r\nhost: x\r\nx-a",
        "half a body": b"POST /v1/sign-in HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\n{",
        "half a handshake": b"\x16\x03\x01\x02\x00",
    }[what]
    began = time.monotonic()
    ask(core.port, data)
    assert time.monotonic() - began < 8
    assert b"200 OK" in ask(core.port, REQUEST)


def test_long_heads_are_refused(start: Start) -> None:
    core = start()
    head = b"GET /healthz HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (k, b"a" * 500) for k in range(100))
    with socket.create_connection(("127.0.0.1", core.port), 10) as sock:
        for place in range(0, len(head), 4096):
            try:
                sock.sendall(head[place : place + 4096])
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.005)
        assert b"200 OK" not in read_all(sock)
    assert b"200 OK" in ask(core.port, REQUEST)


def test_strangers_have_a_bound_and_nodes_do_not_notice(start: Start, tmp_path: Path) -> None:
    core = start(limits=Limits(strangers=5))
    node = core.node(tmp_path)
    node.beat()
    held = [socket.create_connection(("127.0.0.1", core.port), 10) for _ in range(12)]
    try:
        time.sleep(0.3)
        closed = 0
        for sock in held:
            sock.setblocking(False)
            try:
                closed += sock.recv(1) == b""
            except BlockingIOError:
                pass
            except ConnectionResetError:
                closed += 1
        assert closed >= 7
        assert node.beat().nonce
    finally:
        for sock in held:
            sock.close()


def test_what_comes_with_a_body_is_bounded_and_becomes_no_header(start: Start) -> None:
    core = start(limits=Limits(head_bytes=4096))
    opened = open_database(core.place.database_url)
    with opened.write() as conn:
        token = people.make_token(conn, "ada", "x", "operator", life_s=None, actor="core", now_s=0.0).encode()
    opened.close()
    head = (
        b"POST /v1/enrolments HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b"{" + b" " * 5000 + b"}") + b"0\r\n"
    for signed, status in ((head[:-2] + b"%s\r\n" + chunks, b" 201 "), (head + chunks + b"%s", b" 401 ")):
        answer = ask(core.port, signed % (b"authorization: bearer " + token + b"\r\n") + b"\r\n" + REQUEST)
        assert status in answer and b" 200 OK" in answer, answer
    for flood in (b"0\r\n" + b"x-more: y\r\n" * 300_000, b"0\r\nx-more: " + b"y" * 3_000_000, b"1;" + b"e" * 3_000_000):
        with socket.create_connection(("127.0.0.1", core.port), 10) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(head + flood)
            assert read_all(sock) == b""
    assert b"200 OK" in ask(core.port, REQUEST)


def test_one_address_does_not_get_all_the_room_of_strangers() -> None:
    guests = Guests(5, 2)
    found = [guests.admit(host) for host in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1")]
    assert [guest is not None for guest in found] == [True, True, False, False]
    for _ in range(2):
        guests.leave(found[0])  # type: ignore[arg-type]
    assert guests.admit("192.0.2.1") is not None
    assert guests.admit("192.0.2.1") is None
    assert [guests.admit("127.0.0.1") is not None for _ in range(4)] == [True, True, True, False]
    assert guests.admit("192.0.2.2") is None


def test_one_node_does_not_get_all_connections(start: Start, tmp_path: Path) -> None:
    core = start(limits=Limits(node_connections=2))
    one, other = core.node(tmp_path), core.node(tmp_path)
    one.close()
    context = one.context()

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", core.port), 10)
        return context.wrap_socket(plain, server_hostname="localhost")

    def answers(tls: ssl.SSLSocket) -> bool:
        try:
            tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            said = b""
            while b'{"ok":true}' not in said and (part := tls.recv(1000)):
                said += part
        except OSError:
            return False
        return b"200 OK" in said

    def wait_for_room() -> ssl.SSLSocket:
        deadline_s = time.monotonic() + 20
        while not answers(tls := connect()):
            tls.close()
            assert time.monotonic() < deadline_s
        return tls

    with wait_for_room() as first, wait_for_room():
        with connect() as third:
            assert not answers(third)
        assert other.beat()
        assert answers(first)
        first.close()
        wait_for_room().close()


def test_the_registry_is_for_no_other_site_and_hides_what_is_not_finished(start: Start) -> None:
    core = start()
    folder = core.place.registry / "metadata"
    for name in (".lock", ".new/1.json", "1.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    for path, host, status in (
        (b"1.json", b"localhost", b" 200 "), (b"1.json", b"evil.example", b" 403 "), (b".lock", b"localhost", b" 404 "),
        (b".new/1.json", b"localhost", b" 404 "), (b"../../core.toml", b"localhost", b" 404 "),
        (b"%2e%2e/%2e%2e/core.toml", b"localhost", b" 404 "), (b"%00", b"localhost", b" 404 "),
        (b"/etc/passwd", b"localhost", b" 404 "),
    ):  # fmt: skip
        request = b"GET /registry/metadata/%s HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % (path, host)
        assert status in ask(core.port, request), path


def test_the_registry_is_served_in_parts(start: Start, tmp_path: Path) -> None:
    core = start(tasks=("digits",))
    node = core.node(tmp_path)
    status, whole, _ = node.call("GET", "/registry/metadata/timestamp.json")
    assert status == 200
    status, part, headers = node.call("GET", "/registry/metadata/timestamp.json", None, {"range": "bytes=10-19"})
    assert (status, part) == (206, whole[10:20])
    assert headers["content-range"] == f"bytes 10-19/{len(whole)}"
    for path in ("/registry/.lock", "/registry/../keys/root.json", "/registry/%2e%2e/core.toml", "/registry/metadata"):
        assert node.call("GET", path)[0] == 404


def test_loopback_names() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "localhost", "")))
