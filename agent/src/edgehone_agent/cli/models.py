"""`edgehone-agent models`: the bundles that this node holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgehone_agent.cli._terminal import add_json, add_state, say, say_json, say_table, state_of

help = "list the bundles that this node holds, with what they say about themselves"
examples = ("edgehone-agent models", "edgehone-agent models --json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_state(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Read every slot."""
    found = held_bundles(state_of(args))
    if args.json:
        say_json({"models": found})
        return 0
    rows = [
        (
            one["task"],
            one["use"],
            one["version"],
            one["member"],
            ",".join(one.get("runtimes", ())),
            one.get("size_bytes"),
            one["digest"][:12],
            one.get("fault"),
        )
        for one in found
    ]
    say_table(("task", "use", "version", "member", "runtimes", "bytes", "digest", "fault"), rows)
    if not found:
        say("no bundle yet; an agent brings them: edgehone-agent run --help")
    return 0


def held_bundles(state: Path) -> list[dict[str, Any]]:
    """Every bundle in a slot: what it is used for, and its manifest's words. A damaged one says so."""
    from edgehone_agent.bundle import open_bundle
    from edgehone_agent.errors import BundleError
    from edgehone_agent.node import task_names
    from edgehone_agent.slots import BUNDLE, Slots

    found: list[dict[str, Any]] = []
    for task in task_names(state):
        slots = Slots(state / "tasks" / task, task, is_writer=False)
        for use, placed in (("current", slots.state.current), ("previous", slots.state.previous)):
            if placed is None:
                continue
            told: dict[str, Any] = {"task": task, "use": use, "version": placed.version, "member": placed.member}
            told |= {"digest": placed.digest, "slot": placed.slot, "since_s": placed.since_s}
            file = slots.folder / placed.slot / BUNDLE
            try:
                with open_bundle(file) as bundle:
                    manifest = bundle.manifest
                    told |= {
                        "size_bytes": bundle.size_bytes,
                        "runtimes": [part.runtime for part in manifest.parts if part.role == "model"],
                        "kind": manifest.kind,
                        "recipe": manifest.recipe,
                        "input": list(manifest.input.shape),
                        "output": list(manifest.output.shape),
                        "labels": list(manifest.labels),
                        "measured": dict(manifest.measured),
                    }
                    if bundle.digest != placed.digest:
                        told["fault"] = "not the bundle that was put there"
            except BundleError as error:
                told["fault"] = error.what
            found.append(told)
    return found
