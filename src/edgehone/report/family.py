"""The family as a table: one row per version of the network, the original first. The page, the notebook and the
terminal print the same rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgehone import units
from edgehone.record import MemberRecord, StudyRecord
from edgehone.report import figures
from edgehone.report.figures import Figure
from edgehone.report.theme import member_class, member_shape

RUNTIME_TITLES = {"litert": "LiteRT", "onnxruntime": "ONNX Runtime", "tflm": "TFLM"}


@dataclass(frozen=True)
class Cell:
    """One figure under one heading. `key` names the column for programs, `second` is a figure written below it."""

    key: str
    title: str
    figure: Figure
    second: str = ""


@dataclass(frozen=True)
class Row:
    """One version of the network. `holds` is None for the original and where no limit was judged."""

    name: str
    parent: str
    hue: str
    shape: str
    cells: tuple[Cell, ...]
    holds: bool | None
    on_front: bool


def versions(study: StudyRecord) -> tuple[MemberRecord, ...]:
    """The original and its family."""
    return (study.original, *study.members)


def runtime_title(runtime: str) -> str:
    """A runtime's name as its makers write it."""
    return RUNTIME_TITLES.get(runtime, runtime)


def rows(study: StudyRecord) -> tuple[Row, ...]:
    """The table, columns in the same order in every row; a column that nobody has a figure for is left out."""
    full = [_row(study, index, member) for index, member in enumerate(versions(study))]
    known = {cell.key for row in full for cell in row.cells if cell.figure.value != figures.MISSING}
    return tuple(replace(row, cells=tuple(cell for cell in row.cells if cell.key in known)) for row in full)


def _row(study: StudyRecord, index: int, member: MemberRecord) -> Row:
    name = figures.metric_name(study)
    runtimes = figures.runtimes(study)
    cells = [
        Cell("metric", f"Test {figures.metric_title(study)}", figures.metric(member, "test", name)),
        Cell("drop", "Drop", figures.drop(member.drop.get("test"))),
    ]
    for runtime in runtimes:
        record = figures.latency_on(member, runtime)
        title, cost = runtime_title(runtime), record.latency if record else None
        cells.append(Cell(f"latency {runtime}", f"{title} latency", figures.latency(cost)))
        cells.append(Cell(f"speedup {runtime}", f"{title} speed-up", figures.speedup(record)))
    file = figures.main_file(member, next(iter(runtimes), None))
    cells.append(
        Cell(
            "size", "File size", Figure(units.format_size(file.size_bytes), how=f"bytes of {file.path}"),
            f"{units.format_size(file.compressed_bytes)} compressed",
        )
        if file
        else Cell("size", "File size", Figure())
    )  # fmt: skip
    cells.append(Cell("memory", "Memory", figures.size(member.memory)))
    cells.append(Cell("energy", "Energy", figures.measured(member.energy, _energy)))
    cells.append(
        Cell("parameters", "Parameters", Figure(figures.count(member.parameters)), f"{figures.count(member.macs)} MACs")
    )
    held = all(member.holds.values()) if member.holds else None
    return Row(
        member.name, member.parent or "", member_class(index), member_shape(index), tuple(cells), held,
        member.name in study.front,
    )  # fmt: skip


def _energy(value_mj: float) -> str:
    return f"{value_mj:.3g} mJ" if value_mj >= 1 else f"{1e3 * value_mj:.3g} µJ"
