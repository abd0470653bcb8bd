"""Make a registry, and give it tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgehone.errors import InputError
from edgehone.registry.commit import Changes, commit, first
from edgehone.registry.keys import KeyRing, check_apart, short
from edgehone.registry.names import (
    FIELD,
    KEYS,
    OFFLINE_ROLES,
    ONLINE,
    THRESHOLD,
    Approve,
    Expiry,
    check_task,
    role_of,
)
from edgehone.registry.objects import Objects
from edgehone.registry.state import read
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import TrustError

if TYPE_CHECKING:
    from edgehone.registry.tuf import Key, Targets

ROOT = "root.json"  # the trusted root, kept with the keys; nodes get a copy


def create(
    store: Objects,
    ring: KeyRing,
    tasks: Sequence[str],
    now: datetime,
    *,
    approve: Approve = "manual",
    online_plain: bool = False,
    expiry: Expiry | None = None,
) -> Path:
    """Make keys and the first metadata of a registry.

    Args:
        store: the folder to serve; empty or new.
        ring: its first folder takes the keys and the trusted root.
        tasks: that releases will be published for; more can be added later.
        now: the time that expiries count from.
        approve: how the keys of the tasks are kept, see `add_task`.
        online_plain: leave the online key unencrypted, so that refreshing needs nobody.
        expiry: how long metadata holds.

    Returns:
        Path of the root that nodes have to get.

    Raises:
        InputError: the folder holds a registry, the keys folder belongs to another one or lies inside, bad task names.
        HostError, StateError: a folder cannot be written.
    """
    from edgehone.registry.tuf import Root, Targets

    keys = ring.folders[0]
    check_apart(store, ring.folders)
    for task in tasks:
        check_task(task)
    with store.lock(new=True), ring.transaction():
        if _holds_one(store):
            raise InputError("this folder holds a registry already", where=store.place(), do="choose another folder")
        if (keys / ROOT).exists():
            raise InputError(
                "this folder holds the keys of another registry", where=str(keys), do="choose another --keys"
            )
        root = Root(unrecognized_fields={FIELD: (expiry or Expiry()).to_json()})
        for role in OFFLINE_ROLES:
            for _ in range(KEYS):
                root.add_key(ring.make(role).public_key, role)
            root.roles[role].threshold = THRESHOLD
        online = ring.make(ONLINE, plain=online_plain).public_key
        for role in ("snapshot", "timestamp"):
            root.add_key(online, role)
        targets, roles = Targets(), {}
        for task in dict.fromkeys(tasks):
            roles[role_of(task)] = _delegate(targets, task, approve, ring)
        content = first(store, ring, root, roles, targets, now)
        write_bytes(keys / ROOT, content)
    return keys / ROOT


def add_task(
    store: Objects,
    ring: KeyRing,
    task: str,
    now: datetime,
    *,
    approve: Approve = "manual",
    anchor: bytes | None = None,
) -> str:
    """Let a registry take releases of one more task, and return the short id of the task's new key.

    Args:
        store: the registry.
        ring: holds the targets keys and the online key; its first folder takes the new key.
        task: its name.
        now: the time that expiries count from.
        approve: "manual": the new key is encrypted, so a person signs each release. "auto": it is not, so a program
            may; it can release for this task and nothing else.
        anchor: the trusted root.

    Raises:
        InputError: a bad name, or the registry has this task.
        TrustError: too few targets keys are at hand.
    """
    check_task(task)
    check_apart(store, ring.folders)
    with store.lock(), ring.transaction():
        state = read(store, anchor)
        role = role_of(task)
        if role in state.roles:
            raise InputError(f"this registry has the task {task!r} already", do="publish to it")
        targets = copy.deepcopy(state.targets.signed)
        content = _delegate(targets, task, approve, ring)
        commit(store, state, ring, Changes(roles={role: content, "targets": targets}), now)
        return short(targets.get_delegated_role(role).keyids[0])


def _holds_one(store: Objects) -> bool:
    """Whether there is a registry, or what is left of one. An `init` that was killed left first versions alone."""
    names = [entry.path.partition("/")[2] for entry in store.entries("metadata")]
    return any(not name.startswith(("1.", ".")) for name in names) or bool(store.entries("targets"))


def task_key(task: str, approve: Approve, ring: KeyRing) -> Key:
    """A new key that releases one task, on disk; encrypted unless releases are signed by a program."""
    return ring.make(role_of(task), plain=approve == "auto").public_key


def load_anchor(ring: KeyRing) -> bytes | None:
    """The trusted root kept with the keys, None where there is none.

    Raises:
        TrustError: two keys folders hold different roots.
    """
    found = {(folder / ROOT).read_bytes() for folder in ring.folders if (folder / ROOT).is_file()}
    if len(found) > 1:
        raise TrustError(
            "the keys folders hold different roots",
            where=", ".join(map(str, ring.folders)),
            do="give folders of one registry, and delete the older root.json",
        )
    return found.pop() if found else None


def save_anchor(ring: KeyRing, content: bytes) -> None:
    """Trust a new root from now on, in every folder that keeps one.

    Raises:
        StateError: a folder cannot be written.
    """
    for folder in ring.folders:
        if (folder / ROOT).is_file():
            write_bytes(folder / ROOT, content)


def _delegate(targets: Targets, task: str, approve: Approve, ring: KeyRing) -> Targets:
    """Delegate a task to a new key, in place, and return the empty content of its role."""
    from edgehone.registry.tuf import DelegatedRole, Delegations, Targets

    role = role_of(task)
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    delegated = DelegatedRole(role, [], 1, True, [f"{task}/*"], None, {FIELD: {"approve": approve}})
    targets.delegations.roles = {**(targets.delegations.roles or {}), role: delegated}
    targets.add_key(task_key(task, approve, ring), role)
    return Targets()
