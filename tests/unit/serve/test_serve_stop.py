"""The end of a server while clients come: nobody complains, nothing stays open."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from edgehone.testing.hosts import FileHost, serving
from edgehone_agent.serve.limits import Limits

LIVE = b"GET /v2/health/live HTTP/1.1\r\n\r\n"


class Crowd:
    """Clients that connect, ask and leave as fast as they can until told to stop."""

    def __init__(self, address: str, clients: int) -> None:
        self._address, self._stop = address, threading.Event()
        self.answered, self.wrong = 0, list[bytes]()
        self._threads = [threading.Thread(target=self._come) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _come(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError), self._connected() as client:
                client.sendall(LIVE)
                found = client.recv(4096)
                if found.startswith(b"HTTP/1.1 200 "):
                    self.answered += 1
                elif found:  # nothing is what a client gets that comes when all is over
                    self.wrong.append(found)

    def _connected(self) -> socket.socket:
        if self._address.startswith("unix:"):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(5)
            try:
                client.connect(self._address.removeprefix("unix:"))
            except OSError:
                client.close()
                raise
            return client
        host, _, port = self._address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=5)

    def leave(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_clients_that_come_while_it_stops_upset_nothing(
    kind: str, host: FileHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(15):
        with serving(host, ["127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/s"]) as addresses:
            crowd = Crowd(addresses[0], clients=3)
            while crowd.answered < 20:
                assert not crowd.wrong
        crowd.leave()
        assert not crowd.wrong
    gc.collect()  # a socket that was left open would warn, which is an error here
    assert caplog.records == []


def test_a_server_without_descriptors_waits_for_one_and_goes_on(
    host: FileHost, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{tmp_path}/s"
    accept, missing = socket.socket.accept, [True, True]

    def without(listener: socket.socket) -> tuple[socket.socket, object]:
        if missing and listener.getsockname() == path:
            missing.pop()
            raise OSError(24, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", without)
    with serving(host, [f"unix:{path}"], limits=Limits()), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(LIVE)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["cannot accept a connection: [Errno 24] Too many open files"] * 2
