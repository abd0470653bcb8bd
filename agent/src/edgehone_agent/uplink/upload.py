"""Sending up what the capture keeps and what the watch found. docs/formats/uplink.md has the messages.

Rules:
- A batch is planned in the capture's database first (as for `edgehone-agent export`), then sent in pieces, then marked
  as done. A kill anywhere in between sends some of it again, which the core knows by its ids: nothing counts twice, and
  nothing is lost.
- What was acknowledged is not sent again by the same process, so a weak link makes progress piece by piece.
- The core says when it has enough (429 with Retry-After): nothing is sent up until then. Heartbeats go on.
- What the core will never take, because it does not like the form, is let go one by one and counted; it must not block
  what comes after.
- The reading of a sample leaves the node only when the core asks for samples and the settings allow it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent._capture_export import Ask
from edgehone_agent._capture_seal import Seal, UnreadableError, unpack
from edgehone_agent._capture_store import Batch, SampleRow, open_event, open_sample
from edgehone_agent.capture import Capture
from edgehone_agent.errors import BusyError, InputError, TrustError
from edgehone_agent.feedback import SHARES
from edgehone_agent.uplink.client import CoreClient
from edgehone_agent.wire.uplink import MAX_EVENTS, MAX_EVIDENCE_BYTES, Evidence, SampleLine, Taken, read, write

PIECE_BYTES = 256 << 10  # of one call, where a single row is not larger
_LONGEST_ANSWER = 4096
_MOST_BATCHES = 4  # of samples in one go; each has one model and one shape
_NDJSON = "application/x-ndjson"

log = logging.getLogger("edgehone_agent.uplink")


@dataclass
class Counts:
    """What was sent up since the start: rows that the core had not and had before, and rows that it refuses."""

    samples: int = 0
    events: int = 0
    known: int = 0
    refused: int = 0
    unreadable: int = 0
    evidence: int = 0


@dataclass
class Uploads:
    """The uploads of a node. One thread at a time.

    Args:
        client: to the core.
        capture: what the node keeps; None when it keeps nothing.
        monotonic: seconds that never go back.
    """

    client: CoreClient
    capture: Capture | None
    monotonic: Callable[[], float] = time.monotonic
    counts: Counts = field(default_factory=Counts)
    _acknowledged: set[str] = field(default_factory=set)
    _not_before: float = 0.0

    @property
    def pause_s(self) -> float:
        """Seconds for which the core wants nothing sent up; 0 when it may be."""
        return max(0.0, self._not_before - self.monotonic())

    def send_evidence(self, task: str, digest: str, content: Mapping[str, Any]) -> bool:
        """Send what the watch of a task found; whether the core has it.

        Raises:
            EdgehoneError: as `CoreClient.post`.
        """
        if self.pause_s:
            return False
        body = write(Evidence(task, digest, _plain(content)))
        if len(body) > MAX_EVIDENCE_BYTES:
            short = {name: value for name, value in content.items() if not isinstance(value, list | dict | tuple)}
            body = write(Evidence(task, digest, _plain({**short, "cut": True})))
        with self._paced():
            self.client.post("evidence", body)
            self.counts.evidence += 1
            return True

    def send_feedback(self) -> int:
        """Send the feedback that the capture holds; how many events that were. Raises as `CoreClient.post`.

        What arrives meanwhile waits for the next time: a call for each event would be more than the core takes.
        """
        sent, told = 0, MAX_EVENTS
        while self.capture is not None and told >= MAX_EVENTS and not self.pause_s:
            told = self.capture.hand_over(self._feedback_batch) or 0
            sent += told
        return sent

    def send_samples(self, most: int) -> int:
        """Send captured samples, whole batches until `most` rows are reached; how many. Raises as `CoreClient.post`."""
        sent = 0
        for _ in range(_MOST_BATCHES):
            if self.capture is None or sent >= most or self.pause_s:
                break
            told = self.capture.hand_over(self._sample_batch)
            if told is None:
                break
            sent += told
        return sent

    def _feedback_batch(self, ask: Ask, seal: Seal, now_s: float) -> int | None:  # noqa: ARG002  see `hand_over`
        batch: Batch | None = ask(lambda store: store.plan_feedback())
        if batch is None:
            return None
        rows = [(name, event) for name, event in self._events(seal, batch) if name not in self._acknowledged]
        for piece in _pieces(rows, MAX_EVENTS):
            self._send("feedback", piece, lambda part: b'{"events":[' + b",".join(part) + b"]}")
        number = batch.number
        ask(lambda store: store.finish_feedback(number))
        self._acknowledged.clear()
        self.counts.events += len(rows)
        return len(batch.rows)

    def _sample_batch(self, ask: Ask, seal: Seal, now_s: float) -> int | None:
        batch: Batch | None = ask(lambda store: store.plan_samples())
        if batch is None:
            return None
        rows = [(name, line) for name, line in self._samples(seal, batch) if name not in self._acknowledged]
        for piece in _pieces(rows, len(rows)):
            self._send("samples", piece, lambda part: b"\n".join(part) + b"\n")
        number = batch.number
        ask(lambda store: store.finish_samples(number, now_s))
        self._acknowledged.clear()
        self.counts.samples += len(rows)
        return len(batch.rows)

    def _events(self, seal: Seal, batch: Batch) -> Iterator[tuple[str, bytes]]:
        for name, _, sealed in batch.rows:
            try:
                yield name, open_event(seal, name, sealed)
            except UnreadableError:
                self.counts.unreadable += 1

    def _samples(self, seal: Seal, batch: Batch) -> Iterator[tuple[str, bytes]]:
        for row in batch.rows:
            try:
                yield row.id, write(line_of(row, *unpack(row.layout, open_sample(seal, row))))
            except UnreadableError:
                self.counts.unreadable += 1

    def _send(self, name: str, piece: list[tuple[str, bytes]], join: Callable[[list[bytes]], bytes]) -> None:
        """One call; when the core refuses it, each row alone, and what it refuses then is let go."""
        try:
            with self._paced():
                kind = _NDJSON if name == "samples" else "application/json"
                taken = read(Taken, self.client.post(name, join([row for _, row in piece]), kind))
                self.counts.known += len(taken.known)
        except TrustError:
            raise
        except InputError as error:
            if len(piece) > 1:
                for one in piece:
                    self._send(name, [one], join)
                return
            self.counts.refused += 1
            log.warning("the core does not take %s of %s: %s", name, piece[0][0], error.what)
        self._acknowledged.update(row for row, _ in piece)

    @contextlib.contextmanager
    def _paced(self) -> Iterator[None]:
        """Remember how long the core wants to be left alone."""
        try:
            yield
        except BusyError as error:
            self._not_before = self.monotonic() + error.retry_after_s
            raise


def line_of(row: SampleRow, x: NDArray[Any], values: NDArray[Any]) -> SampleLine:
    """A captured sample as it goes up.

    Args:
        row: what stands beside it.
        x: the reading, one example in torch order.
        values: the answer; left out where it is not finite or longer than a line may hold.
    """
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(x), version=(1, 0), allow_pickle=False)
    places = dict(row.places)
    share = next((name for name in reversed(SHARES) if name in places), SHARES[0])
    flat = values.reshape(-1).astype(float)
    is_whole = len(flat) <= _LONGEST_ANSWER and bool(np.isfinite(flat).all())
    return SampleLine(
        id=row.id, task=row.task, digest=row.digest, time_s=min(max(row.time, 0.0), 99_999_999_999.0), share=share,
        propensity=min(max(places.get(share) or 0.0, 0.0), 1.0),
        informativeness=row.informativeness if math.isfinite(row.informativeness) else 0.0, stratum=row.stratum,
        answer=tuple(map(float, flat)) if is_whole else (), x=base64.b64encode(file.getvalue()).decode(),
    )  # fmt: skip


def _pieces(rows: Iterable[tuple[str, bytes]], most_rows: int) -> Iterator[list[tuple[str, bytes]]]:
    """Rows in calls of at most so many rows, and of at most `PIECE_BYTES` where one row is not larger."""
    piece: list[tuple[str, bytes]] = []
    size = 0
    for row in rows:
        if piece and (len(piece) >= most_rows or size + len(row[1]) > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += len(row[1]) + 1
    if piece:
        yield piece


def _plain(value: Any) -> Any:
    """JSON that every reader takes: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
