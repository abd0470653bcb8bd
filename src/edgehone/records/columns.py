"""Column types that mean the same on SQLite and on PostgreSQL, so that every row can move from one to the other.

Rules:
- Text holds no NUL (PostgreSQL cannot keep one) and no half of a surrogate pair (neither can). It has no length, and
  sorts by code point, whatever the language of the server.
- A real is never NaN (SQLite would keep NULL), and minus zero is kept as zero (SQLite has no other).
- Whole numbers have 64 bits.
- JSON is kept as text, as written: order of keys and digits of numbers survive. It holds no NaN, no infinity and no
  NUL, for other programs could not read it. None is NULL, never the JSON word `null`.

What breaks a rule raises `InputError` before anything is written. Migrations use these types: a type that was released
does not change, another one is added.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, Double, Integer, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator, TypeEngine

from edgehone.errors import InputError

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # an escape, and not a backslash followed by "u0000"


class TextColumn(TypeDecorator[str]):
    """Text of any length."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        """Have both sort alike."""
        return Text(collation="C") if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Refuse what one of the two cannot keep."""
        if value is None or value.isascii():
            if value is not None and "\0" in value:
                raise _no_nul(value)
            return value
        return _checked(value)


class RealColumn(TypeDecorator[float]):
    """A float of 64 bits."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        """Refuse NaN, and take numpy's numbers too."""
        if value is None:
            return None
        value = float(value)
        if math.isnan(value):
            raise InputError("NaN is no value that can be kept", where="database", do="keep None, or a number")
        return value + 0.0  # -0.0 becomes 0.0


class JsonText(JSON):
    """JSON in a column that SQLite treats as text. In a column called JSON it would turn "1.10" into 1.1."""


@compiles(JsonText, "sqlite")
def _as_text(element: JsonText, compiler: Any, **options: Any) -> str:  # noqa: ARG001
    return "TEXT"


def to_json(value: Any) -> str:
    """A value as the text that is kept.

    Raises:
        InputError: it is no JSON: NaN, infinity, NUL, half of a surrogate pair, or a type that JSON does not have.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"this is no JSON: {error}", where="database", do="keep numbers, texts, lists, objects"
        ) from error
    if "\\u0000" in text and _NUL.search(text):
        raise _no_nul(text)
    return text if text.isascii() else _checked(text)


def _checked(text: str) -> str:
    if "\0" in text:
        raise _no_nul(text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text has half of a surrogate pair at character {error.start}",
            where=repr(text[:40]),
            do="send valid Unicode",
        ) from error
    return text


def _no_nul(text: str) -> InputError:
    return InputError("the text has a NUL character", where=repr(text[:40]), do="leave it out")


TEXT = TextColumn()
REAL = RealColumn()
WHOLE = BigInteger().with_variant(Integer, "sqlite")  # SQLite's INTEGER has 64 bits and is the one that counts up
OBJECT = JsonText(none_as_null=True)
