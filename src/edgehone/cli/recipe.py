"""`edgehone recipe`: check a recipe, read one back from its name, or carry one out on the original of a task."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone.errors import InputError

if TYPE_CHECKING:
    from edgehone.recipe import Step
    from edgehone.search.recipes import Ran

help = "check a recipe (ordered techniques in a TOML file), or carry it out on a task"
examples = (
    "edgehone recipe check small.toml",
    'edgehone recipe check --name "prune-l2-global-40 + distil-3 + int8"',
    "edgehone recipe run small.toml digits -o digits-small",
    "edgehone recipe run small.toml digits -o digits-small --resume",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="read a recipe strictly and show every setting of every step")
    given = check.add_mutually_exclusive_group(required=True)
    given.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a recipe in TOML")
    given.add_argument("--name", metavar="NAME", help="the name of a recipe instead of a file")
    check.add_argument("--json", action="store_true", help="print JSON instead of lines")
    run = verbs.add_parser("run", help="apply a recipe to the original of a task, export it, and judge the files")
    run.add_argument("file", type=Path, metavar="FILE", help="a recipe in TOML")
    run.add_argument("task", metavar="TASK", help="a built-in task, or path/to/task.py[:name]")
    run.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    run.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default 0)")
    run.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    """Check or run; what is wrong with a recipe ends in the exit code of wrong input."""
    if args.verb == "run":
        return _run(args)
    from edgehone.recipe import name, parse_name, read_recipe
    from edgehone.techniques import TECHNIQUES

    steps = (
        parse_name(args.name, TECHNIQUES) if args.name is not None
        else read_recipe(_text(args.file), TECHNIQUES, str(args.file))
    )  # fmt: skip
    if args.json:
        print(json.dumps({"name": name(steps), "steps": [step.to_json() for step in steps]}, indent=2))
        return 0
    for number, step in enumerate(steps, 1):
        print(f"{number}. {step.label}\n   {_settings(step)}")
    print(f"\n{name(steps)}")
    return 0


def _run(args: argparse.Namespace) -> int:
    from edgehone.cli._progress import TerminalProgress

    text = _text(args.file)
    with TerminalProgress() as progress:
        progress.stage("starting")
        from edgehone.search.recipes import RESULT, run_recipe

        ran = run_recipe(
            args.task, text, args.output, source=str(args.file), seed=args.seed, resume=args.resume, progress=progress
        )
    if args.json:
        print((ran.folder / RESULT).read_text())
    else:
        _show(ran)
    return 0


def _show(ran: Ran) -> None:
    from edgehone.units import format_drop, format_size

    print(ran.name)
    for note in ran.notes:
        print(f"  {note}")
    metric, drop = ran.metric, ran.drop
    print(f"{metric.unit} {metric.value:.4g} on {metric.n} validation examples; drop {format_drop(drop.value_pp)}")
    print(f"  from {format_drop(drop.low_pp)} to {format_drop(drop.high_pp)} ({drop.method})")
    for before, after in zip(ran.original, ran.files, strict=True):
        sizes = f"{format_size(before.size_bytes)} → {format_size(after.size_bytes)}"
        print(f"{os.fspath(ran.folder / after.path)}  {sizes}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(
            f"the recipe cannot be read: {reason}", where=str(path), do="give the path of a TOML file"
        ) from None


def _settings(step: Step) -> str:
    return ", ".join(f"{key} {value}" for key, value in _flat(step.settings))


def _flat(settings: Any, path: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in settings.items():
        inner = isinstance(value, dict) and value
        found += _flat(value, f"{path}{key}.") if inner else [(f"{path}{key}", value)]
    return found
