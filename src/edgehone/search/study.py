"""A study: from a task, a device and limits to a family of measured members. Read this first.

    check   the task, its data, the output folder
    trace   the network into a graph, and train it if the task says so     original.py
    grow    cut → recover → quantize → judge, member by member             family.py, widths.py
    finish  measure all files in one run, test once, write it all down     finish.py

Everything finished is kept in the output folder, so a stopped study goes on with `resume=True`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time as clock_time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from edgehone.budget import Budget
from edgehone.data.load import load_task
from edgehone.data.prepare import Prepared, prepare
from edgehone.devices import limits, load_device
from edgehone.errors import Interrupted
from edgehone.graph.network import GraphNetwork
from edgehone.measure.machine import describe_machine, place
from edgehone.measure.remote import MeasuringNode
from edgehone.measure.timer import LocalTimer, RemoteTimer
from edgehone.record import MemberRecord, StudyRecord, TrialRecord, to_json
from edgehone.report import page
from edgehone.search.family import Family, Ground, grow
from edgehone.search.finish import finish
from edgehone.search.front import front, verdict
from edgehone.search.judge import Judge
from edgehone.search.original import Original, original_network
from edgehone.search.progress import Progress, Silent
from edgehone.search.settings import Settings
from edgehone.search.target import MAIN_RUNTIME, Target
from edgehone.search.version import FORMATS, ORIGINAL, Version, export
from edgehone.search.workspace import Workspace, concerns, folder_error, open_workspace, write_text
from edgehone.task import Task, Training
from edgehone.techniques import Context
from edgehone.train.answers import Answers
from edgehone.train.loop import Teacher
from edgehone.units import format_drop, parse_duration_s
from edgehone_agent.measure.noise import Noise
from edgehone_agent.model import Model, open_model

ANSWERS = "answers"  # folder of a study's work, gone when it is finished
_FINISH_SHARE = 0.1  # of a time limit, kept for measuring and testing


@dataclass(frozen=True)
class Member:
    """A member of a finished study."""

    record: MemberRecord
    folder: Path

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    def path(self, format_name: str = "tflite") -> Path:
        """Its file in a format."""
        return self.folder / next(f.path for f in self.record.files if f.format == format_name)

    def predict(self, x: ArrayLike) -> NDArray[np.float32]:
        """Answers for one raw reading or a batch, in torch order, through the runtime that ships.

        Raises:
            InputError: a shape that the file does not take, or NaN.
        """
        return self._model.predict(x)

    @cached_property
    def _model(self) -> Model:
        return open_model(self.path())


@dataclass(frozen=True)
class Study:
    """A finished study: its record, and the folder that holds the files."""

    record: StudyRecord
    folder: Path

    @property
    def members(self) -> tuple[Member, ...]:
        """The family, widest first."""
        return tuple(Member(record, self.folder) for record in self.record.members)

    @property
    def met(self) -> bool:
        """Whether at least one member holds every limit."""
        return self.record.met

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / page.NAME

    def _repr_html_(self) -> str:
        return page.notebook(self.record)


def optimize(
    task: Task | str,
    *,
    device: str = "this-machine",
    max_latency: str | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    max_drop: str | None = None,
    time: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    node: MeasuringNode | None = None,
    **settings: Any,
) -> Study:
    """Turn a trained network into a family of smaller, faster versions.

    Args:
        task: a task, the name of a built-in one, or "path/to/task.py[:name]".
        device: name of a profile, or path of one; latency is measured on "this-machine" and estimated elsewhere.
        max_latency, max_size, max_memory, max_drop: limits like "2ms", "200kB", "64KiB", "1pp".
        time: wall time for everything, like "20min"; recoveries get shorter to hold it.
        output: folder for the results; "NAME-family" when not given.
        resume: go on with the study that the folder holds.
        progress: told what is going on; None shows nothing.
        node: where latency is measured instead of here, an `edgehone.measure.remote.MeasuringNode`.
        settings: further fields of `Settings`: members, seed, criterion, allocation, epochs, qat_epochs, observer.

    Raises:
        InputError: something handed in is wrong; NetworkError: the network cannot be handled; OutputFolderError: the
        folder; Interrupted: stopped by Ctrl-C, to be resumed.
    """
    asked = Settings(
        Budget.parse(latency=max_latency, size=max_size, memory=max_memory, drop=max_drop),
        time_s=None if time is None else parse_duration_s(time),
        **settings,
    )
    task = load_task(task) if isinstance(task, str) else task
    folder = Path(output if output is not None else f"{task.name}-family")
    try:
        return _run(task, device, asked, folder, resume, progress or Silent(), node)
    except KeyboardInterrupt:
        raise Interrupted("stopped; what was finished is kept", where=str(folder), do="go on with --resume") from None
    except OSError as error:
        if concerns(error, folder):
            raise folder_error(error, str(folder)) from error
        raise  # a file of the user's own: its name says more than we could


def _run(
    task: Task, device: str, settings: Settings, folder: Path, resume: bool, progress: Progress,
    node: MeasuringNode | None,
) -> Study:  # fmt: skip
    clock = _Clock()
    profile = load_device(device)
    machine = describe_machine()
    timer = LocalTimer() if node is None else RemoteTimer(node)
    target = Target(profile, place(machine) if node is None else timer.fingerprint(), timer=timer)
    if not profile.detected:
        settings = replace(settings, budget=_within(settings.budget, limits(profile)))
    progress.stage("reading the data")
    prepared = prepare(task, settings.seed)
    identity = _identity(prepared, device, settings) | ({} if node is None else {"node": target.place})
    workspace = open_workspace(folder, identity, resume=resume)
    if device.endswith(".toml"):
        workspace.keep_device(Path(device))
    judge = Judge(prepared)
    clock.lap("prepare")
    original = original_network(prepared, judge, workspace, settings.seed, progress)
    clock.lap("original")
    base = Version(ORIGINAL, None, original.graph, curve=original.curve, seconds=original.seconds)
    family = _grow(base, original, prepared, judge, target, settings, workspace, progress, clock.started)
    clock.lap("family")
    first, members, noise = finish(base, family.members, judge, target, workspace, settings.budget, progress)
    clock.lap("measure and test")
    shutil.rmtree(workspace.work / ANSWERS, ignore_errors=True)
    record = _record(identity, prepared, target, settings, machine, noise, first, members, family.trials, clock)
    return write_study(replace(record, verdict=verdict(record)), workspace)


def _grow(
    base: Version, original: Original, prepared: Prepared, judge: Judge, target: Target, settings: Settings,
    workspace: Workspace, progress: Progress, started: float,
) -> Family:  # fmt: skip
    export(base, workspace)
    progress.stage("judging the original", 1.0)
    reference = workspace.folder / base.file("onnx")
    answers = judge.answers(reference, FORMATS["onnx"], "validation", progress.at)
    answers_kept = Answers(workspace.work / ANSWERS, {})  # the folder belongs to one task, one network, one seed
    teacher = Teacher(GraphNetwork(original.graph), prepared.task.kind, answers=answers_kept)
    context = Context(prepared, settings.seed, original.precision, teacher, judge.network_metric)
    told = _too_few_to_tell(settings.budget, judge, answers)
    if told:
        progress.say(told)
    recovery = recovery_of(prepared.task, settings)
    return grow(
        Ground(
            graph=original.graph,
            answers=answers,
            context=context,
            judge=judge,
            target=target,
            settings=settings,
            recovery=recovery,
            workspace=workspace,
            progress=progress,
            deadline=started + settings.time_s * (1 - _FINISH_SHARE) if settings.time_s is not None else None,
        )
    )


def _too_few_to_tell(budget: Budget, judge: Judge, answers: NDArray[Any]) -> str:
    """What to say when the validation split is too small for the drop limit ever to be shown, else nothing."""
    if budget.drop_pp is None:
        return ""
    none = judge.drop(answers, answers, "validation")  # a member that answers exactly as the original does
    if none.high_pp <= budget.drop_pp:
        return ""
    return (
        f"{none.n} validation examples cannot show a drop below {format_drop(none.high_pp)}, and the limit is "
        f"{format_drop(budget.drop_pp)}: no cut can hold it; use more validation data or a wider limit"
    )


def recovery_of(task: Task, settings: Settings) -> Training:
    """How members are recovered: the task's own way, else its training at half the rate, else a short default."""
    if task.recovery is not None:
        training = task.recovery
    elif task.training is not None:
        training = replace(task.training, learning_rate=task.training.learning_rate / 2, label_smoothing=0.0)
    else:
        training = Training()
    changes: dict[str, Any] = {
        "epochs": settings.epochs, "l1": settings.l1, "weight_decay": settings.l2, "dropout": settings.dropout,
    }  # fmt: skip
    return replace(training, **{name: value for name, value in changes.items() if value is not None})


