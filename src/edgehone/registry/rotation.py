"""Replace keys: because their time has come (rotate), or because somebody else may have one (revoke).

Both make new keys and new metadata that names them; see `commit` for the order in which nodes come to see that. The
root stays 2-of-3, so one lost or stolen key of root or targets is replaced with the two others. Replacing a task's key
needs the targets keys, not the old one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgehone.errors import InputError
from edgehone.registry.commit import Changes, commit
from edgehone.registry.create import save_anchor, task_key
from edgehone.registry.keys import KeyRing, check_apart, is_plain, short
from edgehone.registry.names import FIELD, OFFLINE_ROLES, ONLINE, Approve, role_of
from edgehone.registry.objects import Objects
from edgehone.registry.state import State, read

_MIN_ID = 6


@dataclass(frozen=True)
class Replaced:
    """What a rotation did: the role ("root", "targets", "online" or "task-NAME") and short key ids."""

    role: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    root_version: int


def rotate(
    store: Objects,
    ring: KeyRing,
    who: str,
    now: datetime,
    *,
    key: str | None = None,
    plain: bool | None = None,
    approve: Approve | None = None,
    anchor: bytes | None = None,
) -> Replaced:
    """Replace the keys of a role.

    Args:
        store: the registry.
        ring: holds the keys that must sign; its first folder takes the new ones.
        who: "root", "targets", "online", or the name of a task.
        now: the time that expiries count from.
        key: replace only this one, by the first digits of its id; else all keys of the role.
        plain: whether a new online key is left unencrypted; None for as it was.
        approve: how releases of the task are signed from now on; None for as it was.
        anchor: the trusted root.

    Raises:
        InputError: an unknown role or key, or a wrong passphrase.
        TrustError: too few keys are at hand.
        BusyError, RegistryError, StateError: the registry is in use, cannot be read, or cannot be written.
    """
    check_apart(store, ring.folders)
    with store.lock(), ring.transaction():
        state = read(store, anchor)
        return _replace(store, ring, state, who, _chosen(_keyids(state, who), key), now, plain, approve)


def revoke_key(
    store: Objects, ring: KeyRing, key: str, now: datetime, *, anchor: bytes | None = None
) -> tuple[Replaced, ...]:
    """Take a key out of every role that it signs for, and put a new one in its place.

    Args:
        store: the registry.
        ring: holds the other keys; its first folder takes the new one.
        key: the first digits of its id.
        now: the time that expiries count from.
        anchor: the trusted root.

    Raises:
        InputError: no role uses such a key.
        TrustError: too few other keys are at hand.
    """
    check_apart(store, ring.folders)
    done: list[Replaced] = []
    with store.lock(), ring.transaction():
        state = read(store, anchor)
        for who in (*OFFLINE_ROLES, ONLINE, *state.tasks()):
            found = [keyid for keyid in _keyids(state, who) if keyid.startswith(key) and len(key) >= _MIN_ID]
            if found:
                done.append(_replace(store, ring, state, who, _chosen(found, key), now, None, None))
                state = read(store, anchor)
        if not done:
            raise InputError(
                f"no role uses a key {key!r}",
                do="take the id of a key from `edgehone registry status`, 6 digits or more",
            )
    return tuple(done)


def _replace(
    store: Objects,
    ring: KeyRing,
    state: State,
    who: str,
    old: Sequence[str],
    now: datetime,
    plain: bool | None,
    approve: Approve | None,
) -> Replaced:
    changes, new = (
        _in_root(state, ring, who, old, plain)
        if who in (*OFFLINE_ROLES, ONLINE)
        else _in_targets(state, ring, who, old, approve)
    )
    content = commit(store, state, ring, changes, now)
    if content is not None:
        save_anchor(ring, content)
    for keyid in old:
        ring.retire(keyid)
    role = who if changes.root else role_of(who)
    return Replaced(role, tuple(map(short, old)), tuple(map(short, new)), state.version("root") + (content is not None))


def _in_root(
    state: State, ring: KeyRing, who: str, old: Sequence[str], plain: bool | None
) -> tuple[Changes, list[str]]:
    root = copy.deepcopy(state.root.signed)
    new = []
    for keyid in old:
        file = ring.file(keyid)
        as_before = who == ONLINE and file is not None and is_plain(file)
        made = ring.make(who, plain=who == ONLINE and (as_before if plain is None else plain)).public_key
        new.append(made.keyid)
        for role in ("snapshot", "timestamp") if who == ONLINE else (who,):
            root.revoke_key(keyid, role)
            root.add_key(made, role)
    again = {"targets": copy.deepcopy(state.targets.signed)} if who == "targets" else {}
    return Changes(roles=again, root=root, snapshot=who == ONLINE), new


def _in_targets(
    state: State, ring: KeyRing, task: str, old: Sequence[str], approve: Approve | None
) -> tuple[Changes, list[str]]:
    role = role_of(task)
    targets = copy.deepcopy(state.targets.signed)
    delegated = targets.get_delegated_role(role)
    stated = delegated.unrecognized_fields.get(FIELD, {})
    chosen: Approve = approve or stated.get("approve", "manual")
    delegated.unrecognized_fields[FIELD] = {**stated, "approve": chosen}
    new = []
    for keyid in old:
        made = task_key(task, chosen, ring)
        new.append(made.keyid)
        targets.revoke_key(keyid, role)
        targets.add_key(made, role)
    return Changes(roles={role: copy.deepcopy(state.roles[role].signed), "targets": targets}), new


def _keyids(state: State, who: str) -> list[str]:
    if who in (*OFFLINE_ROLES, ONLINE):
        return list(state.root.signed.roles["timestamp" if who == ONLINE else who].keyids)
    if who in state.tasks():
        return list(state.targets.signed.get_delegated_role(role_of(who)).keyids)
    known = ", ".join((*OFFLINE_ROLES, ONLINE, *state.tasks()))
    raise InputError(f"there is no role or task {who!r}", do=f"choose one of: {known}")


def _chosen(keyids: Sequence[str], key: str | None) -> list[str]:
    if key is None:
        return list(keyids)
    found = [keyid for keyid in keyids if keyid.startswith(key) and len(key) >= _MIN_ID]
    if len(found) != 1:
        raise InputError(
            f"{key!r} is the key of nothing here" if not found else f"{len(found)} keys begin with {key!r}",
            do=f"give one of: {', '.join(map(short, keyids))}",
        )
    return found
