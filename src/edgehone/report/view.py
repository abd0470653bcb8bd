"""A study as the page sees it: every text, table and picture ready to print, so that the template holds no rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgehone import units
from edgehone.record import FlipRecord, LayerRecord, MemberRecord, StudyRecord
from edgehone.report import figures, pictures, snippet
from edgehone.report.family import Row, rows, runtime_title, versions
from edgehone.report.figures import Figure
from edgehone.report.headline import Tile, headline, shown_member, tiles
from edgehone.report.plots.dumbbell import chosen

TOP_FLIPS = 8
MOST_LABELS = 12


@dataclass(frozen=True)
class Step:
    """One technique of a recipe: its name and its settings in words."""

    title: str
    settings: str


@dataclass(frozen=True)
class FileView:
    """One exported file."""

    path: str
    size: str
    compressed: str
    sha256: str


@dataclass(frozen=True)
class Bar:
    """A named amount and its share of the largest, 0 to 1."""

    name: str
    value: str
    share: float


@dataclass(frozen=True)
class MemberView:
    """Everything about one version that has a place of its own on the page."""

    row: Row
    steps: tuple[Step, ...]
    recipe: str
    run: str
    measure: str
    files: tuple[FileView, ...]
    layers: tuple[tuple[str, ...], ...]
    widths: str
    widths_note: str
    magnitudes: str
    weak: str
    classes: str
    classes_note: str
    matrix: str
    flips: tuple[Bar, ...]
    flips_note: str
    seconds: str


@dataclass(frozen=True)
class TrialView:
    """One thing that was tried."""

    name: str
    parent: str
    kept: bool
    reason: str
    latency: Figure
    size: str
    metric: Figure


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    kicker: tuple[str, ...]
    headline: str
    verdict: str
    met: bool
    limits: bool
    shown: str
    tiles: tuple[Tile, ...]
    rows: tuple[Row, ...]
    baseline: str
    estimates: bool
    latency_estimated: bool
    latency_front: str
    size_front: str
    loss_curves: str
    metric_curves: str
    versions: tuple[MemberView, ...]
    trials: tuple[TrialView, ...]
    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    phases: tuple[Bar, ...]
    total: str
    methods: tuple[tuple[str, str], ...]


def page(study: StudyRecord) -> Page:
    """The study, ready to print."""
    table = rows(study)
    member = shown_member(study)
    name = str(study.task.get("name") or "study")
    device = str(study.device.get("title") or study.device.get("name") or "")
    return Page(
        title=name,
        kicker=tuple(part for part in (name, device, date(study.created)) if part),
        headline=headline(study),
        verdict=study.verdict,
        met=study.met,
        limits=any(limit is not None for limit in study.budget.values()),
        shown=member.name if member else "",
        tiles=tiles(study),
        rows=table,
        baseline=_baseline(study),
        estimates=any(cell.figure.estimated for row in table for cell in row.cells),
        latency_estimated=any(entry.latency.kind == "estimated" for m in versions(study) for entry in m.latency),
        latency_front=pictures.latency_front(study),
        size_front=pictures.size_front(study),
        loss_curves=pictures.loss_curves(study),
        metric_curves=pictures.metric_curves(study),
        versions=tuple(_member(study, m, row) for m, row in zip(versions(study), table, strict=True)),
        trials=tuple(_trials(study)),
        facts=_facts(study),
        phases=_phases(study.seconds),
        total=units.format_duration(sum(study.seconds.values())) if study.seconds else "",
        methods=_methods(study),
    )


def _baseline(study: StudyRecord) -> str:
    """The runtime that speed-ups are counted from, where there is a choice."""
    counted = any(entry.speedup for member in study.members for entry in member.latency)
    first = figures.baseline(study)
    return runtime_title(first.runtime) if counted and first and len(study.original.latency) > 1 else ""


def _member(study: StudyRecord, member: MemberRecord, row: Row) -> MemberView:
    first = figures.main_file(member, next(iter(figures.runtimes(study)), None))
    nodes = sum(sum(layer.magnitudes) for layer in member.layers)
    weak = sum(sum(layer.magnitudes[:1]) for layer in member.layers)
    before, after = (sum(getattr(la, f"width_{w}") for la in member.layers) for w in ("before", "after"))
    few = chosen(member.classes)
    return MemberView(
        row=row,
        steps=tuple(_step(step) for step in member.recipe),
        recipe=json.dumps([dict(step) for step in member.recipe], indent=1, ensure_ascii=False, default=str),
        run=snippet.python_lines(first) if first else "",
        measure=snippet.shell_line(first, study.original) if first else "",
        files=tuple(
            FileView(f.path, units.format_size(f.size_bytes), units.format_size(f.compressed_bytes), f.sha256)
            for f in member.files
        ),
        layers=tuple(_layer(layer) for layer in member.layers),
        widths=pictures.layer_widths(study, member) if member is not study.original else "",
        widths_note=f"{figures.whole(after)} of {figures.whole(before)} channels, {figures.count(member.macs)} MACs",
        magnitudes=pictures.node_magnitudes(member),
        weak=f"{weak} of {nodes} nodes below a tenth of their layer's strongest" if nodes else "",
        classes=pictures.class_changes(study, member),
        classes_note=f"{len(few)} of {len(member.classes)} classes: those that lost and gained most"
        if len(few) < len(member.classes)
        else "",
        matrix=pictures.flip_matrix(study, member),
        flips=_flips(member.flips),
        flips_note=_flips_note(member),
        seconds=units.format_duration(member.seconds) if member.seconds > 0 else "",
    )


def _layer(layer: LayerRecord) -> tuple[str, ...]:
    """Name, kind, width before, width after, multiply-adds."""
    numbers = (layer.width_before, layer.width_after, layer.macs)
    return (layer.name, layer.op, *(figures.whole(number) for number in numbers))


def _step(step: Mapping[str, Any]) -> Step:
    settings = dict(step)
    title = str(settings.pop("technique", None) or settings.pop("name", None) or "step")
    return Step(title, ", ".join(f"{figures.words(key)} {figures.plain(value)}" for key, value in settings.items()))


def _flips(flips: tuple[FlipRecord, ...]) -> tuple[Bar, ...]:
    ranked = sorted((flip for flip in flips if flip.count > 0), key=lambda flip: -flip.count)[:TOP_FLIPS]
    return tuple(Bar(f"{f.original} → {f.member}", str(f.count), f.count / ranked[0].count) for f in ranked)


def _flips_note(member: MemberRecord) -> str:
    total, drop = sum(flip.count for flip in member.flips), member.drop.get("test")
    if not total:
        return ""
    text = f"{figures.whole(total)} answers changed class"
    if drop and drop.worse is not None and drop.better is not None:
        text += (
            f"; {drop.worse} right answers became wrong and {drop.better} wrong ones right, of {figures.whole(drop.n)}"
        )
    return text


def _trials(study: StudyRecord) -> list[TrialView]:
    name = figures.metric_name(study)
    return [
        TrialView(
            trial.name, trial.parent or "", trial.outcome == "kept", trial.reason, figures.latency(trial.latency),
            figures.MISSING if trial.size_bytes is None else units.format_size(trial.size_bytes),
            figures.measured(trial.metric, lambda value: figures.rate(value, name)),
        )
        for trial in study.trials
    ]  # fmt: skip


def _phases(seconds: Mapping[str, float]) -> tuple[Bar, ...]:
    longest = max(seconds.values(), default=0.0) or 1.0
    return tuple(Bar(figures.words(k), units.format_duration(v), max(0.0, v / longest)) for k, v in seconds.items())


def _facts(study: StudyRecord) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    titled = {
        "Machine": study.machine, "Device": study.device, "Task": study.task, "Limits": study.budget,
        "Settings": study.settings,
    }  # fmt: skip
    return tuple((title, facts(mapping)) for title, mapping in titled.items() if facts(mapping))


def facts(mapping: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """A free mapping as pairs of words, each quantity in the unit that its key carries; what is None is left out."""
    return tuple(_fact(key, value) for key, value in mapping.items() if value is not None)


def _fact(key: str, value: Any) -> tuple[str, str]:
    writers = {
        "_bytes": units.format_size, "_us": units.format_latency, "_s": units.format_duration,
        "_pp": units.format_drop, "_mw": units.format_power,
    }  # fmt: skip
    if isinstance(value, int | float) and not isinstance(value, bool):
        for ending, write in writers.items():
            if key.endswith(ending):
                return figures.words(key.removesuffix(ending)), write(value)
        if key == "noise":
            return key, f"{100 * value:.1f} % between rounds"
    if key == "labels" and isinstance(value, list | tuple) and len(value) > MOST_LABELS:
        return key, f"{len(value)}: {figures.plain(list(value[:MOST_LABELS]))}, …"
    if key == "input_shape" and isinstance(value, list | tuple):
        return "input shape", " × ".join(str(side) for side in value)
    return figures.words(key), figures.plain(value)


def date(created: str) -> str:
    """ "2026-11-24T09:30:00+00:00" → "24 November 2026"; other text stays as it is."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{when.day} {when:%B %Y}"


def _methods(study: StudyRecord) -> tuple[tuple[str, str], ...]:
    """How each kind of figure came about, in the words of the records themselves."""
    everyone = versions(study)

    def said(texts: list[str]) -> str:
        return "; ".join(dict.fromkeys(text for text in texts if text))

    latency = [entry.latency for m in everyone for entry in m.latency]
    found = (
        ("Metric", said([m.metric["test"].method for m in everyone if "test" in m.metric])),
        ("Drop", said([m.drop["test"].method for m in everyone if "test" in m.drop])),
        ("Latency", said([f"{m.kind}: {m.method}" for m in latency])),
        ("Memory", said([f"{m.memory.kind}: {m.memory.method}" for m in everyone if m.memory])),
        ("Energy", said([f"{m.energy.kind}: {m.energy.method}" for m in everyone if m.energy])),
    )
    return tuple((title, text) for title, text in found if text)
