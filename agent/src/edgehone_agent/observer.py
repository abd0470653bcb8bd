"""What becomes of questions and answers after the answer is out: the watch and the capture, on a thread of their own.

Rules:
- `Feed.put` is called where answers are given. It copies, counts what finds no room, and never waits or fails.
- `Feed.drain` does the work, on one thread. What goes wrong there is the feed's `fault`, and the other feeds go on.
- The watch's state is written once a minute and at the end, so a restart forgets at most a minute of evidence.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehone_agent import durable
from edgehone_agent.capture import Capture
from edgehone_agent.errors import EdgehoneError, InputError, StateError
from edgehone_agent.scores import uncertainty
from edgehone_agent.watch import Watcher
from edgehone_agent.watch.channels import Channels, bins_of
from edgehone_agent.wire.card import BINS, Card, Origin
from edgehone_agent.wire.manifest import Manifest

Array = NDArray[np.float32]

MAX_ROWS = 1024  # waiting in one feed, batches counted by row
MAX_BYTES = 8 << 20
_CHUNK_ROWS = 256
SAVE_EVERY_S = 60.0


class _Seen(NamedTuple):
    id: str | None
    x: Array  # (N, *input shape)
    y: Array  # (N, *output shape)
    embedding: Array | None


class _Distance:
    """How far from validation data a row lies by the card's own distance: its quantile there, 0 to 1."""

    def __init__(self, card: Card, channel: int) -> None:
        self._channels, self._channel = Channels(card), channel
        self._edges = card.edges[channel : channel + 1]

    @classmethod
    def of(cls, card: Card) -> _Distance | None:
        """None for a card without a distance."""
        found = [index for index, channel in enumerate(card.channels) if channel.origin is Origin.DISTANCE]
        return cls(card, found[0]) if found else None

    def __call__(self, x: Array, y: Array, embedding: Array | None) -> Array:
        try:
            values = self._channels.values(x, y, embedding)[:, self._channel : self._channel + 1]
        except InputError:  # the watch has said so already
            return np.ones(len(x), np.float32)
        far: Array = bins_of(values, self._edges)[:, 0].astype(np.float32) / np.float32(BINS - 1)
        return far


class Feed:
    """The queue of one loaded bundle, and who looks at it.

    Args:
        manifest, digest: of the bundle.
        watcher, card: follow the stream; None when the bundle has no card.
        capture: keeps samples; None when the node keeps none.
        new_id: makes an id for answers that were given without one.
        file: where the watch's state is kept; None to keep none.
    """

    def __init__(
        self,
        manifest: Manifest,
        digest: str,
        *,
        watcher: Watcher | None,
        card: Card | None,
        capture: Capture | None,
        new_id: Callable[[], str],
        file: Path | None = None,
    ) -> None:
        self.watcher = watcher
        self.are_probabilities = None if card is None else card.probabilities
        self.output_rank = len(manifest.output.shape)
        self.dropped_rows = 0
        self.fault: str | None = None
        self._manifest, self._digest = manifest, digest
        self._capture, self._new_id, self._file = capture, new_id, file
        self._queue: deque[_Seen] = deque()
        self._rows = self._bytes = 0
        self._lock = threading.Lock()  # of the counts above
        self._looking = threading.Lock()  # of the watcher, which takes one thread at a time
        self._draining = threading.Lock()  # the node's thread, and whoever swaps or closes
        self._distance = None if card is None else _Distance.of(card)
        self.level = 0
        self._is_saved, self._saved_at_s = True, 0.0

    def put(self, x: Array, y: Array, embedding: Array | None, id: str | None) -> None:
        """Take a batch (N, ...) and its answers; copies what belongs to the caller."""
        rows, size = len(x), x.nbytes + y.nbytes
        with self._lock:
            if self._rows + rows > MAX_ROWS or self._bytes + size > MAX_BYTES:
                self.dropped_rows += rows
                return
            self._rows += rows
            self._bytes += size
        self._queue.append(_Seen(id, np.array(x, np.float32), y.copy(), embedding))

    def drain(self) -> int:
        """Look at what waits; how many rows that was."""
        with self._draining:
            return self._drain()

    def _drain(self) -> int:
        done = 0
        while self._queue:
            chunk: list[_Seen] = []
            rows = 0
            while self._queue and rows < _CHUNK_ROWS:
                seen = self._queue.popleft()
                chunk.append(seen)
                rows += len(seen.x)
            with self._lock:
                self._rows -= rows
                self._bytes -= sum(seen.x.nbytes + seen.y.nbytes for seen in chunk)
            done += rows
            self._look(chunk)
        if done and self.watcher is not None:
            with self._looking:
                self.level = self.watcher.level
        return done

    def evidence(self) -> dict[str, Any] | None:
        """What the watch knows, JSON-able; None when nothing is watched."""
        if self.watcher is None:
            return None
        with self._looking:
            return self.watcher.evidence()

    def save(self, now_s: float, *, at_once: bool = False) -> None:
        """Write the watch's state when it is time.

        Args:
            now_s: monotonic.
            at_once: whatever the time is.
        """
        if self._file is None or self.watcher is None or self._is_saved:
            return
        if not at_once and now_s - self._saved_at_s < SAVE_EVERY_S:
            return
        self._saved_at_s = now_s
        try:
            with self._looking:
                content = self.watcher.to_bytes()
            durable.write_bytes(self._file, content)
            self._is_saved = True
        except StateError as error:
            self.fault = str(error)

    def _look(self, chunk: list[_Seen]) -> None:
        x, y = (np.concatenate(parts) for parts in zip(*((seen.x, seen.y) for seen in chunk), strict=True))
        embeddings = [seen.embedding for seen in chunk if seen.embedding is not None]
        embedding = np.concatenate(embeddings) if len(embeddings) == len(chunk) else None
        try:
            if self.watcher is not None:
                with self._looking:
                    self.watcher.observe(x, y, embedding)
                self._is_saved = False
        except EdgehoneError as error:
            self.fault = str(error)
        if self._capture is not None:
            self._offer(chunk, x, y, embedding)

    def _offer(self, chunk: list[_Seen], x: Array, y: Array, embedding: Array | None) -> None:
        """Offer every row, with uncertainty times distance to the card as what it would teach."""
        if self._capture is None:
            return
        ids = [name for seen in chunk for name in row_ids(seen.id or self._new_id(), len(seen.x))]
        doubt = uncertainty(y, self._manifest, self.are_probabilities)
        if self._distance is not None:
            doubt = doubt * self._distance(x, y, embedding)
        strata = y.reshape(len(y), -1).argmax(1) if self._manifest.labels else np.zeros(len(y), int)
        for row, name in enumerate(ids):
            self._capture.offer(
                name,
                self._manifest.task,
                self._digest,
                x[row],
                y[row],
                float(doubt[row]),
                str(strata[row]),
            )


def row_ids(id: str, rows: int) -> list[str]:
    """The ids of a batch's rows: the answer's own for one row, "id.0", "id.1", ... for more."""
    return [id] if rows == 1 else [f"{id}.{row}" for row in range(rows)]


def open_watcher(card: Card, file: Path | None) -> tuple[Watcher, str | None]:
    """A watcher for a card, going on where the state in `file` left off, and what was wrong with that file."""
    if file is None or not file.exists():
        return Watcher(card), None
    try:
        return Watcher(card, file.read_bytes()), None
    except OSError as error:
        return Watcher(card), str(durable.state_error(error, file))
    except StateError:  # evidence about another model, or damaged: it says nothing about this one
        return Watcher(card), None
