"""Whether a JSON document has the fields that a specification gives it: an independent check, written from its text.

fits(json.loads(text), {"version": range(1, 2**53), "name": "[a-z]+", "labels?": [str]}, "manifest")

A shape is a pattern for text, a range for a whole number, a type, a list of one shape, or an object: with these fields
and no others ("name?" may be missing), or with fields whose names follow a pattern.
"""

from __future__ import annotations

import re
from typing import Any


def fits(value: Any, shape: Any, where: str) -> None:
    """Compare a document with a shape.

    Args:
        value: what `json.loads` gave.
        shape: see above.
        where: what to call the document in a message.

    Raises:
        AssertionError: it has another shape; the message says where.
    """
    if isinstance(shape, str):
        _hold(isinstance(value, str) and re.fullmatch(shape, value), where, value, shape)
    elif isinstance(shape, range):
        _hold(type(value) is int and value in shape, where, value, shape)
    elif isinstance(shape, type):
        _hold(type(value) is shape, where, value, shape.__name__)
    elif isinstance(shape, list):
        _hold(isinstance(value, list), where, value, "a list")
        for number, item in enumerate(value):
            fits(item, shape[0], f"{where}[{number}]")
    else:
        _hold(isinstance(value, dict), where, value, "an object")
        _fields(value, shape, where)


def _fields(value: dict[str, Any], shape: dict[Any, Any], where: str) -> None:
    names = {name.rstrip("?"): name for name in shape if isinstance(name, str)}
    patterns = [name for name in shape if isinstance(name, re.Pattern)]
    missing = sorted(name for name, written in names.items() if name == written and name not in value)
    if missing:
        raise AssertionError(f"{where}: {', '.join(missing)} are missing")
    for name, item in value.items():
        known = names.get(name) or next((pattern for pattern in patterns if pattern.fullmatch(name)), None)
        if known is None:
            raise AssertionError(f"{where}: {name!r} does not belong here")
        fits(item, shape[known], f"{where}.{name}")


def _hold(holds: object, where: str, value: Any, wanted: object) -> None:
    if not holds:
        raise AssertionError(f"{where}: {value!r} is not {wanted}")
