"""The releases in a task's role, as values: what is live, what a new one adds, what has to go.

Rules:
- A version is one release: one or more members, and deltas that lead to them. It comes and goes as a whole.
- Versions only grow, also past a revoked one: the role remembers the highest it ever had, because nodes do.
- A role lists at most 100 targets. The oldest versions leave first; the newest always stays.

No files and no clock here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgehone.errors import InputError
from edgehone.registry.names import CHANNEL, FIELD, MAX_TARGETS, bundle_path, delta_path

if TYPE_CHECKING:
    from edgehone.registry.tuf import TargetFile, Targets


@dataclass(frozen=True)
class NewBundle:
    """A bundle to release: what its manifest says, its digest and size."""

    task: str
    version: int
    member: str
    fit: Mapping[str, Any]
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class NewDelta:
    """A delta to release: the digests of the bundles it leads from and to, its own digest and size."""

    from_sha256: str
    to_sha256: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Listed:
    """One bundle that a role lists. `rank` orders the members of a version, lower is preferred."""

    path: str
    version: int
    member: str
    rank: int
    sha256: str
    size_bytes: int
    deltas: tuple[str, ...]


def listed(targets: Targets) -> tuple[Listed, ...]:
    """Every bundle that a role lists, newest version first, in a version by rank."""
    found = []
    for path, file in targets.targets.items():
        about = _about(file)
        if "member" in about:
            deltas = tuple(delta["path"] for delta in about["deltas"])
            found.append(
                Listed(
                    path, about["version"], about["member"], about["rank"], file.hashes["sha256"], file.length, deltas
                )
            )
    return tuple(sorted(found, key=lambda bundle: (-bundle.version, bundle.rank)))


def highest(targets: Targets) -> int:
    """The highest version that the role ever listed, 0 when there was none."""
    return int(targets.unrecognized_fields.get(FIELD, {}).get("highest_version", 0))


def add(targets: Targets, bundles: Sequence[NewBundle], deltas: Sequence[NewDelta]) -> dict[str, str]:
    """Add a version to a role.

    Args:
        targets: the role's content; changed in place.
        bundles: members of one version of one task, most preferred first.
        deltas: each leads to one of the bundles.

    Returns:
        Target path by sha256 of everything that was added.

    Raises:
        InputError: the version is not higher than all before it, two members have one name, a delta leads elsewhere, or
            it is more than a role can list.
    """
    task, version = bundles[0].task, bundles[0].version
    if version <= highest(targets):
        raise InputError(
            f"version {version} of {task!r} is not higher than {highest(targets)}, which was released before",
            do=f"build the bundle again with version {highest(targets) + 1} or higher",
        )
    if len(bundles) + len(deltas) > MAX_TARGETS:
        raise InputError(
            f"{len(bundles) + len(deltas)} files in one release; a role lists at most {MAX_TARGETS}",
            do="publish fewer members or deltas",
        )
    paths = _paths(bundles, deltas)
    for rank, bundle in enumerate(bundles):
        own = [delta for delta in deltas if delta.to_sha256 == bundle.sha256]
        about = {
            "version": version,
            "member": bundle.member,
            "rank": rank,
            "fit": dict(bundle.fit),
            "deltas": [{"from": delta.from_sha256, "path": paths[delta.sha256]} for delta in own],
            "channel": CHANNEL,
        }
        _put(targets, paths[bundle.sha256], bundle.size_bytes, bundle.sha256, about)
    for delta in deltas:
        about = {"from": delta.from_sha256, "to": delta.to_sha256, "version": version}
        _put(targets, paths[delta.sha256], delta.size_bytes, delta.sha256, about)
    targets.unrecognized_fields[FIELD] = {**targets.unrecognized_fields.get(FIELD, {}), "highest_version": version}
    return {sha256: path for sha256, path in paths.items() if path in targets.targets}


def remove(targets: Targets, version: int) -> tuple[str, ...]:
    """Take a version out, with its deltas, and return the target paths that left.

    Raises:
        InputError: the role does not list it.
    """
    gone = tuple(path for path, file in targets.targets.items() if _about(file).get("version") == version)
    if not gone:
        live = sorted({_about(file).get("version", 0) for file in targets.targets.values()})
        raise InputError(
            f"version {version} is not live", do=f"live versions are: {', '.join(map(str, live)) or 'none'}"
        )
    for path in gone:
        del targets.targets[path]
    return gone


def make_room(targets: Targets) -> tuple[str, ...]:
    """Take the oldest versions out until the role is short enough, and return the target paths that left."""
    gone: tuple[str, ...] = ()
    while len(targets.targets) > MAX_TARGETS:
        gone += remove(targets, min(_about(file).get("version", 0) for file in targets.targets.values()))
    return gone


def same(targets: Targets, bundles: Sequence[NewBundle], deltas: Sequence[NewDelta]) -> bool:
    """Whether exactly this release is live already."""
    version = bundles[0].version
    live = {
        path: file.hashes["sha256"] for path, file in targets.targets.items() if _about(file).get("version") == version
    }
    new = {bundle_path(bundle.task, version, bundle.member): bundle.sha256 for bundle in bundles}
    return (
        bool(live)
        and set(live.values()) == {*new.values(), *(delta.sha256 for delta in deltas)}
        and (all(live.get(path) == sha256 for path, sha256 in new.items()))
    )


def _paths(bundles: Sequence[NewBundle], deltas: Sequence[NewDelta]) -> dict[str, str]:
    """Target path by sha256."""
    paths: dict[str, str] = {}
    members = {bundle.sha256: bundle for bundle in bundles}
    if len({bundle.member for bundle in bundles}) < len(bundles) or len(members) < len(bundles):
        raise InputError("two bundles hold the same member", do="give each member once")
    for bundle in bundles:
        paths[bundle.sha256] = bundle_path(bundle.task, bundle.version, bundle.member)
    for delta in deltas:
        target = members.get(delta.to_sha256)
        if target is None:
            raise InputError("a delta leads to none of the bundles", do="publish it together with the bundle it makes")
        path = delta_path(target.task, target.version, delta.from_sha256)
        if path in paths.values():
            raise InputError(
                "two deltas of one release start from the same bundle",
                where=path,
                do="give one of them; a node that has the old bundle takes one new member",
            )
        paths[delta.sha256] = path
    return paths


def _put(targets: Targets, path: str, size_bytes: int, sha256: str, about: Mapping[str, Any]) -> None:
    from edgehone.registry.tuf import TargetFile

    targets.targets[path] = TargetFile(size_bytes, {"sha256": sha256}, path, {"custom": {"edgehone": dict(about)}})


def _about(file: TargetFile) -> dict[str, Any]:
    found: dict[str, Any] = file.custom.get("edgehone", {}) if file.custom else {}
    return found
