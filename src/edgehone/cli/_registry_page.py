"""What `edgehone registry status` prints for people."""

from __future__ import annotations

from typing import Any

from edgehone.cli._registry_deltas import share
from edgehone.units import format_size


def lines(status: dict[str, Any]) -> list[str]:
    """The status of a registry as lines of text."""
    return [
        f"{'role':<24} {'version':>7}  {'expires in':>12}  keys (* signed)",
        *map(_role, status["roles"]),
        *(line for task in status["tasks"] for line in _task(task)),
        *(["", "no warnings"] if not status["warnings"] else ["", *(f"! {text}" for text in status["warnings"])]),
    ]


def _role(role: dict[str, Any]) -> str:
    keys = ", ".join(f"{key['id']}{'*' if key['signed'] else ''}{_where(key)}" for key in role["keys"])
    days = f"{role['expires_in_days']:.1f} days"
    return f"{role['role']:<24} {role['version']:>7}  {days:>12}  {role['threshold']} of {len(role['keys'])}: {keys}"


def _where(key: dict[str, Any]) -> str:
    if key["file"] is None:
        return ""
    return " (here, unencrypted)" if key["plain"] else " (here)"


def _task(task: dict[str, Any]) -> list[str]:
    found = ["", f"{task['task']}: approve {task['approve']}, {task['targets']} of 100 targets"]
    for release in task["releases"]:
        for member in release["members"]:
            size = format_size(member["size_bytes"])
            found.append(f"  version {release['version']}  {member['member']}  {size}  {member['sha256'][:12]}")
            found += [f"    {_way(way)}" for way in member["deltas"]]
    return found if task["releases"] else [*found, "  no releases yet"]


def _way(way: dict[str, Any]) -> str:
    start = f"version {way['from_version']}" if way["from_version"] else way["from_sha256"][:12]
    return f"delta from {start}: {share(way['size_bytes'], way['share'])}"
