"""What serving needs of a node: `Host`. Serving knows nothing else of it, and a test can bring a host of its own.

Rules of a host:
- Every method may be called from any thread, from several at once, and for several tasks at once. One task's slow
  model never delays another task's `infer`.
- `tasks`, `ready`, `manifest` and `digest` only read values in memory: they run where requests are read.
- `infer` refuses NaN, infinity and a shape that is not (N, *input shape) with an InputError. `feedback` returns when
  the event is on disk. Both may take long; serving calls them where waiting hurts nobody.
- Only errors of `edgehone_agent.errors` are expected; any other is a defect, logged with its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.wire.manifest import Manifest

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What a model said to one request.

    Attributes:
        id: prediction id, unique on this node; feedback names it.
        task: the task that was asked.
        digest: sha256 of the bundle that answered, hex.
        values: (N, *output shape) float32, torch order.
        latency_us: time inside `Host.infer`.
        confidence: (N,) between 0 and 1, or None where the kind of task has none.
        top: per row the best labels with their scores, best first; empty when they were not asked for.
    """

    id: str
    task: str
    digest: str
    values: Array
    latency_us: float
    confidence: Array | None = None
    top: tuple[tuple[tuple[str, float], ...], ...] = ()


@dataclass(frozen=True)
class Metric:
    """One figure of the node, for `/metrics`.

    Attributes:
        name: in the words of Prometheus: lower case, with its unit, `_total` at the end of a counter.
        kind: "counter", "gauge" or "histogram".
        help: one line for people.
        samples: (labels, value) pairs. In a histogram a label `le` makes a cumulative bucket; "+Inf" is the count
            too, and `le="sum"` is the sum.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


class Host(Protocol):
    """A node as serving sees it."""

    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that this node is set up for."""

    def ready(self, task: str | None = None) -> bool:
        """Whether a task has a model that answers; without a name, whether all have."""

    def manifest(self, task: str) -> Manifest:
        """Manifest of the bundle that answers now.

        Raises:
            InputError: there is no such task, or no model for it yet.
        """

    def digest(self, task: str) -> str:
        """Digest of the bundle that answers now. Raises like `manifest`."""

    def infer(self, task: str, x: Array, *, top_k: int = 0) -> Answer:
        """The model's answer to `x` (N, *input shape), with `top_k` labels per row.

        Raises:
            InputError: no such task, a shape that does not fit, or values that are not finite.
            BusyError: too many requests at once.
            HostError: the task has no model that answers.
        """

    def feedback(self, event: Mapping[str, Any]) -> None:
        """Take an event about an earlier answer; on disk when this returns.

        Raises:
            InputError: the event is malformed or about an unknown prediction.
            StateError: it could not be written; nothing was taken.
        """

    def metrics(self) -> Iterable[Metric]:
        """The node's figures, names without repetition."""

    def status(self) -> dict[str, Any]:
        """The node's state for people and programs, JSON-able."""
