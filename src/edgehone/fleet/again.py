"""Bring nodes home that cannot go back: the old model again, under a version that they may take.

A node never goes to a lower version that it does not have any more. After a rollout was given up, such a node stays
with the version that nobody wants: it is stranded. So the version that its cohort has is published once more, the same
files in a bundle with a higher version, and rolled out to the cohorts of that rollout.

Rules:
- What is published holds the same files to the byte. Its manifest differs in the version, and in the parent, which is
  the old bundle. Bill of materials and provenance go on to speak of the build that made the files.
- It needs the key of the task, as any release does. Nobody is asked to approve it: these bytes were approved before.
- Who is killed between the release and the rollout asks again, and the release that is there is rolled out. Of several
  versions, those that are on their way are left to go on.
- Nothing is published that could not be rolled out, because a rollout runs there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, select

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.errors import InputError
from edgehone.fleet import releases, rollouts
from edgehone.fleet.rollout import Rollout, RolloutPlan
from edgehone.records.database import Database
from edgehone.records.tables import release
from edgehone.records.tables import rollout as rollout_table
from edgehone.registry.keys import KeyRing
from edgehone.registry.names import blob_path, bundle_path, role_of
from edgehone.registry.objects import Objects
from edgehone.registry.publish import publish
from edgehone.registry.release import highest
from edgehone.registry.state import read
from edgehone_agent.bundle import open_bundle
from edgehone_agent.durable import write_bytes

PLAN = RolloutPlan(shadow_rows=0, stages=(1.0,), soak_s=60.0)
"""How the old model comes back: its nodes know it, so it is watched for a moment only."""


@dataclass(frozen=True)
class Again:
    """A version that was published once more: the old one, the new one, and the rollout that brings it."""

    version: int
    as_version: int
    rollout: Rollout


def release_again(
    db: Database,
    store: Objects,
    ring: KeyRing,
    id: str,
    *,
    now_s: float,
    actor: str,
    anchor: bytes | None = None,
    supersede: bool = False,
) -> tuple[Again, ...]:
    """Publish what the cohorts of a rollout that was given up have, and roll it out there.

    Args:
        db: the core's database.
        store, ring, anchor: the registry, the key of the task and the online key, the trusted root.
        id: of the rollout; its first characters are enough.
        now_s: the core's clock.
        actor: as in the audit.
        supersede: end a rollout that runs there.

    Returns:
        One for each version that the cohorts have, most often one.

    Raises:
        InputError: the rollout was not given up, there was no version before it, or the key cannot be opened.
        TrustError: the key is not here.
        RegistryError, StateError: the registry or the database cannot be used.
    """
    releases.sync(db, store, now_s, anchor=anchor)
    with db.read() as conn:
        given_up = rollouts.find_rollout(conn, id)
    _check(given_up)
    wanted: dict[int, list[str]] = {}
    for cohort, version in given_up.before.items():
        if version is not None:
            wanted.setdefault(version, []).append(cohort)
    with db.read() as conn:
        coming = {version for version, cohorts in wanted.items() if _is_coming(conn, given_up, version, cohorts)}
        if coming != wanted.keys():
            wanted = {version: cohorts for version, cohorts in wanted.items() if version not in coming}
        for cohorts in wanted.values() if not supersede else ():
            rollouts.check_free(conn, given_up.task, cohorts)
    done = []
    for version, cohorts in sorted(wanted.items()):
        as_version = _published(db, given_up, version)
        if as_version is None:
            as_version = _publish(db, store, ring, given_up.task, version, now_s, anchor)
        _trace(db, given_up.task, version, as_version)
        begun = rollouts.start(
            db, given_up.task, as_version, now_s=now_s, actor=actor, plan=PLAN, cohorts=sorted(cohorts),
            supersede=supersede,
        )  # fmt: skip
        words = f"version {version} is published again as version {as_version}, and rollout {begun.id} brings it"
        rollouts.note(
            db, given_up.id, "released again", {"words": words, "version": as_version, "rollout": begun.id},
            now_s=now_s, actor=actor,
        )  # fmt: skip
        done.append(Again(version, as_version, begun))
    return tuple(done)


def _check(given_up: Rollout) -> None:
    if given_up.state not in ("aborted", "rolled back"):
        raise InputError(
            f"the rollout is {given_up.state}, so nobody has to come back from it", where=given_up.id,
            do="look at `edgehone fleet rollout status`",
        )  # fmt: skip
    if all(version is None for version in given_up.before.values()):
        raise InputError(
            "its cohorts had no version before, so there is none to publish again", where=given_up.id,
            do="publish a good model under a higher version, and roll that out",
        )  # fmt: skip


def _members(conn: Connection, task: str, version: int) -> list[tuple[str, str]]:
    """Member and digest of each bundle of a version, most preferred first."""
    query = select(release.c.member, release.c.digest).where(release.c.task == task, release.c.version == version)
    return [(row.member, row.digest) for row in conn.execute(query.order_by(release.c.rank, release.c.member))]


def _published(db: Database, given_up: Rollout, version: int) -> int | None:
    """The version under which this was published again before, when no rollout has begun with it."""
    with db.read() as conn:
        old = [digest for _, digest in _members(conn, given_up.task, version)]
        found = conn.execute(
            select(release.c.version)
            .where(
                release.c.task == given_up.task, release.c.version > given_up.version, release.c.parent.in_(old),
                release.c.revoked_s.is_(None),
            )
            .order_by(release.c.version.desc())
        ).scalars().all()  # fmt: skip
        tried = set(
            conn.execute(select(rollout_table.c.version).where(rollout_table.c.task == given_up.task)).scalars()
        )
        for candidate in found:
            if candidate not in tried and _same(conn, given_up.task, candidate, version):
                return int(candidate)
    return None


def _is_coming(conn: Connection, given_up: Rollout, version: int, cohorts: Sequence[str]) -> bool:
    """Whether a rollout brings this version again to these cohorts, or has brought it."""
    query = select(rollout_table.c.content).where(
        rollout_table.c.task == given_up.task, rollout_table.c.version > given_up.version,
        rollout_table.c.state.in_(("running", "paused", "done")),
    )  # fmt: skip
    found = map(Rollout.from_json, conn.execute(query).scalars())
    return any(one.before.keys() == set(cohorts) and _same(conn, one.task, one.version, version) for one in found)


def _same(conn: Connection, task: str, new: int, old: int) -> bool:
    """Whether a release has the members of another, each made from that one's bundle: no round makes such a release."""
    query = select(release.c.parent, release.c.member).where(release.c.task == task, release.c.version == new)
    return {(row.member, row.parent) for row in conn.execute(query)} == set(_members(conn, task, old))


