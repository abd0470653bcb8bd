"""Entry point of the `edgehone-agent` command: finds the commands, parses, runs one, and turns errors into messages.

Exit codes: 0 done · 1 a defect of edgehone, or `doctor` found a failure · 2 wrong usage · 4 wrong input or settings ·
6 this machine cannot do it · 130 stopped by the user.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgehone_agent import __version__
from edgehone_agent.command_line import Program

_EPILOG = """examples:
  edgehone-agent run --registry https://models.example/edgehone --root root.json --task digits
  edgehone-agent enrol EH1-... --core https://core.example:7443
  edgehone-agent status
  edgehone-agent predict reading.npy --top 3
  edgehone-agent doctor

Every command explains itself: edgehone-agent COMMAND --help.
The agent talks to its registry, its core and its clients only."""


PROGRAM = Program(
    name="edgehone-agent",
    version=__version__,
    package="edgehone_agent.cli",
    folder=Path(__file__).parent / "cli",
    description="Run signed models on this node: serve them, watch them, keep them up to date.",
    epilog=_EPILOG,
)


def command_names() -> tuple[str, ...]:
    """Names of all commands, sorted; one per file of the folder cli."""
    return PROGRAM.commands()


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    return PROGRAM.parser()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Bad input never ends in a traceback."""
    return PROGRAM.main(argv)


if __name__ == "__main__":
    sys.exit(main())
