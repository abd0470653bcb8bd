"""A node in this process: the models of a state folder, asked directly.

    from edgehone_agent import Node

    with Node("edgehone-state") as node:
        scores = node.predict(picture)                  # the only task; (C, H, W) or a batch
        answer = node.infer("digits", batch, top_k=3)   # with an id, digest, latency, confidence and labels

Rules:
- Any thread may call anything. A session belongs to one caller at a time; with `sessions=2` two are answered at once.
- A swap exchanges one reference. Calls that run end on the old model, which is freed after the last of them; later ones
  get the new one. None fails and none waits for the swap.
- Tasks share nothing: one that cannot be loaded is not ready, says why in `status`, and leaves the others alone.
- The first node of a folder writes it; a further one (say, beside a running agent) reads it and does not.
- What looks at answers (watch, capture) sees copies, later, on another thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgehone_agent import durable
from edgehone_agent._live import Live, Task
from edgehone_agent.capture import Capture
from edgehone_agent.errors import EdgehoneError, HostError, InputError, StateError
from edgehone_agent.fast import FastModel
from edgehone_agent.feedback import LABELLING
from edgehone_agent.ids import Ids
from edgehone_agent.loading import Loaded, read_card
from edgehone_agent.lock import Lock, take_lock
from edgehone_agent.node_report import node_metrics, task_status
from edgehone_agent.observer import Feed, open_labels, open_watcher
from edgehone_agent.scores import is_classifier, probabilities, top_labels
from edgehone_agent.serve.host import Answer, Metric
from edgehone_agent.slot_rules import SETTLED_AFTER_S
from edgehone_agent.slots import Slots
from edgehone_agent.wire.card import Card
from edgehone_agent.wire.manifest import Manifest

if TYPE_CHECKING:
    from edgehone_agent.learn import Kind
    from edgehone_agent.learn.kept import Change

Array = NDArray[np.float32]
_TICK_S = 0.25


class Node:
    """The models of a state folder. Close it, or use it in a `with`. Implements `edgehone_agent.serve.host.Host`.

    Args:
        state: the folder.
        tasks: names of the tasks to serve; empty for those that the folder has.
        threads: of each session.
        sessions: per task; how many callers are answered at the same time.
        watch: follow the answers of bundles that have a card.
        capture: keeps samples and feedback; the node does not close it.
        context: of all tasks, see `set_context`.
        policy: of all tasks, see `set_policy`: what they may learn here, and the share of wrong labels; None while
            nobody has said.
        clock: Unix time.
        monotonic: seconds that never go back.

    Raises:
        InputError: `threads` is not between 1 and the number of cores.
    """

    def __init__(
        self,
        state: str | Path,
        *,
        tasks: Sequence[str] = (),
        threads: int = 1,
        sessions: int = 1,
        watch: bool = True,
        capture: Capture | None = None,
        context: str | None = None,
        policy: tuple[Kind | None, float] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = Path(state)
        self.notes: dict[str, Any] = {}  # what others have to say in `status`; a function is asked each time
        self.ids = Ids()
        self._capture, self._watch = capture, watch
        self._clock, self._monotonic = clock, monotonic
        self._stop = threading.Event()
        self._lock: Lock | None = None
        self.fault: str | None = None
        try:
            self._lock = take_lock(self.state)
        except StateError as error:
            self.fault = str(error)
        self._threads, self._sessions, self._context, self._policy = threads, sessions, context, policy
        self._tasks: dict[str, Task] = {}
        self._live: dict[str | None, Live] = {}
        for name in tuple(tasks) or task_names(self.state):
            self._tasks[name] = self._open(name)
        for task in self._tasks.values():
            task.slots.start()
            self._load(task)
        self._thread = threading.Thread(target=self._keep, name="edgehone-node", daemon=True)
        self._thread.start()

    # --- answers

    def predict(self, x: ArrayLike, task: str | None = None) -> Array:
        """The model's answer: (...) for one example, (N, ...) for a batch; the fast way in.

        Args:
            x: raw readings in torch order, see `edgehone_agent.model`.
            task: may be left out when the node has one only.

        Raises:
            InputError: an input that does not fit, or no such task.
            StateError: the task has no model that answers.
        """
        while True:
            live = self._live.get(task)
            if live is None:
                raise self._absent(task)
            lane = live.take()
            try:
                if not lane.is_open:
                    continue
                change = live.change
                y = lane.model.predict(x) if change is None else change.ask(lane.model, x)
                lane.answered += 1
                if live.feed is not None:
                    self._show(live.feed, lane.model, np.asarray(x), y, None)
                else:
                    lane.model.take_embedding()  # which would pile up
                return y
            except EdgehoneError:
                lane.model.take_embedding()  # of the part of a batch that was answered
                raise
            finally:
                lane.lock.release()

    def infer(self, task: str, x: Array, *, top_k: int = 0) -> Answer:
        """See `Host`."""
        started_ns = time.perf_counter_ns()
        while True:
            live = self._live.get(task)
            if live is None:
                raise self._absent(task)
            lane = live.take()
            try:
                if lane.is_open:
                    id = self.ids.next()
                    y = _predict_batch(lane.model, live.loaded.manifest, x, live.change)
                    lane.answered += 1
                    if live.feed is not None:
                        self._show(live.feed, lane.model, x, y, id)
                    else:
                        lane.model.take_embedding()
                    break
            except EdgehoneError:
                lane.model.take_embedding()
                raise
            finally:
                lane.lock.release()
        manifest = live.loaded.manifest
        confidence: Array | None = None
        top: tuple[tuple[tuple[str, float], ...], ...] = ()
        if top_k and is_classifier(manifest):
            scores = probabilities(y, None if live.feed is None else live.feed.are_probabilities)
            confidence, top = scores.max(1), top_labels(scores, manifest.labels, top_k)
        latency_us = (time.perf_counter_ns() - started_ns) / 1e3
        counts = self._tasks[task]
        counts.infer_count += 1  # a count that two threads race for may lose one: it is a statistic
        counts.infer_seconds += latency_us / 1e6
        return Answer(id, task, live.loaded.digest, y, latency_us, confidence, top)

    def feedback(self, event: Mapping[str, Any]) -> None:
        """See `Host`. The first event about an answer counts in `status` when it is a label; see `watch.labels`."""
        if self._capture is None:
            raise StateError("this node keeps no feedback", where="feedback", do="start the agent with [capture]")
        feeds = {task.name: task.live.feed for task in self._tasks.values() if task.live is not None}
        known = [feed for feed in feeds.values() if feed is not None]
        for feed in known:  # the answer may wait there still
            feed.drain()
        told = self._capture.feedback(event)
        if event["kind"] == "delete":
            for task in self._tasks.values():
                if task.learner is not None:
                    task.learner.forget(str(event["prediction_id"]))
        if not told.is_first or event["kind"] not in LABELLING or any(feed.judge(event, told) for feed in known):
            return
        lost = known[0] if len(known) == 1 else feeds.get(str(event.get("task")))
        if lost is not None:
            lost.count_unknown()

    # --- what there is

    def tasks(self) -> tuple[str, ...]:
        """See `Host`."""
        return tuple(self._tasks)

    def ready(self, task: str | None = None) -> bool:
        """See `Host`."""
        return task in self._live if task is not None else all(name in self._live for name in self._tasks)

    def manifest(self, task: str) -> Manifest:
        """See `Host`."""
        return self._answering(task).loaded.manifest

    def digest(self, task: str) -> str:
        """See `Host`."""
        return self._answering(task).loaded.digest

    def metrics(self) -> Iterable[Metric]:
        """See `Host`."""
        return node_metrics(self._tasks.values(), None if self._capture is None else self._capture.stats())

    def status(self) -> dict[str, Any]:
        """See `Host`."""
        return {
            "state": str(self.state),
            "writes": self._lock is not None,
            "fault": self.fault,
            "tasks": {task.name: task_status(task, self._monotonic()) for task in self._tasks.values()},
            "capture": None if self._capture is None else self._capture.stats(),
            **{name: note() if callable(note) else note for name, note in self.notes.items()},
        }

    def slots(self, task: str) -> Slots:
        """The slots of a task, to look at. Raises InputError for an unknown one."""
        return self._task(task).slots

    # --- changes

    def claim(self) -> bool:
        """Become the one that writes the folder, where that was not possible at the start; whether it is now."""
        if self._lock is None and not self._stop.is_set():
            try:
                self._lock = take_lock(self.state)
            except StateError as error:
                self.fault = str(error)
            if self._lock is not None:
                self.fault = None
                for task in self._tasks.values():
                    task.slots.is_writer = True
        return self._lock is not None

    def evidence(self) -> dict[str, Any]:
        """What the watch and labels know, by task, JSON-able; tasks of which nothing is known are left out."""
        feeds = {task.name: task.live.feed for task in self._tasks.values() if task.live is not None}
        found = {name: feed.evidence() for name, feed in feeds.items() if feed is not None}
        return {name: told for name, told in found.items() if told is not None}

    def install(self, task: str, bundle: str | Path) -> Manifest:
        """Try a bundle file beside what answers, and let it take over when it passes; see `Slots.install`.

        Raises:
            InputError: the bundle is not good, or not for this node; what answers goes on.
            HostError: disk, memory or a missing runtime, or another process writes this folder.
        """
        found = self._task(task)
        with found.lock:
            try:
                loaded = found.slots.install(Path(bundle))
            except EdgehoneError as error:
                found.fault = str(error)
                raise
            self._swap(found, loaded)
            found.swaps += 1
        return loaded.manifest

    def roll_back(self, task: str, why: str = "") -> Manifest:
        """Let the last good bundle take over again; see `Slots.roll_back`.

        Raises:
            InputError: there is none.
            HostError: as `install`.
        """
        found = self._task(task)
        with found.lock:
            loaded = found.slots.roll_back(why)
            self._swap(found, loaded)
            found.roll_backs += 1
        return loaded.manifest

    def add_task(self, name: str) -> None:
        """Serve one more task from now on; one that is served already stays as it is."""
        if name in self._tasks:
            return
        task = self._open(name)
        task.slots.start()
        self._tasks = {**self._tasks, name: task}  # whoever goes through them now goes through the old ones
        self._load(task)
        if len(self._tasks) > 1:  # then a task has to be named
            self._live = {known: live for known, live in self._live.items() if known is not None}

    def shadow(self, task: str, bundle: Path | None, *, share: float | None = None) -> None:
        """Let a verified bundle file answer beside what serves, unseen; see `uplink.shadow`. None ends that.

        Raises:
            BundleError: the file is no bundle.
            StateError: its folder cannot be written.
        """
        from edgehone_agent.uplink.shadow import SHARE, open_shadow

        found = self._task(task)
        with found.lock:
            self._drop_shadow(found)
            live = found.live
            if bundle is None or live is None:
                return
            found.shadow = open_shadow(
                bundle, live.loaded.manifest, threads=self._threads, share=share or SHARE,
                are_probabilities=None if live.feed is None else live.feed.are_probabilities,
            )  # fmt: skip
            if live.feed is None:
                found.shadow.fault = "nothing follows the answers here: turn capture on"
            else:
                live.feed.shadow = found.shadow

    def shadow_digest(self, task: str) -> str | None:
        """Which bundle answers beside what serves, or could not; None for none."""
        shadow = self._task(task).shadow
        return None if shadow is None else shadow.digest

    def set_context(self, task: str, context: str | None) -> None:
        """Watch a task with the drift reference of a context, such as a cohort, where its bundle has one for it."""
        found = self._task(task)
        with found.lock:
            if found.context == context:
                return
            found.context = context
            live = found.live
            if live is not None and live.feed is not None:
                old = live.feed
                old.drain()
                old.save(self._monotonic(), at_once=True)  # the new one goes on with the labels from there
                live.feed = self._feed(found, live.loaded)
                old.drain()
                if live.feed is not None:
                    live.feed.shadow = old.shadow
                self._open_learner(found)  # it compares with this reference

    def set_policy(self, task: str, *, learn: Kind | None, label_error: float | None = None) -> None:
        """Say what a task may learn here, None for nothing; see `edgehone_agent.learn`.

        Args:
            task: which.
            learn: the kind. With another one, or none, what was learnt is removed.
            label_error: share of the labels that is known to be wrong, 0 to 0.5; None leaves it as it is.

        Raises:
            InputError: an unknown task, or a share out of range.
        """
        found = self._task(task)
        with found.lock:
            share = found.label_error if label_error is None else float(label_error)
            if found.is_told and (found.learn, found.label_error) == (learn, share):
                return
            if share is not None and found.live is not None and found.live.feed is not None:
                found.live.feed.set_label_error(share)
            found.is_told, found.learn, found.label_error = True, learn, share
            self._open_learner(found)

    def reload(self, task: str) -> bool:
        """Try again to load a task that is not ready; whether it is now."""
        found = self._task(task)
        with found.lock:
            if found.live is None:
                self._load(found)
        return found.live is not None

    def close(self) -> None:
        """Free everything and say that this was no crash. Calling it twice is fine."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._live = {}
        for task in self._tasks.values():
            with task.lock:
                self._drop_shadow(task)
                if task.learner is not None:
                    task.learner.close()
                if task.live is not None:
                    task.live.retire()
                    if task.live.feed is not None:
                        task.live.feed.drain()
                        task.live.feed.save(self._monotonic(), at_once=True)
                try:
                    task.slots.stop()
                except StateError as error:
                    task.fault = str(error)
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside

    def _show(self, feed: Feed, model: FastModel, x: Array, y: Array, id: str | None) -> None:
        rows = x.reshape(-1, *model.example)
        embedding = model.take_embedding()
        if embedding is not None and len(embedding) > len(rows):
            embedding = embedding[: len(rows)]  # a file with a fixed batch was filled up
        feed.put(rows, y if y.ndim > feed.output_rank else y[None], embedding, id)

    def _open(self, name: str) -> Task:
        slots = Slots(
            self.state / "tasks" / name, name, threads=self._threads, sessions=self._sessions, clock=self._clock,
            is_writer=self._lock is not None,
        )  # fmt: skip
        task = Task(name, slots)
        task.context = self._context
        if self._policy is not None:
            task.is_told, (task.learn, task.label_error) = True, self._policy
        return task

    def _drop_shadow(self, task: Task) -> None:
        shadow, task.shadow = task.shadow, None
        if task.live is not None and task.live.feed is not None:
            task.live.feed.shadow = None
        if shadow is not None:
            shadow.close()

    def _load(self, task: Task) -> None:
        before = task.slots.state.current
        try:
            loaded = task.slots.load()
        except HostError as error:
            task.fault = str(error)
            return
        task.fault = task.slots.fault
        if loaded is not None:
            self._swap(task, loaded)
            if before is not None and before.digest != loaded.digest:
                task.roll_backs += 1

    def _swap(self, task: Task, loaded: Loaded) -> None:
        self._drop_shadow(task)  # it answered beside another one
        old, new = task.live, Live(loaded, self._feed(task, loaded))
        task.live, task.since_s = new, self._monotonic()
        self._open_learner(task)
        task.fault = task.slots.fault
        live = {**self._live, task.name: new}
        if len(self._tasks) == 1:
            live[None] = new
        self._live = live
        if old is not None:
            old.retire()
            task.answered_before += old.answered
            if old.feed is not None:
                old.feed.drain()

    def _feed(self, task: Task, loaded: Loaded) -> Feed | None:
        watcher = card = labels = None
        folder = self.state / "watch" if self._lock is not None else None
        file = None if folder is None else folder / f"{task.name}.bin"
        labels_file = None if folder is None else folder / f"{task.name}.labels"
        if self._watch:
            card, fault = self._card(task, loaded)
            task.slots.fault = task.slots.fault or fault
        if card is not None:
            watcher, fault = open_watcher(card, file)
            task.slots.fault = task.slots.fault or fault
        if self._capture is not None:
            labels, fault = open_labels(loaded.manifest, loaded.digest, labels_file)
            task.slots.fault = task.slots.fault or fault
            if task.label_error is not None:
                labels.set_label_error(task.label_error)
        if watcher is None and self._capture is None:
            return None
        return Feed(
            loaded.manifest, loaded.digest,
            watcher=watcher, card=card, capture=self._capture, new_id=self.ids.next, file=file,
            labels=labels, labels_file=labels_file,
        )  # fmt: skip

    def _open_learner(self, task: Task) -> None:
        """Let a task learn what its policy asks for from now on, going on where its file left off."""
        live, before = task.live, task.learner
        task.learner = None
        if before is not None:
            before.close()
        if live is not None:
            live.change = None
            if live.feed is not None:
                live.feed.learner = None
        file = None if self._lock is None else self.state / "learn" / f"{task.name}.delta"
        if task.learn is not None and live is not None:
            from edgehone_agent.learn.learner import open_learner

            task.learner = open_learner(task.learn, live, file, task.label_error or 0.0)
        elif task.is_told and task.learn is None and file is not None and file.exists():
            durable.remove(file)

    def _card(self, task: Task, loaded: Loaded) -> tuple[Card | None, str | None]:
        """What a bundle is watched with, and what was wrong with the one of the node's context."""
        if task.context is None:
            return loaded.card, None
        try:
            return read_card(loaded, task.context), None
        except EdgehoneError as error:
            return loaded.card, str(error)

    def _keep(self) -> None:
        while not self._stop.wait(_TICK_S):
            now_s = self._monotonic()
            for task in self._tasks.values():
                live = task.live
                if live is not None and live.feed is not None:
                    live.feed.drain()
                    live.feed.save(now_s)
                learner = task.learner
                if learner is not None and live is not None:
                    is_loud = learner.kind == "statistics" and live.feed is not None and live.feed.is_loud()
                    learner.work(is_loud=is_loud, now_s=now_s)
                if task.slots.state.trial is not None and live is not None and now_s - task.since_s >= SETTLED_AFTER_S:
                    self._settle(task)

    def _settle(self, task: Task) -> None:
        if not task.lock.acquire(blocking=False):  # it is being changed: there is time
            return
        try:
            task.slots.settle()
        except StateError as error:
            task.fault = str(error)
        finally:
            task.lock.release()

    def _task(self, name: str) -> Task:
        found = self._tasks.get(name)
        if found is None:
            known = ", ".join(self._tasks) or "none yet"
            raise InputError(f"there is no task {name!r}", do=f"this node has: {known}")
        return found

    def _answering(self, name: str) -> Live:
        live = self._live.get(name)
        if live is None:
            raise self._absent(name)
        return live

    def _absent(self, task: str | None) -> EdgehoneError:
        if task is None and len(self._tasks) != 1:
            known = ", ".join(self._tasks) or "none"
            return InputError("name the task: the node has not one only", do=f"this node has: {known}")
        try:
            found = self._task(next(iter(self._tasks)) if task is None else task)
        except InputError as error:
            return error
        return StateError(
            f"has no model that answers{': ' + found.fault if found.fault else ''}",
            where=found.name,
            do="wait for the agent to install one, or see: edgehone-agent status",
        )


def task_names(state: Path) -> tuple[str, ...]:
    """Names of the tasks that have slots in a state folder, sorted."""
    return tuple(sorted(pointer.parent.name for pointer in (state / "tasks").glob("*/current.json")))


def _predict_batch(model: FastModel, manifest: Manifest, x: Array, change: Change | None) -> Array:
    if x.ndim == 0 or x.shape[1:] != manifest.input.shape:
        raise InputError(
            f"the input has shape {x.shape}", do=f"give (N, {', '.join(map(str, manifest.input.shape))}) float32"
        )
    if change is not None:
        return change.ask(model, x[0])[None] if len(x) == 1 else change.ask(model, x)
    return model.predict(x[0])[None] if len(x) == 1 else model.predict(x)
