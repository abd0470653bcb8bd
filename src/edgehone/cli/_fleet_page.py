"""What `edgehone fleet` and `edgehone lineage` print for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from edgehone.units import format_duration, format_latency


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns; the last is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def nodes(found: Sequence[dict[str, Any]]) -> list[str]:
    """Nodes, a line for each task."""
    if not found:
        return ["no nodes yet"]
    rows = [("node", "state", "heard", "task", "cohort", "serves", "latency", "watch")]
    for node in found:
        heard = "never" if node["seen_ago_s"] is None else f"{format_duration(node['seen_ago_s'])} ago"
        head = (node["name"], node["state"], heard)
        rows += [
            (
                *head, task["task"], task["cohort"],
                "nothing" if task["version"] is None else f"{task['version']} {task['member']}",
                "" if task["latency_us"] is None else format_latency(task["latency_us"]),
                str(task["watch_level"]),
            )
            for task in node["tasks"]
        ] or [(*head, "", "", "", "", "")]  # fmt: skip
    return table(rows)


def tokens(found: Sequence[dict[str, Any]], now_s: float) -> list[str]:
    """Enrolment tokens that wait, a line each."""
    if not found:
        return ["no token waits: `edgehone core token` makes one"]
    rows = [("token", "for", "tags", "good for", "made by", "made")]
    for one in found:
        tags = ", ".join(f"{key}={value}" for key, value in sorted(one["tags"].items()))
        left = format_duration(one["expires_s"] - now_s)
        by = one["created_by"].removeprefix("person:")
        rows.append((one["id"], one["name"] or "any name", tags or "none", left, by, moment(one["created_s"])))
    return table(rows)


def cohorts(found: Sequence[dict[str, Any]]) -> list[str]:
    """Cohorts, a line each."""
    if not found:
        return ["no cohorts yet: every node belongs to its task's own"]
    rows = [("cohort", "task", "tags", "channel", "version", "since")]
    for one in found:
        tags = ", ".join(f"{key}={value}" for key, value in sorted(one["tags"].items()))
        version = "none" if one["version"] is None else str(one["version"])
        rows.append((one["name"], one["task"], tags or "any", one["channel"], version, moment(one["since_s"])))
    return table(rows)


def rollout_line(one: dict[str, Any]) -> str:
    """One rollout in a line."""
    why = f": {one['why']}" if one["why"] else ""
    return f"{one['id']}  {one['task']} version {one['version']}  {one['state']} at {one['stage']}{why}"


def rollout(one: dict[str, Any]) -> list[str]:
    """One rollout with its gates and its events."""
    found = [rollout_line(one), f"canaries: {', '.join(w['node'] for w in one['canaries']) or 'none yet'}"]
    if one["verdicts"]:
        found += ["", *table([(v["gate"], v["says"], v["words"]) for v in one["verdicts"]])]
    if one["events"]:
        found += ["", *table([(moment(e["time_s"]), e["what"], e["detail"].get("words", "")) for e in one["events"]])]
    return found


def lineage(found: dict[str, Any]) -> list[str]:
    """All that answered on a node, the newest first."""
    lines = [f"{found['name']} ({found['node']}), {found['state']}"]
    for one in found["stints"]:
        end = "now" if one["to_s"] is None else moment(one["to_s"])
        lines += ["", f"{one['task']} version {one['version']} {one['member']}  {moment(one['from_s'])} to {end}"]
        facts = [("bytes", one["digest"]), ("came", one["came"])]
        if not one["known"]:
            facts.append(("release", "not one of this core's registry"))
        counts = ", ".join(f"{key} {value}" for key, value in one["counts"].items() if isinstance(value, int))
        trigger = f" ({one['trigger']}: {one['trigger_why']})" if one["trigger"] else ""
        facts += [
            ("follows", one["parent"] or ""),
            ("recipe", one["recipe"]),
            ("trained on", f"{one['dataset'] or ''} {counts}".strip()),
            ("round", f"{one['round'] or ''}{trigger}"),
            ("approved by", one["approved_by"]),
            ("taken back", "" if one["revoked_s"] is None else moment(one["revoked_s"])),
            ("left", one["left"]),
        ]
        lines += [f"  {line}" for line in table([fact for fact in facts if fact[1]])]
    return lines if found["stints"] else [*lines, "nothing has answered there yet"]


def moment(time_s: float) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
