"""`edgehone fleet`: the nodes, their cohorts, and how a release reaches them. It writes to the core's database; a core
that runs follows within a heartbeat."""

from __future__ import annotations

import argparse
import getpass
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone.errors import InputError

if TYPE_CHECKING:
    from edgehone.fleet.rollout import Rollout, RolloutPlan
    from edgehone.records.database import Database
    from edgehone.service.settings import Place

help = "list the nodes, group them in cohorts, and roll releases out to them"
examples = (
    "edgehone fleet list --core my-core",
    "edgehone fleet tokens --core my-core",
    "edgehone fleet withdraw 9f86d081 --core my-core",
    "edgehone fleet cohorts --core my-core",
    "edgehone fleet cohorts --core my-core --put digits/north --task digits --tag site=north --channel canary",
    "edgehone fleet cohorts --core my-core --remove digits/north",
    "edgehone fleet rollout start digits 4 --core my-core",
    "edgehone fleet rollout start digits 4 --core my-core --canary 10% --stages 0.5,1 --soak 30min --flip-rate 1.2%",
    "edgehone fleet rollout status --core my-core",
    "edgehone fleet rollout status 3f2a --core my-core --json",
    "edgehone fleet rollout pause 3f2a --core my-core",
    "edgehone fleet rollout resume 3f2a --core my-core",
    "edgehone fleet rollout abort 3f2a --core my-core --why 'the wrong labels'",
    "edgehone fleet rollout again 3f2a --core my-core --passphrase-file key.txt",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    nodes = _verb(verbs, "list", "the nodes, and what each serves")
    nodes.add_argument("--task", metavar="TASK", help="only this task")
    _verb(verbs, "tokens", "enrolment tokens that nobody has used yet; `edgehone core token` makes them")
    withdraw = _verb(verbs, "withdraw", "end an enrolment token that nobody has used")
    withdraw.add_argument("id", metavar="ID", help="of the token; its first characters are enough")
    cohorts = _verb(verbs, "cohorts", "list the cohorts, make one, or take one away")
    cohorts.add_argument("--task", metavar="TASK", help="only this task; with --put, the task it is for")
    what = cohorts.add_mutually_exclusive_group()
    what.add_argument("--put", metavar="NAME", help="make this cohort, or change it")
    what.add_argument("--remove", metavar="NAME", help="take this cohort away; its nodes go to the next that fits")
    cohorts.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="that its nodes carry; may be repeated"
    )
    cohorts.add_argument("--channel", choices=("canary", "stable"), default="stable", help="canary: asked first")
    rollout = verbs.add_parser(
        "rollout", help="bring a release to the fleet", **_page("rollout", "bring a release to the fleet")
    )
    steps = rollout.add_subparsers(title="steps", dest="step", metavar="STEP", required=True)
    _configure_start(_verb(steps, "start", "begin to roll a release out"))
    status = _verb(steps, "status", "the rollouts, or one with its gates and events")
    status.add_argument("id", nargs="?", metavar="ID", help="the first characters of its id are enough")
    for name, text in (("pause", "hold it where it is"), ("resume", "let it go on"), ("abort", "end it, and go back")):
        added = _verb(steps, name, text)
        added.add_argument("id", metavar="ID", help="the first characters of its id are enough")
        if name == "abort":
            added.add_argument("--why", default="", metavar="TEXT", help="for the record")
    again = _verb(steps, "again", "publish what its cohorts had under a higher version, for nodes that cannot go back")
    again.add_argument("id", metavar="ID", help="a rollout that was given up; the first characters are enough")
    again.add_argument("--supersede", action="store_true", help="end a rollout that runs there")
    again.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line opens the task's key")


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = verbs.add_parser(name, help=text, **_page(name, text))
    added.add_argument("--core", type=Path, required=True, metavar="FOLDER", help="the core's folder")
    added.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return added


