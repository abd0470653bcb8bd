"""The releases that a task's verified metadata lists, as values.

Rules, for what is signed may still be wrong:
- A role may list files under its own task's folder only; a role that lists others is refused as a whole.
- The name of a bundle, its version and its member say the same: `TASK/VERSION-MEMBER.bundle`.
- A delta counts where the same role lists its file and both say which bundle it makes.
- Other targets, and fields of a newer format, are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgehone_agent.errors import InputError, TrustError
from edgehone_agent.fit import read_fit
from edgehone_agent.wire.manifest import Fit

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets

_TASK = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_VERSION = 2**53  # what JSON readers of every language hold exactly


@dataclass(frozen=True)
class Delta:
    """A file that makes a release's bundle out of an older one.

    Attributes:
        from_sha256: digest of the bundle it starts from.
        path: target path.
        sha256, size_bytes: of the delta itself.
    """

    from_sha256: str
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Release:
    """One member of one version of a task, signed and current.

    Attributes:
        task, version, member: what it is.
        path: target path.
        sha256, size_bytes: of the bundle.
        rank: order among the members of a version, lower is preferred.
        fit: what a node must have.
        deltas: shorter ways to it.
    """

    task: str
    path: str
    version: int
    member: str
    sha256: str
    size_bytes: int
    rank: int
    fit: Fit
    deltas: tuple[Delta, ...] = ()


def checked_task(task: str) -> str:
    """A task's name, if a role and a path may be made of it.

    Raises:
        InputError: it may not.
    """
    if not _TASK.fullmatch(task):
        raise InputError(
            f"{task!r} cannot be the name of a task",
            do="use up to 64 lower case letters, digits, '.', '_' and '-', and begin with a letter or digit",
        )
    return task


def location(item: Release | Delta) -> str:
    """Where a file lies in the registry: its path, the digest before the name (TUF specification, section 6.2)."""
    folder, _, name = item.path.rpartition("/")
    return f"targets/{folder}/{item.sha256}.{name}"


def read_releases(task: str, targets: Mapping[str, TargetFile]) -> tuple[Release, ...]:
    """Every release that a task's role lists, newest version first, in a version by rank.

    Raises:
        TrustError: a rule of this module is broken.
    """
    strangers = [path for path in targets if not path.startswith(f"{task}/") or "/" in path[len(task) + 1 :]]
    if strangers:
        raise _wrong(f"a key that may release for {task!r} only has signed this path", strangers[0])
    found = []
    for path, file in targets.items():
        about = _about(file)
        if "member" in about:
            found.append(_release(task, path, file, about, targets))
    return tuple(sorted(found, key=lambda release: (-release.version, release.rank, release.member)))


def highest_version(role: Targets) -> int:
    """The highest version that a task's role knows to have been released, 0 when it knows of none.

    An edgehone registry states it, for a release that was taken back still counts. Where nothing readable is stated,
    the highest that is listed counts.
    """
    stated = role.unrecognized_fields.get("x-edgehone")
    known = [stated.get("highest_version")] if isinstance(stated, Mapping) else []
    known += [_about(file).get("version") for file in role.targets.values()]
    return max((one for one in known if type(one) is int and 0 < one <= MAX_VERSION), default=0)


def _release(
    task: str, path: str, file: TargetFile, about: Mapping[str, Any], targets: Mapping[str, TargetFile]
) -> Release:
    version, member, rank = about.get("version"), about["member"], about.get("rank", 0)
    if type(version) is not int or not 0 < version <= MAX_VERSION or type(rank) is not int:
        raise _wrong("the release says nothing readable about its version or rank", path)
    if not isinstance(member, str) or path != f"{task}/{version}-{member}.bundle":
        raise _wrong("the release is not what its name says", path)
    sha256, size_bytes = _identity(path, file)
    listed = about.get("deltas", [])
    if not isinstance(listed, list):
        raise _wrong("the release says nothing readable about 'deltas'", path)
    deltas = tuple(delta for entry in listed if (delta := _delta(entry, sha256, targets)) is not None)
    return Release(task, path, version, member, sha256, size_bytes, rank, read_fit(about.get("fit", {}), path), deltas)


def _delta(entry: Any, to_sha256: str, targets: Mapping[str, TargetFile]) -> Delta | None:
    """A delta if the role lists it and it leads here; a missing shortcut is no reason to refuse the way."""
    path, start = (entry.get("path"), entry.get("from")) if isinstance(entry, Mapping) else (None, None)
    file = targets.get(path) if isinstance(path, str) else None
    if file is None or not isinstance(path, str) or not isinstance(start, str) or not _DIGEST.fullmatch(start):
        return None
    about = _about(file)
    if about.get("from") != start or about.get("to") != to_sha256:
        return None
    return Delta(start, path, *_identity(path, file))


def _about(file: TargetFile) -> Mapping[str, Any]:
    about = file.custom.get("edgehone") if isinstance(file.custom, Mapping) else None
    return about if isinstance(about, Mapping) else {}


def _identity(path: str, file: TargetFile) -> tuple[str, int]:
    sha256 = file.hashes.get("sha256")
    if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256) or type(file.length) is not int or file.length < 1:
        raise _wrong("the file is listed without a sha256 digest and a size", path)
    return sha256, file.length


def _wrong(what: str, path: str) -> TrustError:
    return TrustError(what, where=path, do="have the release and the key that signed it looked at")
