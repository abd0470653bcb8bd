"""The tables of captured samples and feedback, and what may be done with them; `_capture_file` opens the file.

Rules:
- One thread uses a `Store`. A `write` is one transaction: all of it is on disk when it returns, or none of it.
- What a sample is called, its task, digest, stratum and scores stand open; its values and all of an event are sealed.
- Bytes are bounded: samples by their shares, feedback by its part. Feedback that was acknowledged is never dropped to
  make room: when its part is full, new events are refused until some were exported.
- The log that still holds a deleted payload is emptied after the deletion.
- Exported samples leave the database; their ids stay known for the greatest age, so that none is exported twice. Of
  those of the uniform share the answer stays, too: labels that come back say how often it was wrong.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehone_agent._capture_seal import SEAL_BYTES, Seal, UnreadableError, unpack
from edgehone_agent._capture_shares import (
    INFORMATIVE,
    LABELLED_RANK,
    UNIFORM,
    Place,
    PoolName,
    Shares,
    WrongValueError,
    no_threshold,
)
from edgehone_agent.errors import EdgehoneError, InputError, StateError
from edgehone_agent.feedback import LABELLING, Event, Told

ROW_BYTES = 640  # what a row takes besides its payload: ids, layout, indices; measured
FEEDBACK_PART = 0.1  # of the bytes; samples share the rest
_MOST_GONE = 100_000  # ids that are remembered after their sample has left
_LONGEST_ANSWER = 64  # values of an answer that is remembered after its sample has left
_CHUNK = 1000  # rows that one transaction lets grow old
_BATCH_ROWS, _BATCH_BYTES = 256, 8 << 20


class Sample(NamedTuple):
    """A sample on its way into the store; `payload` is what `pack` made of its arrays."""

    id: str
    task: str
    digest: str
    time: float
    informativeness: float
    stratum: str
    layout: str
    payload: bytes
    places: Sequence[Place]


class SampleRow(NamedTuple):
    """A sample as it is exported; `places` are (share, propensity)."""

    id: str
    task: str
    digest: str
    time: float
    informativeness: float
    stratum: str
    layout: str
    sealed: bytes
    places: tuple[tuple[str, float | None], ...]


class Batch(NamedTuple):
    """Rows that are exported together, under a number that no other batch of this store has."""

    number: int
    rows: tuple[Any, ...]


@dataclass
class Totals:
    """Samples and events in the store, and what they count for in bytes."""

    samples: int = 0
    sample_bytes: int = 0
    events: int = 0
    event_bytes: int = 0


@dataclass
class Written:
    """What a transaction did; `answers` has one entry per event: what is known of its answer, or why it is refused."""

    kept: int = 0
    not_kept: int = 0
    evicted: int = 0
    expired: int = 0
    deleted: int = 0
    answers: list[Told | EdgehoneError] = field(default_factory=list)


@dataclass
class Kept:
    """Rows of another database of this node, as in the tables, without their numbers.

    Attributes:
        events: id, prediction_id, kind, received, size, sealed, exported; in the order in which they came.
        gone: id, time.
        answers: id, task, digest, stratum, sealed, time.
    """

    events: Sequence[Sequence[Any]] = ()
    gone: Sequence[Sequence[Any]] = ()
    answers: Sequence[Sequence[Any]] = ()


class Store:
    """An open database; see `open_store`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, seal: Seal, shares: Shares, max_bytes: int) -> None:
        self.path = path
        self.shares = shares
        self.feedback_budget = int(FEEDBACK_PART * max_bytes)
        self._run = connection.execute
        self._connection = connection
        self._seal = seal
        self._saved: dict[PoolName, float] = {}
        self._version = -1
        self._run("BEGIN IMMEDIATE")
        self._run("UPDATE meta SET value = value + 1 WHERE key = 'openings'")
        self._run("COMMIT")
        self.name = str(self._meta("store"))
        self.openings = int(self._meta("openings"))
        self.reload()

    def write(self, items: Sequence[Sample | Event], now: float) -> Written:
        """Take in samples and events, in order, and drop what is over the bytes.

        Raises:
            sqlite3.Error: nothing was written.
        """
        done = Written()
        with self._transaction():
            for item in items:
                if isinstance(item, Event):
                    done.answers.append(self._take_event(item, now, done))
                elif self._take_sample(item):
                    done.kept += 1
                else:
                    done.not_kept += 1
            self._settle(done)
        if done.deleted:
            self._empty_log()
        return done

    def tidy(self, now: float, max_age_s: float) -> Written:
        """Drop what is older than `max_age_s`, and let pools that have shrunk take in more.

        Raises:
            sqlite3.Error: nothing was written.
        """
        done = Written()
        oldest = now - max_age_s
        with self._transaction():
            for (row,) in self._run("SELECT row FROM sample WHERE time < ? LIMIT ?", (oldest, _CHUNK)).fetchall():
                self._remove(row)
                done.expired += 1
            self._run("DELETE FROM feedback WHERE exported AND received < ?", (oldest,))
            self._count_feedback()
            self._run("DELETE FROM gone WHERE time < ?", (oldest,))
            self._run("DELETE FROM answer WHERE time < ?", (oldest,))
            most = self.shares.budgets[UNIFORM.share] // ROW_BYTES
            self._run("DELETE FROM answer WHERE row <= (SELECT MAX(row) FROM answer) - ?", (most,))
            self._run("DELETE FROM gone WHERE row <= (SELECT MAX(row) FROM gone) - ?", (_MOST_GONE,))
            for pool, before, _ in self.shares.raise_thresholds():
                self._run(
                    "UPDATE place SET propensity = ? WHERE share = ? AND stratum = ? AND propensity > ?",
                    (before, *pool, before),
                )
            self._settle(done)
        return done

    def totals(self) -> Totals:
        """What the store holds; counted along, since adding it up would read the whole file."""
        return replace(self._totals)

    def plan_samples(self) -> Batch | None:
        """The next samples to export: those of a batch that was begun, else new ones of one task, model and layout."""
        with self._transaction():
            begun = self._run("SELECT MIN(batch) FROM sample WHERE batch IS NOT NULL").fetchone()[0]
            number = self._begin_samples() if begun is None else int(begun)
            if number is None:
                return None
            columns = "row, id, task, digest, time, informativeness, stratum, layout, sealed"
            rows = self._run(f"SELECT {columns} FROM sample WHERE batch = ? ORDER BY row", (number,)).fetchall()
            return Batch(number, tuple(SampleRow._make((*rest, self._places(row))) for row, *rest in rows))

    def finish_samples(self, number: int, now: float) -> None:
        """The batch is written and on disk elsewhere: let its samples go."""
        with self._transaction():
            for row, name in self._run("SELECT row, id FROM sample WHERE batch = ?", (number,)).fetchall():
                self._run("INSERT OR IGNORE INTO gone (id, time) VALUES (?, ?)", (name, now))
                self._remember(row, name)
                self._remove(row)

    def plan_feedback(self) -> Batch | None:
        """The next events to export, as (id, received, sealed): those of a batch that was begun, else new ones."""
        with self._transaction():
            waiting = "FROM feedback WHERE NOT exported AND batch"
            begun = self._run(f"SELECT MIN(batch) {waiting} IS NOT NULL").fetchone()[0]
            if begun is None:
                rows = self._run(f"SELECT row {waiting} IS NULL ORDER BY row LIMIT ?", (_CHUNK,)).fetchall()
                if not rows:
                    return None
                begun = self.next_batch()
                new = f"NOT exported AND batch IS NULL AND row <= {rows[-1][0]}"
                self._run(f"UPDATE feedback SET batch = ? WHERE {new}", (begun,))
            rows = self._run(
                "SELECT id, received, sealed FROM feedback WHERE batch = ? ORDER BY row", (begun,)
            ).fetchall()
            return Batch(int(begun), tuple(rows))

    def finish_feedback(self, number: int) -> None:
        """The batch is written and on disk elsewhere: only its ids stay, so that an event sent again is known."""
        with self._transaction():
            size = (ROW_BYTES,)
            self._run(f"UPDATE feedback SET exported = 1, sealed = NULL, size = ? WHERE batch = {number}", size)
            self._count_feedback()

    def take_over(self, kept: Kept) -> int:
        """Take in what another database of this node held; what is here already stays as it is.

        Feedback may grow beyond its part by that: it was acknowledged.

        Returns:
            How many events were not here.

        Raises:
            sqlite3.Error: nothing was written.
        """
        with self._transaction():
            taken = self._connection.executemany(
                "INSERT OR IGNORE INTO feedback (id, prediction_id, kind, received, size, sealed, exported)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                kept.events,
            ).rowcount
            self._connection.executemany("INSERT OR IGNORE INTO gone (id, time) VALUES (?, ?)", kept.gone)
            self._connection.executemany(
                "INSERT OR IGNORE INTO answer (id, task, digest, stratum, sealed, time) VALUES (?, ?, ?, ?, ?, ?)",
                kept.answers,
            )
            self._count_feedback()
        return taken

    def opens_event(self, name: str, sealed: bytes) -> bool:
        """Whether the content of an event is whole and sealed with this node's key."""
        try:
            open_event(self._seal, name, sealed)
        except UnreadableError:
            return False
        return True

    def next_batch(self) -> int:
        """A number for a batch; call it within a transaction, or by itself."""
        self._run("UPDATE meta SET value = value + 1 WHERE key = 'batch'")
        return int(self._meta("batch"))

    def reload(self) -> None:
        """Read again what the pools hold: at the start, and when a transaction failed or another process wrote."""
        self.shares.pools.clear()
        for share, stratum, size, samples in self._run(
            "SELECT share, stratum, SUM(size), COUNT(*) FROM place GROUP BY share, stratum"
        ):
            name = self._pool(share, stratum, size)
            self.shares.add(name, size)
            self.shares.pools[name].samples = samples
        self._saved = {}
        for share, stratum, threshold in self._run("SELECT share, stratum, threshold FROM pool"):
            name = self._pool(share, stratum, threshold)
            self._saved[name] = threshold
            self.shares.limit(name, threshold)
        self._totals = Totals(
            *(int(total) for total in self._run("SELECT COUNT(*), TOTAL(size) FROM sample").fetchone())
        )
        self._count_feedback()
        self._version = self._data_version()

    def _pool(self, share: object, stratum: object, figure: object) -> PoolName:
        """The pool that a row names. A row that names none, or counts in no number, is damage."""
        known = isinstance(share, str) and share in self.shares.budgets and isinstance(stratum, str)
        if not known or not isinstance(figure, int | float):
            raise WrongValueError(f"a pool is called {share!r}, {stratum!r} and holds {figure!r}"[:200])
        return PoolName(str(share), str(stratum))

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            if self._data_version() != self._version:
                self.reload()
            yield
            self._save_thresholds()
            self._run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._run("ROLLBACK")
            self._version = -1  # the pools have counted what was not written
            raise

    def _take_sample(self, sample: Sample) -> bool:
        again = (self.shares.admit(place.pool, place.rank, place.propensity or 1.0) for place in sample.places)
        places = [place for place in again if place is not None]
        if not places or self._run("SELECT 1 FROM gone WHERE id = ?", (sample.id,)).fetchone():
            return False
        size = sample_size(len(sample.payload))
        added = self._run(
            "INSERT OR IGNORE INTO sample (id, task, digest, time, informativeness, stratum, layout, size, sealed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*sample[:-2], size, self._seal.close(sample.payload, _sample_row(sample.id))),
        )
        if not added.rowcount:
            return False
        self._totals.samples += 1
        self._totals.sample_bytes += size
        for place in places:
            self._put(place, added.lastrowid or 0, size)
        kinds = self._run("SELECT kind FROM feedback WHERE prediction_id = ?", (sample.id,))
        if any(kind in LABELLING for (kind,) in kinds.fetchall()):
            self._favour(sample.id)
        return True

    def _put(self, place: Place, row: int, size: int) -> None:
        values = (*place.pool, place.rank, row, size, place.propensity)
        self._run("INSERT INTO place VALUES (?, ?, ?, ?, ?, ?)", values)
        self.shares.add(place.pool, size)

    def _take_event(self, event: Event, now: float, done: Written) -> Told | EdgehoneError:
        known = self._run("SELECT sealed FROM feedback WHERE id = ?", (event.id,)).fetchone()
        if known is not None:
            refused = None if known[0] is None else self._compare(event, known[0])
            return refused or Told(is_first=False)
        size = ROW_BYTES + len(event.content) + SEAL_BYTES
        if self._totals.event_bytes + size > self.feedback_budget:
            return StateError(
                "the room for feedback is full",
                where=str(self.path),
                do="export it, or allow more bytes; send it again",
            )
        told = self._tell(event)
        sealed = self._seal.close(event.content, _feedback_row(event.id))
        self._run(
            "INSERT INTO feedback (id, prediction_id, kind, received, size, sealed) VALUES (?, ?, ?, ?, ?, ?)",
            (event.id, event.prediction_id, event.kind, now, size, sealed),
        )
        self._totals.events += 1
        self._totals.event_bytes += size
        if event.kind == "delete":
            self._run("INSERT OR IGNORE INTO gone (id, time) VALUES (?, ?)", (event.prediction_id, now))
            self._run("DELETE FROM answer WHERE id = ?", (event.prediction_id,))
            for (row,) in self._run("SELECT row FROM sample WHERE id = ?", (event.prediction_id,)).fetchall():
                self._remove(row)
                done.deleted += 1
        elif event.kind in LABELLING:
            self._favour(event.prediction_id)
        return told

    def _tell(self, event: Event) -> Told:
        """What is known of the answer that a new event is about."""
        name = event.prediction_id
        if self._run("SELECT 1 FROM feedback WHERE prediction_id = ?", (name,)).fetchone():
            return Told(is_first=False)
        if event.kind not in LABELLING:
            return Told(is_first=True)
        found = self._run(
            "SELECT row, task, digest, stratum, layout, sealed FROM sample WHERE id = ?", (name,)
        ).fetchone()
        if found is not None:
            row, task, digest, stratum, layout, sealed = found
            x, values = self._arrays(name, layout, sealed) or (None, None)
            return Told(True, True, task, digest, stratum, values, self._is_uniform(row), x)
        found = self._run("SELECT task, digest, stratum, sealed FROM answer WHERE id = ?", (name,)).fetchone()
        if found is None:
            return Told(is_first=True)
        values = None
        if found[-1] is not None:
            with contextlib.suppress(UnreadableError):
                values = np.frombuffer(self._seal.open(found[-1], _answer_row(name)), "<f4").astype(np.float32)
        task, digest, stratum, _ = found
        return Told(True, True, task, digest, stratum, values, is_drawn=True)

    def _arrays(self, name: str, layout: str, sealed: bytes) -> tuple[NDArray[Any], NDArray[np.float32]] | None:
        """The reading of a sample and its answer, flat; None when they cannot be read."""
        try:
            x, answer = unpack(layout, self._seal.open(sealed, _sample_row(name)))[:2]
        except UnreadableError:
            return None
        return x, answer.reshape(-1).astype(np.float32)

    def _is_uniform(self, row: int) -> bool:
        found = self._run("SELECT 1 FROM place WHERE sample = ? AND share = ?", (row, UNIFORM.share)).fetchone()
        return found is not None

    def _remember(self, row: int, name: str) -> None:
        """Keep the answer of a sample of the uniform share that leaves."""
        if not self._is_uniform(row):
            return
        task, digest, time, stratum, layout, sealed = self._run(
            "SELECT task, digest, time, stratum, layout, sealed FROM sample WHERE row = ?", (row,)
        ).fetchone()
        _, values = self._arrays(name, layout, sealed) or (None, None)
        kept = None
        if values is not None and len(values) <= _LONGEST_ANSWER:
            kept = self._seal.close(values.astype("<f4").tobytes(), _answer_row(name))
        self._run(
            "INSERT OR REPLACE INTO answer (id, task, digest, stratum, sealed, time) VALUES (?, ?, ?, ?, ?, ?)",
            (name, task, digest, stratum, kept, time),
        )

    def _compare(self, event: Event, sealed: bytes) -> InputError | None:
        with contextlib.suppress(UnreadableError):
            if self._seal.open(sealed, _feedback_row(event.id)) != event.content:
                return InputError(
                    "another event with this id was taken before",
                    where=event.id,
                    do="give every event an id of its own",
                )
        return None

    def _favour(self, name: str) -> None:
        """A sample that has a label moves to the front of the informative share."""
        found = self._run("SELECT row, size FROM sample WHERE id = ?", (name,)).fetchone()
        if found is None:
            return
        row, size = found
        if self._run("DELETE FROM place WHERE share = 'informative' AND sample = ?", (row,)).rowcount:
            self.shares.remove(INFORMATIVE, size)
        self._put(Place(INFORMATIVE, LABELLED_RANK, None), row, size)

    def _remove(self, row: int) -> None:
        """Take a sample out of its pools and out of the file."""
        for share, stratum, size in self._run("SELECT share, stratum, size FROM place WHERE sample = ?", (row,)):
            self.shares.remove(PoolName(share, stratum), size)
        self._run("DELETE FROM place WHERE sample = ?", (row,))
        self._drop(row)

    def _count_feedback(self) -> None:
        events, size = self._run("SELECT COUNT(*), TOTAL(size) FROM feedback").fetchone()
        self._totals.events, self._totals.event_bytes = events, int(size)

    def _drop(self, row: int) -> None:
        (size,) = self._run("SELECT size FROM sample WHERE row = ?", (row,)).fetchone()
        self._run("DELETE FROM sample WHERE row = ?", (row,))
        self._totals.samples -= 1
        self._totals.sample_bytes -= size

    def _settle(self, done: Written) -> None:
        """Drop the highest ranks until every share keeps to its bytes."""
        while (pool := self.shares.overfull()) is not None:
            rank, row, size = self._run(
                "SELECT rank, sample, size FROM place WHERE share = ? AND stratum = ?"
                " ORDER BY rank DESC, sample DESC LIMIT 1",
                pool,
            ).fetchone()
            self._run(
                "DELETE FROM place WHERE share = ? AND stratum = ? AND rank = ? AND sample = ?", (*pool, rank, row)
            )
            self.shares.dropped(pool, rank, size)
            if self._run("SELECT 1 FROM place WHERE sample = ?", (row,)).fetchone() is None:
                self._drop(row)
                done.evicted += 1

    def _save_thresholds(self) -> None:
        now = {
            name: pool.threshold
            for name, pool in self.shares.pools.items()
            if pool.threshold < no_threshold(name.share)
        }
        for name in self._saved.keys() - now.keys():
            self._run("DELETE FROM pool WHERE share = ? AND stratum = ?", name)
        for name, threshold in now.items():
            if self._saved.get(name) != threshold:
                self._run("INSERT OR REPLACE INTO pool VALUES (?, ?, ?)", (*name, threshold))
        self._saved = now

    def _places(self, row: int) -> tuple[tuple[str, float | None], ...]:
        found = self._run("SELECT share, stratum, propensity FROM place WHERE sample = ? ORDER BY share", (row,))
        return tuple(
            (share, None if chance is None else min(chance, self.shares.pools[PoolName(share, stratum)].threshold))
            for share, stratum, chance in found
        )

    def _begin_samples(self) -> int | None:
        first = self._run("SELECT task, digest, layout FROM sample ORDER BY row LIMIT 1").fetchone()
        if first is None:
            return None
        number, total = self.next_batch(), 0
        same = "FROM sample WHERE task = ? AND digest = ? AND layout = ? ORDER BY row LIMIT ?"
        for row, size in self._run(f"SELECT row, size {same}", (*first, _BATCH_ROWS)).fetchall():
            total += size
            if total > _BATCH_BYTES and total > size:
                break
            self._run("UPDATE sample SET batch = ? WHERE row = ?", (number, row))
        return number

    def _empty_log(self) -> None:
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")

    def _meta(self, key: str) -> Any:
        return self._run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]

    def _data_version(self) -> int:
        return int(self._run("PRAGMA data_version").fetchone()[0])


def sample_size(payload_bytes: int) -> int:
    """What a sample counts for, in bytes."""
    return payload_bytes + SEAL_BYTES + ROW_BYTES


def _sample_row(name: str) -> str:
    return f"sample\0{name}"


def _feedback_row(name: str) -> str:
    return f"feedback\0{name}"


def _answer_row(name: str) -> str:
    return f"answer\0{name}"


def open_sample(seal: Seal, row: SampleRow) -> bytes:
    """The payload of a sample. Raises UnreadableError."""
    return seal.open(row.sealed, _sample_row(row.id))


def open_event(seal: Seal, name: str, sealed: bytes) -> bytes:
    """The content of an event. Raises UnreadableError."""
    return seal.open(sealed, _feedback_row(name))
