"""Grow the family: cut, recover, quantize, judge; each member from its larger sibling, until the budget is spent.

The rules, in order, for every attempt:
1. Its latency goal lies between its parent's latency and the family's goal, at equal ratios; the widest cut that
   reaches the goal is trained. A cut that is not clearly faster than its parent is not trained at all.
2. After recovery it is judged on the validation split by its file. It is dropped when it is not measurably faster than
   its parent, or when the bad end of its drop breaks the limit also after a second recovery.
   Timing decides, so its verdicts are kept: a study that goes on, or is asked again, decides the same.
3. A broken drop limit moves the family's goal to between the parent and the failure. The failure stays in the family
   only when nothing wider holds the limits on cost: then it is the nearest front.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgehone.data.cache import cache_folder
from edgehone.exporters import EXPORTERS
from edgehone.graph.branches import branches
from edgehone.graph.ir import Graph
from edgehone.recipe import Step
from edgehone.recipe import name as recipe_name
from edgehone.record import CurvePoint, DropRecord, TrialRecord, from_json, to_json
from edgehone.search.allocate import Allocation
from edgehone.search.judge import Judge
from edgehone.search.original import epoch_seconds
from edgehone.search.prices import prices_of
from edgehone.search.progress import Progress
from edgehone.search.settings import Settings
from edgehone.search.target import MAIN_FORMAT, MAIN_RUNTIME, Target
from edgehone.search.version import Version, export, name_of
from edgehone.search.widths import MOST_TIMED, Candidate, Cuts, Widths, price
from edgehone.search.workspace import Workspace
from edgehone.task import Training
from edgehone.techniques import Context, Result
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.quantize import QuantizeSettings
from edgehone.techniques.quantize import technique as quantize
from edgehone.techniques.shorten import ShortenSettings
from edgehone.techniques.shorten import technique as shorten
from edgehone.units import format_drop, format_latency
from edgehone_agent.measure.latency import Verdict, ranks
from edgehone_agent.wire.measurement import Measurement

DEFAULT_SPEEDUP = 4.0  # of the smallest member over the quantized full width, where no limit asks for more
WORTH_TRAINING = 0.95  # of the parent's latency: a cut above it would drown in the noise of measuring
EXTRA_ATTEMPTS = 3
MEASURINGS = 3  # of a cut against its parent, before "within noise" is believed on a machine that is not quiet
TIMED_ROUNDS = 40
FULL = "int8"


@dataclass(frozen=True)
class Ground:
    """What a family grows on."""

    graph: Graph
    answers: np.ndarray
    context: Context
    judge: Judge
    target: Target
    settings: Settings
    recovery: Training
    workspace: Workspace
    progress: Progress
    deadline: float | None


@dataclass
class Family:
    """Members so far, widest first, and everything that was tried."""

    members: list[Version] = field(default_factory=list)
    trials: list[TrialRecord] = field(default_factory=list)


@dataclass(frozen=True)
class _Tried:
    """A recovered cut and its judgement."""

    version: Version
    candidate: Candidate
    drop: DropRecord
    faster: bool


def grow(ground: Ground) -> Family:
    """Make the family. What earlier runs finished is taken from the workspace."""
    family = Family()
    budget, settings = ground.settings.budget, ground.settings
    full, ground = _full_width(ground)
    start = full.candidate
    start_holds = start.holds(budget)
    family.trials.append(_trial(full.version, full, "kept", "the whole network in int8"))
    family.members.append(full.version)
    wanted = settings.members - 1 if settings.members > 1 or start_holds else 1
    parent, parent_latency, left = full, start.latency.value, wanted
    goal = _goal(ground, start, start_holds) if wanted else None
    covered = start_holds
    for attempt in range(wanted + EXTRA_ATTEMPTS):
        if goal is None or left == 0 or _late(ground):
            break
        aim = parent_latency * (goal / parent_latency) ** (1 / left)
        tried = _attempt(ground, attempt, parent, parent_latency, aim, left, family)
        if tried is None:
            break
        name, latency = tried.version.name, tried.candidate.latency.value
        too_much = budget.drop_pp is not None and tried.drop.high_pp > budget.drop_pp
        needed = not covered and tried.candidate.holds(budget)
        if not tried.faster:
            reason = f"not measurably faster than {parent.version.name}"
            family.trials.append(_trial(tried.version, tried, "dropped", reason))
            break
        if too_much and not needed:
            limit = format_drop(budget.drop_pp or 0)
            reason = (
                f"drop of {format_drop(tried.drop.value_pp)}, at worst {format_drop(tried.drop.high_pp)}: over {limit}"
            )
            family.trials.append(_trial(tried.version, tried, "dropped", reason))
            goal = parent_latency * (latency / parent_latency) ** (left / (left + 1))
            continue
        figures = f"{format_latency(latency)}, drop {format_drop(tried.drop.value_pp)} on validation"
        ground.progress.say(f"{name}: {figures} ({recipe_name(tried.version.recipe)})")
        told = "holds no drop limit, kept as the nearest front" if too_much else "measurably faster than its parent"
        family.trials.append(_trial(tried.version, tried, "kept", told))
        family.members.append(tried.version)
        covered = covered or tried.candidate.holds(budget)
        parent, parent_latency, left = tried, latency, left - 1
        if too_much:
            break
    if not start_holds and settings.members == 1 and len(family.members) > 1:
        family.members = family.members[-1:]
    return family


def _full_width(ground: Ground) -> tuple[_Tried, Ground]:
    """The first member, and the ground with the target anchored to it."""
    step = quantize.step(_integers(ground))
    result = _quantized(ground, "full-width", FULL, ground.graph)
    version = Version(FULL, "original", ground.graph, result.quantized, (step,), result.curve)
    export(version, ground.workspace)
    kept = ground.workspace.read("full-width")
    if result.quantized is not None:
        ground = replace(ground, target=ground.target.anchored(result.quantized, kept["anchor_us"] if kept else None))
    candidate = _kept_price(kept, ground.graph) or price(1.0, ground.graph, ground.context, ground.target)
    anchor = ground.target.anchor
    _keep_price(ground, "full-width", candidate, anchor_us=anchor.latency_us if anchor else None)
    return _Tried(version, candidate, _drop(ground, version), True), ground


def _goal(ground: Ground, start: Candidate, start_holds: bool) -> float | None:
    """Latency of the smallest member: what the limits ask for, or a quarter of the full width's. Chosen once."""
    kept = ground.workspace.read("goal")
    if kept is None:
        kept = {"latency_us": _choose_goal(ground, start, start_holds)}
        ground.workspace.write("goal", kept)
    goal: float | None = kept["latency_us"]
    return goal


