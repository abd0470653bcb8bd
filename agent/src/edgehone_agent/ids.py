"""Prediction ids: 16 characters that are unique, and in the order of their making when compared as text."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable

_RANDOM_BITS = 32


class Ids:
    """Makes ids: 48 bits of milliseconds and 32 bits that start at random in each of them and count up.

    A clock that is set back does not repeat ids: counting goes on from the last one. Two nodes collide within one
    millisecond with a chance of one in four thousand million.

    Args:
        clock_ns: Unix time.
        seed: for tests; random when None.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns, seed: int | None = None) -> None:
        self._clock_ns = clock_ns
        self._random = random.Random(seed)
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> str:
        """A new id; any thread may ask."""
        with self._lock:
            first = (self._clock_ns() // 1_000_000) << _RANDOM_BITS
            if first > self._last:  # half of the range, so that counting on never reaches the next millisecond at once
                self._last = first | self._random.getrandbits(_RANDOM_BITS - 1)
            else:
                self._last += 1
            value = self._last
        # base32hex keeps the order of the bytes (RFC 4648, section 7); 10 bytes need no padding
        return base64.b32hexencode(value.to_bytes(10, "big")).decode()
