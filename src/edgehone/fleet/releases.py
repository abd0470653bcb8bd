"""The table of releases: what the registry has signed, with what its bundles say of themselves.

Rules:
- Nothing comes in here but from metadata whose chain of signatures `registry.state.read` has checked.
- A release that the registry lists no more gets `revoked_s`: nobody is sent there. It stays in the table, because nodes
  may run it and their lineage names it.
- Where a release comes from (round, dataset version, who approved it) is written by whoever published it, see `trace`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from edgehone.errors import InputError
from edgehone.fleet import serial
from edgehone.fleet.choose import Offer
from edgehone.records.database import Database
from edgehone.records.tables import release as table
from edgehone.registry.keys import short
from edgehone.registry.names import blob_path, role_of
from edgehone.registry.objects import Objects
from edgehone.registry.state import read
from edgehone_agent.bundle import open_bundle
from edgehone_agent.releases import Release, read_releases
from edgehone_agent.wire.manifest import Fit, Manifest

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Synced:
    """What a look at the registry changed in the table: digests that came, that are listed no more, and again."""

    added: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


def sync(db: Database, store: Objects, now_s: float, *, anchor: bytes | None = None) -> Synced:
    """Bring the table up to date with a registry. Files are read before the write begins.

    Args:
        db: the core's database.
        store: the registry.
        now_s: the core's clock.
        anchor: the trusted root; without one the registry's own first root is believed.

    Raises:
        RegistryError: there is no registry, or a file is missing.
        TrustError: a signature, version or digest is wrong.
        BundleError: a signed bundle cannot be read.
    """
    listed = _listed(store, anchor)
    with db.read() as conn:
        known = _known(conn)
    with tempfile.TemporaryDirectory() as scratch:
        rows = {
            digest: _row(found, _manifest(store, found, Path(scratch)), signed_by, now_s)
            for digest, (found, signed_by) in listed.items()
            if digest not in known
        }
    if not rows and all((since_s is None) == (digest in listed) for digest, since_s in known.items()):
        return Synced()
    with db.write() as conn:
        known = _known(conn)
        added = tuple(digest for digest in rows if digest not in known)
        revoked = tuple(digest for digest, since_s in known.items() if since_s is None and digest not in listed)
        back = tuple(digest for digest, since_s in known.items() if since_s is not None and digest in listed)
        for digest in added:
            conn.execute(insert(table).values(**rows[digest]))
        _mark(conn, revoked, now_s)
        _mark(conn, back, None)
        serial.bump(conn, now_s)
    return Synced(added, revoked, back)


def _listed(store: Objects, anchor: bytes | None) -> dict[str, tuple[Release, str]]:
    """Digest → what the registry lists, and the key that signed it."""
    state = read(store, anchor)
    found: dict[str, tuple[Release, str]] = {}
    for task in state.tasks():
        metadata = state.roles[role_of(task)]
        signed_by = ", ".join(f"key {short(key)}" for key in sorted(metadata.signatures))
        for release in read_releases(task, metadata.signed.targets):
            found[release.sha256] = (release, signed_by)
    return found


def _known(conn: Connection) -> dict[str, float | None]:
    """Digest → since when it is taken back."""
    return {row.digest: row.revoked_s for row in conn.execute(select(table.c.digest, table.c.revoked_s))}


def trace(
    conn: Connection,
    task: str,
    version: int,
    *,
    dataset: str | None = None,
    round: str | None = None,
    approved_by: str | None = None,
) -> None:
    """Write down where a release comes from; None leaves what is there.

    Raises:
        InputError: there is no such release.
    """
    told = {"dataset": dataset, "round": round, "approved_by": approved_by}
    values = {name: value for name, value in told.items() if value is not None}
    where = (table.c.task == task, table.c.version == version)
    if conn.execute(select(table.c.digest).where(*where)).first() is None:
        raise no_release(task, version)
    if values:
        conn.execute(update(table).where(*where).values(**values))


def load_offers(conn: Connection) -> tuple[dict[tuple[str, int], tuple[Offer, ...]], dict[str, Offer]]:
    """Members of every release that may be named, by (task, version); and every release by digest."""
    offers: dict[tuple[str, int], tuple[Offer, ...]] = {}
    known: dict[str, Offer] = {}
    for row in conn.execute(select(table).order_by(table.c.task, table.c.version, table.c.rank, table.c.member)):
        offer = Offer(
            row.task, row.version, row.member, row.digest, row.rank, Fit.from_json(row.fit), _latency_us(row.measured)
        )
        known[row.digest] = offer
        if row.revoked_s is None:
            key = (row.task, row.version)
            offers[key] = (*offers.get(key, ()), offer)
    return offers, known


def no_release(task: str, version: int) -> InputError:
    """The error for a release that is not there, or was taken back."""
    return InputError(
        f"the registry has no version {version} of {task!r}",
        where="release",
        do="publish it first, or look at `edgehone registry status`",
    )


def _manifest(store: Objects, release: Release, scratch: Path) -> Manifest:
    file = store.fetch(blob_path(release.path, release.sha256), scratch)
    with open_bundle(file) as bundle:
        return bundle.manifest


def _row(release: Release, manifest: Manifest, signed_by: str, now_s: float) -> dict[str, Any]:
    dataset = manifest.dataset.get("version", "")
    return {
        "digest": release.sha256,
        "task": release.task,
        "version": release.version,
        "member": release.member,
        "rank": release.rank,
        "size_bytes": release.size_bytes,
        "fit": release.fit.to_json(),
        "measured": dict(manifest.measured),
        "recipe": manifest.recipe,
        "dataset": dataset if _DIGEST.fullmatch(dataset) else None,
        "parent": manifest.parent,
        "approved_by": signed_by,
        "published_s": now_s,
    }


def _mark(conn: Connection, digests: Iterable[str], revoked_s: float | None) -> None:
    for digest in digests:
        conn.execute(update(table).where(table.c.digest == digest).values(revoked_s=revoked_s))


def _latency_us(measured: Mapping[str, Any]) -> dict[str, float]:
    """Runtime → median, of figures called "latency_us RUNTIME"."""
    found = {}
    for name, figure in measured.items():
        kind, _, runtime = name.partition(" ")
        value = figure.get("value") if isinstance(figure, Mapping) else None
        if kind == "latency_us" and runtime and isinstance(value, int | float):
            found[runtime] = float(value)
    return found
