"""The family in the terminal: the headline and the table, with fewer columns where there is less room."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehone.record import StudyRecord
from edgehone.report import figures
from edgehone.report.family import Cell, rows
from edgehone.report.figures import Figure
from edgehone.report.headline import headline

WIDE, MEDIUM = 110, 80


def text(record: StudyRecord, width: int = WIDE) -> RenderableType:
    """What `rich` prints: `width` is the room in characters. Under 80 the intervals and the lesser columns go."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("version", overflow="fold")
    lines = rows(record)
    kept = _columns(record, width)
    shown = [cell for cell in lines[0].cells if cell.key in kept]
    for cell in shown:
        table.add_column(cell.title, justify="right", no_wrap=width >= MEDIUM and not cell.title.startswith("ONNX"))
    table.add_column("budget")
    for row in lines:
        cells = [_cell(cell, intervals=width >= WIDE) for cell in row.cells if cell.key in kept]
        held = Text("–" if row.holds is None else "held" if row.holds else "missed")
        held.stylize("" if row.holds is None else "green" if row.holds else "red")
        table.add_row(Text(row.name, style="bold" if row.parent == "" else ""), *cells, held)
    return Group(Text(headline(record), style="bold"), Text(record.verdict), Text(), table)


def _columns(record: StudyRecord, width: int) -> set[str]:
    first = next(iter(figures.runtimes(record)), "")
    kept = {"metric", "drop", f"latency {first}", f"speedup {first}", "size"}
    return kept | {"memory", "parameters"} if width >= WIDE else kept | {"memory"} if width >= MEDIUM else kept


def _cell(cell: Cell, *, intervals: bool) -> Text:
    figure: Figure = cell.figure
    content = Text(f"≈ {figure.value}" if figure.estimated else figure.value)
    if figure.estimated:
        content.append("\nestimated", style="dim italic")
    if intervals and figure.interval:
        content.append(f"\n{figure.interval}", style="dim")
    return content
