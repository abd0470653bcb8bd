"""An MQTT broker for tests: a real mosquitto on loopback, with a configuration of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

START_S = 30.0


def find_mosquitto() -> str:
    """The program. Skips the test that asks where it is not installed; in CI the test fails."""
    found = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        message = "Debian package `mosquitto` is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


class Broker:
    """A mosquitto that is started and stopped, on a port that it keeps.

    Args:
        folder: for its configuration.
        lines: of it, besides user and listener.
    """

    def __init__(self, folder: Path, *lines: str) -> None:
        self._program = find_mosquitto()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        # started as root it would become another user, who cannot read the keys of a test
        self._config.write_text(
            "\n".join(["user root", "set_tcp_nodelay true", f"listener {self.port} 127.0.0.1", *lines, ""])
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens. Raises TimeoutError when it does not."""
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError as error:
                if time.monotonic() > until_s:
                    raise TimeoutError("mosquitto does not start") from error
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_S)
            self._process = None
