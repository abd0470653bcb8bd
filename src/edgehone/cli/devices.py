"""`edgehone devices`: the known hardware, and one profile with the source of every number."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from edgehone.devices import Costs, Device, Hardware, Quantity, device_names, load_device
from edgehone.units import format_power, format_size

help = "list the known devices, or show one profile with the source of every number"
examples = (
    "edgehone devices",
    "edgehone devices raspberry-pi-4",
    "edgehone devices boards/my_board.toml --json",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", nargs="?", help="a device, or the path of a .toml profile; without it, list all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the list or one profile."""
    if args.name is None:
        devices = [load_device(name) for name in device_names()]
        print(json.dumps([as_json(device) for device in devices], indent=2) if args.json else _list(devices))
    else:
        device = load_device(args.name)
        print(json.dumps(as_json(device), indent=2) if args.json else _details(device))
    return 0


def as_json(device: Device) -> dict[str, Any]:
    """A profile as a JSON object; `class` as in the TOML file, and `latency` says how it comes about."""
    data = asdict(device)
    return {"name": data.pop("name"), "class": data.pop("kind"), "latency": device.latency} | data


def _list(devices: list[Device]) -> str:
    rows = [("device", "class", "memory", "flash", "runtimes", "latency")]
    rows += [
        (
            device.name,
            device.kind,
            format_size(device.hardware.memory_budget_bytes.value),
            format_size(device.hardware.flash_budget_bytes.value),
            ", ".join(device.runtimes),
            device.latency,
        )
        for device in devices
    ]
    note = "memory and flash: what is left to one model; edgehone devices NAME says where each number comes from"
    return f"{_columns(rows)}\n\n{note}"


def _details(device: Device) -> str:
    """One profile; sources are numbered and stand at the end."""
    sources: dict[str, int] = {}

    def table(owner: Hardware | Costs, names: Sequence[str]) -> str:
        return _columns([_row(name, getattr(owner, name), sources) for name in names])

    lines = [f"{device.name}: {device.title}", f"{device.isa}; runs {', '.join(device.runtimes)}"]
    lines += ["", table(device.hardware, [item.name for item in fields(Hardware)])]
    for costs in device.costs:
        names = [item.name for item in fields(Costs) if isinstance(getattr(costs, item.name), Quantity)]
        lines += ["", f"latency under {costs.runtime} is estimated: {costs.method}", table(costs, names)]
    if device.published:
        rows = [_row(f"{row.model} under {row.runtime}", row.latency_us, sources) for row in device.published]
        lines += ["", "published latencies of the MLPerf Tiny models, in µs", _columns(rows)]
    if device.detected:
        lines += ["", "latency here is measured, never estimated"]
    return "\n".join([*lines, "", *(f"[{number}] {source}" for source, number in sources.items())])


def _row(name: str, quantity: Quantity | None, sources: dict[str, int]) -> tuple[str, ...]:
    if quantity is None:
        return (f"  {name}", "not known", "", "")
    value = _value(name, quantity.value)
    if quantity.low is not None and quantity.high is not None:
        value += f" ({_value(name, quantity.low)} to {_value(name, quantity.high)})"
    number = sources.setdefault(quantity.source, len(sources) + 1)
    return (f"  {name}", value, quantity.provenance, f"[{number}]")


def _value(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return format_size(value)
    if name.endswith("_mw"):
        return format_power(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Left-aligned columns; the last one is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
