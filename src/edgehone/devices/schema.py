"""Reads a profile from TOML and refuses what is not one, with file and key.

A number without provenance, a source that is not listed, a field nobody knows, a value outside its own bounds, costs
without a clock: each is a DeviceError that says where it stands and what to write instead.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

from edgehone.devices.detect import detect_hardware
from edgehone.devices.profile import Costs, Device, DeviceClass, Hardware, Provenance, Published, Quantity
from edgehone.errors import DeviceError


def read_device(path: Path) -> Device:
    """The profile in a TOML file.

    Raises:
        DeviceError: no such file, not readable, not TOML, or not a valid profile; names the file and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"the device profile cannot be read: {error}", where=str(path)) from error
    return parse_device(text, name=path.stem.replace("_", "-"), where=str(path))


def parse_device(text: str, *, name: str, where: str) -> Device:
    """A profile from TOML text; `where` names the file in messages.

    Raises:
        DeviceError: see `read_device`.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"not valid TOML: {error}", where=where) from error
    top = _Table(table, "", where, table.get("sources", {}))
    top.allow({"title", "class", "isa", "runtimes", "sources", "hardware", "cost", "published", "detected"})
    detected = table.get("detected", False)
    if not isinstance(detected, bool):
        raise top.error("detected", f"{detected!r} is neither true nor false")
    if detected and "hardware" in table:
        raise top.error("hardware", "a detected device states no hardware of its own")
    device = Device(
        name=name,
        title=top.text("title"),
        kind=top.choice("class", get_args(DeviceClass)),
        isa=top.text("isa"),
        runtimes=top.texts("runtimes"),
        hardware=detect_hardware() if detected else Hardware(**top.table("hardware").quantities(Hardware)),
        costs=tuple(_costs(top, runtime) for runtime in (top.table("cost").keys if "cost" in table else ())),
        published=tuple(_published(row) for row in top.tables("published")),
        detected=detected,
    )
    if device.costs and device.hardware.clock_mhz is None:
        raise top.error("hardware.clock_mhz", "costs are in cycles, so the clock must be known")
    for runtime in [costs.runtime for costs in device.costs] + [row.runtime for row in device.published]:
        if runtime not in device.runtimes:
            raise top.error("runtimes", f"{runtime!r} has figures but is not listed")
    return device


def _costs(top: _Table, runtime: str) -> Costs:
    table = top.table("cost").table(runtime)
    quantities = table.quantities(Costs, beside={"runtime", "method"})
    if quantities["factor"].value < 1:
        raise table.error("factor", "no estimate is better than exact", "write 1.0 or more")
    return Costs(runtime=runtime, method=table.text("method"), **quantities)


def _published(row: _Table) -> Published:
    beside = {"runtime", "model"}
    return Published(row.text("runtime"), row.text("model"), **row.quantities(Published, beside=beside))


class _Table:
    """One TOML table on its way to a dataclass; every complaint names file and key."""

    def __init__(self, values: Any, path: str, where: str, sources: Any) -> None:
        self._path, self._where, self._sources = path, where, sources
        if not isinstance(values, dict):
            raise DeviceError(f"{path.rstrip('.')} must be a table", where=where)
        self._values: Mapping[str, Any] = values

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._values)

    def error(self, key: str, what: str, do: str = "") -> DeviceError:
        return DeviceError(f"{self._path}{key}: {what}", where=self._where, do=do)

    def allow(self, known: Collection[str]) -> None:
        for key in self._values:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"
                raise self.error(key, "nobody knows this key", hint)

    def _get(self, key: str, kind: type, example: str) -> Any:
        if key not in self._values:
            raise self.error(key, "is missing", f"add {example}")
        value = self._values[key]
        if not isinstance(value, kind):
            raise self.error(key, f"{value!r} is not what belongs here", f"write {example}")
        return value

    def text(self, key: str) -> str:
        value: str = self._get(key, str, f'{key} = "…"')
        if not value.strip():
            raise self.error(key, "is empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list, f'{key} = ["…"]')
        if not values or not all(isinstance(value, str) and value for value in values):
            raise self.error(key, "must be a list of names that is not empty")
        return tuple(values)

    def choice(self, key: str, known: tuple[str, ...]) -> Any:
        value = self.text(key)
        if value not in known:
            raise self.error(key, f"{value!r} is not known", f"choose one of: {', '.join(known)}")
        return value

    def table(self, key: str) -> _Table:
        if key not in self._values:
            raise self.error(key, "is missing", f"add a [{self._path}{key}] table")
        return _Table(self._values[key], f"{self._path}{key}.", self._where, self._sources)

    def tables(self, key: str) -> tuple[_Table, ...]:
        rows = self._values.get(key, [])
        if not isinstance(rows, list):
            raise self.error(key, "must be an array of tables", f"write [[{key}]]")
        return tuple(_Table(row, f"{key}[{i}].", self._where, self._sources) for i, row in enumerate(rows))

    def quantities(self, owner: type, beside: Collection[str] = ()) -> dict[str, Any]:
        """Every field of a dataclass but those `beside`, read as quantities."""
        wanted = [item for item in fields(owner) if item.name not in beside]
        self.allow({item.name for item in wanted} | set(beside))
        for item in wanted:
            if item.default is MISSING and item.name not in self._values:
                example = f"{item.name} = {{ value = …, provenance = …, source = … }}"
                raise self.error(item.name, "is missing", f"add {example}")
        return {item.name: self._quantity(item.name) for item in wanted if item.name in self._values}

    def _quantity(self, key: str) -> Quantity:
        table = self.table(key)
        table.allow({"value", "provenance", "source", "low", "high"})
        source = table.text("source")
        if not isinstance(self._sources, dict) or not isinstance(self._sources.get(source), str):
            raise table.error("source", f"{source!r} is not listed", f'add {source} = "…" to [sources]')
        quantity = Quantity(
            value=table.positive("value"),
            provenance=table.choice("provenance", get_args(Provenance)),
            source=self._sources[source],
            low=table.positive("low") if "low" in table.keys else None,
            high=table.positive("high") if "high" in table.keys else None,
        )
        low, high = quantity.low, quantity.high
        if (low is not None and low > quantity.value) or (high is not None and high < quantity.value):
            raise table.error("value", "lies outside its own bounds")
        return quantity

    def positive(self, key: str) -> float:
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.error(key, f"{value!r} is not a number above zero")
        return value
