"""What the commands share: the option --state, plain tables, and the words for a table's empty cells."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add --state, which every command has."""
    parser.add_argument(
        "--state", type=Path, metavar="FOLDER", help="the node's folder (default: ~/.local/state/edgehone-agent)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def state_of(args: argparse.Namespace) -> Path:
    """The folder that --state names, else the default one."""
    from edgehone_agent.config import default_state

    return args.state if args.state is not None else default_state()


def say(text: str = "") -> None:
    """Write a line."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Write a JSON object."""
    say(json.dumps(value, indent=1))


def say_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write rows under a head, in columns."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
