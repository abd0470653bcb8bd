"""What `edgehone loop` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgehone.cli._fleet_page import moment, table


def round_line(one: dict[str, Any]) -> str:
    """One round in a line."""
    why = f": {one['why']}" if one["why"] else ""
    kind = "re-baseline " if one.get("kind") == "re-baseline" else ""
    return f"{one['id']}  {one['task']}  {kind}{one['state']} in {one['phase']}{why}"


def progress(one: dict[str, Any]) -> str:
    """How far a round is, in a line."""
    return f"{one['phase']}: {one['progress']}" if one["progress"] else str(one["phase"])


def status(found: Sequence[dict[str, Any]]) -> list[str]:
    """Tasks with the round that runs, or the last one."""
    if not found:
        return ["no task has a policy yet: edgehone loop policy TASK --set FILE"]
    rows = [("task", "now", "what")]
    for one in found:
        shown, last = one["round"], one["last"]
        if shown is not None:
            why = shown["why"] if shown["state"] == "waiting" else progress(shown)
            rows.append((one["task"], f"{shown['id'][:8]} {shown['state']}", why))
        elif last is not None:
            rows.append((one["task"], "watching", f"last round {last['id'][:8]} {last['state']}: {last['why']}"))
        else:
            rows.append((one["task"], "watching", "no round yet"))
    return table(rows)


def history(rounds: Sequence[dict[str, Any]], decisions: Sequence[dict[str, Any]]) -> list[str]:
    """Rounds, then decisions, each newest first."""
    lines = [f"{moment(one['started_s'])}  {round_line(one)}" for one in rounds] or ["no rounds yet"]
    told = [(moment(one["time_s"]), one["task"], one["trigger"], one["answer"], one["why"]) for one in decisions]
    return [*lines, "", *(table(told) if told else ["no decisions yet"])]
