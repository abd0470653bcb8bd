"""Jobs of a measuring service: a bounded queue, one job at a time, each in a process of its own.

Rules:
- A job is waiting → measuring → done or failed. One is measured at a time: two would measure each other.
- The queue is bounded. A job that finds it full is refused with BusyError, which says when to come again.
- A job whose client has not asked for `abandoned_s` is dropped, also while it runs: nobody waits for it.
- A job has `limit_s`. What takes longer is killed and has failed.
- A child that dies takes nothing with it: the job has failed, with the name of the file it was at.
- Files lie in a folder of the job under names of ours, and are gone when it ends.
- Of the jobs that have ended the last `KEPT` can be asked for.

Everything runs on the event loop but `Isolated.measure`, which has a thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgehone_agent.errors import BundleError, BusyError, EdgehoneError, HostError, InputError
from edgehone_agent.measure.child import REQUEST
from edgehone_agent.measure.isolated import Isolated
from edgehone_agent.wire.measuring import MeasureRequest, State, error_to_json, read_request

log = logging.getLogger("edgehone_agent.measure")

KEPT = 16
_MOST_RETRY_S = 60.0
_MAGIC = {"litert": (4, b"TFL3"), "onnxruntime": (0, b"\x08")}  # a ModelProto begins with its field 1, ir_version


@dataclass
class Job:
    """One request, without its bytes: they lie in `folder` until it ends. `files` holds (name, runtime)."""

    id: str
    folder: Path
    files: tuple[tuple[str, str], ...]
    threads: int
    fresh_repeats: int
    asked_s: float
    state: State = "waiting"
    result: dict[str, Any] | None = None
    error: EdgehoneError | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("done", "failed")

    def to_json(self, before: int) -> dict[str, Any]:
        """What its client is told; `before` is how many jobs come first."""
        error = None if self.error is None else error_to_json(self.error)
        return {"id": self.id, "state": self.state, "before": before, "result": self.result, "error": error}


class Jobs:
    """See the module's rules. Lives on the event loop.

    Args:
        folder: for files of jobs; empty.
        runtimes: name → version of those that work here.
        queue: jobs that may wait.
        limit_s: for one job.
        abandoned_s: without a question, after which a job is dropped.
    """

    def __init__(
        self, folder: Path, runtimes: Mapping[str, str], *, queue: int, limit_s: float, abandoned_s: float
    ) -> None:
        self._folder, self._runtimes = folder, runtimes
        self._queue, self.limit_s, self._abandoned_s = queue, limit_s, abandoned_s
        self._waiting: list[Job] = []
        self._known: dict[str, Job] = {}
        self._running: tuple[Job, Isolated] | None = None
        self._last_took_s = 1.0
        self._came = asyncio.Event()
        self._is_stopped = False
        self.ended: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """How many jobs wait or run."""
        return len(self._waiting) + (self._running is not None)

    def check_room(self) -> None:
        """Raises BusyError, with `retry_after_s`, where the queue is full."""
        if len(self._waiting) >= self._queue:
            busy = BusyError(f"{len(self._waiting)} jobs wait to be measured", where="queue", do="try again later")
            busy.retry_after_s = math.ceil(min(max(self._last_took_s, 1.0), _MOST_RETRY_S))
            self.ended["refused"] += 1
            raise busy

    def take(self, body: bytes) -> Job:
        """Queue the request in `body`.

        Raises:
            InputError: it is none, names a runtime that is not here, or a file that is not of that runtime.
            BusyError: the queue is full.
            HostError: its files cannot be kept.
        """
        self.check_room()
        try:
            request = read_request(body)
        except BundleError as error:
            raise InputError(error.what, where=error.where, do="send it with edgehone measure --node") from error
        self._check(request)
        job = Job(
            secrets.token_hex(16), self._folder / secrets.token_hex(8),
            tuple((file.name, file.runtime) for file in request.files),
            request.threads, request.fresh_repeats, time.monotonic(),
        )  # fmt: skip
        try:
            job.folder.mkdir(mode=0o700, parents=True)  # who cleans /tmp may have been here
            (job.folder / REQUEST).write_bytes(body)
        except OSError as error:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise HostError(f"the files cannot be kept: {error.strerror}", do="free space on the node") from error
        self._known[job.id] = job
        self._waiting.append(job)
        self._came.set()
        return job

    def _check(self, request: MeasureRequest) -> None:
        for file in request.files:
            if file.runtime not in self._runtimes:
                known = ", ".join(sorted(self._runtimes))
                raise InputError(f"this node has no runtime {file.runtime!r}", where=file.name, do=f"it has {known}")
            at, magic = _MAGIC.get(file.runtime, (0, b""))
            if file.content[at : at + len(magic)] != magic:
                raise InputError(
                    f"this is no file of the runtime {file.runtime}", where=file.name, do="export it again"
                )

    def find(self, id: str) -> Job | None:
        """A job that is known, which counts as a question for it."""
        job = self._known.get(id)
        if job is not None:
            job.asked_s = time.monotonic()
        return job

    def before(self, job: Job) -> int:
        """How many jobs are measured before this one."""
        return self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0

    async def changed(self, job: Job, wait_s: float) -> None:
        """Return when the job is in another state, or after a while."""
        if job.has_ended:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        job.waiters.append(waiter)
        await asyncio.wait((waiter,), timeout=wait_s)
        if waiter in job.waiters:
            job.waiters.remove(waiter)
        job.asked_s = time.monotonic()  # it was asked about all the while

    def drop(self, job: Job) -> None:
        """End a job that nobody wants any more."""
        if job in self._waiting:
            self._waiting.remove(job)
            self._end(job, "dropped", error=_nobody())
        elif self._running is not None and self._running[0] is job:
            self._running[1].kill(_nobody())

    async def work(self) -> None:
        """Measure what comes, one after another, until `stop`. What is measured then is killed."""
        watch = asyncio.create_task(self._watch())
        while not self._is_stopped:
            if self._waiting:
                await self._measure(self._waiting.pop(0))
            else:
                self._came.clear()
                await self._came.wait()
        for job in [*self._waiting]:
            self.drop(job)
        watch.cancel()

    def stop(self) -> None:
        """Let `work` end."""
        self._is_stopped = True
        self._came.set()
        if self._running is not None:
            self._running[1].kill(HostError("the service was stopped", do="send it again"))

    async def _measure(self, job: Job) -> None:
        isolated = Isolated(job.folder, job.files, threads=job.threads, fresh_repeats=job.fresh_repeats)
        self._running = (job, isolated)
        self._step(job, "measuring")
        started = time.monotonic()
        measured = asyncio.get_running_loop().run_in_executor(None, isolated.measure, self.limit_s)
        await asyncio.wait((measured,))
        self._running = None
        self._last_took_s = time.monotonic() - started
        error = measured.exception()
        if error is None:
            self._end(job, "done", measured.result())
        elif isinstance(error, EdgehoneError):
            self._end(job, "failed", error=error)
        else:  # a defect costs this job and no other
            log.error("job %s", job.id, exc_info=error)
            self._end(job, "failed", error=HostError("the node has a defect; its log has the details"))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._abandoned_s / 4)
            longest = time.monotonic() - self._abandoned_s
            running = [] if self._running is None else [self._running[0]]
            for job in [*self._waiting, *running]:
                if job.asked_s < longest and not job.waiters:
                    log.info("job %s: nobody asks for it any more", job.id)
                    self.drop(job)

    def _step(self, job: Job, state: State) -> None:
        job.state = state
        for waiter in job.waiters:
            if not waiter.done():
                waiter.set_result(None)
        job.waiters.clear()

    def _end(
        self, job: Job, how: str, result: dict[str, Any] | None = None, error: EdgehoneError | None = None
    ) -> None:
        shutil.rmtree(job.folder, ignore_errors=True)
        job.result, job.error = result, error
        self.ended[how] += 1
        log.info("job %s: %s%s", job.id, how, f": {error.code} {error.what}" if error else "")
        self._step(job, "failed" if result is None else "done")
        ended = [known for known in self._known.values() if known.has_ended]
        for old in ended[: max(0, len(ended) - KEPT)]:
            del self._known[old.id]


def _nobody() -> HostError:
    return HostError("nobody asked for this job any more", do="send it again, and ask for it until it is done")
