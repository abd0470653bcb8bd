"""Where a model runs: at once for a quick one, on its task's own thread for a slow one.

A hop to a thread and back costs 50 to 100 µs, more than a small model takes, so quick work runs where requests are
read. What is slow there would keep every other request waiting, so each task has a lane of its own: one thread, a
bounded queue, and an estimate of its microseconds per row, learnt from every run. Rules:
- A lane that knows nothing yet, or whose bundle has changed, takes its thread first.
- Quick means: at most `INLINE_US` by the estimate, and nothing of the same lane waiting: order, no lock.
- A full queue refuses with BusyError, which names the bound that was met.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgehone_agent.errors import BusyError
from edgehone_agent.serve.limits import Limits

T = TypeVar("T")

INLINE_US = 1000.0
_WEIGHT = 0.25  # of the newest run in the estimate
_MOST_RISE = 4.0  # a run counts as at most this many times the estimate: another process took the core for a moment


class Lane:
    """One task's thread, queue and estimate. Made by `Lanes.lane`."""

    def __init__(self, lanes: Lanes, name: str, threads: int = 1) -> None:
        self._lanes = lanes
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"serve-{name}")
        self._digest = ""
        self._us_per_row: float | None = None
        self.pending = 0

    def is_quick(self, rows: int, digest: str) -> bool:
        """Whether `rows` may run where requests are read; forgets the estimate of another bundle."""
        if digest != self._digest:
            self._digest, self._us_per_row = digest, None
        return self._us_per_row is not None and not self.pending and self._us_per_row * rows <= INLINE_US

    def learn(self, rows: int, took_us: float) -> None:
        """Take the time of one run into the estimate. May be called from the lane's thread."""
        new, old = took_us / max(rows, 1), self._us_per_row
        self._us_per_row = new if old is None else old + _WEIGHT * (min(new, _MOST_RISE * old) - old)

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work` on the lane's thread. Called from the event loop only.

        Raises:
            BusyError: the lane's queue is full (`where` is "queue"), or too much is in flight altogether ("in_flight").
        """
        limits = self._lanes.limits
        if self._lanes.in_flight >= limits.in_flight:
            raise BusyError(f"{limits.in_flight} requests are being worked on", where="in_flight", do="try again later")
        if self.pending >= limits.queue:
            raise BusyError(f"{limits.queue} requests wait for this model", where="queue", do="try again later")
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        self.pending += 1
        self._lanes.in_flight += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        self.pending -= 1
        self._lanes.in_flight -= 1

    def close(self) -> None:
        """Take no more; what waits is dropped, what runs ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Lanes:
    """The lanes of all tasks, and their bound together."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self._lanes: dict[str, Lane] = {}

    def lane(self, name: str, threads: int = 1) -> Lane:
        """The lane of that name; made on first use. Callers pass names that the host knows, so they stay few."""
        found = self._lanes.get(name)
        if found is None:
            found = self._lanes[name] = Lane(self, name, threads)
        return found

    def close(self) -> None:
        """Close every lane."""
        for lane in self._lanes.values():
            lane.close()
