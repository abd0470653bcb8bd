"""One process writes a node's folder at a time: a lock that ends with its process, however that ends.

The file also holds the process id, for a command that wants to wake the agent. It means something only while the lock
is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from edgehone_agent.durable import state_error

_NAME = "agent.lock"
_TRIES, _RETRY_S = 3, 0.02  # asking who holds it holds it for a moment


class Lock:
    """A held lock. Create it with `take_lock`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let another process write. Calling it twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def take_lock(state: Path) -> Lock | None:
    """The lock of a node's folder, which is made; None when another process holds it.

    Raises:
        StateError: the folder cannot be written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise state_error(error, state) from error
    for attempt in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == _TRIES - 1:
                os.close(descriptor)
                return None
            time.sleep(_RETRY_S)
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same, only nobody can be told whose it is
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return Lock(descriptor)


def lock_owner(state: Path) -> int | None:
    """Process id of the agent that holds the folder; None when nobody does.

    Raises:
        StateError: the file cannot be read.
    """
    try:
        descriptor = os.open(state / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise state_error(error, state / _NAME) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdecimal() else 0
    except OSError as error:
        raise state_error(error, state / _NAME) from error
    finally:
        os.close(descriptor)
    return None
