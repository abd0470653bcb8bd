"""Publish a release, here and now or in three steps on two machines.

    publish                                   the key of the task is here
    prepare → sign (elsewhere) → complete     the key of the task is on a machine that never sees the registry

Rules:
- Blobs first, then metadata: see `objects` and `commit`. A command that was killed can be repeated as it was.
- Publishing what is live already changes nothing and is no error.
- Deltas from the last versions are made on the way where they are wanted; see `shortcuts`.
- A prepared folder holds the metadata to sign and `release.json`, which says in plain words what signing it means.
  It is completed only on top of the very version it was prepared from.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone.errors import InputError
from edgehone.registry import release
from edgehone.registry.commit import Changes, check_keys, commit
from edgehone.registry.incoming import match_deltas, read_bundles
from edgehone.registry.keys import KeyRing, short
from edgehone.registry.names import MAX_TARGETS, blob_path, role_of
from edgehone.registry.objects import Objects
from edgehone.registry.shortcuts import LeftOut, Wanted, make, pairs
from edgehone.registry.state import State, read
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import TrustError

if TYPE_CHECKING:
    from edgehone.registry.tuf import Metadata, Targets

_NOTE = "release.json"
_METADATA = "role.json"


@dataclass(frozen=True)
class Published:
    """What a publish did.

    Attributes:
        task, version: what was released.
        added, removed: target paths.
        role_version: of the task's metadata.
        new: False when exactly this was live already and nothing changed.
        deltas: shorter ways to this version.
        left_out: deltas that were not made.
    """

    task: str
    version: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    role_version: int
    new: bool = True
    deltas: tuple[release.Way, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def publish(
    store: Objects,
    ring: KeyRing,
    bundles: Sequence[Path],
    deltas: Sequence[Path],
    now: datetime,
    *,
    anchor: bytes | None = None,
    wanted: Wanted | None = None,
) -> Published:
    """Release a version of a task.

    Args:
        store: the registry.
        ring: holds the key of the task and the online key.
        bundles: members of one version, most preferred first.
        deltas: that lead from live bundles to these.
        now: the time that expiries count from.
        anchor: the trusted root.
        wanted: further deltas, to be made from the last versions.

    Raises:
        InputError: bundles that make no release, a version that is not higher, an unknown task, a wrong passphrase.
        TrustError: a key is missing, or the registry was tampered with.
        BusyError: somebody else is changing the registry.
        RegistryError, HostError: the registry cannot be read or written.
    """
    with store.lock(), tempfile.TemporaryDirectory() as scratch:
        state = read(store, anchor)
        plan = _plan(store, state, bundles, deltas, wanted, Path(scratch), ring)
        if plan.content is not None:
            plan.put(store)
            commit(store, state, ring, Changes(roles={role_of(plan.done.task): plan.content}), now)
        return plan.done


def prepare(
    store: Objects,
    folder: Path,
    bundles: Sequence[Path],
    deltas: Sequence[Path],
    now: datetime,
    *,
    anchor: bytes | None = None,
    wanted: Wanted | None = None,
) -> Published:
    """Upload the blobs, and write what is to be signed into a new folder. Nodes see nothing of it yet.

    Raises:
        InputError: as for `publish`; also when the folder is not empty, or there is nothing to do.
    """
    from edgehone.registry.tuf import Metadata

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("the folder is not empty", where=str(folder), do="choose a new name")
    with store.lock(), tempfile.TemporaryDirectory() as scratch:
        state = read(store, anchor)
        plan = _plan(store, state, bundles, deltas, wanted, Path(scratch))
        if plan.content is None:
            raise InputError("this release is live already", where=plan.done.task, do="there is nothing to do")
        role = role_of(plan.done.task)
        plan.put(store)
        plan.content.version, plan.content.expires = state.version(role) + 1, state.expiry.end(role, now)
        delegated = _delegated(state, role)
        note = {**asdict(plan.done), **_meaning(plan.content), "keys": delegated.keyids}
        write_bytes(folder / _METADATA, Metadata(plan.content).to_bytes())
        write_bytes(folder / _NOTE, json.dumps(note, indent=2).encode())
        return plan.done


def read_prepared(folder: Path) -> tuple[dict[str, Any], Metadata[Targets]]:
    """What a prepared folder holds: its note, checked against the metadata, and the metadata.

    Raises:
        InputError: it is no prepared folder.
        TrustError: the note does not say what the metadata says.
    """
    from edgehone.registry.tuf import DeserializationError, Metadata, Targets

    try:
        note: dict[str, Any] = json.loads((folder / _NOTE).read_text())
        metadata: Metadata[Targets] = Metadata.from_bytes((folder / _METADATA).read_bytes())
        if not isinstance(metadata.signed, Targets):
            raise TypeError("not targets metadata")
        said = {name: note[name] for name in ("task", "added", "removed", "keys")} | note
    except (OSError, ValueError, KeyError, TypeError, DeserializationError) as error:
        raise InputError(
            "this folder holds no prepared release", where=str(folder), do="make one with `publish --prepare`"
        ) from error
    means = _meaning(metadata.signed)
    if any(said.get(name) != value for name, value in means.items()) or any(
        not path.startswith(f"{said['task']}/") for path in means["digests"]
    ):
        raise TrustError(
            "release.json does not say what the metadata says", where=str(folder), do="prepare again; do not sign this"
        )
    return note, metadata


def sign(folder: Path, ring: KeyRing, key: Path) -> str:
    """Sign a prepared release with the task's key, and return the short id of the key.

    Raises:
        InputError: no prepared folder, no key, or a wrong passphrase.
        TrustError: the key does not belong to the task, or the note does not say what the metadata says.
    """
    note, metadata = read_prepared(folder)
    signer = ring.open(key)
    if signer.public_key.keyid not in note["keys"]:
        files = " or ".join(f"{role_of(note['task'])}-{short(keyid)}.pem" for keyid in note["keys"])
        raise TrustError(
            f"this key may not release {note['task']!r}",
            where=str(key),
            do=f"sign with {files}",
        )
    metadata.sign(signer, append=True)
    write_bytes(folder / _METADATA, metadata.to_bytes())
    return short(signer.public_key.keyid)


def complete(store: Objects, ring: KeyRing, folder: Path, now: datetime, *, anchor: bytes | None = None) -> Published:
    """Put a prepared and signed release in place. Needs the online key only.

    Raises:
        InputError: no prepared folder, or the registry has moved on since.
        TrustError: it is not signed by the task's key, or a blob is missing or altered.
    """
    note, metadata = read_prepared(folder)
    done = Published(
        note["task"], note["version"], tuple(note["added"]), tuple(note["removed"]), note["role_version"],
        deltas=release.ways(metadata.signed, note["version"]),
    )  # fmt: skip
    role = role_of(done.task)
    with store.lock():
        state = read(store, anchor)
        delegated = _delegated(state, role)
        if state.version(role) == done.role_version and state.roles[role].signed == metadata.signed:
            return replace(done, new=False)
        if state.version(role) + 1 != done.role_version:
            raise InputError(
                f"the registry has changed since this was prepared: {role} is at version {state.version(role)}",
                where=str(folder),
                do="prepare the release again",
            )
        result = state.targets.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if not result:
            raise TrustError(
                f"{len(result.signed)} of {delegated.threshold} needed signatures",
                where=str(folder),
                do=f"run `edgehone registry sign {folder} --key FILE` with the key of {done.task!r}",
            )
        for path, sha256 in note["digests"].items():
            if not store.holds(blob_path(path, sha256), sha256):
                raise TrustError("the blob is missing or altered", where=path, do="prepare the release again")
        commit(store, state, ring, Changes(signed={role: metadata}), now)
        return done


def _meaning(content: Targets) -> dict[str, Any]:
    """What signing a role's content means, in words that a person can compare."""
    version = release.highest(content)
    return {
        "version": version,
        "role_version": content.version,
        "expires": content.expires.isoformat(),
        "live_versions": sorted({bundle.version for bundle in release.listed(content)}),
        "added": sorted(path for path in content.targets if path.split("/")[1].startswith(f"{version}-")),
        "deltas": [asdict(way) for way in release.ways(content, version)],
        "digests": {path: file.hashes["sha256"] for path, file in sorted(content.targets.items())},
    }


