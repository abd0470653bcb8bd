"""`edgehone-agent export`: evidence, samples and feedback into a folder, for a core that is reached by hand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone_agent.cli._terminal import add_json, add_state, say, say_json, state_of

if TYPE_CHECKING:
    from edgehone_agent.bundle import Bundle

help = "write evidence, captured samples and feedback into a folder, for a core that is reached by hand"
examples = ("edgehone-agent export /media/stick/node-7", "edgehone-agent export out --config agent.toml")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to; made when it is not there")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the agent's settings, for a node that is stopped")
    add_state(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the running agent, else read the folder."""
    from edgehone_agent.config import read_settings
    from edgehone_agent.requests import ask

    settings = read_settings(args.config, {"state": args.state})
    state = state_of(args) if args.config is None else settings.state
    found = ask(state, "export", {"folder": str(args.folder.absolute())}, timeout_s=600.0)
    if found is None:
        found = _from_disk(state, args.folder, settings)
    if args.json:
        say_json(found)
    else:
        say(f"{found['samples']} samples and {found['feedback']} events of feedback are in {args.folder}")
    return 0


def _from_disk(state: Path, folder: Path, settings: Any) -> dict[str, Any]:
    from edgehone_agent.capture import Capture, read_key
    from edgehone_agent.errors import StateError
    from edgehone_agent.lock import take_lock

    if not state.is_dir():
        raise StateError("there is no such folder, and so no node", where=str(state), do="name it with --state")
    lock = take_lock(state)
    if lock is None:
        raise StateError("an agent has just started", where=str(state), do="run the command again")
    wanted = settings.capture
    try:
        key = read_key(state / "key")
        with Capture(state / "capture", key=key, max_bytes=wanted.max_bytes, max_age_s=wanted.max_age_s) as capture:
            return capture.export(folder, evidence=evidence_on_disk(state))
    finally:
        lock.release()


def evidence_on_disk(state: Path) -> dict[str, Any]:
    """What the watch had seen and labels had said when the agent stopped, as the agent itself would tell it, by task.

    Tasks of which nothing is known are left out. Evidence that cannot be read is said to be so; the samples go out all
    the same.
    """
    from edgehone_agent import durable
    from edgehone_agent.bundle import open_bundle
    from edgehone_agent.errors import EdgehoneError
    from edgehone_agent.node import task_names
    from edgehone_agent.slots import Slots

    found: dict[str, Any] = {}
    for task in task_names(state):
        file = Slots(state / "tasks" / task, task, is_writer=False).bundle_file()
        if file is None:
            continue
        try:
            with open_bundle(file) as bundle:
                told = _evidence_of(bundle, state / "watch", task)
        except EdgehoneError as error:
            told = {"error": str(error)}
        except OSError as error:
            told = {"error": str(durable.state_error(error, state / "watch"))}
        if told:
            found[task] = told
    return found


def _evidence_of(bundle: Bundle, folder: Path, task: str) -> dict[str, Any]:
    from edgehone_agent.watch import Watcher
    from edgehone_agent.watch.labels import Labels
    from edgehone_agent.wire.card import Card

    found: dict[str, Any] = {}
    seen, labelled = folder / f"{task}.bin", folder / f"{task}.labels"
    cards = [Card.from_bytes(bundle.read(part)) for part in bundle.manifest.parts if part.role == "card"]
    if cards and seen.exists():
        found = Watcher(cards[0], seen.read_bytes()).evidence()
    if labelled.exists():
        labels = Labels(bundle.manifest, bundle.digest)
        labels.restore(labelled.read_bytes())
        found["risk"] = labels.evidence()
    return found
