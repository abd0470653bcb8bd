"""Group commit: what many requests write goes to disk together, and each is answered once it is there.

Rules:
- One thread writes. It takes everything that waits, runs it in one transaction, commits, and then tells the waiters. On
  disks that take 5 ms for a commit this is the difference between 200 and several thousand requests in a second.
- Jobs of one kind are handed over together, so that they can share their queries.
- A job that raises takes back its own changes only: each runs inside a savepoint. When the transaction cannot begin or
  end, all of its jobs fail with that error, and nothing of them is kept.
- Nothing that was answered is lost by a kill or a power cut; what was not answered may or may not be there.
- At most `depth` jobs wait. The next one is refused with a BusyError.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from edgehone.records.database import Database
from edgehone.service.answers import Refused
from edgehone.service.trouble import Trouble
from edgehone_agent.errors import BusyError, EdgehoneError, HostError, InputError, StateError

T = TypeVar("T")
R = TypeVar("R")

Batch = Callable[[Connection, Sequence[Any]], Sequence[Any]]
"""(connection, items) → for each item its result, or an error to be raised to the one that waits for it."""

_LOG = logging.getLogger("edgehone.core")
_LINGER_S = 0.004
_MOST = 512  # jobs of one transaction


@dataclass(eq=False)
class _Job:
    batch: Batch
    item: Any
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | None
    done: threading.Event | None
    result: Any = None


class Writer:
    """The one thread that writes. Close it in the end.

    Args:
        database: where to.
        depth: jobs that may wait.
        linger_s: how long it waits for company after the first job.
    """

    def __init__(self, database: Database, *, depth: int = 4096, linger_s: float = _LINGER_S) -> None:
        self._database = database
        self._depth, self._linger_s = depth, linger_s
        self._queue: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self.commits = 0
        self.jobs = 0
        self._trouble = Trouble("the database")
        self._thread = threading.Thread(target=self._work, name="edgehone-writer", daemon=True)
        self._thread.start()

    async def batch(self, batch: Callable[[Connection, Sequence[T]], Sequence[R | EdgehoneError]], item: T) -> R:
        """Have an item written among others of its kind, and return its result when it is on disk.

        Raises:
            BusyError: too much waits already.
            StateError: the database takes nothing.
            EdgehoneError: what the batch answered for this item.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._submit(_Job(batch, item, loop, future, None))
        return await future

    async def run(self, job: Callable[[Connection], R]) -> R:
        """Run one function on the database, and return its result when it is on disk. Raises as `batch` does."""
        return await self.batch(_each, job)

    def run_now(self, job: Callable[[Connection], R]) -> R:
        """The same for a thread that may wait."""
        waiting = _Job(_each, job, None, None, threading.Event())
        self._submit(waiting)
        if waiting.done is not None:
            waiting.done.wait()
        if isinstance(waiting.result, BaseException):
            raise waiting.result
        result: R = waiting.result
        return result

    def close(self) -> None:
        """Write what waits, and end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, job: _Job) -> None:
        with self._wake:
            if self._closed or len(self._queue) >= self._depth:
                raise BusyError("the core has too much to write", do="send it again a little later")
            self._queue.append(job)
            if len(self._queue) == 1:
                self._wake.notify()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            with self._wake:
                while not self._queue and not self._closed:
                    self._wake.wait()
                if not self._queue:
                    return
                is_full = len(self._queue) >= _MOST
            if not is_full and not self._closed:
                pause.wait(self._linger_s)
            with self._wake:
                jobs = [self._queue.popleft() for _ in range(min(_MOST, len(self._queue)))]
            self._write(jobs)
            _tell(jobs)

    def _write(self, jobs: list[_Job]) -> None:
        kinds: dict[Batch, list[_Job]] = {}
        for job in jobs:
            kinds.setdefault(job.batch, []).append(job)
        try:
            with self._database.write() as conn:
                for batch, group in kinds.items():
                    for job, result in zip(group, _guarded(conn, batch, [job.item for job in group]), strict=True):
                        job.result = result
        except (EdgehoneError, SQLAlchemyError, OSError) as error:
            failure = error if isinstance(error, EdgehoneError) else _failure(error)
            self._trouble.tell(failure)
            for job in jobs:
                job.result = failure
        except Exception as defect:  # noqa: BLE001  nobody may wait for ever, and the one thread that writes goes on
            _LOG.error("a defect of edgehone in a batch that writes", exc_info=defect)
            for job in jobs:
                job.result = HostError("a defect of edgehone; the log of the core has more")
        else:
            self._trouble.tell(None)
            self.commits += 1
            self.jobs += len(jobs)


def _guarded(conn: Connection, batch: Batch, items: list[Any]) -> Sequence[Any]:
    """The batch's results. When one item spoils a batch, each is tried alone, and only that one gets the error."""
    if batch is _each:  # has a savepoint for each
        return _each(conn, items)
    try:
        with conn.begin_nested():
            return batch(conn, items)
    except Exception as error:  # noqa: BLE001  whatever one job does, the one thread that writes goes on
        own = _own(error)
        if len(items) == 1:
            return [own]
    return [_guarded(conn, batch, [item])[0] for item in items]


def _each(conn: Connection, jobs: Sequence[Callable[[Connection], Any]]) -> Sequence[Any]:
    results: list[Any] = []
    for job in jobs:
        try:
            with conn.begin_nested():
                results.append(job(conn))
        except Exception as error:  # noqa: BLE001  as above
            results.append(_own(error))
    return results


def _own(error: Exception) -> Exception:
    """The error as one job's own. Raises it again when it is about the database as a whole."""
    if isinstance(error, EdgehoneError | Refused):
        return error
    cause = getattr(error, "orig", None)
    if isinstance(cause, EdgehoneError):  # a value that no column can keep
        return cause
    if isinstance(error, IntegrityError):
        return InputError("this contradicts what is there already", do="read it again, and decide anew")
    if isinstance(error, SQLAlchemyError):
        raise error
    _LOG.error("a defect of edgehone in a job that writes", exc_info=error)  # which must not stop the others
    return HostError("a defect of edgehone; the log of the core has more")


def _failure(error: Exception) -> HostError:
    return StateError(
        f"the database takes nothing: {str(getattr(error, 'orig', None) or error).splitlines()[0][:200]}",
        where="database",
        do="free space, or look at the log of the core; what was not acknowledged has to be sent again",
    )


def _tell(jobs: list[_Job]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        if job.loop is not None:
            loops.setdefault(job.loop, []).append(job)
        elif job.done is not None:
            job.done.set()
    for loop, group in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, group)


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future is None or job.future.done():  # its request was cut off
            continue
        if isinstance(job.result, BaseException):
            job.future.set_exception(job.result)
        else:
            job.future.set_result(job.result)
