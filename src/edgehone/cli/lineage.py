"""`edgehone lineage`: which bytes answered on a node, where they come from, and why they were replaced."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

help = "show by digest what has answered on a node, from which data and recipe, and who approved it"
examples = (
    "edgehone lineage gate-3 --core my-core",
    "edgehone lineage gate-3 --core my-core --task digits --json",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("node", metavar="NODE", help="name or id of the node")
    parser.add_argument("--core", type=Path, required=True, metavar="FOLDER", help="the core's folder")
    parser.add_argument("--task", metavar="TASK", help="only this task")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Print the lineage of a node."""
    from contextlib import closing

    from edgehone.cli import _fleet_page
    from edgehone.fleet.lineage import lineage
    from edgehone.records.database import open_database
    from edgehone.service.settings import load_place

    with closing(open_database(load_place(args.core).database_url)) as database, database.read() as connection:
        found = lineage(connection, args.node, task=args.task).to_json()
    print(json.dumps(found) if args.json else "\n".join(_fleet_page.lineage(found)))
    return 0
