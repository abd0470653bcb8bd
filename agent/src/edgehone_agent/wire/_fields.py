"""Read a JSON object field by field, and say in one line which field is missing, of another type or out of range."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from edgehone_agent.errors import BundleError

MAX_TEXT = 1000
_MISSING = object()


class Fields:
    """The fields of one object. Every method raises BundleError for a value that does not fit.

    Args:
        data: the object, as a JSON reader returns it.
        where: what it is part of, for messages: "manifest.json", "manifest.json: fit".
    """

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise BundleError("this is no JSON object", where=where)
        self.data: dict[str, Any] = data
        self.where = where

    def refuse(self, name: str, what: str) -> BundleError:
        """The error for a field, to be raised."""
        return BundleError(f"{name} {what}", where=self.where)

    def text(self, name: str, default: Any = _MISSING, *, longest: int = MAX_TEXT) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.refuse(name, "is no text")
        if len(value) > longest:
            raise self.refuse(name, f"is longer than {longest} characters")
        if not value.isprintable():
            raise self.refuse(name, "holds control characters")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None where it is null or left out."""
        return None if self.data.get(name) is None else self.text(name)

    def whole(self, name: str, low: int, high: int, default: Any = _MISSING) -> int:
        """A whole number between two bounds."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.refuse(name, "is no whole number")
        if not low <= value <= high:
            raise self.refuse(name, f"is {value}, not between {low} and {high}")
        return value

    def optional_number(self, name: str) -> float | None:
        """A finite number, or None where it is null or left out."""
        value = self.data.get(name)
        if value is None:
            return None
        # An int may be too long for a float, and comparing it is free of that.
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
            raise self.refuse(name, "is no finite number")
        return float(value)

    def items(self, name: str, default: Any = _MISSING, *, most: int) -> list[Any]:
        """A list."""
        value = self._get(name, default)
        if not isinstance(value, list):
            raise self.refuse(name, "is no list")
        if len(value) > most:
            raise self.refuse(name, f"has more than {most} entries")
        return value

    def texts(self, name: str, default: Any = _MISSING, *, most: int) -> tuple[str, ...]:
        """A list of strings."""
        found = self.items(name, default, most=most)
        if not all(isinstance(item, str) and len(item) <= MAX_TEXT and item.isprintable() for item in found):
            raise self.refuse(name, f"holds something that is no plain text of up to {MAX_TEXT} characters")
        return tuple(found)

    def mapping(self, name: str, default: Any = _MISSING, *, most: int) -> dict[str, Any]:
        """An object."""
        value = self._get(name, default)
        if not isinstance(value, dict):
            raise self.refuse(name, "is no object")
        if len(value) > most:
            raise self.refuse(name, f"has more than {most} entries")
        return value

    def rest(self, known: Set[str]) -> dict[str, Any]:
        """Fields that are not known."""
        return {name: value for name, value in self.data.items() if name not in known}

    def _get(self, name: str, default: Any) -> Any:
        value = self.data.get(name, default)
        if value is _MISSING:
            raise self.refuse(name, "is missing")
        return value
