"""Teach a finished family what the field has shown since: same recipe, same widths, new weights.

    refresh(Path("fashion-family"), "fashion-mnist", field, Path("round-7"), members=("w22-int8",))

Order: the original learns the field's examples beside replayed old ones, starting from its own weights, with its former
self as a mild guard → each member is taught by the new original, starting from its own weights → quantized again →
exported → every file is judged beside its predecessor, on old data and on field data that was held out.

The result is a study folder like any other: bundles are built from it, and the next refresh starts from it. Widths do
not change, so the files cost what their predecessors cost; latency is measured again all the same.

Replay is what prevents forgetting; the guard is there for small field sets. Both are in the recipe of the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgehone.budget import Budget
from edgehone.data.examples import Examples
from edgehone.data.load import load_task
from edgehone.data.prepare import Prepared, prepare
from edgehone.devices import load_device
from edgehone.errors import InputError, Interrupted
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.measure.drop import paired_drop
from edgehone.measure.machine import describe_machine, place
from edgehone.measure.metrics import metric_called, predictions
from edgehone.recipe import Step
from edgehone.record import DropRecord, MemberRecord, StudyRecord, to_json
from edgehone.report.study_file import read
from edgehone.search.finish import finish, member_graph
from edgehone.search.front import front, verdict
from edgehone.search.judge import Judge
from edgehone.search.progress import Progress, Silent
from edgehone.search.settings import Settings
from edgehone.search.study import recovery_of, write_study
from edgehone.search.target import MAIN_RUNTIME, Target
from edgehone.search.version import ORIGINAL, Version
from edgehone.search.workspace import Workspace, open_workspace, write_text
from edgehone.task import Task, Training
from edgehone.techniques import Context
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil
from edgehone.techniques.quantize import QuantizeSettings
from edgehone.techniques.quantize import technique as quantize
from edgehone.train.loop import Teacher
from edgehone.train.precision import Precision
from edgehone_agent.fast import FastModel
from edgehone_agent.measure.latency import Ratio, measure_latency, ratio
from edgehone_agent.runtimes import RUNTIMES

FIGURES = "refresh.json"
_RERUN = "run `edgehone optimize` again with --resume: it writes what is missing"


@dataclass(frozen=True)
class FieldData:
    """Labelled examples from the field.

    Attributes:
        x, y: (N, *input shape) raw readings and (N) targets to learn from.
        held_x, held_y: the same, held out to judge by; never learnt from.
        weights: (N) how far each label is trusted, 0 to 1; None trusts all.
        digest: of the dataset version they come from.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    held_x: NDArray[np.float32]
    held_y: NDArray[Any]
    weights: NDArray[np.float64] | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        for x, y, name in ((self.x, self.y, "field examples"), (self.held_x, self.held_y, "held-out examples")):
            if len(x) != len(y) or not len(x):
                raise InputError(f"{len(x)} readings and {len(y)} targets", where=name, do="give one target for each")
        if self.weights is not None and (
            len(self.weights) != len(self.y) or not ((self.weights >= 0) & (self.weights <= 1)).all()
        ):
            raise InputError("weights must be numbers from 0 to 1, one for each example", where="field examples")


@dataclass(frozen=True)
class RefreshSettings:
    """How to learn.

    Attributes:
        epochs: passes over field and replayed examples, for the original and for each member.
        rate: learning rate, as a share of that of the task's recovery.
        replay: replayed old examples for each field example.
        least_replay: replayed old examples at the least (all, where there are fewer).
        share: of the field's examples in what is learnt, at the least; they are repeated until they have it.
        guard: weight of the former original's answers while the original learns, 0 to 1. Where it is wrong about a
            label it does not count: with 210 pictures of a new view that share cost a third of what was learnt.
        seed: of everything random.
    """

    epochs: float = 3.0
    rate: float = 0.3
    replay: float = 3.0
    least_replay: int = 2000
    share: float = 0.25
    guard: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and self.rate > 0 and 0 <= self.guard <= 1 and 0 <= self.share < 1):
            raise InputError("a setting is out of range", where="refresh", do="see RefreshSettings")
        if self.replay < 1 / 3:
            raise InputError(
                f"{self.replay:g} old examples for each new one is too few: the network would forget",
                where="replay",
                do="give 1/3 or more",
            )


