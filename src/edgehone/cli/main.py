"""Entry point of the `edgehone` command: finds the commands, parses, runs one, and turns errors into messages.

Exit codes: 0 done · 1 a defect of edgehone · 2 wrong usage · 3 no member holds the budget · 4 wrong input ·
5 the network cannot be handled · 6 this machine cannot do it · 130 stopped by the user, everything finished is kept.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edgehone import __version__
from edgehone.errors import EdgehoneError, HostError, Interrupted

_EPILOG = """examples:
  edgehone optimize digits -o digits-family
  edgehone optimize my_task.py --device raspberry-pi-4 --max-latency 2ms --max-size 200kB --max-drop 1pp
  edgehone task check my_task.py
  edgehone measure model.tflite --against model.onnx

Every command explains itself: edgehone COMMAND --help. Nothing edgehone does sends data anywhere."""


def command_names() -> tuple[str, ...]:
    """Names of all commands, sorted; one per file of this folder."""
    stems = (file.stem for file in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem for stem in stems if not stem.startswith("_") and stem != "main"))


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    parser = argparse.ArgumentParser(
        prog="edgehone",
        description="Turn a trained network into a measured family of small, fast versions that fit your devices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgehone {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in command_names():
        module = importlib.import_module(f"edgehone.cli.{name}")
        commands_parser = commands.add_parser(
            name,
            help=module.help,
            description=module.help,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in module.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(commands_parser)
        commands_parser.set_defaults(module=module)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Bad input never ends in a traceback."""
    args = build_parser().parse_args(argv)
    module: ModuleType = args.module
    try:
        code: int = module.run(args)
    except EdgehoneError as error:
        return _report(error, as_json=getattr(args, "json", False))
    except KeyboardInterrupt:
        return _report(Interrupted("stopped"), as_json=False)
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = str(error.filename) if error.filename else ""
        return _report(
            HostError(error.strerror or str(error), where=where, do="free the space or fix the permission, then rerun"),
            as_json=getattr(args, "json", False),
        )
    return code


def _report(error: EdgehoneError, *, as_json: bool) -> int:
    if as_json:
        body = {"code": error.code, "what": error.what, "where": error.where, "do": error.do}
        print(json.dumps({"error": body}))
    print(f"edgehone: {error.code}: {error}", file=sys.stderr)
    return error.exit_code


def entry() -> int:
    """What the `edgehone` command calls: the process ends with it, so nobody searches torch for garbage on the way."""
    code = main()
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(entry())
