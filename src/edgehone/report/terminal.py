"""The family in the terminal: the headline and the table, with fewer columns where there is less room."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehone.record import StudyRecord
from edgehone.report import figures
from edgehone.report.family import rows, runtime_title
from edgehone.report.figures import Figure
from edgehone.report.headline import headline

WIDE, MEDIUM = 110, 80


def text(record: StudyRecord, width: int = WIDE) -> RenderableType:
    """What `rich` prints: `width` is the room in characters. Under 110 the intervals and the lesser columns go."""
    table = Table(box=None, pad_edge=False, padding=(0, 2 if width >= MEDIUM else 1, 0, 0), header_style="dim")
    lines = rows(record)
    runtime = next(iter(figures.runtimes(record)), "")
    kept = _columns(figures.metric_name(record), runtime, width)
    table.add_column("version", overflow="ellipsis", no_wrap=True, min_width=9)
    for cell in lines[0].cells:
        if cell.key in kept:
            table.add_column(kept[cell.key], justify="right", no_wrap=True)
    table.add_column("budget", no_wrap=True)
    for row in lines:
        cells = [_cell(cell.figure, intervals=width >= WIDE) for cell in row.cells if cell.key in kept]
        held = Text("–" if row.holds is None else "held" if row.holds else "missed")
        held.stylize("" if row.holds is None else "green" if row.holds else "red")
        table.add_row(Text(row.name, style="bold" if row.holds else ""), *cells, held)
    where = [Text(f"latency on {runtime_title(runtime)}", style="dim")] if runtime else []
    return Group(Text(headline(record), style="bold"), Text(record.verdict), Text(), table, *where)


def _columns(metric: str, runtime: str, width: int) -> dict[str, str]:
    """Key → short heading of the columns that fit."""
    columns = {
        "metric": metric, "drop": "drop", f"latency {runtime}": "latency", f"speedup {runtime}": "speed-up",
        "size": "size",
    }  # fmt: skip
    if width >= MEDIUM:
        columns["memory"] = "memory"
    if width >= WIDE:
        columns["parameters"] = "parameters"
    return columns


def _cell(figure: Figure, *, intervals: bool) -> Text:
    content = Text(figure.value)
    if intervals and figure.interval:
        content.append(f"\n{figure.interval}", style="dim")
    if figure.estimated:
        content.append("\nestimated", style="dim italic")
    return content
