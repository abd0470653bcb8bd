"""A release that answers beside the one that is served, unseen: same readings, on the thread that looks later.

    shadow = open_shadow(bundle, folder, champion=manifest, share=0.2)
    shadow.look(ids, x, y)              # readings (N, ...), and what the champion answered
    shadow.judge(event)                 # a label about one of those answers
    shadow.status()

Rules:
- It never answers a request. It takes at most `share` of one core's time, and at most that share of the rows when many
  come; the rest is passed over.
- Whatever goes wrong with it ends it and is its `fault`; the champion does not notice.
- A process that died twice within a minute of the shadow's loading does not load it again: `tries.json` beside the
  bundle counts. What is on trial itself gets no shadow (see `updates`), so that each death is blamed on one of them.
- Two answers differ as `watch.agreement` says; where the classes of the two releases are not the same, by their names.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent import durable
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import EdgehoneError, StateError
from edgehone_agent.fast import FastModel
from edgehone_agent.loading import load_bundle
from edgehone_agent.scores import is_classifier
from edgehone_agent.watch.agreement import Agreement
from edgehone_agent.watch.labels import baseline_of
from edgehone_agent.wire.manifest import Manifest

SHARE = 0.2
SETTLED_AFTER_S = 60.0
MAX_DEATHS = 2
_FEW_ROWS = 32  # that are all answered when they come together
_BURST_S = 1.0  # of the shadow's time that can be saved up
_REMEMBERED = 4096  # pairs of answers that a label may still come for
_LONGEST_ANSWER = 64  # values of an answer that is remembered
_BASELINE = 0.05  # of a level that nobody reads: the core judges the counts

Array = NDArray[np.float32]
log = logging.getLogger("edgehone_agent.uplink")


class Shadow:
    """One release beside a champion. `look` on one thread; the rest from any.

    Args:
        digest, manifest: of its bundle.
        champion: manifest of what is served.
        model: loaded; None for one that could not be, and `fault` says why.
        latency_us: measured when it was loaded.
        share: of one core's time, and of the rows when many come.
        are_probabilities: whether a single score is one.
        settle: called once when it has lived a minute, and when it is closed.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        digest: str,
        manifest: Manifest,
        champion: Manifest,
        model: FastModel | None,
        *,
        fault: str | None = None,
        latency_us: float | None = None,
        share: float = SHARE,
        are_probabilities: bool | None = None,
        settle: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.digest, self.version = digest, manifest.version
        self.fault = fault
        self.rows = self.disagreements = self.passed_over = 0
        self.labelled = self.wrong = self.champion_wrong = self.both_wrong = 0
        self._manifest, self._champion, self._model = manifest, champion, model
        self._latency_us, self._share, self._clock, self._settle = latency_us, share, clock, settle
        self._is_classifier = is_classifier(champion)
        self._is_same = (manifest.labels, manifest.output.shape) == (champion.labels, champion.output.shape)
        found = baseline_of(champion)
        mean = 0.0 if isinstance(found, str) else found.mean if found.loss != "squared" else found.mean**0.5
        self._step = 0.0 if isinstance(found, str) else mean * found.scale  # the champion's own mean error
        self._agreement = Agreement(
            champion.kind, baseline=_BASELINE, step=0.0 if self._is_classifier else self._step,
            cut=0.0 if are_probabilities is False else 0.5,
        )  # fmt: skip
        self._answers: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._began_s = self._at_s = clock()
        self._credit_s = _BURST_S * share
        self._is_settled = model is None

    def look(self, ids: Sequence[str], x: Array, y: Array) -> None:
        """Answer readings that the champion answered, as many as it has time for.

        Args:
            ids: of the answers.
            x, y: (N, ...) readings and the champion's answers.
        """
        with self._lock:
            if self._model is None:
                return
            now_s = self._clock()
            self._credit_s = min(_BURST_S * self._share, self._credit_s + (now_s - self._at_s) * self._share)
            self._at_s = now_s
            if not self._is_settled and now_s - self._began_s >= SETTLED_AFTER_S:
                self._is_settled = True
                self._settled()
            step = 1 if len(x) <= _FEW_ROWS else max(1, round(1 / self._share))
            try:
                self._answer(ids, x, y, range(0, len(x), step))
            except Exception as error:  # noqa: BLE001  whatever a runtime throws, it is the shadow that ends
                self._end(f"it failed: {error}")

    def _answer(self, ids: Sequence[str], x: Array, y: Array, rows: range) -> None:
        if self._model is None:
            return
        done: list[int] = []
        answers: list[Array] = []
        for row in rows:
            if self._credit_s <= 0:
                break
            started_s = self._clock()
            answers.append(self._model.predict(x[row]))
            self._model.take_embedding()
            self._credit_s -= self._clock() - started_s
            done.append(row)
        self.passed_over += len(x) - len(done)
        if not done:
            return
        mine, theirs = np.stack(answers), y[done]
        differ = self._agreement.observe(theirs, mine) if self._is_same else self._differ_by_name(theirs, mine)
        self.rows += len(done)
        self.disagreements += int(differ.sum())
        for place, row in enumerate(done):
            self._remember(ids[row], theirs[place].reshape(-1), mine[place].reshape(-1))

    def judge(self, event: Mapping[str, Any]) -> None:
        """Count a label about an answer that both gave; one about another answer says nothing here.

        Args:
            event: checked, of a kind that labels, and the first about its answer.
        """
        with self._lock:
            found = self._answers.pop(str(event.get("prediction_id")), None)
            if found is None:
                return
            theirs, mine = found
            verdict = (
                self._by_class(event, theirs, mine) if self._is_classifier else self._by_value(event, theirs, mine)
            )
            if verdict is None:
                return
            self.labelled += 1
            self.champion_wrong += verdict[0]
            self.wrong += verdict[1]
            self.both_wrong += verdict[0] and verdict[1]

    def status(self) -> dict[str, Any]:
        """What there is to tell, JSON-able; `labelled` is None where no label came."""
        with self._lock:
            labelled = {
                "rows": self.labelled, "wrong": self.wrong, "champion_wrong": self.champion_wrong,
                "both_wrong": self.both_wrong,
            }  # fmt: skip
            return {
                "digest": self.digest, "version": self.version, "rows": self.rows, "disagreements": self.disagreements,
                "passed_over": self.passed_over, "latency_us": self._latency_us, "fault": self.fault,
                "labelled": labelled if self.labelled else None,
            }  # fmt: skip

    def close(self) -> None:
        """Free it. Calling it twice is fine."""
        with self._lock:
            self._end(self.fault)

    def _end(self, fault: str | None) -> None:
        self.fault = fault
        if self._model is None:
            return
        model, self._model = self._model, None
        model.close()
        self._settled()
        if fault is not None:
            log.warning("%s: the shadow, version %s, ended: %s", self._champion.task, self.version, fault)

    def _settled(self) -> None:
        with contextlib.suppress(StateError):  # then a death that was none is counted
            self._settle()

    def _differ_by_name(self, theirs: Array, mine: Array) -> NDArray[np.bool_]:
        ours = [_name(self._manifest, int(row.argmax())) for row in mine.reshape(len(mine), -1)]
        known = [_name(self._champion, int(row.argmax())) for row in theirs.reshape(len(theirs), -1)]
        return np.array([one != two for one, two in zip(ours, known, strict=True)])

    def _remember(self, name: str, theirs: Array, mine: Array) -> None:
        if self._is_classifier:
            self._answers[name] = (int(theirs.argmax()), int(mine.argmax()))
        elif len(theirs) <= _LONGEST_ANSWER:
            self._answers[name] = (theirs, mine)
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def _by_class(self, event: Mapping[str, Any], theirs: int, mine: int) -> tuple[bool, bool] | None:
        """Whether the champion and the shadow were wrong; None where the label is no class that either has."""
        answered, label = _name(self._champion, theirs), event.get("label")
        right = answered if event["kind"] == "confirm" else _name(self._champion, label)
        known = {*self._champion.labels, *self._manifest.labels}
        if right is None or (known and right not in known and event["kind"] != "new_class"):
            return None
        return answered != right, _name(self._manifest, mine) != right

    def _by_value(self, event: Mapping[str, Any], theirs: Array, mine: Array) -> tuple[bool, bool] | None:
        """The same for values: wrong is what is farther off than the champion's own mean error."""
        if event["kind"] == "new_class" or not self._step:
            return None
        right = theirs if event["kind"] == "confirm" else event.get("value")
        if right is None:
            return None
        value = np.asarray(right, np.float64).reshape(-1)
        if value.shape != theirs.shape or value.shape != mine.shape:
            return None
        return bool(np.abs(theirs - value).mean() > self._step), bool(np.abs(mine - value).mean() > self._step)