def _choose_goal(ground: Ground, start: Candidate, start_holds: bool) -> float | None:
    ground.progress.stage("timing candidate widths", MOST_TIMED)
    cuts = _cuts(ground, ground.graph)
    floor = cuts.floor()
    if floor.latency.value > WORTH_TRAINING * start.latency.value:
        ground.progress.say("no cut of this network is measurably faster: the family ends with int8")
        return None
    easy = max(start.latency.value / DEFAULT_SPEEDUP, floor.latency.value)
    if start_holds:
        return easy
    fitting = cuts.holding(ground.settings.budget)
    if fitting is None:
        ground.progress.say("even the narrowest cut breaks a limit: making the nearest front")
        return floor.latency.value
    return fitting.latency.value


def _attempt(
    ground: Ground, attempt: int, parent: _Tried, parent_latency: float, aim: float, left: int, family: Family
) -> _Tried | None:
    """Cut, recover, quantize, judge; None when no cut is worth training."""
    step = f"attempt-{attempt}"
    planned = _planned(ground, step, parent, parent_latency, aim)
    if planned is None:
        reason = f"no cut of {parent.version.name} is clearly faster than it"
        family.trials.append(TrialRecord(f"after {parent.version.name}", parent.version.name, "dropped", reason))
        return None
    name = _free_name(name_of(planned.graph, ground.graph), [t.name for t in family.trials])
    done, graph = ground.workspace.read(step), ground.workspace.graph(step)
    if done is None or graph is None:
        graph, curve, epochs, seconds = _recover(ground, step, name, planned.graph, left)
        ground.workspace.keep_graph(step, graph)
        done = {"curve": [to_json(p) for p in curve], "epochs": epochs, "seconds": seconds}
        ground.workspace.write(step, done)
    curve = tuple(from_json(CurvePoint, point) for point in done["curve"])
    training = replace(ground.recovery, epochs=done["epochs"])
    recipe = _recipe(ground, parent.version.graph, planned, training)
    result = _quantized(ground, step, name, graph)
    version = Version(
        name, parent.version.name, graph, result.quantized, recipe, (*curve, *result.curve), done["seconds"]
    )
    export(version, ground.workspace)
    faster = _faster(ground, step, version, parent.version, planned)
    return _Tried(version, planned, _drop(ground, version), faster)


