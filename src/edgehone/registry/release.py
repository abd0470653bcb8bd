"""The releases in a task's role, as values: what is live, what a new one adds, what has to go.

Rules:
- A version is one release: one or more members, and deltas that lead to them. It comes and goes as a whole.
- Versions only grow, also past a revoked one: the role remembers the highest it ever had, because nodes do.
- A role lists at most 100 targets. Deltas to older versions leave first, then the oldest versions; the newest stays.

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
class Way:
    """A delta that a role lists.

    Attributes:
        path: its target path.
        member: of the bundle it makes.
        from_sha256: the bundle it starts from.
        from_version: of that bundle, None when it is live no more.
        size_bytes: of the delta.
        share: of the bundle it makes, 0 to 1.
    """

    path: str
    member: str
    from_sha256: str
    from_version: int | None
    size_bytes: int
    share: float


@dataclass(frozen=True)
class Listed:
    """One bundle that a role lists. `rank` orders the members of a version, lower is preferred."""

    path: str
    version: int
    member: str
    rank: int
    sha256: str
    size_bytes: int
    deltas: tuple[Way, ...]


def listed(targets: Targets) -> tuple[Listed, ...]:
    """Every bundle that a role lists, newest version first, in a version by rank."""
    found = []
    versions = {
        file.hashes["sha256"]: _about(file)["version"] for file in targets.targets.values() if "member" in _about(file)
    }
    for path, file in targets.targets.items():
        about = _about(file)
        if "member" in about:
            known = [delta for delta in about["deltas"] if delta["path"] in targets.targets]
            deltas = tuple(
                Way(
                    delta["path"], about["member"], delta["from"], versions.get(delta["from"]), size, size / file.length
                )
                for delta in known
                for size in [targets.targets[delta["path"]].length]
            )
            found.append(
                Listed(
                    path, about["version"], about["member"], about["rank"], file.hashes["sha256"], file.length, deltas
                )
            )
    return tuple(sorted(found, key=lambda bundle: (-bundle.version, bundle.rank)))


def ways(targets: Targets, version: int) -> tuple[Way, ...]:
    """Deltas that lead to a version."""
    return tuple(way for bundle in listed(targets) if bundle.version == version for way in bundle.deltas)


def highest(targets: Targets) -> int:
    """The highest version that the role ever listed, 0 when there was none."""
    return int(targets.unrecognized_fields.get(FIELD, {}).get("highest_version", 0))


def check_higher(targets: Targets, task: str, version: int) -> None:
    """Refuse a version that is not higher than all before it.

    Raises:
        InputError: it is not.
    """
    if version <= highest(targets):
        raise InputError(
            f"version {version} of {task!r} is not higher than {highest(targets)}, which was released before",
            do=f"build the bundle again with version {highest(targets) + 1} or higher",
        )


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
    check_higher(targets, task, version)
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
    """Take out deltas to older versions, then the oldest versions, until the role is short enough.

    Returns:
        The target paths that left.
    """
    gone: tuple[str, ...] = ()
    versions = sorted({_about(file).get("version", 0) for file in targets.targets.values()})[:-1]
    for drop in (_remove_deltas, remove):
        for version in versions:
            if len(targets.targets) > MAX_TARGETS:
                gone += drop(targets, version)
    return gone


def same(targets: Targets, bundles: Sequence[NewBundle], deltas: Sequence[NewDelta]) -> bool:
    """Whether this release is live already, with these deltas; it may have more of them."""
    version = bundles[0].version
    live = {bundle.path: bundle.sha256 for bundle in listed(targets) if bundle.version == version}
    new = {bundle_path(bundle.task, version, bundle.member): bundle.sha256 for bundle in bundles}
    listed_deltas = {targets.targets[way.path].hashes["sha256"] for way in ways(targets, version)}
    return bool(live) and live == new and {delta.sha256 for delta in deltas} <= listed_deltas


def _remove_deltas(targets: Targets, version: int) -> tuple[str, ...]:
    """Take the deltas to a version out; what names them says so no more."""
    gone = tuple(way.path for way in ways(targets, version))
    for path in gone:
        del targets.targets[path]
    for file in targets.targets.values():
        about = _about(file)
        if gone and "member" in about:
            about["deltas"] = [delta for delta in about["deltas"] if delta["path"] not in gone]
    return gone


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
