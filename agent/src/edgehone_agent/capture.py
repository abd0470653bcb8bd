"""What a node keeps of what it saw: samples under a byte budget, and feedback, which is never lost.

    capture = Capture(state / "capture", key=read_key(state / "key"), max_bytes=64_000_000, max_age_s=30 * 86_400)
    capture.offer(id, task, digest, x, values, informativeness, stratum)   # from the serving path: some microseconds
    capture.feedback({"id": ..., "prediction_id": ..., "kind": "confirm"}) # returns when it is on disk
    capture.export(folder)                                                # for a core that is reached by hand

Rules:
- `offer` never waits for the disk. It decides at once whether the sample is worth keeping (`_capture_shares`), and
  hands a copy to a writer thread. When the writer has too much to do, the sample is dropped and counted.
- The writer commits what is waiting together: after 50 ms, at 100 rows, or at once when someone waits for feedback.
- `feedback` returns when the event is on disk, and raises when it is not. The same event twice is one event.
- A disk that is full or read-only is reported in `stats()["error"]` and tried again; serving does not notice. Samples
  are dropped and counted meanwhile, feedback is refused with a StateError.
- A database that is damaged is put aside under another name and a new one is begun. The feedback that can be read of it
  is saved (`_capture_salvage`); the log and `stats()["put_aside"]` say what was, and what was not.
- Any thread may call anything. After `close` offers are dropped and feedback is refused.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import NDArray

from edgehone_agent._capture_export import Ask, export_all
from edgehone_agent._capture_file import FILE, database_error, is_damage, open_store, put_aside
from edgehone_agent._capture_salvage import save_rest, unsaved
from edgehone_agent._capture_seal import Seal, pack, read_key
from edgehone_agent._capture_shares import Shares, clean_score
from edgehone_agent._capture_store import FEEDBACK_PART, Sample, Store, Totals, sample_size
from edgehone_agent.durable import state_error
from edgehone_agent.errors import BusyError, ConfigError, EdgehoneError, StateError
from edgehone_agent.feedback import LONGEST_NAME, Event, Told, read_event

T = TypeVar("T")
log = logging.getLogger("edgehone_agent.capture")

GROUP_ROWS = 100
GROUP_S = 0.05
SMALLEST_BYTES = 1 << 18
_MOST_OFFERS, _MOST_OFFERED_BYTES = 1024, 16 << 20  # that may wait
_MOST_WAITING = 1024  # callers that wait for the writer
_PATIENCE_S = 30.0  # of those callers
_RETRY_S = 1.0  # before samples alone make the writer try a bad disk again
_TIDY_S = 10.0
_IDLE_S = 600.0


class _Wait:
    """A caller that waits for the writer: for an event to be durable, or for a job on the store."""

    def __init__(self, event: Event | None = None, job: Callable[[Store], Any] | None = None) -> None:
        self.event = event
        self.job = job
        self.result: Any = None
        self.error: EdgehoneError | None = None
        self._done = threading.Event()

    def finish(self, error: EdgehoneError | None = None, told: Told | EdgehoneError | None = None) -> None:
        self.error = error
        if self.event is not None:
            self.result = told
        self._done.set()

    def wait(self, where: Path) -> Any:
        if not self._done.wait(_PATIENCE_S):
            raise StateError(
                f"the disk has not answered for {_PATIENCE_S:g} s",
                where=str(where),
                do="send it again: it is taken once",
            )
        if self.error is not None:
            raise self.error
        return self.result


class Capture:
    """The captured samples and the feedback of a node, in a folder of their own. Close it, or use it in a `with`."""

    def __init__(
        self,
        folder: Path,
        *,
        key: bytes,
        max_bytes: int,
        max_age_s: float,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        """Start the writer; it opens the folder by itself, so a bad disk stops nothing.

        Args:
            folder: made when it is not there.
            key: at least 16 random bytes; see `read_key`.
            max_bytes: for samples (90 %) and feedback (10 %) together, as they stand in the database.
            max_age_s: samples that are older are dropped.
            clock: seconds since 1970.
            seed: of the draws that decide what the random shares keep.

        Raises:
            ConfigError: the key is too short, or there is too little room.
        """
        if max_bytes < SMALLEST_BYTES or not max_age_s > 0:
            raise ConfigError(
                f"capture may take {max_bytes} bytes for {max_age_s} s",
                do=f"allow {SMALLEST_BYTES} bytes or more and a positive age",
            )
        self._folder = folder
        self._path = folder / FILE
        self._seal = Seal(key)
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._clock = clock
        self._seed = seed
        self._draw = random.Random(f"{seed} before").random
        self._shares = Shares(int((1 - FEEDBACK_PART) * max_bytes))
        self._store: Store | None = None
        self._checked = False
        self._lock = threading.Condition()
        self._handing_over = threading.Lock()
        self._queue: deque[Sample | _Wait] = deque()
        self._callers, self._queued_bytes, self._first_at = 0, 0, 0.0  # of what is in the queue
        self._current: list[Sample | _Wait] = []
        self._counts: Counter[str] = Counter()
        self._totals = Totals()
        self._put_aside: list[str] = []
        self._saved_events = self._lost_events = 0  # of databases that were put aside
        self._looked_through: set[Path] = set()
        self._error: StateError | None = None
        self._failed_at = 0.0
        self._closed = False
        self._tidied_at = float("-inf")
        self._thread = threading.Thread(target=self._work, name="edgehone-capture", daemon=True)
        self._thread.start()

    def offer(
        self,
        id: str,
        task: str,
        digest: str,
        x: NDArray[Any],
        values: NDArray[Any],
        informativeness: float,
        stratum: str,
    ) -> bool:
        """Offer one reading with its answer; returns at once.

        Args:
            id: of the prediction, so that feedback finds it.
            task, digest: which model answered.
            x, values: the raw reading and the answer, one example each, in torch order.
            informativeness: how much it would teach, such as uncertainty times distance to the card.
            stratum: what it is like, such as the predicted class.

        Returns:
            Whether it was taken in; what is on disk later depends on what else comes.
        """
        size = sample_size(x.nbytes + values.nbytes)
        score = clean_score(informativeness)
        places = self._shares.choose(stratum[:LONGEST_NAME], score, (self._draw(), self._draw()), size)
        full = len(self._queue) >= _MOST_OFFERS or self._queued_bytes + size > _MOST_OFFERED_BYTES or self._closed
        if full or not places:
            with self._lock:
                self._counts["offered"] += 1
                self._counts["dropped_queue_full" if places else "not_chosen"] += 1
            return False
        layout, payload = pack(x, values)
        sample = Sample(id, task, digest, self._clock(), score, stratum[:LONGEST_NAME], layout, payload, places)
        with self._lock:
            self._counts["offered"] += 1
            if not self._queue:
                self._first_at = time.monotonic()
            self._queue.append(sample)
            self._queued_bytes += sample_size(len(payload))
            if len(self._queue) in (1, GROUP_ROWS):
                self._lock.notify()
        return True

    def feedback(self, event: Mapping[str, Any]) -> Told:
        """Take in an event; see `edgehone_agent.feedback`. It is on disk when this returns.

        Returns:
            What is known of the answer that it is about.

        Raises:
            InputError: the event is malformed, or another one with its id was taken before.
            BusyError: too many callers are waiting.
            StateError: it could not be written, or the room for feedback is full. Send it again later.
        """
        told: Told = self._await(_Wait(event=read_event(event)))
        return told

    def flush(self) -> None:
        """Return when everything that was offered before is on disk.

        Raises:
            StateError: the disk is full or read-only, or the capture is closed.
        """
        self._await(_Wait(job=_nothing))

    def export(self, folder: Path, *, evidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write what was not exported yet into `folder`, with `evidence` (JSON-able); see docs/formats/capture.md.

        Exported samples leave the node. An export that was cut goes on where it stopped.

        Returns:
            How many samples and events were written, how many were damaged (unreadable), and the names of the files.

        Raises:
            StateError: the folder or the database cannot be written.
        """
        report = {"evidence": dict(evidence or {}), "capture": self.stats()}
        return self.hand_over(lambda ask, seal, now_s: export_all(ask, seal, folder, report, now_s))

    def hand_over(self, take: Callable[[Ask, Seal, float], T]) -> T:
        """What `take` comes to: it plans batches in the store, brings them elsewhere, and then marks them as done.

        One at a time, so that a batch goes one way. Its arguments: a function that runs a function on the store, what
        the payloads are sealed with, and the time in seconds since 1970.

        Raises:
            StateError: the database cannot be read or written; and whatever `take` raises.
        """

        def ask(job: Callable[[Store], Any]) -> Any:
            return self._await(_Wait(job=job))

        with self._handing_over:
            return take(ask, self._seal, self._clock())

    def stats(self) -> dict[str, Any]:
        """Counters since the start and what is held now; JSON-able.

        `error` is the text of a StateError while the disk does not take anything, else None.
        """
        with self._lock:
            pools = {name: (pool.size_bytes, pool.samples) for name, pool in list(self._shares.pools.items())}
            shares = {
                share: {
                    "budget_bytes": budget,
                    "bytes": sum(size for name, (size, _) in pools.items() if name.share == share),
                    "samples": sum(count for name, (_, count) in pools.items() if name.share == share),
                }
                for share, budget in self._shares.budgets.items()
            }
            return {
                "samples": self._totals.samples,
                "sample_bytes": self._totals.sample_bytes,
                "feedback": self._totals.events,
                "feedback_bytes": self._totals.event_bytes,
                "max_bytes": self._max_bytes,
                "shares": shares,
                "waiting": len(self._queue),
                "counts": {name: self._counts[name] for name in COUNTS},
                "put_aside": list(self._put_aside),
                "feedback_saved": self._saved_events,
                "feedback_lost": self._lost_events,
                "error": None if self._error is None else str(self._error),
            }

    def close(self) -> None:
        """Write what is waiting, and stop. Calling it twice is fine."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join(_PATIENCE_S)

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _await(self, wait: _Wait) -> Any:
        with self._lock:
            if self._closed or not self._thread.is_alive():
                raise StateError("the capture is closed", where=str(self._path), do="open it again")
            if self._callers >= _MOST_WAITING:
                raise BusyError("too many callers wait for the disk", where=str(self._path), do="send it again later")
            self._callers += 1
            self._queue.append(wait)
            self._lock.notify()
        return wait.wait(self._path)

    def _work(self) -> None:
        """The writer thread."""
        try:
            with contextlib.suppress(StateError):
                self._opened()
            while True:
                batch = self._next_batch()
                if batch is None:
                    break
                self._current = batch
                self._write(batch)
                self._current = []
        finally:
            with self._lock:
                self._closed = True
                left, self._queue = [*self._current, *self._queue], deque()
            self._refuse(left, StateError("the capture is closed", where=str(self._path), do="open it again"))
            if self._store is not None:
                self._store.close()

    def _next_batch(self) -> list[Sample | _Wait] | None:
        """What to write next; nothing when it is only time to tidy up, None when all is done."""
        with self._lock:
            idle_until = time.monotonic() + min(_IDLE_S, max(1.0, self._max_age_s / 10))
            while not self._closed:
                now = time.monotonic()
                until = self._due_at() if self._queue else idle_until
                if now >= until:
                    break
                self._lock.wait(until - now)
            if self._closed and not self._queue:
                return None
            batch = [self._queue.popleft() for _ in range(min(GROUP_ROWS, len(self._queue)))]
            self._queued_bytes -= sum(sample_size(len(item.payload)) for item in batch if isinstance(item, Sample))
            self._callers -= sum(isinstance(item, _Wait) for item in batch)
            self._first_at = time.monotonic()
            return batch

    def _due_at(self) -> float:
        """When what is waiting must be written, on the monotonic clock."""
        if self._callers:
            return 0.0
        if self._error is not None:
            return self._failed_at + _RETRY_S
        return 0.0 if len(self._queue) >= GROUP_ROWS else self._first_at + GROUP_S

    def _write(self, batch: list[Sample | _Wait]) -> None:
        try:
            for attempt in (1, 2):
                try:
                    self._write_once(batch)
                    break
                except sqlite3.Error as error:
                    self._close_store()
                    if not is_damage(error) or attempt == 2:
                        raise database_error(error, self._path) from error
                    self._put_aside.append(put_aside(self._path, str(error)))
        except OSError as error:
            self._fail(batch, state_error(error, self._path))
        except StateError as error:
            self._fail(batch, error)

    def _write_once(self, batch: list[Sample | _Wait]) -> None:
        """Everything of a batch, in order: one transaction for samples and events, then the jobs."""
        store = self._opened()
        rows = [item if isinstance(item, Sample) else item.event for item in batch]
        done = store.write([row for row in rows if row is not None], self._clock())
        counts = {"kept": done.kept, "not_chosen": done.not_kept, "evicted": done.evicted, "deleted": done.deleted}
        answers = iter(done.answers)
        jobs = [item for item in batch if isinstance(item, _Wait) and item.job is not None]
        for job in jobs:
            job.result = job.job(store) if job.job is not None else None
        if time.monotonic() - self._tidied_at >= _TIDY_S:
            tidied = store.tidy(self._clock(), self._max_age_s)
            counts["evicted"] += tidied.evicted
            counts["expired"] = tidied.expired
            self._tidied_at = time.monotonic()
        totals = store.totals()
        with self._lock:
            self._counts.update(counts)
            self._totals, self._error = totals, None
        for item in batch:
            if isinstance(item, _Wait):
                answer = next(answers) if item.event is not None else None
                item.finish(answer if isinstance(answer, EdgehoneError) else None, answer)

    def _opened(self) -> Store:
        """The store, opened when it is not."""
        if self._store is None:
            try:
                self._store, said = open_store(
                    self._folder, self._seal, self._shares, self._max_bytes, check=not self._checked
                )
            except StateError as error:
                self._error = error
                raise
            self._checked = True
            self._put_aside += said
            self._save_rest(self._store)
            self._totals = self._store.totals()
            # Every opening draws other numbers: a node that restarts often must not keep its first readings each time.
            self._draw = random.Random(f"{self._seed} {self._store.openings}").random
        return self._store

    def _save_rest(self, store: Store) -> None:
        """Save what can be read of databases that were put aside."""
        for aside in unsaved(self._path):
            if aside in self._looked_through:
                continue
            try:
                saved = save_rest(aside, store)
            except (OSError, sqlite3.Error, StateError) as error:
                log.error("%s: its feedback is not saved yet, the next start tries again: %s", aside.name, error)
                continue
            self._looked_through.add(aside)
            log.error("a database that cannot be used was put aside as %s: %s", aside, saved)
            self._saved_events += saved.events
            self._lost_events += saved.missing + saved.sealed
            self._put_aside = [
                f"{said}; {saved}" if said.startswith(f"{aside.name}: ") else said for said in self._put_aside
            ]

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _fail(self, batch: list[Sample | _Wait], error: StateError) -> None:
        with self._lock:
            self._error, self._failed_at = error, time.monotonic()
        self._close_store()
        self._refuse(batch, error)

    def _refuse(self, batch: list[Sample | _Wait], error: StateError) -> None:
        with self._lock:
            self._counts["dropped_not_written"] += sum(isinstance(item, Sample) for item in batch)
        for item in batch:
            if isinstance(item, _Wait):
                item.finish(error)


def _nothing(store: Store) -> None:
    """A job that is done once everything before it is."""


COUNTS = (
    "offered",
    "not_chosen",
    "kept",
    "evicted",
    "expired",
    "deleted",
    "dropped_queue_full",
    "dropped_not_written",
)

__all__ = ["COUNTS", "Capture", "read_key"]
