"""Keep a registry fresh and small: new dates before the old ones run out, bad releases out, unused files gone."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from edgehone.errors import InputError
from edgehone.registry import release
from edgehone.registry.commit import Changes, commit
from edgehone.registry.create import save_anchor
from edgehone.registry.keys import KeyRing
from edgehone.registry.names import FIELD, OFFLINE_ROLES, Expiry, blob_path, role_of
from edgehone.registry.objects import Entry, Objects
from edgehone.registry.state import State, read

if TYPE_CHECKING:
    from edgehone.registry.tuf import Targets

_VERSIONED = re.compile(r"metadata/(\d+)\.(.+)\.json")


@dataclass(frozen=True)
class Pruned:
    """What a prune removed: paths, and the bytes that were freed."""

    metadata: tuple[str, ...]
    blobs: tuple[str, ...]
    size_bytes: int


def refresh(
    store: Objects,
    ring: KeyRing,
    now: datetime,
    *,
    also: Sequence[str] = (),
    expiry: Expiry | None = None,
    anchor: bytes | None = None,
) -> tuple[str, ...]:
    """Sign again with a new date: always the timestamp, and the snapshot when half of its time is over.

    Args:
        store: the registry.
        ring: holds the online key, and the keys of `also`.
        now: the time that expiries count from.
        also: sign these too: "root", "targets", or names of tasks.
        expiry: new periods; needs "root" in `also`, which states them.
        anchor: the trusted root.

    Returns:
        The roles that were signed.

    Raises:
        InputError: an unknown role, periods without the root, or a wrong passphrase.
        TrustError: a key is missing, or the registry was tampered with.
        BusyError, RegistryError, StateError: the registry is in use, cannot be read, or cannot be written.
    """
    if expiry is not None and "root" not in also:
        raise InputError("the periods are written in the root", do="add --also root, and have two root keys at hand")
    with store.lock():
        state = read(store, anchor)
        roles: dict[str, Targets] = {}
        for who in also:
            role = who if who in OFFLINE_ROLES else role_of(who)
            if role == "root":
                continue
            if role != "targets" and role not in state.roles:
                known = ", ".join((*OFFLINE_ROLES, *state.tasks()))
                raise InputError(f"there is no role or task {who!r}", do=f"choose one of: {known}")
            roles[role] = copy.deepcopy((state.targets if role == "targets" else state.roles[role]).signed)
        root = copy.deepcopy(state.root.signed) if "root" in also else None
        if root is not None and expiry is not None:
            root.unrecognized_fields[FIELD] = {**root.unrecognized_fields.get(FIELD, {}), **expiry.to_json()}
        periods = expiry or state.expiry
        half = timedelta(days=periods.snapshot / 2)
        stale = state.snapshot.signed.expires - now < half or expiry is not None or root is not None
        content = commit(store, state, ring, Changes(roles=roles, root=root, snapshot=stale), now)
        if content is not None:
            save_anchor(ring, content)
    done = [*(["root"] if root is not None else []), *roles, *(["snapshot"] if stale or roles else []), "timestamp"]
    return tuple(done)


def revoke_release(
    store: Objects, ring: KeyRing, task: str, version: int, now: datetime, *, anchor: bytes | None = None
) -> tuple[str, ...]:
    """Take a release back, and return the target paths that left. Its version is never used again.

    Raises:
        InputError: there is no such task, or the version is not live.
        TrustError: the key of the task is missing.
    """
    with store.lock():
        state = read(store, anchor)
        role = role_of(task)
        if role not in state.roles:
            raise InputError(
                f"this registry has no task {task!r}", do=f"its tasks are: {', '.join(state.tasks()) or 'none'}"
            )
        content = copy.deepcopy(state.roles[role].signed)
        gone = release.remove(content, version)
        commit(store, state, ring, Changes(roles={role: content}), now)
    return gone


def prune(store: Objects, now: datetime, *, keep_days: float | None = None, anchor: bytes | None = None) -> Pruned:
    """Remove metadata that was replaced, and blobs that only such metadata names, more than `keep_days` ago.

    Roots stay for ever: a node that slept for years follows the chain. Blobs younger than that stay too, for a release
    may be prepared and not yet complete.

    Args:
        store: the registry.
        now: the time to count back from.
        keep_days: None for the life of a snapshot: no node works from an older one.
        anchor: the trusted root.

    Raises:
        InputError: less than no time.
        BusyError, RegistryError, TrustError: the registry is in use, cannot be read, or was tampered with.
    """
    if keep_days is not None and not 0 <= keep_days <= 36500:
        raise InputError(f"{keep_days:g} days are no time to keep files", do="give 0 or more")
    with store.lock():
        state = read(store, anchor)
        limit = now - timedelta(days=state.expiry.snapshot if keep_days is None else keep_days)
        old = _replaced(store.entries("metadata"), state, limit)
        named = _named_blobs(store, {entry.path for entry in old})
        blobs = [entry for entry in store.entries("targets") if entry.path not in named and entry.modified < limit]
        for entry in (*old, *blobs):
            store.delete(entry.path)
        store.sweep()
    size_bytes = sum(entry.size_bytes for entry in (*old, *blobs))
    return Pruned(tuple(entry.path for entry in old), tuple(entry.path for entry in blobs), size_bytes)


def _replaced(entries: Collection[Entry], state: State, limit: datetime) -> list[Entry]:
    """Metadata files that are not current, and were not when `limit` passed."""
    versions: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        match = _VERSIONED.fullmatch(entry.path)
        if match and match[2] != "root":
            versions.setdefault(match[2], {})[int(match[1])] = entry
    old = []
    for role, files in versions.items():
        current = state.version(role)
        for version, entry in files.items():
            if version == current:
                continue
            later = [files[other].modified for other in files if version < other <= current]
            if min(later, default=entry.modified) < limit:
                old.append(entry)
    return old


def _named_blobs(store: Objects, without: Collection[str]) -> set[str]:
    """Blobs that any task's metadata names, but for files that are about to go."""
    from edgehone.registry.tuf import DeserializationError, Metadata, Targets

    named: set[str] = set()
    for entry in store.entries("metadata"):
        if entry.path in without or not _VERSIONED.fullmatch(entry.path):
            continue
        try:
            signed = Metadata.from_bytes(store.read(entry.path) or b"").signed
        except DeserializationError:
            continue
        if isinstance(signed, Targets):
            named |= {blob_path(path, file.hashes["sha256"]) for path, file in signed.targets.items()}
    return named
