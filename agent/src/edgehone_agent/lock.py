"""One process writes a node's folder at a time: a lock that ends with its process, however that ends.

The file also holds the process id, which means something only while the lock is held. An agent that is ready to be
woken says so with `announce`. Nobody else is sent a signal: a program that holds the folder for its own use would die
of it, and so would a stranger with the same id where process ids are counted apart (containers).
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
_PROCESSES = Path("/proc/self/ns/pid")


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


def announce(state: Path) -> None:
    """Say that this process, which holds the lock, looks for requests when it is sent SIGHUP.

    On a full disk nobody can be told; requests are found all the same, only later.
    """
    with contextlib.suppress(OSError), (state / _NAME).open("r+") as file:
        file.write(f"{os.getpid()} wakes in {_count_of_processes()}\n")


def lock_owner(state: Path) -> int | None:
    """Process id of whoever holds the folder, 0 where it is not told; None when nobody does.

    Raises:
        StateError: the file cannot be read.
    """
    text = _held(state)
    if text is None:
        return None
    number = text.partition(" ")[0]
    return int(number) if number.isdecimal() else 0


def agent_to_wake(state: Path) -> int | None:
    """Process id of an agent that holds the folder and may be sent SIGHUP; None when there is none.

    Raises:
        StateError: the file cannot be read.
    """
    number, _, rest = (_held(state) or "").partition(" ")
    return int(number) if number.isdecimal() and rest == f"wakes in {_count_of_processes()}" else None


def _held(state: Path) -> str | None:
    """What the holder of the lock wrote; None when nobody holds it."""
    try:
        descriptor = os.open(state / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise state_error(error, state / _NAME) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 80, 0).decode(errors="replace").strip()
    except OSError as error:
        raise state_error(error, state / _NAME) from error
    finally:
        os.close(descriptor)
    return None


def _count_of_processes() -> str:
    """Names the count of process ids that this process belongs to."""
    try:
        return str(_PROCESSES.readlink())
    except OSError:
        return "an unknown place"
