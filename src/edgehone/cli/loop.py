"""`edgehone loop`: the rounds of the loop: look, begin one, take it on phase by phase, approve, end, look back."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone.errors import InputError

if TYPE_CHECKING:
    from edgehone.loop.round import Kind, Round
    from edgehone.loop.rounds import Site

help = "look at the rounds of the loop, begin one, approve or end it, set a task's policy"
examples = (
    "edgehone loop status --core my-core",
    "edgehone loop policy digits --core my-core --set policy.json",
    "edgehone loop run digits --core my-core --until gate",
    "edgehone loop run digits --core my-core --kind re-baseline --cohort north",
    "edgehone loop approve 3f2a --core my-core",
    "edgehone loop abort 3f2a --core my-core --why 'the wrong labels'",
    "edgehone loop history --core my-core --task digits --json",
)
PHASES = ("data", "train", "compress", "gate", "sign", "rollout", "observe", "done")
KINDS = ("retrain", "re-baseline")
_POLL_S = 0.5
Outcome = tuple[dict[str, Any], list[str]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
        added.add_argument("--core", type=Path, required=True, metavar="FOLDER", help="the core's folder")
        added.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        return added

    verb("status", "the tasks that have a policy, and the rounds that run")
    run_ = verb("run", "begin a round, or go on with the one that runs, and take it as far as is wanted")
    run_.add_argument("task", metavar="TASK", help="whose round")
    run_.add_argument(
        "--until", choices=PHASES, default="rollout", metavar="PHASE",
        help="stop behind this phase: data, train, compress, gate, sign, rollout (default), observe or done",
    )  # fmt: skip
    run_.add_argument(
        "--kind", choices=KINDS, metavar="KIND",
        help="retrain (default) for a new model, or re-baseline for new drift references of the one that is served",
    )  # fmt: skip
    run_.add_argument(
        "--cohort", action="append", default=[], metavar="NAME",
        help="whose reference a re-baseline makes anew; may be given again (default: all of which most nodes alarm)",
    )  # fmt: skip
    approve = verb("approve", "let a round that waits be signed, and sign it")
    approve.add_argument(
        "--keys", type=Path, metavar="FOLDER", help="where the task's key is (default: the core's keys)"
    )
    approve.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line opens the task's key")
    abort = verb("abort", "end a round; nodes keep what they have")
    abort.add_argument("--why", default="", metavar="TEXT", help="for the record")
    for one in (approve, abort):
        one.add_argument("id", metavar="ID", help="the first characters of its id are enough")
    history = verb("history", "rounds and decisions, newest first")
    history.add_argument("--task", metavar="TASK", help="only this task")
    history.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many of each (default 20)")
    policy = verb("policy", "show what the loop may do for a task, or set it")
    policy.add_argument("task", metavar="TASK", help="whose policy")
    policy.add_argument("--set", type=Path, metavar="FILE", help="a JSON object with the fields of the policy")


def run(args: argparse.Namespace) -> int:
    """Run one verb and print what it did; 3 when a round was refused or failed."""
    verbs: dict[str, Callable[[argparse.Namespace, Site], Outcome]] = {
        "status": _status, "run": _run, "approve": _approve, "abort": _abort, "history": _history, "policy": _policy,
    }  # fmt: skip
    with _site(args.core) as site:
        result, lines = verbs[args.verb](args, site)
    print(json.dumps(result) if args.json else "\n".join(lines))
    return 3 if args.verb == "run" and result["state"] in ("refused", "failed") else 0


@contextmanager
def _site(core: Path) -> Iterator[Site]:
    from edgehone.loop.rounds import Site
    from edgehone.records.blobs import open_blobs
    from edgehone.records.database import open_database
    from edgehone.service.settings import load_place

    place = load_place(core)
    with closing(open_database(place.database_url)) as database:
        blobs = place.blobs_url
        yield Site(database, open_blobs(blobs), blobs, place.folder / "rounds", place.registry, place.keys)


def _status(args: argparse.Namespace, site: Site) -> Outcome:  # noqa: ARG001  every verb takes both
    from edgehone.cli import _loop_page
    from edgehone.loop.policy import policy_tasks
    from edgehone.loop.rounds import current, list_rounds

    with site.database.read() as conn:
        found = []
        for task in policy_tasks(conn):
            now, last = current(conn, task), list_rounds(conn, task, limit=1)
            found.append({
                "task": task, "round": now and now.to_json(), "last": last[0].to_json() if last else None,
            })  # fmt: skip
    return {"tasks": found}, _loop_page.status(found)


def _run(args: argparse.Namespace, site: Site) -> Outcome:
    from edgehone.cli import _loop_page
    from edgehone.loop import rounds
    from edgehone.loop.process import Workers
    from edgehone.loop.tick import ask

    with site.database.read() as conn:
        found = rounds.current(conn, args.task)
    if found is None:
        kind: Kind = "retrain" if args.kind is None else args.kind
        found = ask(site, args.task, actor=_actor(), now_s=time.time(), kind=kind, cohorts=args.cohort)
    elif args.kind not in (None, found.kind) or not set(args.cohort) <= set(found.cohorts):
        raise InputError(
            f"a {found.kind} round of {args.task!r} is {found.state} in the phase {found.phase}", where=found.id,
            do="go on with it without --kind and --cohort, or abort it",
        )  # fmt: skip
    said = ""
    with Workers() as workers:
        while _goes_on(found, args.until):
            found = rounds.advance(site, found, time.time(), workers, until=args.until)
            line = _loop_page.progress(found.to_json())
            if line != said and not args.json:
                sys.stderr.write(f"{line}\n")
                said = line
            if _goes_on(found, args.until):
                time.sleep(_POLL_S)
    return found.to_json(), [_loop_page.round_line(found.to_json())]


def _goes_on(found: Round, until: str) -> bool:
    return not found.ended and found.state != "waiting" and PHASES.index(found.phase) <= PHASES.index(until)


def _approve(args: argparse.Namespace, site: Site) -> Outcome:
    from edgehone.cli import _loop_page
    from edgehone.cli._passphrases import passphrases
    from edgehone.loop import rounds
    from edgehone.loop.process import Workers
    from edgehone.registry.keys import KeyRing

    known = passphrases(args)
    folders = [folder for folder in (args.keys, site.keys) if folder is not None]
    found = rounds.approve(site.database, args.id, actor=_actor(), now_s=time.time())
    with Workers() as workers:
        ring = KeyRing(folders, known)
        found = rounds.advance(site, found, time.time(), workers, ring=ring, until="rollout")
    return found.to_json(), [_loop_page.round_line(found.to_json())]


def _abort(args: argparse.Namespace, site: Site) -> Outcome:
    from edgehone.cli import _loop_page
    from edgehone.loop.rounds import abort, find_round

    with site.database.read() as conn:
        id = find_round(conn, args.id).id
    found = abort(site, id, actor=_actor(), now_s=time.time(), why=args.why)
    return found.to_json(), [_loop_page.round_line(found.to_json())]


def _history(args: argparse.Namespace, site: Site) -> Outcome:
    from sqlalchemy import select

    from edgehone.cli import _loop_page
    from edgehone.loop.rounds import list_rounds
    from edgehone.records.tables import decision

    with site.database.read() as conn:
        rounds = [one.to_json() for one in list_rounds(conn, args.task, limit=max(args.limit, 0))]
        query = select(decision).order_by(decision.c.id.desc()).limit(max(args.limit, 0))
        query = query if args.task is None else query.where(decision.c.task == args.task)
        decisions = [dict(row) for row in conn.execute(query).mappings()]
    return {"rounds": rounds, "decisions": decisions}, _loop_page.history(rounds, decisions)


def _policy(args: argparse.Namespace, site: Site) -> Outcome:
    from edgehone.loop.policy import load_policy, read_policy, save_policy

    if args.set is not None:
        try:
            data = json.loads(args.set.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"no policy can be read: {error}", where=str(args.set), do="give a JSON object") from error
        if not isinstance(data, dict):
            raise InputError("this is no object", where=str(args.set), do="give a JSON object with the policy's fields")
        policy = read_policy(args.task, data)
        with site.database.write() as conn:
            save_policy(conn, policy, actor=_actor(), now_s=time.time())
    with site.database.read() as conn:
        found = load_policy(conn, args.task)
    if found is None:
        raise InputError(f"{args.task!r} has no policy", where="loop", do="give one with --set FILE")
    shown = asdict(found)
    return shown, [f"{name:20} {value if value != '' else '-'}" for name, value in shown.items()]


def _actor() -> str:
    try:
        return f"person:{getpass.getuser()}"
    except (KeyError, OSError):  # no such user on this machine
        return "person:unknown"
