"""How the report writes numbers: value, interval, whether it was measured, and how. The same words on every face.

Rates (accuracy) are shown in percent; other metrics as they are. A figure that is missing is a dash, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgehone import units
from edgehone.record import DropRecord, FileRecord, LatencyRecord, MemberRecord, StudyRecord
from edgehone_agent.wire.measurement import Measurement

Write = Callable[[float], str]

MISSING = "–"
RATES = ("accuracy", "balanced-accuracy")
METRIC_WORDS = {
    "accuracy": "accuracy",
    "balanced-accuracy": "balanced accuracy",
    "r2": "R²",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "auc": "area under the ROC curve",
}


@dataclass(frozen=True)
class Figure:
    """One figure as text; `interval` and `how` may be empty."""

    value: str = MISSING
    interval: str = ""
    how: str = ""
    estimated: bool = False


def minus(text: str) -> str:
    """The text with a real minus sign in place of the hyphen."""
    return text.replace("-", "−")


def unbroken(text: str) -> str:
    """The text with spaces at which no line breaks, so that a number keeps its unit."""
    return text.replace(" ", "\u00a0")


def rate(value: float, metric: str) -> str:
    """0.926 of accuracy → "92.60 %"; other metrics with four significant digits."""
    return minus(f"{100 * value:.2f} %" if metric in RATES else f"{value:.4g}")


def ratio(value: float) -> str:
    """5.43 → "5.4×", 12.3 → "12×"; two significant digits, three from 100 on."""
    return f"{value:.0f}×" if value >= 9.95 else f"{value:.1f}×" if value >= 0.95 else f"{value:.2f}×"


def count(value: float) -> str:
    """71722 → "71.7 k"."""
    for name, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {name}" if value < 999.5 * scale else f"{value / scale:.0f} {name}"
    return f"{value:.0f}"


def whole(value: int) -> str:
    """10000 → "10 000", with a narrow space that does not break."""
    return f"{value:,}".replace(",", "\u202f")


def points(value_pp: float) -> str:
    """0.31 → "0.31 pp"; a gain is negative."""
    return minus(units.format_drop(value_pp + 0.0 if round(value_pp, 2) else 0.0))


def plain(value: object) -> str:
    """A setting as people read it: lists joined, booleans in words, long fractions cut."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return minus(f"{value:g}")
    if isinstance(value, Mapping):
        return ", ".join(f"{words(str(key))} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return MISSING if value is None else str(value)


def words(key: str) -> str:
    """ "time_limit_s" → "time limit s"."""
    return key.replace("_", " ")


def interval(low: float | None, high: float | None, write: Write) -> str:
    """ "39.6 to 41 µs", the unit once; empty when a bound is missing or not finite."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    first, last = write(low), write(high)
    unit = last.partition(" ")[2]
    return f"{first.removesuffix(f' {unit}') if unit else first} to {unbroken(last)}"


def measured(measurement: Measurement | None, write: Write) -> Figure:
    """A measurement, written by `write`, with its interval and method."""
    if measurement is None or not math.isfinite(measurement.value):
        return Figure()
    seen = f", n = {whole(measurement.n)}" if measurement.n > 1 else ""
    return Figure(
        write(measurement.value),
        interval(measurement.low, measurement.high, write),
        f"{measurement.kind}: {measurement.method}; {measurement.place}{seen}",
        measurement.kind == "estimated",
    )


def latency(measurement: Measurement | None) -> Figure:
    """A latency in microseconds."""
    return measured(measurement, units.format_latency)


def size(measurement: Measurement | None) -> Figure:
    """Bytes."""
    return measured(measurement, units.format_size)


def speedup(record: LatencyRecord | None) -> Figure:
    """How many times faster than the original on its fastest runtime."""
    figure = measured(record.speedup if record else None, lambda value: f"{value:.3g}×")
    return replace(figure, value=ratio(record.speedup.value)) if record and record.speedup else figure


def metric(member: MemberRecord, split: str, name: str) -> Figure:
    """The metric on one split."""
    return measured(member.metric.get(split), lambda value: rate(value, name))


def drop(record: DropRecord | None) -> Figure:
    """The paired drop, with how many examples changed for the worse and for the better."""
    if record is None:
        return Figure()
    how = f"{record.method}; n = {whole(record.n)}"
    if record.worse is not None and record.better is not None:
        how += f"; {record.worse} worse, {record.better} better"
    if record.p_value is not None:
        how += f"; p = {record.p_value:.2g}"
    return Figure(points(record.value_pp), interval(record.low_pp, record.high_pp, points), how)


def metric_name(study: StudyRecord) -> str:
    """The name of the task's metric, "accuracy" unless it says otherwise."""
    return str(study.task.get("metric") or "accuracy")


def metric_title(study: StudyRecord) -> str:
    """The metric in words."""
    name = metric_name(study)
    return METRIC_WORDS.get(name, words(name))


def runtimes(study: StudyRecord) -> tuple[str, ...]:
    """Every runtime that any version ran on; the device's own first."""
    found = [entry.runtime for member in (study.original, *study.members) for entry in member.latency]
    own = study.device.get("runtime")
    return tuple(dict.fromkeys([own, *found] if own in found else found))


def latency_on(member: MemberRecord, runtime: str | None) -> LatencyRecord | None:
    """The fastest record of a member on one runtime."""
    records = [entry for entry in member.latency if entry.runtime == runtime]
    return min(records, key=lambda entry: entry.latency.value, default=None)


def baseline(study: StudyRecord) -> LatencyRecord | None:
    """What speed-ups are counted from: the original on the runtime that is fastest with it."""
    return min(study.original.latency, key=lambda entry: entry.latency.value, default=None)


def main_file(member: MemberRecord, runtime: str | None) -> FileRecord | None:
    """The file that the given runtime ran, else the first."""
    record = latency_on(member, runtime)
    chosen = next((file for file in member.files if record and file.path == record.file), None)
    return chosen or (member.files[0] if member.files else None)


def value_of(measurement: Measurement | None) -> float | None:
    """The finite value, or None."""
    return measurement.value if measurement and math.isfinite(measurement.value) else None


def setting(mapping: Mapping[str, Any], key: str) -> str:
    """A field of a free mapping as text, empty when it is missing."""
    value = mapping.get(key)
    return "" if value is None else plain(value)