def _within(asked: Budget, room: Budget) -> Budget:
    """The user's limits, and the device's where those are tighter or nothing was asked."""

    def tighter(a: int | None, b: int | None) -> int | None:
        return min((v for v in (a, b) if v is not None), default=None)

    return replace(
        asked,
        size_bytes=tighter(asked.size_bytes, room.size_bytes),
        memory_bytes=tighter(asked.memory_bytes, room.memory_bytes),
    )


def _identity(prepared: Prepared, device: str, settings: Settings) -> dict[str, Any]:
    """What makes this study what it is; a folder belongs to one identity."""
    digests = {name: getattr(prepared, name).digest() for name in ("train", "validation", "test")}
    return {
        "task": prepared.task.name,
        "data": digests,
        "network": _digest(prepared.network),
        "device": device,
        "budget": settings.budget.to_json(),
        "settings": settings.to_json(),
    }


def _digest(network: nn.Module) -> str:
    """SHA-256 (hex) over names and values of a network's parameters and buffers."""
    sha = hashlib.sha256()
    for name, value in network.state_dict().items():
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).data)
    return sha.hexdigest()


def _record(
    identity: Mapping[str, Any], prepared: Prepared, target: Target, settings: Settings, machine: dict[str, Any],
    noise: Noise | None, original: MemberRecord, members: tuple[MemberRecord, ...], trials: list[TrialRecord],
    clock: _Clock,
) -> StudyRecord:  # fmt: skip
    task = prepared.task
    met = any(all(member.holds.values()) for member in members)
    splits = {name: len(getattr(prepared, name)) for name in ("train", "validation", "test")}
    return StudyRecord(
        task={
            "name": task.name,
            "kind": task.kind,
            "metric": task.metric_name,
            "labels": list(prepared.labels),
            "input_shape": list(prepared.input_shape),
            "splits": splits,
            "digest": identity["data"],
        },
        device={
            "name": target.device.name,
            "title": target.device.title,
            "here": target.here,
            "latency": _how(target),
            "runtime": MAIN_RUNTIME if target.measured else target.device.costs[0].runtime,
        },
        budget=settings.budget.to_json(),
        settings=settings.to_json(),
        machine={**machine, "noise": noise.spread if noise else None},
        original=original,
        members=members,
        trials=tuple(trials),
        met=met,
        verdict="",
        front=front(members, task.metric_name),
        seconds=clock.laps,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _how(target: Target) -> str:
    """How latency was obtained, in words."""
    if not target.measured:
        return "estimated from the device's profile"
    return "measured on this machine" if target.here else f"measured on a node: {target.place}"


def write_study(record: StudyRecord, workspace: Workspace) -> Study:
    """study.json and report.html, then the study itself."""
    write_text(workspace.folder / "study.json", json.dumps(to_json(record), indent=1))
    page.write(record, workspace.folder)
    return Study(record, workspace.folder)


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.started = self._last = clock_time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """A phase ends."""
        now = clock_time.monotonic()
        self.laps[phase], self._last = now - self._last, now
