"""What `edgehone measure` shows: a table of figures, what may be said about them, and where they were taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgehone.units import format_latency, format_size


def show(result: dict[str, Any]) -> None:
    """Print the result of a measurement to standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    files = result["files"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in _names(files):
        table.add_column(name, justify="right", overflow="fold")
    for label, cells in _rows(files):
        table.add_row(label, *cells)
    console = Console(highlight=False)
    console.print(table)
    for line in _sentences(result):
        console.print(line, soft_wrap=True, markup=False)


def _names(files: list[dict[str, Any]]) -> list[str]:
    """File names, or whole paths where the names are the same."""
    short = [Path(entry["file"]).name for entry in files]
    return short if len(set(short)) == len(short) else [entry["file"] for entry in files]


def _rows(files: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    def row(label: str, *keys: str, form: Any) -> tuple[str, list[str]]:
        cells = []
        for entry in files:
            value: Any = entry
            for key in keys:
                value = value[key]
            cells.append(form(value))
        return label, cells

    def interval(latency: dict[str, Any]) -> str:
        return f"{format_latency(latency['low_us'])} to {format_latency(latency['high_us'])}"

    rows = [
        row("runtime", "session", form=lambda told: f"{told['runtime']} {told['version']}"),
        row("kernels", "session", "accelerator", form=str),
        row("latency, median", "latency", "median_us", form=format_latency),
        row("  95 % interval", "latency", form=interval),
        row("  90 % of calls within", "latency", "p90_us", form=format_latency),
        row("  99 % of calls within", "latency", "p99_us", form=format_latency),
        row("cold start", "fresh_process", "cold_start_ms", form=lambda ms: format_latency(ms * 1e3)),
        row("peak memory of a process", "fresh_process", "peak_bytes", form=format_size),
        row("  of which the model's", "fresh_process", "model_bytes", form=format_size),
        row("file size", "size", "raw_bytes", form=format_size),
        row("  compressed", "size", "compressed_bytes", form=format_size),
    ]
    if "accuracy" in files[0]:
        label = f"{files[0]['accuracy']['metric']} on {files[0]['accuracy']['n']:,} test examples"
        rows.append(row(label, "accuracy", "value", form=lambda value: f"{value:.4f}"))
    return rows


def _sentences(result: dict[str, Any]) -> list[str]:
    files, comparison, machine = result["files"], result["comparison"], result["machine"]
    sentences = []
    if comparison is not None:
        sentences.append(speed_sentence(comparison, *_names(files)))
        if comparison.get("drop") is not None:
            sentences.append(drop_sentence(comparison["drop"], files[0]["accuracy"]["metric"]))
    sentences.append(noise_sentence([entry["latency"]["noise"] for entry in files]))
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    threads = f"{files[0]['session']['threads']} thread{'s' if files[0]['session']['threads'] != 1 else ''}"
    rounds = files[0]["latency"]["rounds"]
    calls = " and ".join(str(entry["latency"]["calls"]) for entry in files)
    there = f"Measured by {result['node']}, not on this machine: " if result.get("node") else ""
    sentences.append(f"{there}{machine['cpu']}, {cores}; {threads}; {rounds} rounds of {calls} calls, interleaved.")
    return sentences


def speed_sentence(comparison: dict[str, Any], file: str, against: str) -> str:
    """What may be said about speed; a difference inside the noise is not ranked."""
    value, low, high = (comparison[key] for key in ("speedup", "speedup_low", "speedup_high"))
    if comparison["verdict"] == "faster":
        return f"{file} is {value:.3g} times as fast as {against} (95 %: {low:.3g} to {high:.3g})."
    if comparison["verdict"] == "slower":
        return f"{file} takes {1 / value:.3g} times as long as {against} (95 %: {1 / high:.3g} to {1 / low:.3g})."
    return (
        f"{file} and {against} cannot be ranked: the ratio of their times, {value:.3f} (95 %: {low:.3f} to "
        f"{high:.3f}), lies inside the noise and what two loads of one file differ by."
    )


def drop_sentence(drop: dict[str, Any], metric: str) -> str:
    """How much the first file lost against the second."""
    unit = "%" if "percent" in drop["method"] else "pp"
    changed = "" if drop["worse"] is None else f"; {drop['worse']} examples worse, {drop['better']} better"
    certain = "" if drop["low_pp"] > 0 or drop["high_pp"] < 0 else ", which may be chance"
    return (
        f"Drop in {metric}: {drop['value_pp']:.2f} {unit} "
        f"(95 %: {drop['low_pp']:.2f} to {drop['high_pp']:.2f}){certain}{changed}."
    )


def noise_sentence(noises: list[dict[str, Any]]) -> str:
    """How quiet the machine was, by the noisiest of the files."""
    worst = max(noises, key=lambda noise: float(noise["spread"]))
    advice = " Measure again when it is quieter." if worst["word"] == "very noisy" else ""
    return (
        f"The machine was {worst['word']}: rounds spread by {100 * worst['spread']:.1f} %, "
        f"{worst['load_per_core']:.1f} processes per core.{advice}"
    )
