"""Nodes that cannot go back get their old model under a higher version: by the core itself, or by one command."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import delete, insert, select, update

from edgehone.bundle.check import check
from edgehone.cli.main import main
from edgehone.errors import InputError
from edgehone.fleet import releases, rollouts
from edgehone.fleet.again import release_again
from edgehone.fleet.cohorts import set_versions
from edgehone.fleet.rollout import RolloutPlan
from edgehone.records.database import Database, open_database
from edgehone.records.tables import cohort, node, release, rollout
from edgehone.registry.create import load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.names import blob_path, bundle_path
from edgehone.registry.publish import publish
from edgehone.registry.store import Store
from edgehone.service.core import Core
from edgehone.service.jobs import advance_rollouts
from edgehone.service.settings import Place
from edgehone.testing.agents import TASK
from edgehone.testing.bundles import write_bundle
from edgehone.testing.cores import make_core
from edgehone_agent.bundle import open_bundle
from edgehone_agent.wire.uplink import TaskStatus

PLAN = RolloutPlan(shadow_rows=0, canary_share=1.0, stages=(1.0,), patience_s=60.0)
FACTS = {"machine": "x86_64", "runtimes": ["litert"], "memory_bytes": 1 << 30, "agent": "0.1.0"}


class Stranding:
    """A core whose node has version 2 and no version 1 any more, and a rollout of version 2 that was given up."""

    def __init__(self, folder: Path) -> None:
        self.place: Place = make_core(folder / "core", tasks=(TASK,))
        self.database: Database = open_database(self.place.database_url)
        self.store = Store(self.place.registry)
        self.now_s = time.time()
        self.digests: dict[int, str] = {}
        for version in (1, 2):
            made = write_bundle(folder / f"{version}.bundle", version=version)
            ring = self.ring("a passphrase for tests")
            publish(self.store, ring, [made.path], [], datetime.now(UTC), anchor=load_anchor(ring))
            self.digests[version] = made.digest
        releases.sync(self.database, self.store, self.now_s, anchor=load_anchor(self.ring()))
        with self.database.write() as conn:
            set_versions(conn, TASK, [TASK], 1, self.now_s)
            status = TaskStatus(self.digests[2], 2, "linear", ready=True)
            conn.execute(
                insert(node).values(
                    id="0" * 16, name="camera", tags={}, state="active", why="", facts=FACTS, enrolled_s=0.0,
                    seen_s=self.now_s, status={TASK: status.to_json()}, beats=1,
                )
            )  # fmt: skip
        rollouts.start(self.database, TASK, 2, now_s=self.now_s, actor="core", plan=PLAN, id="r1")
        rollouts.abort(self.database, "r1", now_s=self.now_s, actor="core", why="a test")

    def ring(self, *known: str) -> KeyRing:
        return KeyRing([self.place.keys], Passphrases(known))

    def again(self, **more: Any) -> Any:
        anchor = load_anchor(self.ring())
        ring = self.ring()
        return release_again(
            self.database, self.store, ring, "r1", now_s=self.now_s, actor="core", anchor=anchor, **more
        )

    def events(self) -> list[str]:
        with self.database.read() as conn:
            return [event.what for event in rollouts.list_events(conn, "r1")]

    def core(self) -> Core:
        return cast(Core, SimpleNamespace(place=self.place, database=self.database))

    def patience_is_over(self) -> None:
        self.now_s += 100.0
        with self.database.write() as conn:
            conn.execute(update(node).values(seen_s=self.now_s, beats=node.c.beats + 1))


@pytest.fixture
def stranding(tmp_path: Path) -> Iterator[Stranding]:
    made = Stranding(tmp_path)
    yield made
    made.database.close()


def test_the_same_files_under_a_higher_version_go_to_the_same_cohorts(stranding: Stranding, tmp_path: Path) -> None:
    (done,) = stranding.again()
    assert (done.version, done.as_version, done.rollout.version, dict(done.rollout.before)) == (1, 3, 3, {TASK: 1})
    with stranding.database.read() as conn:
        row = conn.execute(select(release).where(release.c.version == 3)).one()
    assert row.parent == stranding.digests[1]
    new = stranding.store.fetch(blob_path(bundle_path(TASK, 3, "linear"), row.digest), tmp_path)
    old = stranding.store.fetch(blob_path(bundle_path(TASK, 1, "linear"), stranding.digests[1]), tmp_path)
    with open_bundle(new) as one, open_bundle(old) as other:
        assert one.manifest == replace(other.manifest, version=3, parent=stranding.digests[1])
        assert [one.read(part) for part in one.manifest.parts] == [other.read(part) for part in other.manifest.parts]
    assert all(result.ok for result in check(new).values())
    assert stranding.events()[-1] == "released again"
    with pytest.raises(InputError, match="version 3 is being rolled out there"):
        stranding.again()
    with stranding.database.read() as conn:  # and nothing was published for it
        assert set(conn.execute(select(release.c.version)).scalars()) == {1, 2, 3}


def test_who_was_killed_before_the_rollout_goes_on_with_the_release_that_is_there(stranding: Stranding) -> None:
    (first,) = stranding.again()
    with stranding.database.write() as conn:
        conn.execute(delete(rollouts.rollout_event).where(rollouts.rollout_event.c.rollout == first.rollout.id))
        conn.execute(delete(rollout).where(rollout.c.id == first.rollout.id))
        # killed even before it was written where the release comes from
        conn.execute(update(release).where(release.c.version == 1).values(approved_by="person:ada"))
    (second,) = stranding.again()
    assert second.as_version == 3
    with stranding.database.read() as conn:
        assert conn.execute(select(release.c.approved_by).where(release.c.version == 3)).scalar() == "person:ada"


def test_who_was_killed_between_two_versions_goes_on_with_the_second(stranding: Stranding) -> None:
    with stranding.database.write() as conn:
        conn.execute(
            insert(cohort).values(
                name="b", task=TASK, tags={"b": "1"}, channel="stable", version=2, since_s=0.0, policy={}
            )
        )
        row = conn.execute(select(rollout.c.content).where(rollout.c.id == "r1")).scalar_one()
        conn.execute(update(rollout).values(content={**row, "before": {TASK: 1, "b": 2}}))
    _, second = stranding.again()
    with stranding.database.write() as conn:
        conn.execute(delete(rollouts.rollout_event).where(rollouts.rollout_event.c.rollout == second.rollout.id))
        conn.execute(delete(rollout).where(rollout.c.id == second.rollout.id))
    (third,) = stranding.again()
    assert (third.version, third.as_version, dict(third.rollout.before)) == (2, second.as_version, {"b": 2})


def test_the_core_does_it_by_itself_when_the_patience_is_over(stranding: Stranding) -> None:
    advance_rollouts(stranding.core(), stranding.now_s)
    assert stranding.events()[-1] == "abort"
    stranding.patience_is_over()
    advance_rollouts(stranding.core(), stranding.now_s)
    assert stranding.events()[-2:] == ["stranded", "released again"]
    with stranding.database.read() as conn:
        (running,) = rollouts.list_rollouts(conn, TASK, running=True)
    assert running.version == 3


def test_where_it_may_not_sign_it_says_which_command_a_person_runs(
    stranding: Stranding, capsys: pytest.CaptureFixture[str]
) -> None:
    away = stranding.place.folder / "away"
    stranding.place.keys.rename(away)
    (stranding.place.keys).mkdir()
    for kept in away.iterdir():
        if not kept.name.startswith(f"task-{TASK}") and TASK not in kept.name:
            kept.rename(stranding.place.keys / kept.name)
    stranding.patience_is_over()
    advance_rollouts(stranding.core(), stranding.now_s)
    with stranding.database.read() as conn:
        event = rollouts.list_events(conn, "r1")[-1]
    assert event.what == "not released again"
    assert "edgehone fleet rollout again r1" in event.detail["words"]
    for kept in away.iterdir():
        kept.rename(stranding.place.keys / kept.name)
    command = ["fleet", "rollout", "again", "r1", "--core", str(stranding.place.folder), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["again"][0]["as_version"] == 3


def test_what_makes_no_sense_is_refused(stranding: Stranding) -> None:
    with stranding.database.write() as conn:
        row = conn.execute(select(rollout.c.content).where(rollout.c.id == "r1")).scalar_one()
        conn.execute(update(rollout).values(content={**row, "before": {TASK: None}}))
    with pytest.raises(InputError, match="no version before"):
        stranding.again()
    with stranding.database.write() as conn:
        conn.execute(update(rollout).values(content={**row, "state": "done"}))
    with pytest.raises(InputError, match="nobody has to come back"):
        stranding.again()
