"""Learning of one task on one node: gathers readings and labels, learns, judges, keeps and reports.

    learner = Learner("statistics", manifest, digest, card, ask=ask, put=put, file=file)
    learner.observe(ids, x, y)         # where the watch looks
    learner.judge(event, told)         # a label; from any thread
    learner.work(is_loud=...)          # now and then, on a thread that nobody waits for
    learner.status()

Rules:
- `put` is given what answers from now on, or None for the signed model alone.
- Statistics are gathered only while the watch is loud about readings, and what was learnt goes when it is quiet again.
- A label is about a reading. The reading is taken from the last ones that were asked with an id, else from the capture;
  where neither has it, the label says nothing here. `ask` puts it to the signed model once more: so both answers come
  from the same reading, whatever was answered then.
- Every label counts, for and against. Where people only correct what was wrong and never confirm what was right, labels
  speak against whatever answers, so what was learnt is dropped sooner than it need be: the safe side.
- What was dropped stays dropped for this bundle and policy, over restarts.
- `work` keeps no lock while it learns or asks the model: `status`, `judge` and `observe` never wait for that.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehone_agent import durable
from edgehone_agent.errors import EdgehoneError, StateError
from edgehone_agent.feedback import Told
from edgehone_agent.learn import Kind
from edgehone_agent.learn.kept import MAX_BYTES, Change, Kept
from edgehone_agent.learn.last_layer import MAX_WEIGHTS, Row, fit
from edgehone_agent.learn.statistics import MIN_ROWS, Reference, Scale, estimate, measure, reference_of
from edgehone_agent.learn.verdict import Verdict
from edgehone_agent.scores import is_classifier
from edgehone_agent.watch.labels import class_of
from edgehone_agent.wire.card import Card
from edgehone_agent.wire.manifest import Manifest

if TYPE_CHECKING:
    from edgehone_agent._live import Live

WINDOW = 128  # readings that an estimate rests on
FIT_EVERY = 8  # labels
MAX_LABELS = 512  # that a head is learnt from, the newest
MAX_LABEL_BYTES = 4 << 20  # of their embeddings
MAX_RECENT = 2048  # readings that a label may still come for
MAX_RECENT_BYTES = 4 << 20
SAVE_EVERY_S = 60.0
_MOST_WAITING = 1024  # labels
_LEAST_CHANGE = 0.05  # of a gain, or of an offset in reference spreads, that is worth a new one

Array = NDArray[np.float32]
Ask = Callable[[Array], tuple[Array, Array | None] | None]
"""The signed model's answer (K,) to one reading and its embedding (E,); None when it answers no more."""

log = logging.getLogger("edgehone_agent.learn")


class _Labelled(NamedTuple):
    id: str
    x: Array
    label: int


