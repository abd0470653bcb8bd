"""What a command line of ours does, whichever program it is: find the commands, parse, run one, tell errors in words.

A command is a module in a folder, named after its file, that defines `help`, `examples`, `configure(parser)` and
`run(args) -> exit code`; names that begin with "_" are no commands. Bad input never ends in a traceback.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from edgehone_agent.errors import EdgehoneError, HostError

STOPPED = 130


@dataclass(frozen=True)
class Program:
    """One command line.

    Attributes:
        name: what people type.
        version: of the program.
        package: where the commands are modules.
        folder: where their files lie.
        description, epilog: for `--help`.
    """

    name: str
    version: str
    package: str
    folder: Path
    description: str
    epilog: str

    def commands(self) -> tuple[str, ...]:
        """Names of all commands, sorted."""
        stems = (file.stem for file in self.folder.glob("*.py"))
        return tuple(sorted(stem for stem in stems if not stem.startswith("_") and stem != "main"))

    def parser(self) -> argparse.ArgumentParser:
        """The parser with every command."""
        form = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(
            prog=self.name, description=self.description, epilog=self.epilog, formatter_class=form
        )
        parser.add_argument("--version", action="version", version=f"{self.name} {self.version}")
        commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
        for name in self.commands():
            module = importlib.import_module(f"{self.package}.{name}")
            examples = "examples:\n" + "\n".join(f"  {line}" for line in module.examples)
            added = commands.add_parser(
                name, help=module.help, description=module.help, epilog=examples, formatter_class=form
            )
            module.configure(added)
            added.set_defaults(module=module)
        return parser

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one command and return its exit code; 130 when it was stopped by Ctrl-C."""
        args = self.parser().parse_args(argv)
        module: ModuleType = args.module
        as_json = bool(getattr(args, "json", False))
        try:
            code: int = module.run(args)
            sys.stdout.flush()
        except EdgehoneError as error:
            return self.tell(error, as_json=as_json)
        except KeyboardInterrupt:
            sys.stderr.write(f"{self.name}: stopped\n")
            return STOPPED
        except BrokenPipeError:  # the reader of our output has gone: nothing is left to say to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            where = str(error.filename) if error.filename else ""
            do = "free the space or fix the permission, then rerun"
            return self.tell(HostError(error.strerror or str(error), where=where, do=do), as_json=as_json)
        return code

    def tell(self, error: EdgehoneError, *, as_json: bool) -> int:
        """Say what went wrong, to people and where asked to programs; the exit code."""
        if as_json:
            body = {"code": error.code, "what": error.what, "where": error.where, "do": error.do}
            sys.stdout.write(json.dumps({"error": body}) + "\n")
        sys.stderr.write(f"{self.name}: {error.code}: {error}\n")
        return error.exit_code
