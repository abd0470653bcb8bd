"""Entry point of the `edgehone-agent` command: finds the commands, parses, runs one, and turns errors into messages.

Exit codes: 0 done · 1 a defect of edgehone, or `doctor` found a failure · 2 wrong usage · 4 wrong input or settings ·
6 this machine cannot do it · 130 stopped by the user.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edgehone_agent import __version__
from edgehone_agent.errors import EdgehoneError, HostError

_EPILOG = """examples:
  edgehone-agent run --registry https://models.example/edgehone --root root.json --task digits
  edgehone-agent status
  edgehone-agent predict reading.npy --top 3
  edgehone-agent doctor

Every command explains itself: edgehone-agent COMMAND --help. The agent talks to its registry and its clients only."""


def command_names() -> tuple[str, ...]:
    """Names of all commands, sorted; one per file of the folder cli."""
    stems = (file.stem for file in (Path(__file__).parent / "cli").glob("*.py"))
    return tuple(sorted(stem for stem in stems if not stem.startswith("_")))


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    parser = argparse.ArgumentParser(
        prog="edgehone-agent",
        description="Run signed models on this node: serve them, watch them, keep them up to date.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgehone-agent {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in command_names():
        module = importlib.import_module(f"edgehone_agent.cli.{name}")
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
    as_json = getattr(args, "json", False)
    try:
        code: int = module.run(args)
        sys.stdout.flush()
    except EdgehoneError as error:
        return _report(error, as_json=as_json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = str(error.filename) if error.filename else ""
        do = "free the space or fix the permission, then rerun"
        return _report(HostError(error.strerror or str(error), where=where, do=do), as_json=as_json)
    return code


def _report(error: EdgehoneError, *, as_json: bool) -> int:
    if as_json:
        body = {"code": error.code, "what": error.what, "where": error.where, "do": error.do}
        print(json.dumps({"error": body}))
    print(f"edgehone-agent: {error.code}: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
