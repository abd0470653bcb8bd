"""`edgehone-agent status`: what the node serves, how it is, and what it last heard from the registry."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from edgehone_agent.cli._terminal import add_json, add_state, say, say_json, say_table, state_of

help = "show what this node serves and how it is"
examples = ("edgehone-agent status", "edgehone-agent status --json", "edgehone-agent status --state node")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_state(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the running agent, else read the folder."""
    from edgehone_agent.cli._running import ask_socket

    state = state_of(args)
    found = ask_socket(state, "GET", "/status")
    status = {"running": True, **found} if found is not None else {"running": False, **status_on_disk(state)}
    if args.json:
        say_json(status)
    else:
        _show(status)
    return 0


def status_on_disk(state: Path) -> dict[str, Any]:
    """What the folder tells while no agent runs, in the form of the agent's own status.

    Raises:
        StateError: there is no such folder.
    """
    from dataclasses import asdict

    from edgehone_agent.errors import StateError
    from edgehone_agent.node import task_names
    from edgehone_agent.slots import Slots
    from edgehone_agent.uplink.identity import about, load_identity

    if not state.is_dir():
        raise StateError(
            "there is no such folder, and so no node", where=str(state), do="start one: edgehone-agent run --help"
        )
    tasks: dict[str, Any] = {}
    for name in task_names(state):
        slots = Slots(state / "tasks" / name, name, is_writer=False)
        kept = slots.state
        current = asdict(kept.current) if kept.current is not None else {}
        tasks[name] = current | {
            "ready": False,
            "fault": slots.fault,
            "previous": None if kept.previous is None else asdict(kept.previous),
            "trial": None if kept.trial is None else asdict(kept.trial),
            "failed": [asdict(failure) for failure in kept.failed],
        }
    identity = load_identity(state)
    core = None if identity is None else about(identity, time.time())
    return {"state": str(state), "fault": None, "tasks": tasks, "registry": None, "listening": [], "core": core}


def _show(status: dict[str, Any]) -> None:
    running = f"running as process {status['process']}" if status["running"] else "not running"
    say(f"agent      {running}")
    say(f"state      {status['state']}")
    for address in status["listening"]:
        say(f"listening  {address}")
    registry = status.get("registry")
    if registry:
        looked = registry.get("looked_at_s")
        ago = "not yet looked at" if looked is None else f"looked at {max(0, time.time() - looked):.0f} s ago"
        say(f"registry   {registry['address']}, {ago}")
    _show_core(status.get("core"))
    if status.get("fault"):
        say(f"fault      {status['fault']}")
    say()
    rows = [
        (
            name,
            task.get("version"),
            task.get("member"),
            (task.get("digest") or "")[:12],
            _word(task, status["running"]),
            (task.get("previous") or {}).get("version"),
            task.get("predictions"),
            (task.get("watch") or {}).get("level"),
            (task.get("risk") or {}).get("level"),
        )
        for name, task in status["tasks"].items()
    ]
    say_table(("task", "version", "member", "digest", "is", "before", "answers", "watch", "risk"), rows)
    for name, task in status["tasks"].items():
        _explain(name, task, ((registry or {}).get("tasks") or {}).get(name, {}))


def _show_core(core: dict[str, Any] | None) -> None:
    if not core:
        return
    heard = core.get("heard_s")
    ago = "not heard of yet" if heard is None else f"heard of {max(0, time.time() - heard):.0f} s ago"
    say(f"core       {core['address']}, {ago}; this is node {core['node']} ({core.get('name') or 'without a name'})")
    if core.get("node_state") == "quarantined":
        say("core       this node is quarantined: it goes on serving, and the core tells it nothing new")
    for name in ("error", "upload_error"):
        if core.get(name):
            say(f"core       {core[name]}")


def _word(task: dict[str, Any], running: bool) -> str:
    if not running:
        return "stopped" if task.get("version") else "empty"
    if not task["ready"]:
        return "not ready"
    return "on trial" if task.get("trial") else "ready"


def _explain(name: str, task: dict[str, Any], update: dict[str, Any]) -> None:
    """What is to be said about a task beyond its row."""
    lines = [] if not task.get("fault") else [task["fault"]]
    lines += [f"version {failed['version']} is not tried again: {failed['why']}" for failed in task["failed"][-3:]]
    learn = task.get("learn")
    if learn:
        lines.append(f"learns {learn['kind']}: {learn['state']}, {learn['why']}")
    lines += [flag["text"] for flag in update.get("flags", ())]
    lines += [update[key] for key in ("error", "did") if update.get(key)]
    for line in lines:
        say(f"{name}: {line}")
