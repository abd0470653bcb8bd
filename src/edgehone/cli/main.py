"""Entry point of the `edgehone` command: finds the commands, parses, runs one, and turns errors into messages.

Exit codes: 0 done · 1 a defect of edgehone · 2 wrong usage · 3 no member holds the budget · 4 wrong input ·
5 the network cannot be handled · 6 this machine cannot do it · 130 stopped by the user, everything finished is kept.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from edgehone import __version__
from edgehone_agent.command_line import Program

_EPILOG = """examples:
  edgehone optimize digits -o digits-family
  edgehone optimize my_task.py --device raspberry-pi-4 --max-latency 2ms --max-size 200kB --max-drop 1pp
  edgehone task check my_task.py
  edgehone measure model.tflite --against model.onnx

Every command explains itself: edgehone COMMAND --help. Nothing edgehone does sends data anywhere."""


PROGRAM = Program(
    name="edgehone",
    version=__version__,
    package="edgehone.cli",
    folder=Path(__file__).parent,
    description="Turn a trained network into a measured family of small, fast versions that fit your devices.",
    epilog=_EPILOG,
)


def command_names() -> tuple[str, ...]:
    """Names of all commands, sorted; one per file of this folder."""
    return PROGRAM.commands()


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    return PROGRAM.parser()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Bad input never ends in a traceback."""
    return PROGRAM.main(argv)


def entry() -> int:
    """What the `edgehone` command calls: the process ends with it, so nobody searches torch for garbage on the way."""
    code = main()
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(entry())
