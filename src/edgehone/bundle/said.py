"""What a study's record says of its task and machine, where the record's own type leaves open what may stand there.

Every function raises InputError, with the place in study.json, for what is missing or of another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgehone.errors import InputError
from edgehone.record import StudyRecord


def text(study: StudyRecord, name: str) -> str:
    """A text about the task: "name", "kind", "metric"."""
    found = study.task.get(name)
    if not isinstance(found, str):
        raise _odd(f"task.{name}", "is missing, or no text")
    return found


def input_shape(study: StudyRecord) -> tuple[int, ...]:
    """Shape of one reading in torch order, without the batch."""
    found = study.task.get("input_shape")
    if not isinstance(found, list | tuple) or len(found) < 2 or not all(type(n) is int and n > 0 for n in found):
        raise _odd("task.input_shape", "does not say what a reading looks like")
    return tuple(found[1:])


def labels(study: StudyRecord) -> tuple[str, ...]:
    """Names of the classes; empty where there are none."""
    found = study.task.get("labels") or ()
    if not isinstance(found, list | tuple) or not all(isinstance(label, str) for label in found):
        raise _odd("task.labels", "is no list of names")
    return tuple(found)


def digests(study: StudyRecord) -> dict[str, str]:
    """Split → sha256 of its data; empty where none is known."""
    return _texts("task.digest", study.task.get("digest"))


def versions(study: StudyRecord) -> dict[str, str]:
    """Library → version, of those that made the member; empty where none is known."""
    return _texts("machine.versions", study.machine.get("versions"))


def _texts(where: str, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise _odd(where, "is no object of texts")
    return dict(found)


def _odd(where: str, what: str) -> InputError:
    return InputError(what, where=f"study.json: {where}", do="run the study again with --resume")
