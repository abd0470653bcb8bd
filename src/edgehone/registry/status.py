"""What there is to know about a registry: who signed what, until when it holds, what is live, and what is wrong."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from edgehone.registry import release
from edgehone.registry.keys import KeyRing, is_plain, short
from edgehone.registry.names import FIELD, MAX_TARGETS, blob_path, role_of, task_of
from edgehone.registry.objects import Objects
from edgehone.registry.state import State

_SOON = 0.2  # of its period


def status(store: Objects, state: State, ring: KeyRing, now: datetime) -> dict[str, Any]:
    """Everything about a registry, as a JSON object.

    Args:
        store: the registry.
        state: what its metadata says.
        ring: keys at hand; they are looked for, not opened.
        now: the time to judge expiries by.

    Returns:
        `registry` (folder), `roles` (per role: version, expires, threshold, keys with id, file, plain and signed),
        `tasks` (per task: approve, targets, highest_version, releases), `warnings` (sentences).
    """
    roles = [
        _role(state, ring, role, now) for role in ("root", "targets", *sorted(state.roles), "snapshot", "timestamp")
    ]
    used = {key["keyid"] for role in roles for key in role["keys"]}
    tasks = [_task(state, task) for task in state.tasks()]
    warnings = [warning for role in roles for warning in _role_warnings(role, state)]
    warnings += _blob_warnings(store, state) + ring.findings(used)
    for role in roles:
        for key in role["keys"]:
            key["id"] = short(key.pop("keyid"))
    return {"registry": store.place(), "roles": roles, "tasks": tasks, "warnings": warnings}


def _role(state: State, ring: KeyRing, role: str, now: datetime) -> dict[str, Any]:
    metadata: Any = state.roles[role] if task_of(role) else getattr(state, role)
    delegator = state.targets.signed if task_of(role) else state.root.signed
    keys = []
    for keyid in delegator.get_delegated_role(role).keyids:
        file = ring.file(keyid)
        keys.append(
            {
                "keyid": keyid,
                "file": None if file is None else str(file),
                "plain": None if file is None else is_plain(file),
                "signed": keyid in metadata.signatures,
            }
        )
    left = metadata.signed.expires - now
    return {
        "role": role,
        "version": metadata.signed.version,
        "expires": metadata.signed.expires.isoformat(),
        "expires_in_days": round(left / timedelta(days=1), 2),
        "threshold": delegator.get_delegated_role(role).threshold,
        "keys": keys,
    }


def _task(state: State, task: str) -> dict[str, Any]:
    role = role_of(task)
    signed = state.roles[role].signed
    delegated = state.targets.signed.get_delegated_role(role)
    releases: dict[int, list[dict[str, Any]]] = {}
    for bundle in release.listed(signed):
        releases.setdefault(bundle.version, []).append(
            {
                "member": bundle.member,
                "path": bundle.path,
                "sha256": bundle.sha256,
                "size_bytes": bundle.size_bytes,
                "deltas": [asdict(way) for way in bundle.deltas],
            }
        )
    return {
        "task": task,
        "approve": delegated.unrecognized_fields.get(FIELD, {}).get("approve", "manual"),
        "targets": len(signed.targets),
        "highest_version": release.highest(signed),
        "releases": [{"version": version, "members": members} for version, members in releases.items()],
    }


def _role_warnings(role: dict[str, Any], state: State) -> list[str]:
    name, days = role["role"], role["expires_in_days"]
    command = "refresh" if name in ("snapshot", "timestamp") else f"refresh --also {task_of(name) or name}"
    warnings = []
    if days <= 0:
        warnings.append(f"{name} has expired: nodes take no updates until `{command}`")
    elif days < _SOON * state.expiry.days(name):
        warnings.append(f"{name} expires in {days:g} days: run `{command}`")
    if name in state.behind:
        warnings.append(f"{name} is signed by a key that was replaced: nodes take no updates until `refresh`")
    return warnings


def _blob_warnings(store: Objects, state: State) -> list[str]:
    warnings = []
    for role, metadata in state.roles.items():
        if len(metadata.signed.targets) > MAX_TARGETS:
            warnings.append(f"{role} lists more than {MAX_TARGETS} targets")
        for path, file in metadata.signed.targets.items():
            if not store.holds(blob_path(path, file.hashes["sha256"]), file.hashes["sha256"]):
                warnings.append(f"the blob of {path} is missing or altered")
    return warnings
