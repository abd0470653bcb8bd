"""Reading study.json back from a study's folder, with every way it can be wrong said in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgehone.errors import InputError
from edgehone.record import SCHEMA, StudyRecord, from_json

NAME = "study.json"
REBUILD = "point at the folder that `edgehone optimize -o` wrote, or run the study again"


def read(folder: Path) -> StudyRecord:
    """The study that `folder` holds.

    Raises:
        InputError: no such folder or file, not JSON, of a newer schema, or a field that is missing or of a wrong type.
    """
    path = folder / NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no {NAME} here", where=str(folder), do=REBUILD) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is not JSON: {error}", where=str(path), do=REBUILD) from None
    if not isinstance(data, dict):
        raise InputError("this is JSON but no study", where=str(path), do=REBUILD)
    schema = data.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(
            f"this study has schema {schema}, this edgehone reads up to {SCHEMA}", where=str(path),
            do="install the edgehone that wrote it, or a later one",
        )  # fmt: skip
    problem = next(iter(_problems(StudyRecord, data, "")), None)
    if problem is not None:
        raise InputError(problem, where=str(path), do=REBUILD)
    return from_json(StudyRecord, data)


def _problems(hint: Any, value: Any, where: str) -> list[str]:
    """What of `value` does not fit the type `hint`, each with its place ("members[2].files[0].size_bytes")."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return []
    if origin in (Union, UnionType):
        inner = next(a for a in arguments if a is not type(None))
        return [] if value is None else _problems(inner, value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return _record_problems(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            return [f"{where} is not a list"]
        return [p for i, item in enumerate(value) for p in _problems(arguments[0], item, f"{where}[{i}]")]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            return [f"{where} is not an object"]
        return [p for key, item in value.items() for p in _problems(arguments[1], item, f"{where}.{key}")]
    return [] if _fits(hint, value) else [f"{where} is {value!r}, which is not {_name(hint)}"]


def _record_problems(kind: type, value: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where or 'the study'} is not an object"]
    hints, problems = get_type_hints(kind), []
    for item in fields(kind):
        place = f"{where}.{item.name}".lstrip(".")
        if item.name in value:
            problems += _problems(hints[item.name], value[item.name], place)
        elif item.default is item.default_factory:  # both MISSING: the field has no default
            problems.append(f"{place} is missing")
    return problems


def _fits(hint: Any, value: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    return {"float": "a number", "int": "a whole number", "str": "text", "bool": "true or false"}[hint.__name__]
