"""`edgehone simulate`: play a scripted world on a core and nodes that are real processes on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgehone.simulate.scenario import Scenario

help = "play a scripted world on a core and real nodes on this machine"
examples = (
    "edgehone simulate --list",
    "edgehone simulate darkening --study fashion-family -o dark",
    "edgehone simulate my-world.toml --study my-family --nodes 5 --seed 1 --speed 2 -o played",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("scenario", nargs="?", metavar="SCENARIO", help="a name of --list, or a TOML file")
    parser.add_argument("--list", action="store_true", help="the scenarios that come with edgehone")
    parser.add_argument("--study", type=Path, metavar="FOLDER", help="a finished study of the scenario's task")
    parser.add_argument("--nodes", type=int, metavar="N", help="how many nodes (default: the scenario's)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (default 0)")
    parser.add_argument("--speed", type=float, default=1.0, metavar="TIMES", help="readings per second (default 1)")
    parser.add_argument("--keep", action="store_true", help="leave core and nodes on until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="new or empty: core, logs, report")


def run(args: argparse.Namespace) -> int:
    """Play one scenario; 130 after Ctrl-C, with the report of what was played."""
    from edgehone.errors import InputError, Interrupted, OutputFolderError
    from edgehone.simulate.scenario import load_scenario, ready_scenarios

    if args.list:
        found = ready_scenarios()
        print(json.dumps(found) if args.json else "\n".join(f"{name:16} {about}" for name, about in found.items()))
        return 0
    for name in ("scenario", "study", "output"):
        if getattr(args, name) is None:
            raise InputError(f"there is no {name}", where="edgehone simulate", do="see edgehone simulate --help")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise OutputFolderError("the folder is not empty", where=str(args.output), do="choose a new one")
    if not (args.nodes is None or 1 <= args.nodes <= 200) or not 0 < args.speed < 1e6 or args.seed < 0:
        raise InputError("1 to 200 nodes, a speed above 0 and a seed from 0 on", where="edgehone simulate")
    scenario = load_scenario(args.scenario)
    try:
        _play(args, scenario)
    except KeyboardInterrupt as error:
        raise Interrupted("stopped; nothing is left running", where=str(args.output)) from error
    return 0


def _play(args: argparse.Namespace, scenario: Scenario) -> None:
    import time
    from dataclasses import replace

    from edgehone.cli._progress import TerminalProgress
    from edgehone.simulate.nodes import Processes
    from edgehone.simulate.run import play, set_up
    from edgehone.simulate.story import Story

    scenario = replace(
        scenario, nodes=args.nodes or scenario.nodes, rows_per_s=scenario.rows_per_s * args.speed
    )  # fmt: skip
    with Processes(args.output) as site:
        with TerminalProgress(quiet=args.json) as progress:
            story = Story(time.monotonic, progress.say)
            progress.stage("starting the core and the nodes")
            cast = set_up(site, args.study, scenario, story)
            progress.stage("playing", scenario.rows)
            try:
                live = play(cast, scenario, story, seed=args.seed, at=progress.at)
            finally:
                page = story.write(args.output, f"{scenario.name}: {scenario.about}")
        told = {"report": str(page), "rows": live.row, "labels": live.labels, **story.to_json()}
        print(json.dumps(told) if args.json else f"the report is {page}")
        if args.keep:
            import signal

            print(
                f"{site.address}: sign in as operator with {site.password}; Ctrl-C ends all",
                file=sys.stderr,
                flush=True,
            )
            signal.pause()
