"""What keeps a core from writing: its log tells once when it begins, now and then while it lasts, and when it is over.

Rules:
- Nodes and people get the error with each answer; the log is for whoever looks after the machine. A full disk must not
  be filled by a log that repeats itself with every request.
- Uploads stop before a disk is full, so that heartbeats, rollouts and people have room to go on: a person has to be
  able to sign in and delete something.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgehone_agent.errors import EdgehoneError, HostError, StateError

AGAIN_S = 300.0
_FLICKER_S = 10.0  # what breaks again sooner is told later
_LOG = logging.getLogger("edgehone.core")


class Trouble:
    """One thing that can be broken and work again. Threads may share it.

    Args:
        name: of what is broken, for the log.
        clock: seconds; it need not be the time of day.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name, clock
        self._lock = threading.Lock()
        self._told_s = -AGAIN_S  # of the error that was told last
        self._is_broken = False

    def tell(self, error: EdgehoneError | None) -> None:
        """Note how it went: an error, or None when it worked."""
        if error is None and not self._is_broken:
            return
        with self._lock:
            if error is None:
                if self._is_broken:
                    _LOG.warning("%s: it works again", self._name)
                self._is_broken = False
                return
            now_s = self._clock()
            if now_s - self._told_s >= (AGAIN_S if self._is_broken else _FLICKER_S):
                self._told_s, self._is_broken = now_s, True
                _LOG.error("%s: %s", self._name, error)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note how a block goes; what it raises goes on."""
        try:
            yield
        except HostError as error:
            self.tell(error)
            raise
        self.tell(None)


class Room:
    """How much room uploads leave on the disks that they fill.

    Args:
        folders: on those disks.
        share: of each disk that stays free.
        most_bytes: that stay free, however large the disk is.
    """

    def __init__(self, folders: Sequence[Path], *, share: float, most_bytes: int) -> None:
        self._folders, self._share, self._most_bytes = tuple(folders), share, most_bytes

    def check(self) -> None:
        """Refuse to take more when there is no room.

        Raises:
            StateError: less than that stays free on one of the disks, or it cannot be looked at.
        """
        for folder in self._folders:
            try:
                disk = os.statvfs(folder)
            except OSError as error:
                raise StateError(error.strerror or str(error), where=str(folder), do="look at the disk") from error
            kept = min(self._most_bytes, int(self._share * disk.f_blocks * disk.f_frsize))
            if disk.f_bavail * disk.f_frsize < kept:
                raise StateError(
                    "the disk is nearly full: nothing that nodes send up is taken",
                    where=str(folder),
                    do="free space; nothing is lost, nodes keep what they have and send it later",
                )
