"""python-tuf's client over our transport and our time. It verifies; nothing here does.

Rules:
- The embedded root is the anchor of every refresh. Local metadata is a cache that may be thrown away at any time.
- Expiry is judged at a time that the caller gives. python-tuf takes the clock once, when an Updater is made, and looks
  at it when a timestamp is loaded or later; it is replaced right after the making. `refresh` refuses to work with a
  python-tuf that no longer does it so.
- python-tuf writes its files whole but unsynced. `sync` does that when something new was accepted. Whatever a power cut
  leaves is verified again when it is read, and fetched again when it is no use. What must not be lost is in `_floors`.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Metadata,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgehone_agent._floors import Mark
from edgehone_agent.durable import state_error, sync_folder
from edgehone_agent.errors import HostError, InputError, RegistryError, TrustError
from edgehone_agent.transport import Source

ROOT, TIMESTAMP, SNAPSHOT, TARGETS = "root", "timestamp", "snapshot", "targets"
_CONFIG = UpdaterConfig(
    root_max_length=256_000, timestamp_max_length=16_384, snapshot_max_length=1_000_000, targets_max_length=2_000_000
)
# The disk is at fault, or our rights on it; throwing files away would not help.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True)
class Verified:
    """A state of the registry whose signatures, versions and dates were accepted.

    Attributes:
        root, timestamp, snapshot, targets: the top-level roles.
        role: what the task's own role lists.
        delegation: how `targets` delegates to it.
    """

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    role: Targets
    delegation: DelegatedRole

    def signed(self) -> tuple[tuple[str, Signed], ...]:
        """Every role with its name."""
        return (
            (ROOT, self.root),
            (TIMESTAMP, self.timestamp),
            (SNAPSHOT, self.snapshot),
            (TARGETS, self.targets),
            (self.delegation.name, self.role),
        )

    def marks(self, anchor: str) -> dict[str, Mark]:
        """Version of every role, and by whose keys it was signed; the root's goes with the registry named `anchor`."""
        marks = {
            name: Mark(anchor if name == ROOT else name_keys(self.root.roles[name]), signed.version)
            for name, signed in self.signed()[:-1]
        }
        return {**marks, self.delegation.name: Mark(name_keys(self.delegation), self.role.version)}


@dataclass(frozen=True)
class Expired:
    """A refresh that ended at metadata that is past its date.

    Attributes:
        text: which.
        root: the newest root.
        timestamp: the newest timestamp, where it is signed well; None when the root is what expired.
    """

    text: str
    root: Root
    timestamp: Timestamp | None


