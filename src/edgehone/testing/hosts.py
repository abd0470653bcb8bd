"""A node without updates: serves model files through the real runtimes, to test whatever stands in front of a `Host`.

host = FileHost({"digits": ServedFile(path, labels=("a", "b", "c"))})
await serve(host, ["127.0.0.1:0"], stop=stop)
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError
from edgehone_agent.model import Model, example_shape, open_model
from edgehone_agent.serve.app import serve
from edgehone_agent.serve.host import Answer, Host, Metric
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.tls import Tls
from edgehone_agent.wire.manifest import Manifest, Values


@dataclass(frozen=True)
class ServedFile:
    """A model file and what its bundle would say about it.

    Attributes:
        path: of the .tflite or .onnx file.
        labels: of its classes, in the order of the output.
        version: of the release.
        delay_s: added to every run, for a model that is slow.
    """

    path: Path
    labels: tuple[str, ...] = ()
    version: int = 1
    delay_s: float = 0.0


def write_linear(path: Path, widths: tuple[int, ...] = (20, 4), seed: int = 0) -> Path:
    """Write a float32 .tflite file of linear layers, `widths[0]` values in, and return its path."""
    from edgehone.exporters import EXPORTERS
    from edgehone.testing.graphs import GraphBuilder

    build = GraphBuilder((1, widths[0]), seed=seed)
    x = build.input
    for width in widths[1:]:
        x = build.linear(x, width)
    path.write_bytes(EXPORTERS.get("tflite").export(build.graph(x)))
    return path


class _Task:
    def __init__(self, name: str, file: ServedFile) -> None:
        self.file = file
        self.model: Model = open_model(file.path)
        self.lock = threading.Lock()  # a session belongs to one thread at a time
        self.digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
        session = self.model.session
        self.manifest = Manifest(
            task=name,
            kind="classification" if file.labels else "regression",
            version=file.version,
            member="test",
            created="2026-01-01T00:00:00Z",
            parts=(),
            input=Values("reading", example_shape(session.input, session.layout)),
            output=Values("scores", example_shape(session.output, session.layout)),
            labels=file.labels,
        )


class FileHost:
    """A `Host` over model files, one per task. Feedback is kept in the list `events`."""

    def __init__(self, files: Mapping[str, ServedFile]) -> None:
        self._tasks = {name: _Task(name, file) for name, file in files.items()}
        self._ids = itertools.count(1)
        self.unready: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self.answers = 0

    def replace(self, task: str, file: ServedFile) -> None:
        """Let another file answer from now on."""
        old, self._tasks[task] = self._tasks.get(task), _Task(task, file)
        if old is not None:
            with old.lock:
                old.model.close()

    def tasks(self) -> tuple[str, ...]:
        """See `Host`."""
        return tuple(self._tasks)

    def ready(self, task: str | None = None) -> bool:
        """See `Host`. Tasks in `unready` are not."""
        return not self.unready if task is None else task in self._tasks and task not in self.unready

    def manifest(self, task: str) -> Manifest:
        """See `Host`."""
        return self._task(task).manifest

    def digest(self, task: str) -> str:
        """See `Host`."""
        return self._task(task).digest

    def infer(self, task: str, x: NDArray[np.float32], *, top_k: int = 0) -> Answer:
        """See `Host`."""
        found = self._task(task)
        started = time.perf_counter()
        if found.file.delay_s:
            time.sleep(found.file.delay_s)
        with found.lock:
            values = found.model.predict(x)  # (N, *output shape)
        self.answers += 1
        confidence: NDArray[np.float32] | None = None
        top: tuple[tuple[tuple[str, float], ...], ...] = ()
        if top_k and found.file.labels:
            shifted = np.exp(values - values.max(axis=1, keepdims=True))
            scores = shifted / shifted.sum(axis=1, keepdims=True)  # (N, classes)
            confidence = scores.max(axis=1)
            best = np.argsort(-scores, axis=1)[:, :top_k]
            top = tuple(
                tuple((found.file.labels[i], float(row[i])) for i in order)
                for row, order in zip(scores, best, strict=True)
            )
        latency_us = (time.perf_counter() - started) * 1e6
        return Answer(f"p-{next(self._ids)}", task, found.digest, values, latency_us, confidence, top)

    def feedback(self, event: Mapping[str, Any]) -> None:
        """See `Host`: wants a `prediction_id`."""
        if not isinstance(event.get("prediction_id"), str):
            raise InputError("is missing", where="prediction_id")
        self.events.append(dict(event))

    def metrics(self) -> Iterable[Metric]:
        """See `Host`."""
        return (Metric("edgehone_answers_total", "counter", "Answers given.", (({}, float(self.answers)),)),)

    def status(self) -> dict[str, Any]:
        """See `Host`."""
        return {"tasks": {name: {"version": task.file.version} for name, task in self._tasks.items()}}

    def _task(self, name: str) -> _Task:
        if name not in self._tasks:
            raise InputError(f"there is no task {name!r}", do=f"ask one of {', '.join(self._tasks)}")
        return self._tasks[name]


@contextmanager
def serving(
    host: Host, listen: Sequence[str] = ("127.0.0.1:0",), *, limits: Limits | None = None, tls: Tls | None = None
) -> Iterator[list[str]]:
    """Serve `host` from a thread of this process; yields the addresses, and stops at the end.

    Raises:
        ConfigError: as `serve`.
        TimeoutError: it did not start or stop within 30 s.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    started: Future[list[str]] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="serving") as pool:
        work = serve(host, listen, tls=tls, limits=limits, stop=stop, ready=started.set_result)
        running = pool.submit(loop.run_until_complete, work)
        either: tuple[Future[Any], ...] = (started, running)
        wait(either, timeout=30, return_when=FIRST_COMPLETED)
        try:
            if running.done():
                running.result()
            yield started.result(0)
        finally:
            if not running.done():
                loop.call_soon_threadsafe(stop.set)
                running.result(30)
            loop.close()