def open_shadow(
    bundle: Path,
    champion: Manifest,
    *,
    threads: int = 1,
    share: float = SHARE,
    are_probabilities: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Shadow:
    """Load a verified bundle file beside a champion; one that cannot be loaded is a shadow with a fault.

    Args:
        bundle: the file; the folder around it is the shadow's own.
        champion: manifest of what is served.
        threads: of the session.
        share: see `Shadow`.
        are_probabilities: whether a single score of the champion is one.
        clock: seconds that never go back.

    Raises:
        BundleError: the file is no bundle at all.
        StateError: the folder cannot be written.
    """
    folder = bundle.parent
    with open_bundle(bundle) as opened:
        manifest, digest = opened.manifest, opened.digest

        def settle() -> None:
            _write_tries(folder, digest, 0)

        def failed(why: str) -> Shadow:
            log.warning("%s: version %s does not answer as a shadow: %s", champion.task, manifest.version, why)
            return Shadow(digest, manifest, champion, None, fault=why, clock=clock)

        why = _why_not(manifest, champion)
        deaths = _read_tries(folder, digest)
        if deaths >= MAX_DEATHS:
            why = why or f"the process died {deaths} times within a minute of its loading"
        if why:
            return failed(why)
        _write_tries(folder, digest, deaths + 1)
        files = folder / f"{digest}.files"
        try:
            shutil.rmtree(files, ignore_errors=True)
            files.mkdir()
            opened.unpack(files)
            loaded = load_bundle(digest, manifest, files, threads=threads, sessions=1, measure=True)
        except (EdgehoneError, OSError) as error:
            settle()
            return failed(error.what if isinstance(error, EdgehoneError) else str(error))
    return Shadow(
        digest, manifest, champion, loaded.models[0], latency_us=loaded.latency_us, share=share,
        are_probabilities=are_probabilities, settle=settle, clock=clock,
    )  # fmt: skip


def _why_not(manifest: Manifest, champion: Manifest) -> str:
    """Why the answers of two releases cannot be compared; empty when they can."""
    if manifest.task != champion.task or manifest.kind != champion.kind:
        return "it is of another task"
    if manifest.input.shape != champion.input.shape:
        return "it takes other readings than what is served"
    both = manifest.labels and champion.labels
    if manifest.output.shape != champion.output.shape and not (both and is_classifier(manifest)):
        return "its answers cannot be compared with those that are served"
    return ""


def _name(manifest: Manifest, label: Any) -> str | None:
    """A class by its name, else by its number as text."""
    if label is None or isinstance(label, bool):
        return None
    if isinstance(label, str):
        return label if label in manifest.labels or not label.isdigit() else _name(manifest, int(label[:9]))
    return manifest.labels[label] if isinstance(label, int) and 0 <= label < len(manifest.labels) else str(label)


def _read_tries(folder: Path, digest: str) -> int:
    """Deaths of the process within a minute of loading this bundle, in a row; 0 where that is not known."""
    try:
        found = json.loads((folder / "tries.json").read_bytes())
        return int(found["deaths"]) if found["digest"] == digest else 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0


def _write_tries(folder: Path, digest: str, deaths: int) -> None:
    if folder.is_dir():
        durable.write_bytes(folder / "tries.json", json.dumps({"digest": digest, "deaths": deaths}).encode())
