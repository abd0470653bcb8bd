"""What becomes of questions and answers after the answer is out: the watch and the capture, on a thread of their own.

Rules:
- `Feed.put` is called where answers are given. It copies, counts what finds no room, and never waits or fails.
- `Feed.drain` does the work, on one thread. What goes wrong there is the feed's `fault`, and the other feeds go on.
- The watch's state is written once a minute and at the end, so a restart forgets at most a minute of evidence. What
  labels have said is written at the next call of `save`: labels are few.
- `Feed.judge` takes in a label, from any thread. It finds the answer among the captured samples or the last answers.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehone_agent import durable
from edgehone_agent.capture import Capture
from edgehone_agent.errors import EdgehoneError, InputError, StateError
from edgehone_agent.feedback import UNIFORM_SHARE, Told
from edgehone_agent.scores import is_classifier, uncertainty
from edgehone_agent.watch import Labels, Watcher
from edgehone_agent.watch.channels import Channels, bins_of
from edgehone_agent.watch.labels import Answered
from edgehone_agent.wire.card import BINS, INPUTS, Card, Origin
from edgehone_agent.wire.manifest import Manifest

if TYPE_CHECKING:
    from edgehone_agent.learn.learner import Learner
    from edgehone_agent.uplink.shadow import Shadow

Array = NDArray[np.float32]

MAX_ROWS = 1024  # waiting in one feed, batches counted by row
MAX_BYTES = 8 << 20
_CHUNK_ROWS = 256
SAVE_EVERY_S = 60.0
REMEMBERED = 1 << 16  # answers without a sample whose class is known when feedback comes

log = logging.getLogger("edgehone_agent.watch")


class _Seen(NamedTuple):
    id: str | None
    x: Array  # (N, *input shape)
    y: Array  # (N, *output shape)
    embedding: Array | None  # (N, E)

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.y.nbytes + (0 if self.embedding is None else self.embedding.nbytes)


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


class _Answers:
    """The classes of the last answers by prediction id: 12 bytes each, in the order of their coming."""

    def __init__(self, size: int) -> None:
        self._keys, self._classes = np.zeros(size, np.int64), np.zeros(size, np.int32)
        self._added = 0

    def add(self, ids: Sequence[str], classes: NDArray[np.integer[Any]]) -> None:
        size = len(self._keys)
        places = np.arange(self._added, self._added + len(ids)) % size
        self._keys[places] = np.fromiter(map(hash, ids), np.int64, len(ids))  # by chance two in 10^14 share one
        self._classes[places] = classes
        self._added += len(ids)

    def find(self, id: str) -> int | None:
        """The class, or None when the answer is not among the last."""
        known = min(self._added, len(self._keys))
        found = np.flatnonzero(self._keys[:known] == hash(id))
        return int(self._classes[found[0]]) if len(found) else None


class Feed:
    """The queue of one loaded bundle, and who looks at it.

    Args:
        manifest, digest: of the bundle.
        watcher, card: follow the stream; None when the bundle has no card.
        capture: keeps samples; None when the node keeps none.
        new_id: makes an id for answers that were given without one.
        file: where the watch's state is kept; None to keep none.
        labels: what feedback says about this model; None when the node takes none.
        labels_file: where their state is kept; None to keep none.
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
        labels: Labels | None = None,
        labels_file: Path | None = None,
    ) -> None:
        self.watcher, self.labels = watcher, labels
        self.shadow: Shadow | None = None  # answers the same readings, unseen
        self.learner: Learner | None = None  # learns from them
        self.digest = digest
        self.are_probabilities = None if card is None else card.probabilities
        self.output_rank = len(manifest.output.shape)
        self.dropped_rows = 0
        self.fault: str | None = None
        self._manifest, self._task = manifest, manifest.task
        self._capture, self._new_id, self._file = capture, new_id, file
        self._queue: deque[_Seen] = deque()
        self._rows = self._bytes = 0
        self._lock = threading.Lock()  # of the counts above
        self._looking = threading.Lock()  # of the watcher, which takes one thread at a time
        self._draining = threading.Lock()  # the node's thread, and whoever swaps or closes
        self._distance = None if card is None else _Distance.of(card)
        self.level = 0 if watcher is None else watcher.level
        self._is_saved, self._saved_at_s = True, 0.0
        self._is_classifier = is_classifier(manifest)
        self._answers = None if labels is None else _Answers(REMEMBERED)
        self._labels_file, self._are_labels_saved = labels_file, False  # a state of another model is written over
        self._judging = threading.Lock()  # of the labels and the answers

    def put(self, x: Array, y: Array, embedding: Array | None, id: str | None) -> None:
        """Take a batch (N, ...) and its answers; copies what belongs to the caller.

        Args:
            x, y: raw readings and answers.
            embedding: (N, ...) of this batch alone, which is the feed's from now on.
            id: of the answer; one is made when None.
        """
        rows = len(x)
        size = x.size * 4 + y.nbytes + (0 if embedding is None else embedding.nbytes)
        if not rows:
            return
        with self._lock:
            if self._rows + rows > MAX_ROWS or self._bytes + size > MAX_BYTES:
                self.dropped_rows += rows
                return
            self._rows += rows
            self._bytes += size
        if embedding is not None and embedding.ndim != 2:
            embedding = embedding.reshape(rows, -1)  # as the file has it, which is how the card's core read it
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
                self._bytes -= sum(seen.nbytes for seen in chunk)
            done += rows
            self._look(chunk)
        if done and self.watcher is not None:
            with self._looking:
                level = self.watcher.level
            if level > self.level:
                log.warning("%s: the watch is at level %d: what is seen or answered has changed", self._task, level)
            self.level = level
        return done

    def judge(self, event: Mapping[str, Any], told: Told) -> bool:
        """Count a label about an answer; whether it was one of this model's, or is known to be another's.

        Args:
            event: checked, of a kind that labels, and the first about its answer.
            told: what the capture knows of the answer.
        """
        if self.labels is None or self._answers is None:
            return False
        shadow = self.shadow
        if shadow is not None:
            shadow.judge(event)
        if self.learner is not None:
            self.learner.judge(event, told)
        with self._judging:
            level = self.labels.level
            if not told.is_captured:
                answered = self._answers.find(str(event["prediction_id"]))
                if answered is None:
                    return False
                self.labels.take(event, answered, is_drawn=False)
            elif told.task != self._task:
                return False
            elif told.digest != self.digest:
                self.labels.of_others += 1
            else:
                is_drawn = told.is_drawn and event.get("share") == UNIFORM_SHARE
                self.labels.take(event, self._class_or_values(told), is_drawn=is_drawn)
            self._are_labels_saved = False
            if self.labels.level > level:
                log.warning("%s: the errors are at level %d: %s", self._task, self.labels.level, _in_words(self.labels))
        return True

    def set_label_error(self, share: float) -> None:
        """See `Labels.set_label_error`."""
        if self.labels is not None:
            with self._judging:
                self._are_labels_saved = not self.labels.set_label_error(share) and self._are_labels_saved

    def is_loud(self) -> bool:
        """Whether the watch alarms on readings alone."""
        if self.watcher is None or self.level < 2:
            return False
        with self._looking:
            return self.watcher.is_loud(INPUTS)

    def count_unknown(self) -> None:
        """Count a label about an answer that nobody remembers."""
        if self.labels is not None:
            with self._judging:
                self.labels.unknown += 1
                self._are_labels_saved = False

    def risk(self) -> dict[str, Any] | None:
        """What labels have said, in short, JSON-able; None when the node takes none."""
        if self.labels is None:
            return None
        with self._judging:
            return self.labels.summary()

    def evidence(self) -> dict[str, Any] | None:
        """What the watch knows and, as "risk", what labels have said; JSON-able. None when there is neither."""
        found: dict[str, Any] = {}
        if self.watcher is not None:
            with self._looking:
                found = self.watcher.evidence()
        if self.labels is not None:
            with self._judging:
                found["risk"] = self.labels.evidence()
        return found or None

    def save(self, now_s: float, *, at_once: bool = False) -> None:
        """Write the watch's state when it is time, and that of the labels when it has changed.

        Args:
            now_s: monotonic.
            at_once: whatever the time is.
        """
        self._save_labels()
        if self._file is None or self.watcher is None or self._is_saved:
            return
        if not at_once and now_s - self._saved_at_s < SAVE_EVERY_S:
            return
        self._saved_at_s = now_s
        with self._looking:
            content = self.watcher.to_bytes()
            self._is_saved = True  # what is seen while it is written is not
        try:
            durable.write_bytes(self._file, content)
        except StateError as error:
            self._is_saved = False
            self.fault = str(error)

    def _save_labels(self) -> None:
        if self._labels_file is None or self.labels is None or self._are_labels_saved:
            return
        with self._judging:
            content = self.labels.to_bytes()
            self._are_labels_saved = True
        try:
            durable.write_bytes(self._labels_file, content)
        except StateError as error:
            self._are_labels_saved = False
            self.fault = str(error)

    def _class_or_values(self, told: Told) -> Answered:
        if not self._is_classifier:
            return told.values
        return int(told.stratum) if told.stratum.isdigit() else None

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
        shadow, learner = self.shadow, self.learner
        if learner is not None:
            asked = [name for seen in chunk for name in _asked(seen)]
            learner.observe(asked, x, y)
        if self._capture is None and shadow is None:
            return
        ids = [name for seen in chunk for name in row_ids(seen.id or self._new_id(), len(seen.x))]
        if self._capture is not None:
            self._offer(ids, x, y, embedding)
        if shadow is not None:
            shadow.look(ids, x, y)

    def _offer(self, ids: Sequence[str], x: Array, y: Array, embedding: Array | None) -> None:
        """Offer every row, with uncertainty times distance to the card as what it would teach."""
        if self._capture is None:
            return
        doubt = uncertainty(y, self._manifest, self.are_probabilities)
        if self._distance is not None:
            doubt = doubt * self._distance(x, y, embedding)
        strata = (
            y.reshape(len(y), -1).argmax(1) if self._manifest.labels or self._is_classifier else np.zeros(len(y), int)
        )
        if self._answers is not None:
            with self._judging:
                self._answers.add(ids, strata)
        for row, name in enumerate(ids):
            self._capture.offer(
                name,
                self._task,
                self.digest,
                x[row],
                y[row],
                float(doubt[row]),
                str(strata[row]),
            )


def _in_words(labels: Labels) -> str:
    drawn = labels.drawn
    limit = math.nan if labels.detector is None else labels.detector.limit
    return f"{drawn.wrong} of {drawn.rows} labelled rows were wrong, and a mean loss of {limit:.3g} was to be expected"


def _asked(seen: _Seen) -> Sequence[str | None]:
    return [None] * len(seen.x) if seen.id is None else row_ids(seen.id, len(seen.x))


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


def open_labels(manifest: Manifest, digest: str, file: Path | None) -> tuple[Labels, str | None]:
    """The labels of a bundle, going on where the state in `file` left off, and what was wrong with that file."""
    labels = Labels(manifest, digest)
    if file is None or not file.exists():
        return labels, None
    try:
        labels.restore(file.read_bytes())
    except OSError as error:
        return labels, str(durable.state_error(error, file))
    except StateError:  # labels about another model, or damaged: they say nothing about this one
        return labels, None
    return labels, None