class Learner:
    """One task's; see the module.

    Args:
        kind: of learning.
        manifest, digest: of the bundle that answers.
        card: its drift reference, which readings are watched with; None for none.
        ask: see `Ask`.
        put: called with what answers from now on.
        file: where it is kept; None to keep nothing.
        label_error: share of the labels that is known to be wrong.
        has_watch, has_feedback: whether the node follows readings, and takes labels.
    """

    def __init__(
        self,
        kind: Kind,
        manifest: Manifest,
        digest: str,
        card: Card | None,
        *,
        ask: Ask,
        put: Callable[[Change | None], None],
        file: Path | None = None,
        label_error: float = 0.0,
        has_watch: bool = True,
        has_feedback: bool = True,
    ) -> None:
        self.kind, self.digest = kind, digest
        self._manifest, self._card, self._ask, self._put, self._file = manifest, card, ask, put, file
        self._label_error = float(np.float32(label_error))
        self._is_classifier = is_classifier(manifest)
        self._change: Change | None = None
        self._is_dropped = self._is_closed = False
        self._verdict = Verdict()
        self._working = threading.Lock()  # of what `work` and `close` do
        self._lock = threading.Lock()  # of what follows
        self._is_loud = False
        self._measured: deque[Array] = deque(maxlen=WINDOW)
        self._new_rows = self._passed = 0
        self._recent: OrderedDict[str, tuple[Array, int]] = OrderedDict()  # readings and what was answered
        self._recent_bytes = 0
        self._waiting: deque[_Labelled] = deque()
        self._rows: list[Row] = []
        self._new_labels = 0
        self._before: Change | None = None
        self._is_saved, self._saved_at_s = True, 0.0
        self._reference: Reference | None = None
        self.fault: str | None = None
        self._unfit = self._why_not(has_watch, has_feedback)
        self._why = self._unfit or ("the watch is quiet" if kind == "statistics" else "no labels yet")
        if not self._unfit:
            self._restore()

    def observe(self, ids: Sequence[str | None], x: Array, y: Array) -> None:
        """Take in readings (N, ...) and what was answered; an id for each that a label may come for."""
        with self._lock:
            if self._unfit or self._is_dropped:
                return
            if self._is_classifier:
                for place, name in enumerate(ids):
                    if name is not None:
                        self._remember(name, x[place], int(y[place].argmax()))
            if self._reference is not None and self._is_loud:
                gap = 1 if self._card is None else self._card.gap
                first = -self._passed % gap
                self._passed += len(x)
                rows = measure(x[first::gap], self._reference)
                self._measured.extend(rows[np.isfinite(rows).all(1)])
                self._new_rows += len(rows)

    def judge(self, event: Mapping[str, Any], told: Told) -> None:
        """Take in a label; it is looked at in `work`.

        Args:
            event: checked, of a kind that labels, and the first about its answer.
            told: what the capture knows of the answer.
        """
        with self._lock:
            if self._unfit or self._is_dropped or not self._is_classifier or event["kind"] == "new_class":
                return
            name = str(event["prediction_id"])
            x, answered = self._recent.get(name, (None, None))
            if x is None and told.is_captured and told.digest == self.digest:
                x, answered = told.x, int(told.stratum) if told.stratum.isdigit() else None
            label = answered if event["kind"] == "confirm" else class_of(self._manifest, event.get("label"))
            if label is None or x is None or x.shape != self._manifest.input.shape:
                return
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(_Labelled(name, x.astype(np.float32, copy=False), label))

    def forget(self, id: str) -> None:
        """Learn no more from the reading of an answer: somebody asked for its deletion."""
        with self._lock:
            self._recent.pop(id, None)
            self._waiting = deque(one for one in self._waiting if one.id != id)
            kept = [row for row in self._rows if row.id != id]
            self._new_labels += FIT_EVERY * (len(kept) < len(self._rows))
            self._rows = kept

    def work(self, *, is_loud: bool, now_s: float) -> None:
        """Judge and learn from what has come, and keep it.

        Args:
            is_loud: the watch alarms on readings.
            now_s: monotonic.
        """
        with self._working:
            if self._unfit or self._is_dropped or self._is_closed:
                return
            try:
                self._judge_all()
                if not self._is_dropped:
                    self._fit() if self.kind == "last-layer" else self._follow(is_loud)
            except (EdgehoneError, np.linalg.LinAlgError) as error:
                self.fault = str(error)
            self._save(now_s)

    def close(self) -> None:
        """Keep what there is."""
        with self._working:
            self._save(0.0, at_once=True)
            self._is_closed = True

    def status(self) -> dict[str, Any]:
        """JSON-able: the kind, what it rests on, "active", "waiting" or "dropped", and why."""
        with self._lock:
            change, verdict = self._change, self._verdict
            state = "dropped" if self._is_dropped else "waiting" if change is None else "active"
            gathered = len(self._measured) if self.kind == "statistics" else len(self._rows)
            return {
                "kind": self.kind, "rows": gathered if change is None else change.rows, "state": state,
                "why": self._why, "fault": self.fault,
                "judged": {"rows": verdict.rows, "wrong": verdict.wrong, "own_wrong": verdict.own_wrong},
            }  # fmt: skip

    # --- inside

    def _why_not(self, has_watch: bool, has_feedback: bool) -> str:
        card = self._card
        if self.kind == "statistics":
            if card is None or not has_watch:
                return "the bundle has no card" if card is None else "the watch is turned off"
            found = reference_of(card)
            if isinstance(found, str):
                return found
            self._reference = found
            return ""
        if not self._is_classifier:
            return "only a classifier has a last layer that can be learnt here"
        if card is None or not card.embedding_size:
            return "the bundle's file gives no embedding"
        if card.embedding_size * self._manifest.output.shape[0] > MAX_WEIGHTS:
            return f"the last layer has more than {MAX_WEIGHTS} values"
        return "" if has_feedback else "the node takes no labels: turn capture on"

    def _remember(self, id: str, x: Array, answered: int) -> None:
        self._recent[id] = (x.copy(), answered)
        self._recent_bytes += x.nbytes
        while len(self._recent) > MAX_RECENT or self._recent_bytes > MAX_RECENT_BYTES:
            self._recent_bytes -= self._recent.popitem(last=False)[1][0].nbytes

    def _judge_all(self) -> None:
        while not self._is_dropped:
            with self._lock:
                found = self._waiting.popleft() if self._waiting else None
            answer = None if found is None else self._ask(found.x)
            if found is None or answer is None:
                return
            y, embedding = answer
            if self._change is not None:
                self._compare(found, y, embedding)
            if self.kind == "last-layer" and embedding is not None and not self._is_dropped:
                self._learn_from(Row(found.id, y.copy(), embedding.reshape(-1).copy(), found.label))

    def _compare(self, found: _Labelled, y: Array, embedding: Array | None) -> None:
        change = self._change
        if isinstance(change, Scale):
            answer = self._ask(change.apply(found.x, found.x.ndim))
            learnt = None if answer is None else answer[0]
        elif change is not None and embedding is not None:
            learnt = change.answer(y, embedding.reshape(-1))
        else:
            learnt = None
        if learnt is None:
            return
        self._verdict.compare(found.label, learnt=int(learnt.argmax()), own=int(y.argmax()))
        self._is_saved = False
        if self._verdict.is_worse:
            self._is_dropped = True
            self._say(None, f"it answers worse than the signed model: {self._verdict.words}")
            self._saved_at_s = float("-inf")

    def _learn_from(self, row: Row) -> None:
        most = max(1, min(MAX_LABELS, MAX_LABEL_BYTES // row.embedding.nbytes))
        with self._lock:
            self._rows = [*self._rows, row][-most:]
            self._new_labels += 1

    def _follow(self, is_loud: bool) -> None:
        """Adapt statistics while the watch is loud, and no longer."""
        with self._lock:
            if is_loud != self._is_loud:
                self._is_loud = is_loud
                self._measured.clear()
                self._new_rows = 0
            known = len(self._measured)
            is_due = is_loud and self._new_rows >= max(MIN_ROWS, known // 2) and known >= MIN_ROWS
            measured = np.stack(self._measured) if is_due else None
            self._new_rows = 0 if is_due else self._new_rows
        if not is_loud:
            self._say(None, "the watch is quiet")
        if measured is None or self._reference is None:
            return
        found = estimate(measured, self._reference)
        if isinstance(found, str):
            self._say(None, found)
        elif not isinstance(self._change, Scale) or self._differs(found, self._change):
            self._say(found, found.words)

    def _differs(self, found: Scale, before: Scale) -> bool:
        """Whether another scale is worth it; more readings are, up to the window."""
        spread = np.ones(1) if self._reference is None else self._reference.spread
        spread = np.where(spread > 0, spread, 1.0)
        gain = np.abs(np.log(found.gain / before.gain)).max()
        offset = (np.abs(found.offset - before.offset) / spread).max()
        return found.rows > before.rows or max(float(gain), float(offset)) > _LEAST_CHANGE

    def _fit(self) -> None:
        with self._lock:
            if self._new_labels < FIT_EVERY:
                return
            self._new_labels, rows = 0, self._rows
        before = self._before if not isinstance(self._before, Scale) else None
        share = self._card is not None and self._card.probabilities
        found = fit(rows, probabilities=share, before=before, label_error=self._label_error)
        if found.head is not None or self._change is None or found.lost > found.gained:
            self._say(found.head, found.why)

    def _say(self, change: Change | None, why: str) -> None:
        """Answer with something else from now on, and say why."""
        if change is not None or self._change is not None:
            is_news = change is None or self._change is None
            log.log(logging.WARNING if is_news else logging.DEBUG, "%s: %s: %s", self._manifest.task, self.kind, why)
            self._is_saved = False
            self._put(change)
        with self._lock:
            self._change, self._why = change, why

    def _restore(self) -> None:
        if self._file is None:
            return
        try:
            with self._file.open("rb") as opened:
                kept = Kept.from_bytes(opened.read(2 * MAX_BYTES))
            if (kept.digest, kept.kind, kept.label_error) != (self.digest, self.kind, self._label_error):
                return
            if kept.change is not None and not self._suits(kept.change):
                return
            self._verdict.restore(kept.verdict)
        except FileNotFoundError:
            return
        except OSError as error:
            self.fault = str(durable.state_error(error, self._file))
            return
        except StateError as error:
            log.warning("%s: %s", self._manifest.task, error.what)
            return
        self._is_dropped, self._before = kept.state == "dropped", kept.change
        if kept.change is None:
            self._why = kept.why
        else:
            self._is_loud = True  # as it was; the next look says whether it still is
            self._say(kept.change, f"{kept.change.words}, from before the restart")
        self._is_saved = True

    def _suits(self, change: Change) -> bool:
        if isinstance(change, Scale):
            return self._reference is not None and len(change.gain) == len(self._reference.center)
        size = 0 if self._card is None else self._card.embedding_size
        return change.weights.shape == (self._manifest.output.shape[0], size)

    def _save(self, now_s: float, *, at_once: bool = False) -> None:
        """Write or remove the file: at once when something was dropped, else once a minute."""
        if self._file is None or self._is_saved or not (at_once or now_s - self._saved_at_s >= SAVE_EVERY_S):
            return
        self._is_saved, self._saved_at_s = True, now_s
        try:
            if self._change is None and not self._is_dropped:
                durable.remove(self._file)
                return
            kept = Kept(
                self.digest, self.kind, "dropped" if self._is_dropped else "active", self._change, self._label_error,
                self._verdict.to_bytes(), self._why,
            )  # fmt: skip
            durable.write_bytes(self._file, kept.to_bytes())
        except StateError as error:
            self.fault, self._is_saved = str(error), False


def open_learner(kind: Kind, live: Live, file: Path | None, label_error: float) -> Learner:
    """A learner for what answers, which sees what its feed sees."""
    loaded, feed = live.loaded, live.feed
    card = loaded.card if feed is None or feed.watcher is None else feed.watcher.card

    def put(change: Change | None) -> None:
        live.change = change

    learner = Learner(
        kind, loaded.manifest, loaded.digest, card, ask=live.ask, put=put, file=file, label_error=label_error,
        has_watch=feed is not None and feed.watcher is not None,
        has_feedback=feed is not None and feed.labels is not None,
    )  # fmt: skip
    if feed is not None:
        feed.learner = learner
    return learner
