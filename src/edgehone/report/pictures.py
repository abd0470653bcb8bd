"""Which pictures a study gets: records turned into the values that the plots draw. No data, no picture."""

from __future__ import annotations

from edgehone import units
from edgehone.record import MemberRecord, StudyRecord
from edgehone.report import figures
from edgehone.report.family import runtime_title, versions
from edgehone.report.plots import both
from edgehone.report.plots.curves import Line, curves
from edgehone.report.plots.dumbbell import chosen, dumbbell
from edgehone.report.plots.front import Axes, Point, front
from edgehone.report.plots.heat import flips, magnitudes
from edgehone.report.plots.widths import widths
from edgehone_agent.wire.measurement import Measurement

MOST_MATRIX_CLASSES = 20
LESS_IS_BETTER = ("mae", "rmse")


def latency_front(study: StudyRecord) -> str:
    """Quality against latency on the device's runtime; empty without at least one of both."""
    runtime = next(iter(figures.runtimes(study)), None)
    costs = {}
    for member in versions(study):
        record = figures.latency_on(member, runtime)
        if record is not None:
            costs[member.name] = record.latency
    estimated = any(cost.kind == "estimated" for cost in costs.values())
    title = f"{'estimated ' if estimated else ''}latency{f', {runtime_title(runtime)}' if runtime else ''}"
    return _front(study, costs, title, units.format_latency, study.budget.get("latency_us"))


def size_front(study: StudyRecord) -> str:
    """Quality against the size of the file that the device's runtime loads."""
    runtime = next(iter(figures.runtimes(study)), None)
    costs = {}
    for member in versions(study):
        file = figures.main_file(member, runtime)
        if file is not None:
            costs[member.name] = Measurement(file.size_bytes, "bytes", "size of the file", file.path, 1)
    return _front(study, costs, "file size", units.format_size, study.budget.get("size_bytes"))


def _front(
    study: StudyRecord, costs: dict[str, Measurement], title: str, write: figures.Write, limit: float | None
) -> str:
    name = figures.metric_name(study)
    scale = 100.0 if name in figures.RATES else 1.0
    points = []
    for index, member in enumerate(versions(study)):
        cost, metric = costs.get(member.name), member.metric.get("test")
        if cost is None or cost.value <= 0 or figures.value_of(metric) is None or metric is None:
            continue
        says = f"{member.name}: {figures.measured(cost, write).value}, {figures.rate(metric.value, name)}"
        points.append(
            Point(
                member.name, index, cost.value, scale * metric.value, _bounds(cost, 1.0), _bounds(metric, scale),
                cost.kind == "estimated", f"{says} (estimated)" if cost.kind == "estimated" else says,
            )
        )  # fmt: skip
    if not points:
        return ""
    unit = " %" if name in figures.RATES else ""
    axes = Axes(
        title, f"test {figures.metric_title(study)}", write, lambda v: figures.minus(f"{v:.4g}{unit}"),
        name not in LESS_IS_BETTER, limit, _lowest_metric(study, scale),
    )  # fmt: skip
    return both(lambda width: front(points, axes, width))


def _lowest_metric(study: StudyRecord, scale: float) -> float | None:
    """The metric at which the allowed drop is spent; only where drops are in points of the metric itself."""
    allowed, metric = study.budget.get("drop_pp"), study.original.metric.get("test")
    if allowed is None or metric is None or figures.metric_name(study) not in (*figures.RATES, "auc", "r2"):
        return None
    return scale * (metric.value - float(allowed) / 100)


def _bounds(measurement: Measurement, scale: float) -> tuple[float, float] | None:
    if measurement.low is None or measurement.high is None:
        return None
    return scale * measurement.low, scale * measurement.high


def loss_curves(study: StudyRecord) -> str:
    """Training loss of every version that was trained."""
    lines = [
        Line(member.name, index, tuple((point.epoch, point.loss) for point in member.curve))
        for index, member in enumerate(versions(study))
        if member.curve
    ]
    return both(lambda width: curves(lines, "training loss", lambda v: f"{v:.3g}", width)) if lines else ""


def metric_curves(study: StudyRecord) -> str:
    """Validation metric over training."""
    name = figures.metric_name(study)
    scale, unit = (100.0, " %") if name in figures.RATES else (1.0, "")
    lines = []
    for index, member in enumerate(versions(study)):
        points = tuple((point.epoch, scale * point.metric) for point in member.curve if point.metric is not None)
        if points:
            lines.append(Line(member.name, index, points))
    title = f"validation {figures.metric_title(study)}"
    return both(lambda width: curves(lines, title, lambda v: f"{v:.3g}{unit}", width, rate=True)) if lines else ""


def layer_widths(study: StudyRecord, member: MemberRecord) -> str:
    """Widths before and after of one member."""
    index = versions(study).index(member)
    # the last layer answers: its width is the task's and would dwarf the others where there are many classes
    inner = [layer.width_before for m in versions(study) for layer in m.layers[:-1]]
    tallest = max(inner, default=max((layer.width_before for layer in member.layers), default=1))
    return both(lambda width: widths(member.layers, index, tallest, width)) if member.layers else ""


def node_magnitudes(member: MemberRecord) -> str:
    """How many nodes of each layer are near zero."""
    if not any(layer.magnitudes for layer in member.layers):
        return ""
    return both(lambda width: magnitudes(member.layers, width))


def class_changes(study: StudyRecord, member: MemberRecord) -> str:
    """Accuracy of each class, original and member."""
    index = versions(study).index(member)
    entries = chosen(member.classes)
    return both(lambda width: dumbbell(entries, index, width)) if entries else ""


def flip_matrix(study: StudyRecord, member: MemberRecord) -> str:
    """Which answers turned into which, for at most 20 classes."""
    named = [str(label) for label in study.task.get("labels") or ()]
    named += [label for flip in member.flips for label in (flip.original, flip.member)]
    labels = tuple(dict.fromkeys(named))
    flipped = [flip for flip in member.flips if flip.count > 0]
    if not flipped or len(labels) > MOST_MATRIX_CLASSES:
        return ""
    return both(lambda width: flips(flipped, labels, width))
