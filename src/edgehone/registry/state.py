"""What a registry says now, read from its files and checked as a node would check it.

The chain of roots starts at the publisher's own copy (`root.json` among the keys), so a folder that somebody swapped is
refused before anything in it is signed again. Signatures, thresholds, versions and digests are checked by python-tuf's
metadata API. Expiry is not: a registry that expired must still be repairable.

A role whose key the newest root replaced may still be signed by the key before it: see `commit`, which writes the new
signature. Such a registry is read here, and `State.behind` names those roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgehone.registry.names import Expiry, metadata_path, task_of
from edgehone.registry.objects import Objects, no_registry
from edgehone_agent.errors import RegistryError, TrustError

if TYPE_CHECKING:
    from edgehone.registry.tuf import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

    Signed = TypeVar("Signed", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class State:
    """All current metadata of a registry.

    Attributes:
        root, timestamp, snapshot, targets: the top-level roles.
        roles: the delegated ones by role name.
        behind: roles that only the root before the newest one accepts; nodes refuse them until they are signed again.
    """

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    roles: Mapping[str, Metadata[Targets]]
    behind: tuple[str, ...] = ()

    @property
    def expiry(self) -> Expiry:
        """How long fresh metadata holds."""
        return Expiry.from_root(self.root.signed.unrecognized_fields)

    def version(self, role: str) -> int:
        """Current version of a role, 0 when there is none."""
        if role in ("root", "timestamp", "snapshot", "targets"):
            version: int = getattr(self, role).signed.version
            return version
        return self.roles[role].signed.version if role in self.roles else 0

    def tasks(self) -> tuple[str, ...]:
        """Tasks that the targets role delegates, sorted."""
        return tuple(sorted(task for task in map(task_of, self.roles) if task is not None))


def read(store: Objects, anchor: bytes | None = None) -> State:
    """Read and check everything.

    Args:
        store: the registry.
        anchor: a trusted root; without one the registry's own first root is believed.

    Raises:
        RegistryError: there is no registry, or a file that is named is missing.
        TrustError: a signature, threshold, version or digest is wrong.
    """
    roots = _roots(store, anchor)
    root = roots[-1]
    believed = roots[-2:][::-1]  # the newest root, then the one before
    behind: list[str] = []

    def accepted(role: str, metadata: Any, path: str) -> None:
        for number, candidate in enumerate(believed):
            if _signed_for(candidate.signed, role, metadata):
                if number:
                    behind.append(role)
                return
        raise TrustError(
            f"the {role} metadata is not signed by the keys that the root names",
            where=store.place(path),
            do="do not publish; find out who changed the folder, and restore it from a copy",
        )

    path = metadata_path("timestamp", 0)
    timestamp: Metadata[Timestamp] = _parse(store, path, "timestamp")
    accepted("timestamp", timestamp, path)
    meta = timestamp.signed.snapshot_meta
    path = metadata_path("snapshot", meta.version)
    snapshot: Metadata[Snapshot] = _parse(store, path, "snapshot", meta)
    accepted("snapshot", snapshot, path)
    meta = _named(store, snapshot, "targets")
    path = metadata_path("targets", meta.version)
    targets: Metadata[Targets] = _parse(store, path, "targets", meta)
    accepted("targets", targets, path)
    roles: dict[str, Metadata[Targets]] = {}
    delegations = targets.signed.delegations
    for role in (delegations.roles or {}) if delegations else {}:
        meta = _named(store, snapshot, role)
        path = metadata_path(role, meta.version)
        roles[role] = _parse(store, path, "targets", meta)
        if not _signed_for(targets.signed, role, roles[role]):
            raise TrustError(
                f"the metadata of {role} is not signed by the key it was delegated to",
                where=store.place(path),
                do="do not publish; find out who changed the folder, and restore it from a copy",
            )
    return State(root, timestamp, snapshot, targets, roles, tuple(behind))


def _roots(store: Objects, anchor: bytes | None) -> list[Metadata[Root]]:
    """The trusted root and every later one, each accepted by the one before and by itself."""
    first = anchor if anchor is not None else store.read(metadata_path("root", 1))
    if first is None:
        raise no_registry(store.place())
    root: Metadata[Root] = _decode(first, "root", "root.json" if anchor else store.place("metadata/1.root.json"))
    if not _signed_for(root.signed, "root", root):
        raise TrustError("the trusted root is not signed by its own keys", do="restore root.json from a copy")
    roots = [root]
    while (content := store.read(path := metadata_path("root", roots[-1].signed.version + 1))) is not None:
        new: Metadata[Root] = _decode(content, "root", store.place(path))
        before = roots[-1].signed
        if new.signed.version != before.version + 1 or not (
            _signed_for(before, "root", new) and _signed_for(new.signed, "root", new)
        ):
            raise TrustError(
                "this root does not follow from the one before it",
                where=store.place(path),
                do="do not publish; find out who changed the folder, and restore it from a copy",
            )
        roots.append(new)
    if anchor is not None and store.read(path := metadata_path("root", root.signed.version)) != anchor:
        raise TrustError(
            "the registry's root is not the one kept with the keys",
            where=store.place(path),
            do="give the keys of this registry, or restore the folder from a copy",
        )
    return roots


def _signed_for(delegator: Root | Targets, role: str, metadata: Any) -> bool:
    return bool(delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def _named(store: Objects, snapshot: Metadata[Snapshot], role: str) -> MetaFile:
    meta = snapshot.signed.meta.get(f"{role}.json")
    if meta is None:
        raise TrustError(f"the snapshot does not name {role}", where=store.place(), do="restore it from a copy")
    return meta


def _parse(store: Objects, path: str, kind: str, meta: MetaFile | None = None) -> Any:
    """A metadata file as the kind it must be, with the version and digest that were announced."""
    from edgehone.registry.tuf import LengthOrHashMismatchError

    content = store.read(path)
    where = store.place(path)
    if content is None:
        raise RegistryError("a file of the registry is missing", where=where, do="restore the folder from a copy")
    metadata = _decode(content, kind, where)
    try:
        if meta is not None:
            meta.verify_length_and_hashes(content)
    except LengthOrHashMismatchError as error:
        raise TrustError(
            "the file is not the one that was announced", where=where, do="restore it from a copy"
        ) from error
    if meta is not None and metadata.signed.version != meta.version:
        raise TrustError("the file has another version than announced", where=where, do="restore it from a copy")
    return metadata


def _decode(content: bytes, kind: str, where: str) -> Any:
    from edgehone.registry.tuf import DeserializationError, Metadata

    try:
        metadata: Any = Metadata.from_bytes(content)
    except DeserializationError as error:
        raise TrustError("the file is no TUF metadata", where=where, do="restore it from a copy") from error
    if metadata.signed.type != kind:
        raise TrustError(
            f"the file is {metadata.signed.type} metadata, not {kind}", where=where, do="restore it from a copy"
        )
    return metadata