def _publish(
    db: Database, store: Objects, ring: KeyRing, task: str, version: int, now_s: float, anchor: bytes | None
) -> int:
    """Publish a version under the next higher one; its number."""
    with db.read() as conn:
        members = _members(conn, task, version)
    if not members:
        raise releases.no_release(task, version)
    as_version = highest(read(store, anchor).roles[role_of(task)].signed) + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [_rewrite(store, folder, task, version, as_version, *one) for one in members]
        publish(store, ring, files, [], datetime.fromtimestamp(now_s, UTC), anchor=anchor)
    releases.sync(db, store, now_s, anchor=anchor)
    return as_version


def _rewrite(
    store: Objects, folder: Path, task: str, version: int, as_version: int, member: str, digest: str
) -> Path:  # fmt: skip
    fetched = store.fetch(blob_path(bundle_path(task, version, member), digest), folder)
    with open_bundle(fetched) as bundle:
        parts = bundle.manifest.parts
        contents = [Content(part.path, part.role, bundle.read(part), part.runtime) for part in parts]
        manifest = replace(bundle.manifest, version=as_version, parent=digest)
    file = folder / f"again-{member}.bundle"
    write_bytes(file, bundle_bytes(manifest, contents))
    return file


def _trace(db: Database, task: str, version: int, as_version: int) -> None:
    """The new release comes from where the old one came from."""
    columns: Sequence[str] = ("dataset", "round", "approved_by")
    with db.write() as conn:
        old = conn.execute(
            select(*(release.c[name] for name in columns)).where(
                release.c.task == task, release.c.version == version
            ).limit(1)
        ).one()  # fmt: skip
        releases.trace(
            conn, task, as_version, dataset=old.dataset, round=old.round, approved_by=old.approved_by or None
        )  # fmt: skip
