"""Carry out a recipe: its steps in order, on a graph or on the original of a task.

    apply_recipe(graph, steps, context, told)      a graph, resumable by the context's checkpoint
    run_recipe("digits", text, Path("out"))        the original of a task, exported and judged on the validation split

Nothing here chooses anything: a recipe says all. The test split is never touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgehone.data.load import load_task
from edgehone.data.prepare import Prepared, prepare
from edgehone.errors import Interrupted
from edgehone.graph.files import load_graph, save_graph
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.measure.machine import describe_machine, place
from edgehone.recipe import Step, check_order, read_recipe, settings_of
from edgehone.recipe import name as recipe_name
from edgehone.record import CurvePoint, DropRecord, FileRecord, from_json, to_json
from edgehone.search.judge import Judge
from edgehone.search.original import original_network
from edgehone.search.progress import Progress, Silent
from edgehone.search.version import FORMATS, ORIGINAL, Version, export
from edgehone.search.workspace import Workspace, concerns, folder_error, open_workspace, write_text
from edgehone.task import Task
from edgehone.techniques import TECHNIQUES, Context, Result
from edgehone.train.loop import Teacher
from edgehone_agent.wire.measurement import Measurement

RESULT = "recipe.json"

Told = Callable[[int, float, str], None]
"""(step from 0, share of it that is done, note) → None."""


@dataclass(frozen=True)
class Ran:
    """What a recipe made of the original of a task.

    Attributes:
        name: of the recipe.
        steps: the recipe.
        original, files: of both versions, in every format.
        metric: version's metric on the validation split, by its file.
        drop: against the original there, paired example by example.
        notes: what the steps found on the way.
        curve: of all trainings, epochs counted through.
        folder: where it all is.
    """

    name: str
    steps: tuple[Step, ...]
    original: tuple[FileRecord, ...]
    files: tuple[FileRecord, ...]
    metric: Measurement
    drop: DropRecord
    notes: tuple[str, ...]
    curve: tuple[CurvePoint, ...]
    folder: Path


def apply_recipe(graph: Graph, recipe: Sequence[Step], context: Context, told: Told | None = None) -> Result:
    """Apply the steps of a recipe in order; the graph stays as it was.

    With a checkpoint in the context, a finished step is kept beside it and read back by the next run of the same
    recipe on the same graph with the same seed; a training under way goes on where it stopped. Without a teacher in the
    context, the graph itself is the teacher.

    Args:
        graph: a training graph.
        recipe: steps, see `edgehone.recipe`.
        context: what every step may use.
        told: told how far each step is.

    Returns:
        The last graph (and its integers), the curves joined into one whose epochs count on, and all notes.

    Raises:
        RecipeError: a setting or an order that is refused; nothing was done then.
        EdgehoneError: what a technique raises, see there.
    """
    chosen = [(step, settings_of(step, TECHNIQUES)) for step in recipe]
    check_order(recipe, TECHNIQUES)
    if context.teacher is None:
        context = replace(context, teacher=Teacher(GraphNetwork(graph), context.prepared.task.kind))
    result, key = Result(graph), _digest(graph, context.seed)
    for number, (step, settings) in enumerate(chosen):
        key = hashlib.sha256(f"{key} {json.dumps(step.to_json(), sort_keys=True)}".encode()).hexdigest()
        kept = _Kept(context.checkpoint, number, key)
        after = kept.read()
        if after is None:
            report = _reporter(told, number)
            mine = replace(context, report=report, checkpoint=kept.training)
            after = TECHNIQUES.get(step.technique).apply(result.graph, settings, mine)
            kept.write(after)
        result = Result(
            after.graph,
            after.quantized,
            _joined(result.curve, after.curve),
            (*result.notes, *(f"{step.label or step.technique}: {note}" for note in after.notes)),
        )
        if told:
            told(number, 1.0, "")
    return result


def _reporter(told: Told | None, number: int) -> Callable[[int, int, float], None] | None:
    if told is None:
        return None
    return lambda done, total, loss: told(number, done / max(1, total), f"loss {loss:.3f}")


def _joined(before: tuple[CurvePoint, ...], after: tuple[CurvePoint, ...]) -> tuple[CurvePoint, ...]:
    """One curve: the epochs of the second count on from the first's."""
    start = before[-1].epoch if before else 0.0
    return (*before, *(replace(point, epoch=start + point.epoch) for point in after))


def _digest(graph: Graph, seed: int) -> str:
    sha = hashlib.sha256(f"{seed} {graph.nodes}".encode())
    for key, array in graph.params.items():
        sha.update(key.encode() + array.tobytes())
    return sha.hexdigest()