class _Fetcher(FetcherInterface):
    """Metadata from our source; the limit on its size goes along."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def download_bytes(self, url: str, max_length: int) -> bytes:
        content = self._source.find(url, max_length)
        if content is None:
            raise DownloadHTTPError(f"{url} is not there", 404)
        return content

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, _CONFIG.targets_max_length)


def name_keys(role: Role) -> str:
    """A short name for the keys that sign a role, and how many of them must."""
    return hashlib.sha256(f"{role.threshold} {' '.join(sorted(map(str, role.keyids)))}".encode()).hexdigest()[:16]


def read_root(content: bytes) -> Root:
    """The embedded root.

    Raises:
        TrustError: it is no root, or not signed by its own keys.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(content)
        root = metadata.signed
        if not isinstance(root, Root):
            raise RepositoryError(f"it is {root.type} metadata")
        root.verify_delegate(ROOT, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise TrustError(
            f"this is no root of a registry: {error}", where="root", do="give the root.json of your registry"
        ) from error
    return root


def knows_root(folder: Path, root: bytes) -> bool:
    """Whether a root is one of those that local metadata came by."""
    try:
        return any(file.read_bytes() == root for file in (folder / "root_history").glob("*.root.json"))
    except OSError:
        return False


def refresh(folder: Path, root: bytes, source: Source, task: str, at_s: float) -> Verified | Expired:
    """Bring local metadata up to date, and return it with one task's role.

    Args:
        folder: of local metadata.
        root: the embedded root.
        source: the registry.
        task: whose role to load.
        at_s: Unix time at which expiry is judged.

    Raises:
        TrustError: a signature, threshold, version, digest or format is wrong.
        InputError: the registry has no such task.
        RegistryError: it cannot be reached, or a file that must be there is not.
        StateError: local metadata cannot be written.
    """
    try:
        return _refresh_once(folder, root, source, task, at_s)
    except OSError as error:
        if error.errno in _DISK:
            raise state_error(error, folder) from error
    throw_away(folder)
    try:
        return _refresh_once(folder, root, source, task, at_s)
    except OSError as error:
        raise state_error(error, folder) from error


def throw_away(folder: Path) -> None:
    """Forget local metadata: the next refresh starts from the embedded root.

    Raises:
        StateError: the folder cannot be removed.
    """
    try:
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
    except OSError as error:
        raise state_error(error, folder) from error


def _refresh_once(folder: Path, root: bytes, source: Source, task: str, at_s: float) -> Verified | Expired:
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("tmp*"):  # python-tuf's, from a process that was killed
        left_over.unlink(missing_ok=True)
    trusted: Any = None
    try:
        updater = Updater(str(folder), "metadata/", fetcher=_Fetcher(source), config=_CONFIG, bootstrap=root)
        trusted = updater._trusted_set
        _set_time(trusted, at_s)
        updater.refresh()
        role = f"task-{task}"
        delegations = trusted.targets.delegations
        delegated = (delegations.roles or {}) if delegations else {}
        if role not in delegated:
            tasks = (str(name) for name in delegated)  # python-tuf lets a signed name be a number
            known = ", ".join(name.removeprefix("task-") for name in tasks if name.startswith("task-"))
            raise InputError(f"the registry has no task {task!r}", do=f"choose one of: {known or 'none so far'}")
        delegation = delegated[role]
        if not delegation.terminating or delegation.paths != [f"{task}/*"]:
            raise TrustError(
                f"the role {role} may release more than the task {task!r}",
                where="targets.json",
                do="have the registry looked at: each task has a role of its own",
            )
        updater.get_targetinfo(f"{task}/.")  # no such file; loads and verifies the role on the way
        if not trusted.contains(role, TARGETS):
            raise TrustError(
                f"another role stands before {role} for the files of {task!r}",
                where="targets.json",
                do="have the registry looked at: each task has a role of its own",
            )
    except ExpiredMetadataError as error:
        seen = trusted.timestamp if TIMESTAMP in trusted else None
        return Expired(str(error), trusted.root, seen)
    except RepositoryError as error:
        raise TrustError(
            f"the registry's metadata is refused: {error}",
            where=type(error).__name__,
            do="look at the clock; if it is right, have the registry and the network looked at",
        ) from error
    except DownloadError as error:
        raise RegistryError(
            f"this is no registry, or it is not complete: {error}", do="check the address of the registry"
        ) from error
    return Verified(trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets, trusted[role], delegation)


def _set_time(trusted: Any, at_s: float) -> None:
    if not isinstance(getattr(trusted, "reference_time", None), datetime.datetime):
        raise HostError(
            "this version of tuf takes its time from elsewhere, so expiry cannot be judged safely",
            do="install the tuf that edgehone-agent asks for: pip install 'tuf>=7.0.1,<8'",
        )
    trusted.reference_time = utc(at_s)


def utc(at_s: float) -> datetime.datetime:
    """A Unix time as a date; what no date can hold becomes the first or last one."""
    try:
        return datetime.datetime.fromtimestamp(at_s, datetime.UTC)
    except (OverflowError, OSError, ValueError):
        edge = datetime.datetime.max if at_s > 0 else datetime.datetime.min
        return edge.replace(tzinfo=datetime.UTC)


def sync(folder: Path) -> None:
    """Have local metadata on disk.

    Raises:
        StateError: the disk is full or broken.
    """
    try:
        for place in (folder, folder / "root_history"):
            for file in place.iterdir():
                if file.is_file() and not file.is_symlink():
                    descriptor = os.open(file, os.O_RDONLY)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
            sync_folder(place)
    except OSError as error:
        raise state_error(error, folder) from error
