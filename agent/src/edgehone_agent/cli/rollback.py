"""`edgehone-agent rollback`: let the last good bundle of a task answer again."""

from __future__ import annotations

import argparse
from typing import Any

from edgehone_agent.cli._terminal import add_json, add_state, say, say_json, state_of

help = "let the last good version of a task answer again; the present one is not tried any more"
examples = ("edgehone-agent rollback digits", 'edgehone-agent rollback digits --why "wrong labels"')


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("task", metavar="TASK", help="which task")
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, kept in the status")
    add_state(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the running agent, else change the folder."""
    from edgehone_agent.requests import ask

    state = state_of(args)
    why = f"rolled back by hand: {args.why}" if args.why else "rolled back by hand"
    found = ask(state, "roll back", {"task": args.task, "why": why})
    if found is None:
        found = _on_disk(state, args.task, why)
    if args.json:
        say_json(found)
    else:
        say(f"{found['task']}: version {found['version']} ({found['member']}) answers")
    return 0


def _on_disk(state: Any, task: str, why: str) -> dict[str, Any]:
    from edgehone_agent.errors import InputError, StateError
    from edgehone_agent.lock import take_lock
    from edgehone_agent.node import task_names
    from edgehone_agent.slots import Slots

    if task not in task_names(state):
        known = ", ".join(task_names(state)) or "none yet"
        raise InputError(f"there is no task {task!r} in this folder", where=str(state), do=f"there is: {known}")
    lock = take_lock(state)
    if lock is None:
        raise StateError("an agent has just started", where=str(state), do="run the command again")
    try:
        loaded = Slots(state / "tasks" / task, task).roll_back(why)
        loaded.close()
        return {"task": task, "version": loaded.manifest.version, "member": loaded.manifest.member}
    finally:
        lock.release()
