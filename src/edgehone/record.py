"""What a study writes down: the values behind study.json, member.json and report.html. Plain data, JSON in and out.

Readers ignore fields they do not know and writers never reuse a field's name for another meaning; `SCHEMA` rises when
a reader of the old schema would be wrong. docs/formats/study.md describes every field for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgehone_agent.wire.measurement import Measurement

SCHEMA = 1

R = TypeVar("R")


@dataclass(frozen=True)
class FileRecord:
    """One exported file: path relative to the study folder, format name, sizes in bytes, sha256."""

    path: str
    format: str
    size_bytes: int
    compressed_bytes: int
    sha256: str


@dataclass(frozen=True)
class LatencyRecord:
    """Latency of one file on one runtime; quantiles of single calls in microseconds, ratio against the original.

    `speedup` is original / this, from the same interleaved run, None for the original itself or an estimate.
    """

    runtime: str
    file: str
    latency: Measurement
    p90_us: float | None = None
    p99_us: float | None = None
    speedup: Measurement | None = None
    cold_start_ms: float | None = None
    peak_process_bytes: int | None = None


@dataclass(frozen=True)
class DropRecord:
    """Loss of the metric against the original on one split, in percentage points, paired example by example."""

    value_pp: float
    low_pp: float
    high_pp: float
    method: str
    n: int
    worse: int | None = None
    better: int | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One point of a training curve: epochs done, mean loss since the last point, learning rate, validation metric."""

    epoch: float
    loss: float
    learning_rate: float
    metric: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class LayerRecord:
    """One conv or linear layer: output width before and after, and how its weights are spread.

    `magnitudes` counts output channels by their relative L2 norm (norm / largest norm of the layer) in ten equal bins
    from 0 to 1: the first bins are nodes near zero.
    """

    name: str
    op: str
    width_before: int
    width_after: int
    macs: int
    magnitudes: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassRecord:
    """Accuracy of one class on the test split, original and member."""

    label: str
    n: int
    original: float
    member: float


@dataclass(frozen=True)
class FlipRecord:
    """How many test examples changed their answer from one class to another."""

    original: str
    member: str
    count: int


@dataclass(frozen=True)
class MemberRecord:
    """One version of the network: the original, or a member of the family.

    Attributes:
        name: "original", or a name that decodes ("int8", "w50-int8").
        parent: the member it started from; None for the original.
        recipe: the ordered techniques with their settings, as data.
        metric: split name → the metric there; "test" is touched once.
        drop: split name → the paired drop there.
        memory: peak activation memory of one inference (the arena), estimated by the planner.
        holds: budget limit → whether the bad end of the interval holds it.
    """

    name: str
    parent: str | None
    recipe: tuple[Mapping[str, Any], ...]
    files: tuple[FileRecord, ...]
    parameters: int
    macs: int
    metric: Mapping[str, Measurement]
    drop: Mapping[str, DropRecord] = field(default_factory=dict)
    latency: tuple[LatencyRecord, ...] = ()
    memory: Measurement | None = None
    energy: Measurement | None = None
    layers: tuple[LayerRecord, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    classes: tuple[ClassRecord, ...] = ()
    flips: tuple[FlipRecord, ...] = ()
    holds: Mapping[str, bool] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class TrialRecord:
    """Something that was tried: a member, or a candidate that was dropped, and why."""

    name: str
    parent: str | None
    outcome: Literal["kept", "dropped"]
    reason: str
    latency: Measurement | None = None
    size_bytes: int | None = None
    metric: Measurement | None = None


@dataclass(frozen=True)
class StudyRecord:
    """Everything one study found.

    Attributes:
        task: name, kind, metric, labels, input shape, examples per split, data digest.
        device: name, title, whether it is this machine, how latency was obtained.
        budget: the limits asked for.
        settings: members asked for, seed, time limit, criterion, allocation, …
        machine: CPU, cores, memory, operating system, versions, and how noisy it was.
        met: whether at least one member holds every limit.
        verdict: one or two sentences for people.
        front: names of the members that no other member beats in accuracy and latency and size.
        seconds: phase → wall time.
    """

    task: Mapping[str, Any]
    device: Mapping[str, Any]
    budget: Mapping[str, Any]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    original: MemberRecord
    members: tuple[MemberRecord, ...]
    trials: tuple[TrialRecord, ...]
    met: bool
    verdict: str
    front: tuple[str, ...]
    seconds: Mapping[str, float]
    created: str
    schema: int = SCHEMA


def to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON object."""
    return asdict(record)


def from_json(kind: type[R], data: Mapping[str, Any]) -> R:
    """A record of class `kind` from a JSON object; unknown fields are ignored, lists become tuples."""
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _value(hints[name], value) for name, value in data.items() if name in known})


def _value(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if origin in (Union, UnionType):
        return _value(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in value)
    if is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
        return {key: _value(arguments[1], item) for key, item in value.items()}
    return value