def _planned(ground: Ground, step: str, parent: _Tried, parent_latency: float, aim: float) -> Candidate | None:
    """The cut of an attempt, None when none is worth training; chosen once."""
    step = f"{step}-plan"
    kept, graph = ground.workspace.read(step), ground.workspace.graph(step)
    if kept is not None:
        return _kept_price(kept, graph) if graph is not None else None
    ground.progress.stage("timing candidate widths", MOST_TIMED)
    cuts = _cuts(ground, parent.version.graph)
    found = cuts.reaching(aim) or cuts.floor()
    if found.latency.value > WORTH_TRAINING * parent_latency:
        ground.workspace.write(step, {})
        return None
    ground.workspace.keep_graph(step, found.graph)
    _keep_price(ground, step, found)
    return found


def _keep_price(ground: Ground, step: str, candidate: Candidate, **more: float | None) -> None:
    """Keep what a candidate costs: timing it again would give another figure, and other decisions."""
    costs = {name: getattr(candidate, name) for name in ("keep", "size_bytes", "memory_bytes")}
    ground.workspace.write(step, {**costs, "latency": candidate.latency.to_json(), **more})


def _kept_price(kept: Mapping[str, Any] | None, graph: Graph) -> Candidate | None:
    if kept is None:
        return None
    latency = Measurement.from_json(kept["latency"])
    return Candidate(kept["keep"], graph, latency, kept["size_bytes"], kept["memory_bytes"])


def _recover(
    ground: Ground, step: str, name: str, cut: Graph, left: int
) -> tuple[Graph, tuple[CurvePoint, ...], float, float]:
    """Train a cut until its drop holds, twice at the most, and once only where a time limit leaves no more."""
    started = time.monotonic()
    ground.progress.stage(f"planning the recovery of {name}")
    epochs = _affordable(ground, cut, left)
    settings = DistilSettings(replace(ground.recovery, epochs=epochs))
    graph = ground.workspace.graph(f"{step}-first")
    curve: tuple[CurvePoint, ...] = ()
    if graph is None:
        start = prune.recalibrate(cut, ground.context).graph
        graph, curve = _train(ground, step, name, start, settings)
        took = time.monotonic() - started
        rushed = ground.deadline is not None and started + (left + 1) * took > ground.deadline
        if rushed or not _breaks_drop(ground, graph):
            return graph, curve, epochs, took
        ground.workspace.keep_graph(f"{step}-first", graph)
    calmer = replace(settings, training=replace(settings.training, learning_rate=settings.training.learning_rate / 2))
    graph, more = _train(ground, f"{step}-second", f"{name} again", graph, calmer)
    shifted = (replace(point, epoch=point.epoch + epochs) for point in more)
    return graph, (*curve, *shifted), 2 * epochs, time.monotonic() - started


def _train(
    ground: Ground, step: str, name: str, graph: Graph, settings: DistilSettings
) -> tuple[Graph, tuple[CurvePoint, ...]]:
    ground.progress.stage(f"recovering {name}", 1.0)
    result = distil.apply(graph, settings, _told(ground, step))
    return result.graph, result.curve


def _quantized(ground: Ground, step: str, name: str, graph: Graph) -> Result:
    """The integers of a recovered graph; training for them goes on where it was stopped."""
    ground.progress.stage(f"quantizing {name}", 1.0 if ground.settings.qat_epochs else None)
    return quantize.apply(graph, _integers(ground), _told(ground, step))


def _told(ground: Ground, step: str) -> Context:
    """The context of a training that shows how far it is, and keeps it."""
    return replace(
        ground.context,
        report=lambda done, total, loss: ground.progress.at(done / total, f"loss {loss:.3f}"),
        checkpoint=ground.workspace.checkpoint(step),
    )


def _breaks_drop(ground: Ground, graph: Graph) -> bool:
    if ground.settings.budget.drop_pp is None:
        return False
    version = Version("recovering", None, graph, quantize.apply(graph, QuantizeSettings(), ground.context).quantized)
    return _drop(ground, version, f".work/{version.name}.tflite").high_pp > ground.settings.budget.drop_pp


