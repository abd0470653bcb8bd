"""TLS with client certificates, with certificates made here."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.testing.certificates import Authority
from edgehone.testing.hosts import FileHost, serving
from edgehone_agent.errors import ConfigError
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.tls import Tls

LIVE = b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> Tls:
    return Tls(*authority.issue("node"), client_ca=authority.ca)


def ask(address: str, authority: Authority, certificate: tuple[Path, Path] | None) -> bytes:
    context = ssl.create_default_context(cafile=str(authority.ca))
    if certificate:
        context.load_cert_chain(*certificate)
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host.replace("0.0.0.0", "127.0.0.1"), int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(LIVE)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_a_known_client_is_answered_from_outside_too(host: FileHost, authority: Authority, tls: Tls) -> None:
    with serving(host, ["127.0.0.1:0", "0.0.0.0:0"], tls=tls) as addresses:
        for address in addresses:
            assert ask(address, authority, authority.issue("client")).startswith(b"HTTP/1.1 200 OK")


def test_strangers_are_refused(host: FileHost, authority: Authority, tls: Tls, tmp_path: Path) -> None:
    stranger = Authority.make(tmp_path).issue("stranger")
    with serving(host, tls=tls) as (address,):
        for certificate in (None, stranger):
            try:  # in TLS 1.3 a client learns of it when it reads
                said = ask(address, authority, certificate)
            except (ssl.SSLError, ConnectionError):
                said = b""
            assert said == b""
        name, _, port = address.rpartition(":")
        with socket.create_connection((name, int(port)), timeout=10) as plain:
            plain.sendall(LIVE)  # no TLS at all
            assert not plain.recv(4096).startswith(b"HTTP")
        assert ask(address, authority, authority.issue("client")).startswith(b"HTTP/1.1 200 OK")


def test_a_refusal_arrives_over_tls_too(host: FileHost, authority: Authority, tls: Tls) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(*authority.issue("client"))
    with serving(host, tls=tls) as (address,):
        name, _, port = address.rpartition(":")
        with (
            socket.create_connection((name, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(b"GET / HTTP/1.1\r\na: " + b"b" * 100_000)
            assert client.recv(100).startswith(b"HTTP/1.1 431 ")


def test_unfinished_handshakes_are_bounded_in_number_and_time(host: FileHost, authority: Authority, tls: Tls) -> None:
    limits = Limits(connections=2, header_timeout_s=0.5)
    with serving(host, tls=tls, limits=limits) as (address,):
        name, _, port = address.rpartition(":")
        silent = [socket.create_connection((name, int(port)), timeout=10) for _ in range(30)]
        time.sleep(0.1)
        silent[-1].settimeout(0.2)
        assert silent[-1].recv(1) == b"", "above the bound and the spare ones nobody gets a handshake"
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                if ask(address, authority, authority.issue("client")).startswith(b"HTTP/1.1 200 OK"):
                    break
            except (ssl.SSLError, ConnectionError):
                time.sleep(0.05)
        else:
            pytest.fail("the silent ones were never dropped")
        for one in silent:
            one.close()


def test_unix_sockets_stay_plain(host: FileHost, tls: Tls, tmp_path: Path, connect: Callable[[str], Any]) -> None:
    with serving(host, [f"unix:{tmp_path}/s"], tls=tls) as (address,):
        assert connect(address).ask("GET", "/v2")[0] == 200


def test_outside_without_tls_is_refused(host: FileHost) -> None:
    with pytest.raises(ConfigError, match="TLS with client certificates"), serving(host, ["0.0.0.0:0"]):
        pass


@pytest.mark.parametrize("field", ["cert", "key", "client_ca"])
def test_files_that_cannot_be_used(tls: Tls, tmp_path: Path, field: str) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for file in (junk, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError) as caught:
            Tls(**{**vars(tls), field: file}).context()
        assert str(file) in caught.value.where


def test_a_key_of_another_certificate(authority: Authority, tls: Tls) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        Tls(tls.cert, authority.issue("other")[1], tls.client_ca).context()


def test_a_key_with_a_passphrase_does_not_ask_for_it(tls: Tls, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(tls.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")))
    with pytest.raises(ConfigError, match="cannot be used"):
        Tls(tls.cert, locked, tls.client_ca).context()