@dataclass(frozen=True)
class Slice:
    """A member beside its predecessor on one set of examples: metric of both, paired drop, share of changed answers."""

    before: float
    after: float
    drop: DropRecord
    flips: float | None
    n: int


@dataclass(frozen=True)
class Refreshed:
    """What came of one member. `latency` is new / old, `size` likewise; slices are "old" and "new"."""

    member: str
    slices: Mapping[str, Slice]
    latency: float
    latency_low: float
    latency_high: float
    size: float


@dataclass(frozen=True)
class Result:
    """Where the refreshed study is, and how its members compare with their predecessors."""

    folder: Path
    members: tuple[Refreshed, ...] = field(default_factory=tuple)


def refresh(
    study: Path,
    task: Task | str,
    data: FieldData,
    output: Path,
    *,
    members: Sequence[str] | None = None,
    settings: RefreshSettings | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Make the next version of a family.

    Args:
        study: folder of the finished study, or of an earlier refresh.
        task: the task of that study; its data is replayed and judged on.
        data: what the field has shown.
        output: folder for the result.
        members: names of the members to make anew; None for all.
        settings: see `RefreshSettings`.
        resume: go on with what the folder holds; finished steps are not done again.
        progress: told what is going on.

    Raises:
        InputError: data or names that do not fit the study; OutputFolderError: the folder; Interrupted: Ctrl-C.
    """
    try:
        return _run(study, task, data, output, members, settings or RefreshSettings(), resume, progress or Silent())
    except KeyboardInterrupt:
        raise Interrupted("stopped; what was finished is kept", where=str(output), do="run it again") from None


def _run(
    study: Path, task: Task | str, data: FieldData, output: Path, members: Sequence[str] | None,
    settings: RefreshSettings, resume: bool, progress: Progress,
) -> Result:  # fmt: skip
    record = read(study)
    task = load_task(task) if isinstance(task, str) else task
    progress.stage("reading the data")
    prepared = prepare(task, int(record.settings["seed"]))
    _check(record, prepared, data)
    chosen = _chosen(record, members)
    asked = Settings(**{name: record.settings[name] for name in Settings().to_json() if name in record.settings})
    identity = {"refresh": record.created, "data": data.digest, "settings": asdict(settings), "members": list(chosen)}
    workspace, before = open_workspace(output, identity, resume=resume), Workspace(study)
    mixed = replace(prepared, train=mix(prepared.train, data, settings))
    judge = Judge(prepared)
    teach = _Teaching(mixed, judge, settings, asked, workspace, progress, _precision(before))
    original = teach.original(before)
    versions = [teach.member(found, before, original) for found in chosen.values()]
    base = Version(ORIGINAL, None, original.graph, curve=original.curve)
    machine = describe_machine()
    profile = before.device(str(record.device["name"]))
    if profile.endswith(".toml"):
        workspace.keep_device(Path(profile))
    target = Target(load_device(profile), place(machine))
    first, made, noise = finish(base, versions, judge, target, workspace, Budget(**record.budget), progress)
    result = replace(
        record,
        machine={**machine, "noise": noise.spread if noise else None},
        task={**record.task, "digest": {**record.task["digest"], "field": data.digest}} if data.digest else record.task,
        original=first,
        members=made,
        trials=(),
        met=any(all(member.holds.values()) for member in made),
        front=front(made, task.metric_name),
    )
    result = replace(result, verdict=verdict(result))
    write_study(result, workspace)
    compared = tuple(_compare(found, study, output, judge, data, progress) for found in chosen.values())
    write_text(output / FIGURES, json.dumps([to_json(member) for member in compared], indent=1))
    return Result(output, compared)


def mix(old: Examples, data: FieldData, settings: RefreshSettings) -> Examples:
    """Field examples and replayed old ones, in one split.

    A label that is trusted by half is taken half as often. Field examples are repeated until they have their share.
    """
    wanted = max(settings.least_replay, int(np.ceil(settings.replay * len(data.y))))
    replayed = old.sample(min(wanted, len(old)), settings.seed)
    rng = np.random.default_rng(settings.seed)
    least = int(np.ceil(settings.share / (1 - settings.share) * len(replayed)))
    times = max(1, -(-least // len(data.y)))
    weights = np.ones(len(data.y)) if data.weights is None else data.weights
    counts = np.floor(times * weights + rng.random(len(data.y))).astype(np.int64)
    rows = np.repeat(np.arange(len(data.y)), counts)
    x = torch.from_numpy(np.ascontiguousarray(data.x[rows], np.float32))
    y = torch.from_numpy(np.ascontiguousarray(data.y[rows])).to(replayed.y.dtype)
    kept = torch.cat([part.to(torch.float32) for part in replayed.chunks()])
    return Examples(torch.cat([kept, x]), torch.cat([replayed.y, y]), class_names=old.class_names, origin="refresh")


def _check(record: StudyRecord, prepared: Prepared, data: FieldData) -> None:
    if record.task["name"] != prepared.task.name:
        raise InputError(
            f"the study is about {record.task['name']!r}, the task is {prepared.task.name!r}", where="task"
        )
    for x, name in ((data.x, "field examples"), (data.held_x, "held-out examples")):
        if x.shape[1:] != prepared.input_shape[1:]:
            shape = prepared.input_shape[1:]
            raise InputError(f"the readings are {x.shape[1:]}, the task's are {shape}", where=name)
    if prepared.task.kind == "classification":
        highest = int(max(data.y.max(), data.held_y.max()))
        if highest >= len(prepared.labels) or int(min(data.y.min(), data.held_y.min())) < 0:
            raise InputError(
                f"class {highest} is new to the task, which has {len(prepared.labels)}",
                where="field examples",
                do="add the class to the task, train it, and start a new study",
            )


def _chosen(record: StudyRecord, members: Sequence[str] | None) -> dict[str, MemberRecord]:
    known = {member.name: member for member in record.members}
    names = list(known) if members is None else list(dict.fromkeys(members))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(
            f"the study has no member {', '.join(unknown) or 'at all'}",
            where="members",
            do=f"choose of {', '.join(known)}",
        )
    return {name: known[name] for name in names}


def _precision(before: Workspace) -> Precision:
    kept = before.read("precision") or before.read(ORIGINAL) or {"precision": "float32"}
    found: Precision = kept["precision"]
    return found


def _cut(recipe: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The steps of a recipe that made the member what it is, without what earlier refreshes taught it."""
    steps = [Step(str(step["technique"]), {k: v for k, v in step.items() if k != "technique"}) for step in recipe]
    cut = [index for index, step in enumerate(steps) if step.technique not in ("distil", "quantize")]
    return tuple(steps[: cut[-1] + 2]) if cut else ()


@dataclass(frozen=True)
class _Teaching:
    """Everything that learning needs; each step is kept in the workspace, so a killed refresh goes on."""

    mixed: Prepared
    judge: Judge
    settings: RefreshSettings
    asked: Settings
    workspace: Workspace
    progress: Progress
    precision: Precision

    def original(self, before: Workspace) -> Version:
        """The original after it has learnt; its former self guards it, where it is right."""
        former = before.graph(ORIGINAL)
        if former is None:
            raise InputError("the study has not kept its original network", where=str(before.folder), do=_RERUN)
        guard = Teacher(GraphNetwork(former), self.mixed.task.kind, only_right=True)
        settings = DistilSettings(self._training(), weight=self.settings.guard)
        found = self._learn(ORIGINAL, ORIGINAL, former, settings, guard)
        self.workspace.write("precision", {"precision": self.precision})
        return found

    def member(self, record: MemberRecord, before: Workspace, original: Version) -> Version:
        """A member after the new original has taught it, in integers."""
        start = member_graph(before, record.name)
        if start is None:
            raise InputError("the study has not kept this member's network", where=record.name, do=_RERUN)
        settings = DistilSettings(self._training())
        teacher = Teacher(GraphNetwork(original.graph), self.mixed.task.kind)
        if record.parent == ORIGINAL and start.parameter_count() == original.graph.parameter_count():
            taught = replace(original, name=record.name, curve=())  # the full width is the original itself, in integers
        else:
            taught = self._learn(f"taught-{record.name}", record.name, start, settings, teacher)
        integers = QuantizeSettings(self.asked.observer, qat_epochs=self.asked.qat_epochs)
        self.progress.stage(f"quantizing {record.name}")
        result = quantize.apply(taught.graph, integers, self._context(f"integers-{record.name}", teacher))
        learnt = replace(distil.step(settings), label=f"refresh-{self.settings.epochs:g}")
        recipe = (*_cut(record.recipe), learnt, quantize.step(integers))
        return Version(record.name, record.parent, taught.graph, result.quantized, recipe, taught.curve)

    def _learn(self, step: str, name: str, start: Graph, settings: DistilSettings, teacher: Teacher) -> Version:
        graph = self.workspace.graph(step)
        if graph is None:
            self.progress.stage(f"teaching {name}", 1.0)
            found = distil.apply(start, settings, self._context(step, teacher))
            graph = found.graph
            self.workspace.keep_graph(step, graph)
            return Version(name, None, graph, curve=found.curve)
        return Version(name, None, graph)

    def _training(self) -> Training:
        recovery = recovery_of(self.mixed.task, self.asked)
        return replace(recovery, epochs=self.settings.epochs, learning_rate=recovery.learning_rate * self.settings.rate)

    def _context(self, step: str, teacher: Teacher) -> Context:
        return Context(
            self.mixed, self.settings.seed, self.precision, teacher, self.judge.network_metric,
            report=lambda done, total, loss: self.progress.at(done / total, f"loss {loss:.3f}"),
            checkpoint=self.workspace.checkpoint(step),
        )  # fmt: skip


def _compare(
    record: MemberRecord, study: Path, output: Path, judge: Judge, data: FieldData, progress: Progress
) -> Refreshed:
    """A member's new file beside its old one: on the validation split, on held-out field examples, and in time."""
    progress.stage(f"comparing {record.name}")
    path = f"members/{record.name}/model.tflite"
    files = {"old": study / path, "new": output / path}
    answers = {name: judge.answers(file, MAIN_RUNTIME, "validation") for name, file in files.items()}
    slices = {"old": _slice(judge, answers, judge.split("validation").y.numpy())}
    answers = {name: _answers(judge, file, data.held_x) for name, file in files.items()}
    slices["new"] = _slice(judge, answers, data.held_y)
    sessions = {name: RUNTIMES.get(MAIN_RUNTIME).load(file) for name, file in files.items()}
    timings = measure_latency(sessions)
    for session in sessions.values():
        session.close()
    found: Ratio = ratio(timings["new"], timings["old"])
    size = files["new"].stat().st_size / files["old"].stat().st_size
    return Refreshed(record.name, slices, found.value, found.low, found.high, size)


def _answers(judge: Judge, file: Path, x: NDArray[np.float32]) -> NDArray[Any]:
    with FastModel(RUNTIMES.get(MAIN_RUNTIME).load(file)) as model:
        return judge.for_metric(model.predict(x), x)


def _slice(judge: Judge, answers: Mapping[str, NDArray[Any]], targets: NDArray[Any]) -> Slice:
    metric = metric_called(judge.metric)
    flips = None
    if judge.prepared.task.kind == "classification":
        flips = float((predictions(answers["old"]) != predictions(answers["new"])).mean())
    return Slice(
        float(metric.value(answers["old"], targets)), float(metric.value(answers["new"], targets)),
        paired_drop(judge.metric, answers["old"], answers["new"], targets), flips, len(targets),
    )  # fmt: skip