def _page(name: str, text: str) -> dict[str, Any]:
    """Description and examples of a verb for its own help."""
    mine = [f"  {line}" for line in examples if name in line.split()[2:4]]
    return {
        "description": text, "epilog": "\n".join(["examples:", *mine]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }  # fmt: skip


def _configure_start(start: argparse.ArgumentParser) -> None:
    start.add_argument("task", metavar="TASK", help="what it is for")
    start.add_argument("version", type=int, metavar="VERSION", help="of the release")
    start.add_argument(
        "--cohort", action="append", metavar="NAME", help="only this cohort; may be repeated (default: all)"
    )
    start.add_argument("--supersede", action="store_true", help="end a rollout that runs there")
    start.add_argument("--shadow-rows", type=int, metavar="N", help="answers to compare unseen first; 0 for none")
    start.add_argument("--shadow-time", metavar="TIME", help="the longest that they are waited for")
    start.add_argument("--canary", metavar="SHARE", help="of the nodes, that try it first, like 5%%")
    start.add_argument("--stages", metavar="SHARES", help="of the nodes, that follow, like 0.25,0.5,1")
    start.add_argument("--soak", metavar="TIME", help="how long each step is watched")
    start.add_argument("--patience", metavar="TIME", help="how long a step waits for nodes that do not take it")
    start.add_argument("--flip-rate", metavar="SHARE", help="of answers that may differ from the old model's")
    start.add_argument("--latency-ratio", type=float, metavar="TIMES", help="the most that latency may grow")
    start.add_argument("--risk-margin", metavar="SHARE", help="how much more often it may err")


def run(args: argparse.Namespace) -> int:
    """Run one verb and print what it did."""
    from edgehone.records.database import open_database
    from edgehone.service.settings import load_place

    place = load_place(args.core)
    verbs: dict[str, Callable[[argparse.Namespace, Database], Outcome]] = {
        "list": lambda args, database: _list(args, database, place.settings.interval_s),
        "tokens": _tokens,
        "withdraw": _withdraw,
        "cohorts": _cohorts,
        "rollout": lambda args, database: _rollout(args, database, place),
    }
    with closing(open_database(place.database_url)) as database:
        result, lines = verbs[args.verb](args, database)
    print(json.dumps(result) if args.json else "\n".join(lines))
    return 0


Outcome = tuple[dict[str, Any], list[str]]


def _list(args: argparse.Namespace, database: Database, interval_s: float) -> Outcome:
    from edgehone.cli import _fleet_page
    from edgehone.fleet.cohorts import cohort_of, load_cohorts
    from edgehone.fleet.nodes import list_nodes

    now_s = time.time()
    with database.read() as connection:
        cohorts = load_cohorts(connection)
        found = []
        after = ""
        while page := list_nodes(connection, after=after):
            after = page[-1].name
            for node in page:
                tasks = [
                    {
                        "task": task, "cohort": cohort_of(cohorts, task, node.tags).name,
                        **{name: told.get(name) for name in ("version", "member", "digest", "ready", "latency_us")},
                        "watch_level": told.get("watch_level", 0),
                    }
                    for task, told in node.status.items()
                    if args.task in (None, task)
                ]  # fmt: skip
                ago_s = None if node.seen_s is None else max(0.0, now_s - node.seen_s)
                found.append(
                    {
                        "id": node.id, "name": node.name, "state": node.state, "tags": dict(node.tags),
                        "seen_ago_s": ago_s, "online": ago_s is not None and ago_s <= 3 * interval_s, "tasks": tasks,
                    }
                )  # fmt: skip
    return {"nodes": found}, _fleet_page.nodes(found)


def _tokens(args: argparse.Namespace, database: Database) -> Outcome:  # noqa: ARG001
    from edgehone.cli import _fleet_page
    from edgehone.fleet.enrol import list_unused

    now_s = time.time()
    with database.read() as connection:
        found = [asdict(one) for one in list_unused(connection, now_s)]
    return {"tokens": found}, _fleet_page.tokens(found, now_s)


def _withdraw(args: argparse.Namespace, database: Database) -> Outcome:
    from edgehone.fleet.enrol import withdraw

    with database.write() as connection:
        one = withdraw(connection, args.id, actor=_actor(), now_s=time.time())
    return asdict(one), [f"token {one.id} lets no node in any more" + (f" as {one.name}" if one.name else "")]


def _cohorts(args: argparse.Namespace, database: Database) -> Outcome:
    from edgehone.cli import _fleet_page
    from edgehone.fleet.cohorts import load_cohorts, put_cohort, remove_cohort

    if args.put is not None:
        if args.task is None:
            raise InputError("a cohort is for one task", where="--put", do="name the task with --task")
        tags = dict(_tag(text) for text in args.tag)
        with database.write() as connection:
            put_cohort(
                connection, args.put, args.task, tags=tags, channel=args.channel, actor=_actor(), now_s=time.time()
            )
    if args.remove is not None:
        with database.write() as connection:
            remove_cohort(connection, args.remove, actor=_actor(), now_s=time.time())
    with database.read() as connection:
        found = [asdict(one) for one in load_cohorts(connection, args.task)]
    return {"cohorts": found}, _fleet_page.cohorts(found)


def _tag(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign and value):
        raise InputError(f"{text!r} is no tag", where="--tag", do="write KEY=VALUE, like site=north")
    return key, value


def _rollout(args: argparse.Namespace, database: Database, place: Place) -> Outcome:
    from edgehone.cli import _fleet_page
    from edgehone.fleet import rollouts

    now_s, actor = time.time(), _actor()
    if args.step == "status":
        return _status(args, database)
    if args.step == "again":
        return _again(args, database, place)
    if args.step == "start":
        rollout = rollouts.start(
            database, args.task, args.version, now_s=now_s, actor=actor, plan=_plan(args), cohorts=args.cohort,
            supersede=args.supersede,
        )  # fmt: skip
    elif args.step == "abort":
        rollout = rollouts.abort(database, args.id, now_s=now_s, actor=actor, why=args.why)
    else:
        act = rollouts.pause if args.step == "pause" else rollouts.resume
        rollout = act(database, args.id, now_s=now_s, actor=actor)
    return rollout.to_json(), [_fleet_page.rollout_line(rollout.to_json())]


def _again(args: argparse.Namespace, database: Database, place: Place) -> Outcome:
    from edgehone.cli._passphrases import passphrases
    from edgehone.fleet.again import release_again
    from edgehone.registry.create import load_anchor
    from edgehone.registry.keys import KeyRing
    from edgehone.registry.store import Store

    ring = KeyRing([place.keys], passphrases(args))
    done = release_again(
        database, Store(place.registry), ring, args.id, now_s=time.time(), actor=_actor(), anchor=load_anchor(ring),
        supersede=args.supersede,
    )  # fmt: skip
    found = [{"version": one.version, "as_version": one.as_version, "rollout": one.rollout.id} for one in done]
    lines = [
        f"version {one.version} is version {one.as_version} as well, and rollout {one.rollout.id} brings it"
        for one in done
    ]
    return {"again": found}, lines


def _status(args: argparse.Namespace, database: Database) -> Outcome:
    from edgehone.cli import _fleet_page
    from edgehone.fleet.rollouts import find_rollout, list_events, list_rollouts

    with database.read() as connection:
        if args.id is None:
            found = [_brief(one) for one in list_rollouts(connection)]
            return {"rollouts": found}, [*map(_fleet_page.rollout_line, found)] or ["no rollouts yet"]
        rollout = find_rollout(connection, args.id)
        events = [asdict(event) for event in list_events(connection, rollout.id)]
    shown = {**rollout.to_json(), "events": events}
    return shown, _fleet_page.rollout(shown)


def _brief(rollout: Rollout) -> dict[str, Any]:
    return {name: getattr(rollout, name) for name in ("id", "task", "version", "state", "stage", "started_s", "why")}


def _plan(args: argparse.Namespace) -> RolloutPlan:
    """The default plan with what the arguments say otherwise."""
    from edgehone.fleet.rollout import RolloutPlan
    from edgehone.units import parse_duration_s

    plan = RolloutPlan()
    limits: dict[str, Any] = {
        "flip_rate": None if args.flip_rate is None else _share(args.flip_rate, "--flip-rate"),
        "risk_margin": None if args.risk_margin is None else _share(args.risk_margin, "--risk-margin"),
        "latency_ratio": args.latency_ratio,
    }
    said: dict[str, Any] = {
        "shadow_rows": args.shadow_rows,
        "shadow_s": None if args.shadow_time is None else parse_duration_s(args.shadow_time),
        "canary_share": None if args.canary is None else _share(args.canary, "--canary"),
        "stages": None if args.stages is None else tuple(_share(text, "--stages") for text in args.stages.split(",")),
        "soak_s": None if args.soak is None else parse_duration_s(args.soak),
        "patience_s": None if args.patience is None else parse_duration_s(args.patience),
        "limits": replace(plan.limits, **{name: value for name, value in limits.items() if value is not None}),
    }
    return replace(plan, **{name: value for name, value in said.items() if value is not None})


def _share(text: str, where: str) -> float:
    """ "5%" or "0.05" → 0.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{text!r} is no share", where=where, do="write it like 5% or 0.05")
    return value


def _actor() -> str:
    try:
        return f"person:{getpass.getuser()}"
    except (KeyError, OSError):  # no such user on this machine
        return "person:unknown"
