"""`edgehone simulate`: play a scripted world, on processes of this machine or, much faster, in memory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgehone.simulate.run import Cast
    from edgehone.simulate.scenario import Scenario
    from edgehone.simulate.story import Story

help = "play a scripted world on a core and nodes on this machine"
examples = (
    "edgehone simulate --list",
    "edgehone simulate darkening --study fashion-family -o dark",
    "edgehone simulate my-world.toml --study my-family --nodes 5 --seed 1 --speed 2 -o played",
    "edgehone simulate darkening --study fashion-family --fake --nodes 100 --days 3 -o days",
    "edgehone simulate darkening --study fashion-family --fake --nodes 100 --days 3 --no-training -o decisions",
    "edgehone simulate darkening --core https://localhost:7443 --api-token-file token.txt -o at-my-core",
)
_MOST_NODES = {False: 200, True: 2000}  # by --fake
_MOST_DAYS = 3650.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("scenario", nargs="?", metavar="SCENARIO", help="a name of --list, or a TOML file")
    parser.add_argument("--list", action="store_true", help="the scenarios that come with edgehone")
    parser.add_argument("--study", type=Path, metavar="FOLDER", help="a finished study of the scenario's task")
    parser.add_argument(
        "--core", metavar="URL", help="instead of a new core: one that runs; it treats the nodes as real"
    )
    parser.add_argument(
        "--api-token-file", type=Path, metavar="FILE", help="with --core: its first line is an operator's API token"
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="with --core on another machine: its ca/ca.pem")
    parser.add_argument("--fake", action="store_true", help="nodes in memory, on a clock that nobody waits for")
    parser.add_argument("--days", type=float, metavar="D", help="with --fake: spread the readings over so many days")
    parser.add_argument("--no-training", action="store_true", help="with --fake: record what would be trained")
    parser.add_argument("--nodes", type=int, metavar="N", help="how many nodes (default: the scenario's)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (default 0)")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="TIMES", help="as many readings per second (default 1)"
    )
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
    for name in ("scenario", "study" if args.core is None else "api_token_file", "output"):
        if getattr(args, name) is None:
            words = name.replace("_", "-")
            raise InputError(f"there is no {words}", where="edgehone simulate", do="see edgehone simulate --help")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise OutputFolderError("the folder is not empty", where=str(args.output), do="choose a new one")
    _check(args)
    scenario = load_scenario(args.scenario)
    try:
        (_play_fake if args.fake else _play if args.core is None else _play_there)(args, scenario)
    except KeyboardInterrupt as error:
        raise Interrupted("stopped; nothing is left running", where=str(args.output)) from error
    return 0


def _check(args: argparse.Namespace) -> None:
    from edgehone.errors import InputError

    most = _MOST_NODES[args.fake]
    if not (args.nodes is None or 1 <= args.nodes <= most) or not 0 < args.speed < 1e6 or args.seed < 0:
        raise InputError(f"1 to {most} nodes, a speed above 0 and a seed from 0 on", where="edgehone simulate")
    if args.core is not None and (args.fake or args.study is not None):
        raise InputError(
            "a core that runs has its own release and clock", where="--core", do="leave out --study and --fake"
        )
    if args.core is None and (args.api_token_file is not None or args.ca is not None):
        raise InputError("--api-token-file and --ca need --core", where="edgehone simulate", do="add --core URL")
    if args.fake and (args.keep or args.speed != 1.0):
        raise InputError("--keep and --speed are for processes", where="--fake", do="say --days for another speed")
    if not args.fake and (args.days is not None or args.no_training):
        raise InputError("--days and --no-training need --fake", where="edgehone simulate", do="add --fake")
    if not (args.days is None or 0 < args.days <= _MOST_DAYS):
        raise InputError(f"{args.days:g} days cannot be played", where="--days", do="give more than 0 and up to 3650")


def _play_fake(args: argparse.Namespace, scenario: Scenario) -> None:
    import logging
    import time
    from dataclasses import replace

    from edgehone.cli._progress import TerminalProgress
    from edgehone.simulate.fake import DAY_S, FakeWorld

    rows_per_s = scenario.rows_per_s if args.days is None else scenario.rows / (args.days * DAY_S)
    scenario = replace(scenario, nodes=args.nodes or scenario.nodes, rows_per_s=rows_per_s)
    logging.getLogger("edgehone_agent").setLevel(logging.ERROR)  # the story tells what a node would log
    with TerminalProgress(quiet=args.json) as progress:
        progress.stage("making the core and the nodes")
        with FakeWorld(
            args.output, args.study, scenario,
            seed=args.seed, training=not args.no_training, say=progress.say, at=progress.at,
        ) as world:  # fmt: skip
            world.set_up()
            progress.stage("playing", scenario.rows)
            try:
                began_s = time.monotonic()
                played = world.play()
                took_s = time.monotonic() - began_s
            finally:
                page = world.story.write(args.output, f"{scenario.name}: {scenario.about}")
    speed = played.life_s / max(took_s, 1e-9)
    told = {
        "report": str(page), "rows": scenario.rows, "nodes": scenario.nodes, "labels": played.labels,
        "readings": played.readings, "heartbeats": played.heartbeats, "life_s": round(played.life_s, 1),
        "took_s": round(took_s, 1), "speed_up": round(speed, 1), **world.story.to_json(),
    }  # fmt: skip
    lines = (
        f"{played.life_s / DAY_S:.3g} days of {scenario.nodes} nodes in {took_s:.0f} s: {speed:,.0f} times as fast",
        f"the report is {page}",
    )
    print(json.dumps(told) if args.json else "\n".join(lines))


def _play(args: argparse.Namespace, scenario: Scenario) -> None:
    from edgehone.simulate.nodes import Processes
    from edgehone.simulate.run import set_up

    with Processes(args.output) as site:
        _on_processes(args, scenario, "starting the core and the nodes", partial(set_up, site, args.study))
        if args.keep:
            _stay(f"{site.address}: sign in as operator with {site.password}; Ctrl-C ends all")


def _play_there(args: argparse.Namespace, scenario: Scenario) -> None:
    from edgehone.simulate.joined import Guests, open_people
    from edgehone.simulate.run import join

    people = open_people(args.core, _first_line(args.api_token_file), ca=args.ca)
    with Guests(args.output, people) as site:
        _on_processes(args, scenario, "bringing nodes to the core", partial(join, site))
        if args.keep:
            _stay(f"nodes {site.name(0)} and on are at {site.address}; Ctrl-C ends them")


def _on_processes(
    args: argparse.Namespace, scenario: Scenario, beginning: str, set_up: Callable[[Scenario, Story], Cast]
) -> None:
    """Set up and play, and print what came of it."""
    import time
    from dataclasses import replace

    from edgehone.cli._progress import TerminalProgress
    from edgehone.simulate.run import play
    from edgehone.simulate.story import Story

    scenario = replace(
        scenario, nodes=args.nodes or scenario.nodes, rows_per_s=scenario.rows_per_s * args.speed
    )  # fmt: skip
    with TerminalProgress(quiet=args.json) as progress:
        story = Story(time.monotonic, progress.say, length_s=scenario.rows / scenario.rows_per_s)
        progress.stage(beginning)
        cast = set_up(scenario, story)
        progress.stage("playing", scenario.rows)
        try:
            live = play(cast, scenario, story, seed=args.seed, at=progress.at)
        finally:
            page = story.write(args.output, f"{scenario.name}: {scenario.about}")
    told = {"report": str(page), "rows": live.row, "labels": live.labels, **story.to_json()}
    print(json.dumps(told) if args.json else f"the report is {page}")


def _stay(words: str) -> None:
    import signal

    print(words, file=sys.stderr, flush=True)
    signal.pause()


def _first_line(path: Path) -> str:
    from edgehone.errors import InputError

    try:
        return path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the token cannot be read", where=str(path), do="give a text file") from error
