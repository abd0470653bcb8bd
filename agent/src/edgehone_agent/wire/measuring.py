"""Measuring on a node: what a client asks for and what the node answers, as bytes and as JSON.

A request is one body:

    8 bytes     b"EHMEASR1"
    4 bytes     N, length of the head, little endian, at most 65,536
    N bytes     the head, JSON
    the files   one after another, without gaps, in the order of the head
    the inputs  float32, little endian, where the head gives a shape for them

Head: `files`, a list of {"name", "runtime", "size_bytes"}; `rounds`; `threads`; `fresh_repeats`; `inputs`, a shape or
null. An answer is JSON: {"id", "state", "before", "result" or null, "error" or null}, see docs/formats/measuring.md.

Rules: names of files are text for answers and never a path. Everything is bounded before it is read: the head by its
length, files by their number and sizes, the sizes by the length of the body. What a reader does not know it ignores.
Both sides refuse with BundleError what does not fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import (
    BundleError,
    BusyError,
    ConfigError,
    EdgehoneError,
    HostError,
    InputError,
    MissingExtraError,
    ModelFileError,
    StateError,
)
from edgehone_agent.measure.latency import LatencyResult
from edgehone_agent.measure.memory import FreshProcess
from edgehone_agent.measure.noise import Noise, Word
from edgehone_agent.plugins import PluginError
from edgehone_agent.wire._fields import Fields
from edgehone_agent.wire.strict_json import read_json

State = Literal["waiting", "measuring", "done", "failed"]

PATH = "/v1/measurements"
MAGIC = b"EHMEASR1"
MAX_HEAD_BYTES = 1 << 16
MAX_FILES = 16
MIN_ROUNDS, MAX_ROUNDS = 5, 1000
MAX_THREADS = 256
MAX_REPEATS = 20
MAX_NAME = 200
_MAX_RANK = 5
_MAX_SAID = 4000
_STATES = ("waiting", "measuring", "done", "failed")
_WORDS = ("quiet", "noisy", "very noisy")
_MOST_US = 1e12
_MOST_BYTES = 1 << 62
_ERRORS: dict[str, type[EdgehoneError]] = {
    kind.code: kind
    for kind in (
        InputError, ModelFileError, PluginError, ConfigError, HostError, MissingExtraError, StateError, BusyError,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A file to be measured: what answers call it, the runtime that takes it, its bytes."""

    name: str
    runtime: str
    content: bytes


@dataclass(frozen=True)
class MeasureRequest:
    """What a client wants measured, all in one run.

    Attributes:
        files: 1 to 16, names distinct.
        rounds: of the latency, 5 to 1000.
        threads: of each runtime.
        fresh_repeats: fresh processes per file for memory and cold start; 0 leaves both out.
        inputs: (N, *input shape) float32 in torch order that every file answers; None for none.
    """

    files: tuple[Candidate, ...]
    rounds: int = 40
    threads: int = 1
    fresh_repeats: int = 0
    inputs: NDArray[np.float32] | None = None

    def to_bytes(self) -> bytes:
        """The body of a request."""
        inputs = None if self.inputs is None else np.ascontiguousarray(self.inputs, "<f4")
        head = {
            "files": [
                {"name": file.name, "runtime": file.runtime, "size_bytes": len(file.content)} for file in self.files
            ],
            "rounds": self.rounds,
            "threads": self.threads,
            "fresh_repeats": self.fresh_repeats,
            "inputs": None if inputs is None else list(inputs.shape),
        }
        told = json.dumps(head, separators=(",", ":")).encode()
        contents = [file.content for file in self.files]
        return b"".join(
            [MAGIC, len(told).to_bytes(4, "little"), told, *contents, b"" if inputs is None else inputs.tobytes()]
        )


