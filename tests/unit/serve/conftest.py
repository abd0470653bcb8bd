"""A server over a real .tflite file, and a client that speaks HTTP by hand."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgehone.testing.hosts import FileHost, ServedFile, serving, write_linear

LABELS = ("rest", "swipe", "tap", "shake")


class Client:
    """One connection, used by hand; `ask` reads one whole response."""

    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(10)
            self.socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout=10)
        self._file = self.socket.makefile("rb")

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def read(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        line = self._file.readline()
        if not line:
            raise EOFError
        headers = {}
        while (header := self._file.readline().decode().strip()) != "":
            name, _, value = header.partition(": ")
            headers[name.lower()] = value
        return int(line.split()[1]), headers, self._file.read(int(headers["content-length"]))

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send(
            "\r\n".join([f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body
        )
        return self.read()

    def json(self, method: str, path: str, value: object = None, **headers: str) -> tuple[int, Any]:
        status, _, body = self.ask(method, path, b"" if value is None else json.dumps(value).encode(), **headers)
        return status, json.loads(body)

    def is_closed(self) -> bool:
        """Whether the server has closed; waits for it."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty values in, four scores out."""
    return write_linear(tmp_path_factory.mktemp("model") / "model.tflite")


@pytest.fixture
def host(model_file: Path) -> FileHost:
    return FileHost({"gestures": ServedFile(model_file, LABELS, version=3)})


Start = Callable[..., list[str]]


@pytest.fixture
def start(host: FileHost) -> Iterator[Start]:
    """Start a server with the settings that `serve` takes; all stop at the end."""
    with ExitStack() as stack:
        yield lambda *listen, **settings: stack.enter_context(serving(host, listen or ("127.0.0.1:0",), **settings))


@pytest.fixture
def connect() -> Iterator[Callable[[str], Client]]:
    """Open connections; all close at the end."""
    with ExitStack() as stack:

        def connected(address: str) -> Client:
            client = Client(address)
            stack.callback(client.close)
            return client

        yield connected
