"""Quantities as people write them: "2ms", "350us", "200kB", "64KiB", "1pp", "0.5%", "20min".

Parsing gives the base unit that names in the code carry: seconds (`_s`) for durations, microseconds (`_us`) for
latencies, bytes (`_bytes`), percentage points (`_pp`), milliwatts (`_mw`). Printing picks the unit a person would.
Prefixes follow the SI and IEC 80000-13: k = 1000, Ki = 1024. Nonsense, negative and non-finite values are refused.
"""

from __future__ import annotations

import math
import re

from edgehone.errors import QuantityError

_NUMBER = re.compile(r"^\s*([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\s\d.]*)\s*$")

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_MICROSECONDS = {"ns": 1e-3, "us": 1.0, "µs": 1.0, "μs": 1.0, "ms": 1e3, "s": 1e6, "min": 60e6, "h": 3600e6}
_BYTES = {
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3,
}  # fmt: skip
_POINTS = {"pp": 1.0, "%": 1.0, "": 1.0}
_WATTS = {"uW": 1e-3, "µW": 1e-3, "mW": 1.0, "W": 1e3}


def _parse(text: str, units: dict[str, float], what: str, example: str) -> float:
    match = _NUMBER.match(text) if isinstance(text, str) else None  # a bare number has no unit
    if match is None or match.group(2) not in units:
        known = ", ".join(unit for unit in units if unit and unit not in ("µs", "μs", "µW", "KB"))
        raise QuantityError(f"{text!r} is not a {what}", do=f"write a number and one of {known}, like {example!r}")
    value = float(match.group(1)) * units[match.group(2)]
    if not math.isfinite(value) or value < 0:
        raise QuantityError(f"{text!r} is not a {what}: it must be zero or more", do=f"write for example {example!r}")
    return value


def parse_latency_us(text: str) -> float:
    """ "2ms" → 2000.0 microseconds. Raises QuantityError."""
    return _parse(text, _MICROSECONDS, "latency", "2ms")


def parse_duration_s(text: str) -> float:
    """ "20min" → 1200.0 seconds. Raises QuantityError."""
    return _parse(text, _SECONDS, "duration", "20min")


def parse_size_bytes(text: str) -> int:
    """ "200kB" → 200000 bytes, "64KiB" → 65536; fractions of a byte round down. Raises QuantityError."""
    return int(_parse(text, _BYTES, "size", "200kB"))


def parse_drop_pp(text: str) -> float:
    """ "1pp" or "1%" → 1.0 percentage points. Raises QuantityError, also above 100."""
    value = _parse(text, _POINTS, "drop in percentage points", "1pp")
    if value > 100:
        raise QuantityError(f"{text!r} is more than all of it", do="write a drop between 0pp and 100pp")
    return value


def parse_power_mw(text: str) -> float:
    """ "0.5W" → 500.0 milliwatts. Raises QuantityError."""
    return _parse(text, _WATTS, "power", "500mW")


def _three_digits(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_latency(latency_us: float) -> str:
    """2000 µs → "2 ms"; three significant digits."""
    if latency_us < 1:
        return f"{_three_digits(latency_us * 1e3)} ns"
    if latency_us < 1e3:
        return f"{_three_digits(latency_us)} µs"
    if latency_us < 1e6:
        return f"{_three_digits(latency_us / 1e3)} ms"
    return format_duration(latency_us / 1e6)


def format_duration(duration_s: float) -> str:
    """75 s → "1 min 15 s"."""
    if duration_s < 60:
        return f"{_three_digits(duration_s)} s"
    minutes, seconds = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def format_size(size_bytes: float) -> str:
    """200000 bytes → "200 kB" (SI)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{_three_digits(size_bytes / scale)} {unit}"
    return f"{_three_digits(size_bytes)} B"


def format_drop(drop_pp: float) -> str:
    """0.42 → "0.42 pp"; a gain shows as a negative drop."""
    return f"{drop_pp:.2f} pp"


def format_power(power_mw: float) -> str:
    """500 mW → "500 mW", 5300 mW → "5.3 W"."""
    return f"{_three_digits(power_mw / 1e3)} W" if power_mw >= 1e3 else f"{_three_digits(power_mw)} mW"
