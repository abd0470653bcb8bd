"""Addresses, Unix sockets, and what may be open to others."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.testing.hosts import FileHost, serving
from edgehone_agent.errors import ConfigError
from edgehone_agent.serve.listen import parse_address, parse_addresses


@pytest.mark.parametrize(
    ("text", "is_local"),
    [("127.0.0.1:8000", True), ("127.9.9.9:1", True), ("localhost:0", True), ("[::1]:8000", True),
     ("unix:/run/a.sock", True), ("0.0.0.0:8000", False), ("[::]:8000", False), ("192.168.1.5:80", False),
     ("node.example:80", False)],
)  # fmt: skip
def test_addresses_and_who_can_reach_them(text: str, is_local: bool) -> None:
    address = parse_address(text)
    assert (str(address), address.is_local) == (text, is_local)
    assert parse_addresses([text], has_tls=True) == (address,)
    if not is_local:
        with pytest.raises(ConfigError, match="TLS with client certificates"):
            parse_addresses(["127.0.0.1:1", text], has_tls=False)


@pytest.mark.parametrize("text", ["", "8000", ":8000", "a:b", "a:70000", "unix:run", "unix:", "a:²"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_at_least_one_address(host: FileHost) -> None:
    with pytest.raises(ConfigError, match="no address"), serving(host, ()):
        pass


def test_an_address_in_use(host: FileHost) -> None:
    with serving(host) as (address,), pytest.raises(ConfigError, match="cannot listen here"), serving(host, [address]):
        pass


def test_an_address_of_another_machine(host: FileHost) -> None:
    with pytest.raises(ConfigError, match="cannot listen here"), serving(host, ["127.0.0.1:0", "unix:/nowhere/a.sock"]):
        pass


def test_a_unix_socket_for_the_group_alone(host: FileHost, tmp_path: Path, connect: Callable[[str], Any]) -> None:
    path = tmp_path / "agent.sock"
    before = os.umask(0o077)
    try:
        with serving(host, [f"unix:{path}", "127.0.0.1:0"]) as addresses:
            assert addresses[0] == f"unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            for address in addresses:
                assert connect(address).ask("GET", "/v2")[0] == 200
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_left_over_socket_is_replaced_and_a_living_one_is_not(host: FileHost, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with serving(host, [f"unix:{path}"]):
        with pytest.raises(ConfigError, match="another process listens"), serving(host, [f"unix:{path}"]):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_file_that_is_no_socket_stays(host: FileHost, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="no socket"), serving(host, [f"unix:{path}"]):
        pass
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long(host: FileHost, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen here"), serving(host, [f"unix:{tmp_path}/{'x' * 120}"]):
        pass


def test_a_socket_that_somebody_else_has_put_there_stays(host: FileHost, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as other:
        with serving(host, [f"unix:{path}"]):
            path.unlink()
            other.bind(str(path))
            other.listen()
        assert path.exists()
