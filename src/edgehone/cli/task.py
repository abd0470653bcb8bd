"""`edgehone task`: check a task before hours are spent on it, or list the tasks that are known by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgehone.errors import TaskError

if TYPE_CHECKING:
    from edgehone.data.check import Finding

help = "check a task: data, network, and how they fit; or list the tasks known by name"
examples = (
    "edgehone task check digits",
    "edgehone task check my_task.py:gestures",
    "edgehone task check my_task.py --json",
    "edgehone task list",
)

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="run a task through once and say what is wrong or suspicious")
    check.add_argument("task", help="a name, or the path of a Python file, optionally with :name")
    check.add_argument("--seed", type=int, default=0, help="for the split that is held out (default: 0)")
    check.add_argument("--json", action="store_true", help="print JSON instead of lines")
    verbs.add_parser("list", help="list the tasks known by name")


def run(args: argparse.Namespace) -> int:
    """Check or list; errors found end in the exit code of wrong input, warnings alone in 0."""
    if args.verb == "list":
        from edgehone.data.load import BUILTIN

        print("\n".join(BUILTIN.names()))
        return 0
    from edgehone.data.load import load_task
    from edgehone.train.check import check_task

    findings = check_task(load_task(args.task), args.seed)
    errors = sum(finding.level == "error" for finding in findings)
    if args.json:
        print(json.dumps({"task": args.task, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _show(args.task, findings, errors)
    return TaskError.exit_code if errors else 0


def _show(name: str, findings: Sequence[Finding], errors: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        mark, colour = _MARKS[finding.level]
        line = Text.assemble(
            (f"{mark} ", colour), (f"{finding.where}: ", "bold") if finding.where else "", finding.what
        )
        console.print(line)
        if finding.do:
            console.print(Text(f"  → {finding.do}", "dim"))
    warnings = sum(finding.level == "warning" for finding in findings)
    counts = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    console.print(f"\n{name}: {counts}" if errors or warnings else f"\n{name}: ready")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