@dataclass(frozen=True)
class _Plan:
    done: Published
    content: Targets | None
    blobs: Mapping[str, tuple[Path, str]]

    def put(self, store: Objects) -> None:
        for path, (file, sha256) in self.blobs.items():
            store.put(path, file, sha256)


def _plan(
    store: Objects,
    state: State,
    files: Sequence[Path],
    delta_files: Sequence[Path],
    wanted: Wanted | None,
    scratch: Path,
    ring: KeyRing | None = None,
) -> _Plan:
    """What publishing will do; where a ring is given, its keys are tried before deltas are made."""
    bundles = read_bundles(files)
    task, version = bundles[0].task, bundles[0].version
    role = role_of(task)
    _delegated(state, role)
    content = copy.deepcopy(state.roles[role].signed)
    live = [bundle for bundle in release.listed(content) if bundle.version < version]
    new = {bundle.sha256: file for bundle, file in zip(bundles, files, strict=True)}
    old = {}
    if delta_files:
        old = {bundle.sha256: store.fetch(blob_path(bundle.path, bundle.sha256), scratch) for bundle in live}
    deltas = dict(zip(match_deltas(delta_files, old, new), delta_files, strict=True))
    if release.same(content, bundles, tuple(deltas)):
        ways = release.ways(content, version)
        return _Plan(Published(task, version, (), (), content.version, new=False, deltas=ways), None, {})
    release.check_higher(content, task, version)
    if ring is not None:
        check_keys(state, ring, (role, "snapshot", "timestamp"))
    left_out: tuple[LeftOut, ...] = ()
    if wanted is not None:
        served = {delta.from_sha256 for delta in deltas}
        among = [pair for pair in pairs(live, bundles, wanted.versions) if pair.old.sha256 not in served]
        made = make(store, wanted, among, new, MAX_TARGETS - len(bundles) - len(deltas), scratch)
        deltas, left_out = {**deltas, **made.deltas}, made.left_out
    added = release.add(content, bundles, tuple(deltas))
    removed = release.make_room(content)
    sources = {**new, **{delta.sha256: file for delta, file in deltas.items()}}
    blobs = {blob_path(path, sha256): (sources[sha256], sha256) for sha256, path in added.items()}
    ways = release.ways(content, version)
    done = Published(task, version, tuple(added.values()), removed, content.version + 1, deltas=ways, left_out=left_out)
    return _Plan(done, content, blobs)


def _delegated(state: State, role: str) -> Any:
    if role not in state.roles:
        raise InputError(
            f"this registry has no task {role.removeprefix('task-')!r}",
            do=f"its tasks are: {', '.join(state.tasks()) or 'none'}; add one with `edgehone registry add-task`",
        )
    return state.targets.signed.get_delegated_role(role)
