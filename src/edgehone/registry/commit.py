"""Sign changed metadata and put it in place, so that a reader at any moment finds a registry that verifies.

Everything is signed in memory before the first file is written: a missing key or a wrong passphrase changes nothing.
Then, in this order, each file whole and on disk before the next:

    N.task-NAME.json, N.targets.json, N.snapshot.json     nobody looks at them yet
    timestamp.json                                        now nodes do
    N.root.json                                           when keys changed

A new root comes last, and what it re-keys is signed by the old and the new keys, so both roots accept it. Where too
few of the old keys are left for that, the root comes before the timestamp: between the two writes nodes take no update
(and go on serving). A command that was killed can be run again; until the timestamp was written nothing has happened.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from edgehone.errors import HostError
from edgehone.registry.keys import KeyRing, short
from edgehone.registry.names import Expiry, metadata_path
from edgehone.registry.objects import Objects
from edgehone.registry.state import State
from edgehone_agent.errors import TrustError

if TYPE_CHECKING:
    from edgehone.registry.tuf import Metadata, MetaFile, Root, Targets

_CLOCKS_DIFFER = timedelta(hours=1)  # at most, between machines of one publisher


@dataclass(frozen=True)
class Changes:
    """What is to become of a registry.

    Attributes:
        roles: new content of "targets" and of delegated roles; version and expiry are set here.
        root: a new root, or None.
        signed: delegated metadata that was signed elsewhere, put in place as it is.
        snapshot: write a new snapshot even when nothing it names has changed.
    """

    roles: Mapping[str, Targets] = field(default_factory=dict)
    root: Root | None = None
    signed: Mapping[str, Metadata[Targets]] = field(default_factory=dict)
    snapshot: bool = False


def commit(store: Objects, state: State, ring: KeyRing, changes: Changes, now: datetime) -> bytes | None:
    """Sign and write.

    Args:
        store: the registry, whose lock the caller holds.
        state: what it says now.
        ring: private keys at hand.
        changes: what to write.
        now: the time that expiries count from.

    Returns:
        The new root's bytes, None when the root stays.

    Raises:
        TrustError: too few keys are at hand; nothing was written.
        InputError: a key cannot be opened; nothing was written.
        HostError: a file cannot be written, or the clock is wrong.
    """
    _check_clock(state, now)
    if state.behind:
        changes = _catch_up(state, changes)
    old = state.root.signed
    root = changes.root or old
    expiry = Expiry.from_root(root.unrecognized_fields)
    files: dict[str, bytes] = {}
    root_bytes = None
    if changes.root is not None:
        root.version, root.expires = old.version + 1, expiry.end("root", now)
        new_root = _metadata(root)
        _sign(new_root, (old, root), "root", ring)
        root_bytes = new_root.to_bytes()
    targets = changes.roles.get("targets", state.targets.signed)
    meta = copy.deepcopy(state.snapshot.signed.meta)
    seamless = True
    for role, signed in changes.roles.items():
        signed.version, signed.expires = state.version(role) + 1, expiry.end(role, now)
        metadata = _metadata(signed)
        if role == "targets":
            seamless &= _sign_over(metadata, old, root, role, ring)
        else:
            _sign(metadata, (targets,), role, ring)
        _add(files, meta, role, metadata)
    for role, metadata in changes.signed.items():
        targets.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        _add(files, meta, role, metadata)
    rekeyed = any(root.roles[role].keyids != old.roles[role].keyids for role in ("snapshot", "timestamp"))
    stamp = None
    if changes.roles or changes.signed or changes.snapshot or rekeyed or root is old:
        snapshot_meta = copy.deepcopy(state.timestamp.signed.snapshot_meta)
        if changes.roles or changes.signed or changes.snapshot or rekeyed:
            snapshot = copy.deepcopy(state.snapshot.signed)
            snapshot.meta, snapshot.version = meta, snapshot.version + 1
            snapshot.expires = expiry.end("snapshot", now)
            signed_snapshot = _metadata(snapshot)
            seamless &= _sign_over(signed_snapshot, old, root, "snapshot", ring)
            snapshot_meta = _add(files, {}, "snapshot", signed_snapshot)
        timestamp = copy.deepcopy(state.timestamp.signed)
        timestamp.snapshot_meta, timestamp.version = snapshot_meta, timestamp.version + 1
        timestamp.expires = expiry.end("timestamp", now)
        signed_timestamp = _metadata(timestamp)
        seamless &= _sign_over(signed_timestamp, old, root, "timestamp", ring)
        stamp = signed_timestamp.to_bytes()
    _write(store, files, stamp, (metadata_path("root", root.version), root_bytes), root_last=seamless)
    return root_bytes


def _check_clock(state: State, now: datetime) -> None:
    """Refuse to sign with the date of a machine whose clock was lost: what it signs would have expired already."""
    signed_at = state.root.signed.expires - timedelta(days=state.expiry.days("root"))  # a root states its own period
    if now < signed_at - _CLOCKS_DIFFER:
        raise HostError(
            f"the clock says {now:%Y-%m-%d %H:%M}, but the root was signed at {signed_at:%Y-%m-%d %H:%M} UTC",
            where="clock",
            do="set the clock of this machine, then run the same command again",
        )


def check_keys(state: State, ring: KeyRing, roles: Iterable[str]) -> None:
    """Open the keys that a commit of these roles will need, before long work is done in vain.

    Raises:
        TrustError: too few keys are at hand.
        InputError: a key cannot be opened.
    """
    for role in roles:
        top = role not in state.roles
        signed = getattr(state, role).signed if top else state.roles[role].signed
        _sign(_metadata(copy.deepcopy(signed)), ((state.root if top else state.targets).signed,), role, ring)


def _catch_up(state: State, changes: Changes) -> Changes:
    """Also sign what only the root before the newest accepts, before there is yet another root."""
    roles = dict(changes.roles)
    if "targets" in state.behind:
        roles.setdefault("targets", copy.deepcopy(state.targets.signed))
    return replace(changes, roles=roles, snapshot=True)


def _write(
    store: Objects, files: Mapping[str, bytes], stamp: bytes | None, root: tuple[str, bytes | None], *, root_last: bool
) -> None:
    for path, content in files.items():
        store.write(path, content)
    last = [(metadata_path("timestamp", 0), stamp), root]
    for path, end in last if root_last else reversed(last):
        if end is not None:
            store.write(path, end)


def first(
    store: Objects, ring: KeyRing, root: Root, tasks: Mapping[str, Targets], targets: Targets, now: datetime
) -> bytes:
    """Sign and write the first metadata of a registry, and return the root's bytes.

    Raises:
        TrustError, InputError, StateError: as `commit` does.
    """
    from edgehone.registry.tuf import Snapshot, Timestamp

    expiry = Expiry.from_root(root.unrecognized_fields)
    files: dict[str, bytes] = {}
    meta: dict[str, MetaFile] = {}
    for role, signed in (*tasks.items(), ("targets", targets)):
        signed.expires = expiry.end(role, now)
        metadata = _metadata(signed)
        _sign(metadata, (root if role == "targets" else targets,), role, ring)
        _add(files, meta, role, metadata)
    snapshot = _metadata(Snapshot(expires=expiry.end("snapshot", now), meta=meta))
    _sign(snapshot, (root,), "snapshot", ring)
    named = _add(files, {}, "snapshot", snapshot)
    timestamp = _metadata(Timestamp(expires=expiry.end("timestamp", now), snapshot_meta=named))
    _sign(timestamp, (root,), "timestamp", ring)
    root.expires = expiry.end("root", now)
    new_root = _metadata(root)
    _sign(new_root, (root,), "root", ring)
    content: bytes = new_root.to_bytes()
    files[metadata_path("root", 1)] = content
    _write(store, files, timestamp.to_bytes(), ("", None), root_last=True)
    return content


def _metadata(signed: Any) -> Any:
    from edgehone.registry.tuf import Metadata

    return Metadata(signed)


def _add(files: dict[str, bytes], meta: dict[str, MetaFile], role: str, metadata: Any) -> MetaFile:
    """Put a signed file in the list of those to write, and name it by version, length and digest."""
    from edgehone.registry.tuf import MetaFile

    content = metadata.to_bytes()
    files[metadata_path(role, metadata.signed.version)] = content
    named = MetaFile.from_data(metadata.signed.version, content, ["sha256"])
    meta[f"{role}.json"] = named
    return named


def _sign_over(metadata: Any, old: Root, new: Root, role: str, ring: KeyRing) -> bool:
    """Sign for the new root, and where keys suffice also for the old one; tells whether the old one accepts it too."""
    _sign(metadata, (new,), role, ring)
    if new.roles[role].keyids == old.roles[role].keyids:
        return True
    return not _missing(metadata, old, role, ring)


def _sign(metadata: Any, delegators: Iterable[Root | Targets], role: str, ring: KeyRing) -> None:
    for delegator in delegators:
        missing = _missing(metadata, delegator, role, ring)
        if missing:
            names = ", ".join(f"{role if role not in ('snapshot', 'timestamp') else 'online'}-{key}" for key in missing)
            needed = delegator.get_delegated_role(role).threshold
            raise TrustError(
                f"the {role} role needs {needed} signature{'s' * (needed > 1)}, and too few of its keys are here;"
                f" not found: {names}",
                where=", ".join(map(str, ring.folders)),
                do="give the folder that holds the keys with --keys; it may be given more than once",
            )


def _missing(metadata: Any, delegator: Root | Targets, role: str, ring: KeyRing) -> list[str]:
    """Add signatures up to the threshold; the short ids of keys that were not found if it is not reached."""
    missing = []
    for keyid in delegator.get_delegated_role(role).keyids:
        if delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
            return []
        signer = ring.signer(delegator.get_key(keyid)) if keyid not in metadata.signatures else None
        if signer is not None:
            metadata.sign(signer, append=True)
        elif keyid not in metadata.signatures:
            missing.append(short(keyid))
    done = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return [] if done else missing
