"""What a person or a process says about an answer afterwards: one event, checked, as the bytes that are kept.

Rules:
- An event has `id` (its own), `prediction_id` (of the answer it is about) and `kind`. `correct` and `new_class` bring a
  `label`; `correct` may bring a `value` instead, for tasks that answer with numbers.
- `share` says from which share of the capture the sample was taken, when that was the reason to label it. Only
  "uniform" lets a label count as evidence of how often answers are wrong: see `watch.labels`.
- `annotator` (who says so), `trust` (0 to 1) and `time` (when it was said, seconds since 1970) are optional. A late
  event is as good as an early one, and the answer it is about need not have been captured.
- Fields that are not named here are kept as they came.
- Two events are the same when their canonical JSON is: keys sorted, no spaces, UTF-8.

docs/formats/feedback.md describes the format for those who send and read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError

Kind = Literal["confirm", "correct", "new_class", "ignore", "delete"]

KINDS: tuple[Kind, ...] = get_args(Kind)
LABELLING = frozenset({"confirm", "correct", "new_class"})  # kinds that say what the right answer is
SHARES = ("informative", "stratified", "uniform")  # of the capture
UNIFORM_SHARE = "uniform"
LONGEST_NAME = 200  # characters of an id, a label or an annotator
MAX_EVENT_BYTES = 64 * 1024  # of canonical JSON
_MOST_VALUES = 4096


@dataclass(frozen=True)
class Event:
    """One checked event; `content` is all of it as canonical JSON."""

    id: str
    prediction_id: str
    kind: Kind
    content: bytes


class Told(NamedTuple):
    """What the node knows of the answer that an event is about, from what it captured.

    Attributes:
        is_first: no event about this answer was taken before, this one included.
        task, digest: which model answered.
        stratum: of the sample: the class that was answered.
        values: what was answered, flat; None when that cannot be read, or is too long to be remembered.
        is_drawn: the sample is in the uniform share, or was when it was exported.
        is_captured: the sample is known at all; else nothing but `is_first` says anything.
        x: the reading, one example, while it is on the node.
    """

    is_first: bool
    is_captured: bool = False
    task: str = ""
    digest: str = ""
    stratum: str = ""
    values: NDArray[np.float32] | None = None
    is_drawn: bool = False
    x: NDArray[Any] | None = None


def read_event(event: Mapping[str, Any]) -> Event:
    """Check an event and fix its bytes.

    Raises:
        InputError: a field is missing, has the wrong type or is out of range, or the whole is no JSON or too large.
    """
    if not isinstance(event, Mapping):
        raise InputError(f"a feedback event is an object, not {type(event).__name__}", do="send one JSON object")
    kind = event.get("kind")
    if kind not in KINDS:
        raise InputError(f"there is no feedback of kind {kind!r}"[:300], where="kind", do=f"use {', '.join(KINDS)}")
    name, prediction = _name(event, "id"), _name(event, "prediction_id")
    if event.get("annotator") is not None:
        _name(event, "annotator")
    if event.get("share") not in (None, *SHARES):
        raise InputError(
            f"there is no share {event['share']!r}"[:300], where="share", do=f"use {', '.join(SHARES)}, or leave it out"
        )
    _check_number(event, "trust", low=0.0, high=1.0)
    _check_number(event, "time")
    _check_answer(event, kind)
    return Event(name, prediction, kind, _canonical(event))


def _name(event: Mapping[str, Any], field: str) -> str:
    value = event.get(field)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or "\0" in value:
        raise InputError(
            "this must be a text that is neither empty nor long",
            where=field,
            do=f"give 1 to {LONGEST_NAME} characters",
        )
    return value


def _check_number(event: Mapping[str, Any], field: str, low: float = -math.inf, high: float = math.inf) -> None:
    value = event.get(field)
    if value is not None and not (_is_number(value) and low <= value <= high):
        raise InputError(
            "this must be a finite number" + ("" if math.isinf(low) else f" from {low:g} to {high:g}"),
            where=field,
            do="correct it or leave it out",
        )


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False


def _check_answer(event: Mapping[str, Any], kind: Kind) -> None:
    label, value = event.get("label"), event.get("value")
    if isinstance(label, str):
        _name(event, "label")
    elif label is not None and not (isinstance(label, int) and _is_number(label)):
        raise InputError("a label is a text or a whole number", where="label", do="give the class by name or by number")
    numbers = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if len(numbers) > _MOST_VALUES or not all(map(_is_number, numbers)):
        raise InputError(
            f"a value is a finite number or at most {_MOST_VALUES} of them", where="value", do="give numbers only"
        )
    if kind == "new_class" and not isinstance(label, str):
        raise InputError("a new class needs a name", where="label", do="give its name as label")
    if kind == "correct" and label is None and not numbers:
        raise InputError("a correction needs the right answer", where="label", do="give a label, or a value")


def _canonical(event: Mapping[str, Any]) -> bytes:
    try:
        if not all(isinstance(key, str) for key in event):
            raise TypeError("keys must be texts")
        text = json.dumps(dict(event), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        content = text.encode()  # a lone half of a surrogate pair is no UTF-8
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the event cannot be written as JSON: {error}"[:300], do="send texts, finite numbers, lists and objects"
        ) from error
    if len(content) > MAX_EVENT_BYTES:
        raise InputError(
            f"the event has {len(content)} bytes; at most {MAX_EVENT_BYTES} are taken",
            do="leave out what is not needed",
        )
    return content