def _drop(ground: Ground, version: Version, path: str | None = None) -> DropRecord:
    """The drop of a version's main file on the validation split."""
    if path is not None:
        ground.workspace.put(path, EXPORTERS.get(MAIN_FORMAT).export(version.quantized or version.graph))
    file = ground.workspace.folder / (path or version.file(MAIN_FORMAT))
    ground.progress.stage(f"judging {version.name}", 1.0)
    answers = ground.judge.answers(file, MAIN_RUNTIME, "validation", ground.progress.at)
    return ground.judge.drop(ground.answers, answers, "validation")


def _faster(ground: Ground, step: str, version: Version, parent: Version, planned: Candidate) -> bool:
    """Whether a version's file is measurably faster than its parent's: in one run, or by the estimates."""
    if not ground.target.measured:
        before = ground.target.latency(parent.quantized).value if parent.quantized else planned.latency.value
        return planned.latency.value < WORTH_TRAINING * before
    kept = ground.workspace.read(f"{step}-faster")
    if kept is None:
        kept = {"verdict": _ranked(ground, version, parent)}
        ground.workspace.write(f"{step}-faster", kept)
    return bool(kept["verdict"] == "faster")


def _ranked(ground: Ground, version: Version, parent: Version) -> Verdict:
    """How a version's file ranks against its parent's; a noisy machine is asked again."""
    ground.progress.stage(f"timing {version.name} against {parent.name}")
    files = {v.name: (ground.workspace.folder / v.file(MAIN_FORMAT)).read_bytes() for v in (version, parent)}
    for _ in range(MEASURINGS):
        found = ground.target.timer.time(files, TIMED_ROUNDS)
        verdict = ranks(found[version.name], found[parent.name])
        if verdict == "faster" or all(result.noise.word == "quiet" for result in found.values()):
            break
    return verdict


def _affordable(ground: Ground, cut: Graph, left: int) -> float:
    """Epochs of a recovery, shortened where the time limit asks for it: the members left share what time is left."""
    if ground.deadline is None:
        return ground.recovery.epochs
    epoch_s = epoch_seconds(cut, ground.context, ground.recovery.batch_size)
    share_s = (ground.deadline - time.monotonic()) / left
    return max(0.1, min(ground.recovery.epochs, round(share_s / max(epoch_s, 1e-3), 2)))


def _late(ground: Ground) -> bool:
    return ground.deadline is not None and time.monotonic() > ground.deadline


def _cuts(ground: Ground, graph: Graph) -> Cuts:
    """The cuts of a graph, by the allocation that was asked for."""
    if ground.settings.allocation == "knapsack":
        prices = prices_of(ground.target, cache_folder())
        return Allocation(graph, ground.settings.criterion, ground.context, ground.target, prices, ground.progress.at)
    return Widths(graph, _cut_settings(ground, 1.0), ground.context, ground.target, ground.progress.at)


def _cut_settings(ground: Ground, keep: float) -> PruneSettings:
    return PruneSettings(keep, ground.settings.criterion, ground.settings.allocation)


def _integers(ground: Ground) -> QuantizeSettings:
    return QuantizeSettings(ground.settings.observer, qat_epochs=ground.settings.qat_epochs)


def _recipe(ground: Ground, parent: Graph, planned: Candidate, training: Training) -> tuple[Step, ...]:
    before, after = len(branches(parent)), len(branches(planned.graph))
    shorter = (shorten.step(ShortenSettings(after / before)),) if after < before else ()
    return (
        prune.step(_cut_settings(ground, planned.keep)),
        *shorter,
        distil.step(DistilSettings(training)),
        quantize.step(_integers(ground)),
    )


def _trial(version: Version, tried: _Tried, outcome: str, reason: str) -> TrialRecord:
    return TrialRecord(
        version.name,
        version.parent,
        "kept" if outcome == "kept" else "dropped",
        reason,
        tried.candidate.latency,
        tried.candidate.size_bytes,
    )


def _free_name(name: str, taken: list[str]) -> str:
    """The name, with a letter where two cuts keep the same share."""
    return next(c for c in (name, *(name.replace("-", f"{letter}-", 1) for letter in "bcdefgh")) if c not in taken)
