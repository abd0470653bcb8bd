"""`edgehone core`: make a core, run it, let nodes and people in, back it up."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

help = "run the core: registry, rollouts, feedback and dashboard on one port"
examples = (
    "edgehone core init my-core --task digits",
    "edgehone core init my-core --task digits --approve auto --name core.example.org",
    "edgehone core start my-core",
    "edgehone core start my-core --listen 0.0.0.0:7443",
    "edgehone core status my-core",
    "edgehone core token my-core --node camera-1 --tag site=north",
    "edgehone core person my-core add ada --role viewer",
    "edgehone core person my-core password ada --password-file new.txt",
    "edgehone core person my-core api-token ada --role viewer",
    "edgehone core person my-core disable ada",
    "edgehone core person my-core list --json",
    "edgehone core backup my-core core-backup",
    "edgehone core restore core-backup my-core",
    "edgehone core restore core-backup my-core --database postgresql://edgehone@db/edgehone",
    "edgehone core clean my-core",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, *, core: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples if f"edgehone core {name} " in line),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if core:
            added.add_argument("core", type=Path, metavar="CORE", help="the folder of the core")
        added.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        return added

    init = verb("init", "make the folder of a core, with everything in it")
    init.add_argument(
        "--task", action="append", default=[], metavar="NAME", help="a task to publish for; may be repeated"
    )
    init.add_argument(
        "--approve", choices=("manual", "auto"), default="manual",
        help="manual: a person signs each release (default); auto: the core may, for these tasks only",
    )  # fmt: skip
    init.add_argument(
        "--name", action="append", default=[], metavar="HOST",
        help="host name or address that nodes reach the core by, besides localhost; may be repeated",
    )  # fmt: skip
    init.add_argument("--listen", action="append", default=[], metavar="HOST:PORT", help="written into core.toml")
    init.add_argument("--database", default="", metavar="URL", help="postgresql://… instead of a file in the folder")
    init.add_argument("--blobs", default="", metavar="URL", help="s3://… instead of a folder in the folder")
    init.add_argument("--operator", default="operator", metavar="NAME", help="the first person (default operator)")
    _password_file(init)
    init.add_argument(
        "--passphrase-file", type=Path, metavar="FILE",
        help="its first line protects the registry's keys (default: EDGEHONE_PASSPHRASE, or made and shown once)",
    )  # fmt: skip
    start = verb("start", "serve until Ctrl-C or SIGTERM")
    start.add_argument(
        "--listen", action="append", default=[], metavar="HOST:PORT",
        help="instead of core.toml's (default 127.0.0.1:7443); other machines are answered over TLS only",
    )  # fmt: skip
    verb("status", "nodes, certificate and folder of a core, running or not")
    token = verb("token", "make a token that lets one node in, and print it once")
    token.add_argument("--node", default="", metavar="NAME", help="what the node will be called (default: it says)")
    token.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="a tag of the node; may be repeated"
    )
    token.add_argument("--hours", type=float, default=1.0, metavar="N", help="how long it is good (default 1)")
    person = verb("person", "let people in, or change what they sign in with")
    person.add_argument(
        "deed",
        choices=("add", "password", "disable", "api-token", "list"),
        metavar="DEED",
        help="add, password, disable, api-token or list",
    )
    person.add_argument("person", nargs="?", default="", metavar="NAME", help="of the person")
    person.add_argument("--role", choices=("viewer", "operator"), default="viewer", help="for add and api-token")
    _password_file(person)
    backup = verb("backup", "copy a core, running or not, into a folder")
    backup.add_argument("to", type=Path, metavar="FOLDER", help="new or empty")
    restore = verb("restore", "make a core from a backup", core=False)
    restore.add_argument("backup", type=Path, metavar="BACKUP", help="a folder that `backup` made")
    restore.add_argument("core", type=Path, metavar="CORE", help="the folder of the core; new or empty")
    restore.add_argument(
        "--database", default="", metavar="URL", help="into this database instead of the saved one's URL"
    )
    restore.add_argument("--blobs", default="", metavar="URL", help="into these blobs instead of the saved core's")
    verb("clean", "remove blobs that nothing needs; a running core does so once a day by itself")


def run(args: argparse.Namespace) -> int:
    """Run one verb and print what it did."""
    if args.verb == "start":
        from edgehone.cli._core_start import start

        return start(args)
    from edgehone.cli import _core_deeds

    result, lines = _core_deeds.VERBS[args.verb](args)
    print(json.dumps(result) if args.json else "\n".join(lines))
    return 0


def _password_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE",
        help="its first line is the password (default: asked, or made and shown once)",
    )  # fmt: skip
