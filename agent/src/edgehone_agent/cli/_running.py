"""Asking the agent that runs with a state folder, over its own socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from edgehone_agent.config import socket_path
from edgehone_agent.errors import BusyError, InputError, RegistryError, StateError

_TIMEOUT_S = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_socket(
    state: Path, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> dict[str, Any] | None:
    """The running agent's JSON answer; None when no agent listens there.

    Raises:
        InputError: the agent refuses the request.
        BusyError: it has too much to do.
        StateError: it does not answer, or not in time.
    """
    own = socket_path(state)
    if own is None or not own.exists():
        return None
    connection = _UnixConnection(own)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
    except (FileNotFoundError, ConnectionRefusedError):  # the socket file of an agent that was killed
        return None
    except (OSError, http.client.HTTPException) as error:
        raise StateError(
            f"the agent does not answer: {error}", where=str(own), do="see its log; stop and start it"
        ) from error
    finally:
        connection.close()
    try:
        answer: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise RegistryError("this is no answer of an agent", where=str(own)) from error
    if response.status < 400:
        return answer
    what = str(answer.get("error", response.reason))
    if response.status in (429, 503):
        raise BusyError(what, where=str(own), do="try again in a moment")
    raise InputError(what, where=path)