class _Kept:
    """The files of one step beside a recipe's checkpoint; they are named after all that the step depends on.

    Integers are not kept: what makes them comes last, and is made again.
    """

    def __init__(self, checkpoint: Path | None, number: int, key: str) -> None:
        self._base = checkpoint and checkpoint.with_name(f"{checkpoint.stem}.{number + 1}-{key[:12]}")

    @property
    def training(self) -> Path | None:
        """Where the step's training keeps its state."""
        return self._base and self._base.with_name(f"{self._base.name}.training.npz")

    def read(self) -> Result | None:
        """What the step left when it was finished, or None."""
        if self._base is None or not (graph := self._file("npz")).exists():
            return None
        data = json.loads(self._file("json").read_text())
        curve = tuple(from_json(CurvePoint, point) for point in data["curve"])
        return Result(load_graph(graph), curve=curve, notes=tuple(data["notes"]))

    def write(self, result: Result) -> None:
        """Keep it; the graph comes last and marks the step as finished."""
        if self._base is None or result.quantized is not None:
            return
        data = {"curve": [to_json(point) for point in result.curve], "notes": list(result.notes)}
        write_text(self._file("json"), json.dumps(data))
        save_graph(result.graph, self._file("npz"))

    def _file(self, kind: str) -> Path:
        if self._base is None:
            raise ValueError("nothing is kept")
        return self._base.with_name(f"{self._base.name}.{kind}")


def run_recipe(
    task: Task | str,
    text: str,
    folder: Path,
    *,
    source: str = "recipe",
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Ran:
    """Apply a recipe to the original of a task, write the files of both, and judge on the validation split.

    Args:
        task: a task, the name of a built-in one, or "path/to/task.py[:name]".
        text: the recipe, in TOML.
        folder: for the results; it belongs to this recipe and task alone.
        source: name of the recipe's file, for messages.
        seed: of everything random.
        resume: go on with what the folder holds.
        progress: told what is going on.

    Raises:
        RecipeError: the recipe; InputError: the task; NetworkError: the network; OutputFolderError: the folder;
        Interrupted: stopped by Ctrl-C, to be resumed.
    """
    steps = read_recipe(text, TECHNIQUES, source)
    task = load_task(task) if isinstance(task, str) else task
    progress = progress or Silent()
    try:
        progress.stage("reading the data")
        prepared = prepare(task, seed)
        data = {name: getattr(prepared, name).digest() for name in ("train", "validation")}
        recipe = [step.to_json() for step in steps]
        identity = {"recipe": recipe, "task": task.name, "data": data, "seed": seed}
        workspace = open_workspace(folder, identity, resume=resume)
        return _run(prepared, steps, workspace, seed, progress)
    except KeyboardInterrupt:
        raise Interrupted("stopped; what was finished is kept", where=str(folder), do="go on with --resume") from None
    except OSError as error:
        if concerns(error, folder):
            raise folder_error(error, str(folder)) from error
        raise


def _run(prepared: Prepared, steps: tuple[Step, ...], workspace: Workspace, seed: int, progress: Progress) -> Ran:
    judge, here = Judge(prepared), place(describe_machine())
    original = original_network(prepared, judge, workspace, seed, progress)
    base = Version(ORIGINAL, None, original.graph, curve=original.curve, seconds=original.seconds)
    teacher = Teacher(GraphNetwork(original.graph), prepared.task.kind)
    context = Context(
        prepared, seed, original.precision, teacher, judge.network_metric, checkpoint=workspace.checkpoint("recipe")
    )
    result = apply_recipe(original.graph, steps, context, _Stages(steps, progress))
    made = Version("recipe", ORIGINAL, result.graph, result.quantized, steps, result.curve)
    files = [(version, export(version, workspace)) for version in (base, made)]
    answers = []
    for version, _ in files:
        progress.stage(f"judging the {version.name}", 1.0)
        form = "onnx" if version.quantized is None else next(iter(FORMATS))
        answers.append(judge.answers(workspace.folder / version.file(form), FORMATS[form], "validation", progress.at))
    ran = Ran(
        recipe_name(steps), steps, files[0][1], files[1][1], judge.value(answers[1], "validation", here),
        judge.drop(answers[0], answers[1], "validation"), result.notes, result.curve, workspace.folder,
    )  # fmt: skip
    kept = {**to_json(replace(ran, steps=(), folder=Path())), "steps": [step.to_json() for step in steps]}
    del kept["folder"]
    write_text(workspace.folder / RESULT, json.dumps(kept, indent=1))
    return ran


class _Stages:
    """Tells progress about the steps of a recipe, a stage each."""

    def __init__(self, steps: Sequence[Step], progress: Progress) -> None:
        self._steps, self._progress, self._now = steps, progress, -1

    def __call__(self, number: int, share: float, note: str) -> None:
        if number != self._now:
            self._now = number
            self._progress.stage(self._steps[number].label, 1.0)
        self._progress.at(share, note)