def read_request(body: bytes) -> MeasureRequest:
    """A request from its body.

    Raises:
        BundleError: no such body, cut or followed by something, or a field that is missing or out of range.
    """
    where = "request"
    start = len(MAGIC) + 4
    if body[: len(MAGIC)] != MAGIC or len(body) < start:
        raise BundleError("this is no request to measure", where=where)
    length = int.from_bytes(body[len(MAGIC) : start], "little")
    if length > min(MAX_HEAD_BYTES, len(body) - start):
        raise BundleError(f"its head is cut, or longer than {MAX_HEAD_BYTES} bytes", where=where)
    fields = Fields(read_json(body[start : start + length], where), where)
    heads = [Fields(item, f"{where}: files") for item in fields.items("files", most=MAX_FILES)]
    shape = _shape(fields)
    at = start + length
    files = []
    for head in heads:
        size = head.whole("size_bytes", 1, len(body))
        content = body[at : at + size]
        files.append(Candidate(head.text("name", longest=MAX_NAME), head.text("runtime", longest=MAX_NAME), content))
        at += size
    inputs_bytes = 0 if shape is None else 4 * prod(shape)
    if at + inputs_bytes != len(body):
        raise BundleError(f"the body has {len(body)} bytes where its head says {at + inputs_bytes}", where=where)
    if not files or len({file.name for file in files}) != len(files):
        raise BundleError("it names no file, or two by one name", where=where)
    return MeasureRequest(
        tuple(files),
        fields.whole("rounds", MIN_ROUNDS, MAX_ROUNDS),
        fields.whole("threads", 1, MAX_THREADS),
        fields.whole("fresh_repeats", 0, MAX_REPEATS, 0),
        None if shape is None else np.frombuffer(body, "<f4", prod(shape), at).reshape(shape),
    )


def _shape(fields: Fields) -> tuple[int, ...] | None:
    if fields.data.get("inputs") is None:
        return None
    shape = fields.items("inputs", most=_MAX_RANK)
    if not shape or not all(type(size) is int and 0 < size < 1 << 31 for size in shape):
        raise fields.refuse("inputs", "is no shape")
    return tuple(shape)


@dataclass(frozen=True)
class Answers:
    """What a file made of the inputs: sha256 of its answers (N, *output shape) as little endian float32, and N."""

    sha256: str
    rows: int


@dataclass(frozen=True)
class MeasuredFile:
    """What was found for one file.

    Attributes:
        session: what the runtime says of itself and the file; has runtime, version, threads and accelerator.
        latency: with every round, so that `ratio` and `ranks` work on files of one request.
        fresh_process: memory and cold start, where they were asked for.
        answers: to the inputs, where there were any.
    """

    session: dict[str, Any]
    latency: LatencyResult
    fresh_process: FreshProcess | None
    answers: Answers | None


@dataclass(frozen=True)
class Told:
    """What a node says of one request.

    Attributes:
        id: names the request in later questions.
        state: where it is.
        before: how many requests are measured first, while it waits.
        files: name → what was found, once it is done.
        machine: where, once it is done: `describe_machine` of the node.
        error: why not, where it failed.
    """

    id: str
    state: State
    before: int = 0
    files: Mapping[str, MeasuredFile] | None = None
    machine: Mapping[str, Any] | None = None
    error: EdgehoneError | None = None


def latency_to_json(latency: LatencyResult) -> dict[str, Any]:
    """`LatencyResult.to_json` with every round."""
    return {**latency.to_json(), "round_us": list(latency.round_us)}


def error_to_json(error: EdgehoneError) -> dict[str, str]:
    """An error as it goes over the wire: plain texts of bounded length."""
    told = {"what": error.what, "where": error.where, "do": error.do}
    return {"code": error.code, **{name: _plain(text) for name, text in told.items()}}


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_SAID])


def error_from_json(data: Any) -> EdgehoneError:
    """An error that came over the wire; an unknown class becomes HostError. Raises BundleError for nonsense."""
    fields = Fields(data, "answer: error")
    kind = _ERRORS.get(fields.text("code"), HostError)
    return kind(
        fields.text("what", longest=_MAX_SAID),
        where=fields.text("where", "", longest=_MAX_SAID),
        do=fields.text("do", "", longest=_MAX_SAID),
    )


