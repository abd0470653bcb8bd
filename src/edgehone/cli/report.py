"""`edgehone report`: writes report.html of a finished or stopped study again from its study.json."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

help = "write a study's report.html again from its study.json"
examples = ("edgehone report digits-family", "edgehone report digits-family --open")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "folder", type=Path, metavar="STUDY_FOLDER", help="the folder that `edgehone optimize -o` wrote"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    """Write the page, print its path, and return 0."""
    from edgehone.report import page, study_file

    path = page.write(study_file.read(args.folder), args.folder)
    print(path)
    if args.open and not webbrowser.open(path.resolve().as_uri()):
        print("no browser could be started here; open the file by hand")
    return 0