def read_told(content: bytes) -> Told:
    """A node's answer.

    Raises:
        BundleError: it is none.
    """
    where = "answer"
    fields = Fields(read_json(content, where), where)
    state = fields.text("state")
    if state not in _STATES:
        raise fields.refuse("state", f"is {state!r}")
    name = fields.text("id", longest=64)
    if state == "failed":
        return Told(name, "failed", error=error_from_json(fields.data.get("error")))
    if state != "done":
        return Told(name, cast(State, state), fields.whole("before", 0, 1 << 20, 0))
    result = Fields(fields.mapping("result", most=16), f"{where}: result")
    files = {
        key: _measured(Fields(value, f"{where}: {key[:MAX_NAME]}"))
        for key, value in result.mapping("files", most=MAX_FILES).items()
    }
    return Told(name, "done", files=files, machine=_machine(result.mapping("machine", most=64)))


def read_about(content: bytes) -> dict[str, Any]:
    """What a service says of itself: runtimes (name → version), machine, limits.

    Raises:
        BundleError: it is no such service, or one of these is missing.
    """
    about = Fields(read_json(content, "answer"), "answer")
    _machine(about.data.get("machine"))
    runtimes = Fields(about.mapping("runtimes", most=64), "answer: runtimes")
    for name in runtimes.data:
        runtimes.text(name)
    Fields(about.mapping("limits", most=64), "answer: limits").whole("bytes", 1, _MOST_BYTES)
    return about.data


def _machine(data: Any) -> dict[str, Any]:
    fields = Fields(data, "answer: machine")
    fields.text("cpu")
    fields.text("machine")
    fields.whole("cores", 1, 1 << 20)
    return dict(fields.data)


def _measured(fields: Fields) -> MeasuredFile:
    session = Fields(fields.mapping("session", most=64), f"{fields.where}: session")
    for name in ("runtime", "version", "accelerator"):
        session.text(name)
    session.whole("threads", 1, MAX_THREADS)
    fresh, answers = fields.data.get("fresh_process"), fields.data.get("answers")
    return MeasuredFile(
        dict(session.data),
        _latency(Fields(fields.mapping("latency", most=64), f"{fields.where}: latency")),
        None if fresh is None else _fresh(Fields(fresh, f"{fields.where}: fresh_process")),
        None if answers is None else _answers(Fields(answers, f"{fields.where}: answers")),
    )


def _latency(fields: Fields) -> LatencyResult:
    rounds = fields.whole("rounds", MIN_ROUNDS, MAX_ROUNDS)
    round_us = fields.items("round_us", most=MAX_ROUNDS)
    if len(round_us) != rounds or not all(_is_time(value) for value in round_us):
        raise fields.refuse("round_us", f"does not hold {rounds} times")
    noise = Fields(fields.mapping("noise", most=16), f"{fields.where}: noise")
    word = noise.text("word")
    if word not in _WORDS:
        raise noise.refuse("word", f"is {word!r}")
    return LatencyResult(
        median_us=_number(fields, "median_us"),
        p90_us=_number(fields, "p90_us"),
        p99_us=_number(fields, "p99_us"),
        low_us=_number(fields, "low_us"),
        high_us=_number(fields, "high_us"),
        rounds=rounds,
        calls=fields.whole("calls", 1, 1 << 31),
        noise=Noise(_number(noise, "spread"), _number(noise, "load_per_core"), cast(Word, word)),
        round_us=tuple(float(value) for value in round_us),
    )


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST_US


def _fresh(fields: Fields) -> FreshProcess:
    return FreshProcess(
        cold_start_ms=_number(fields, "cold_start_ms"),
        import_ms=_number(fields, "import_ms"),
        load_ms=_number(fields, "load_ms"),
        first_run_ms=_number(fields, "first_run_ms"),
        peak_bytes=fields.whole("peak_bytes", 0, _MOST_BYTES),
        bare_bytes=fields.whole("bare_bytes", 0, _MOST_BYTES),
        model_bytes=fields.whole("model_bytes", 0, _MOST_BYTES),
        repeats=fields.whole("repeats", 1, MAX_REPEATS),
    )


def _answers(fields: Fields) -> Answers:
    return Answers(fields.text("sha256", longest=64), fields.whole("rows", 1, 1 << 31))


def _number(fields: Fields, name: str) -> float:
    value = fields.optional_number(name)
    if value is None or not 0 <= value < math.inf:
        raise fields.refuse(name, "is no number of zero or more")
    return value
