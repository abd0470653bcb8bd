"""What a core throws away, what it does not, and that uploads meanwhile lose nothing; what stops no job."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, select

from edgehone.loop.dataset import Example, Manifest
from edgehone.records.blobs import Blobs, open_blobs
from edgehone.records.database import Database
from edgehone.records.tables import audit as audit_table
from edgehone.records.tables import dataset, node, sample
from edgehone.service.jobs import Drive, Job, Jobs
from edgehone.service.upkeep import DAY_S, Upkeep, clean
from edgehone.testing.databases import database, database_url, dialect
from edgehone_agent.errors import StateError

__all__ = ["database", "database_url", "dialect"]

NODE = "00000001"


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path / "blobs"))


def put(blobs: Blobs, content: bytes, *, days_old: float = 2.0) -> str:
    """A blob that was put some days ago."""
    digest = blobs.put(content)
    then_s = time.time() - days_old * DAY_S
    os.utime(Path(blobs.url) / digest[:2] / digest, (then_s, then_s))
    return digest


def row(id: str, blob: str | None) -> dict[str, Any]:
    return {
        "node": NODE, "id": id, "task": "digits", "digest": "a" * 64, "time_s": 1.0, "received_s": 1.0,
        "share": "uniform", "propensity": 0.1, "informativeness": 0.5, "stratum": "", "answer": [1.0, 0.0],
        "blob": blob, "size_bytes": 1,
    }  # fmt: skip


def example(id: str, blob: str) -> Example:
    return Example(
        NODE, id, blob, 0, "field", ("core",), ("core",), 1.0, "uniform", 0.1, "", "", "a" * 64, "learn"
    )  # fmt: skip


def add_node(database: Database) -> None:
    with database.write() as conn:
        conn.execute(
            insert(node).values(
                id=NODE, name="one", tags={}, state="active", why="", facts={}, enrolled_s=0.0, status={}, beats=0
            )
        )


def add_version(database: Database, digest: str) -> None:
    with database.write() as conn:
        conn.execute(insert(dataset).values(digest=digest, task="digits", created_s=1.0, parent=None, counts={}))


def test_only_what_nothing_needs_goes(database: Database, blobs: Blobs) -> None:
    add_node(database)
    named, garbage, young = put(blobs, b"named"), put(blobs, b"garbage"), put(blobs, b"young", days_old=0.9)
    listed, deleted = put(blobs, b"listed"), put(blobs, b"deleted")
    manifest = Manifest("digits", ("zero", "one"), (example("gone", listed), example("erased", deleted)), {})
    version = put(blobs, manifest.to_bytes())
    add_version(database, version)
    with database.write() as conn:
        conn.execute(insert(sample), [row("here", named), row("erased", None)])
    removed = clean(database, blobs, now_s=time.time(), actor="core")
    assert removed.blobs == 2
    assert set(blobs.digests()) == {named, young, listed, version}
    assert garbage not in blobs.digests()
    with database.read() as conn:
        told = conn.execute(select(audit_table).where(audit_table.c.action == "blobs.clean")).all()
    assert [(one.actor, one.detail["blobs"]) for one in told] == [("core", 2)]
    assert clean(database, blobs, now_s=time.time(), actor="core").blobs == 0


def test_a_version_that_cannot_be_read_keeps_everything(database: Database, blobs: Blobs) -> None:
    garbage, version = put(blobs, b"garbage"), put(blobs, b"{}")
    add_version(database, version)
    with pytest.raises(StateError, match="cannot be read"):
        clean(database, blobs, now_s=time.time(), actor="core")
    assert blobs.has(garbage)


def test_what_is_put_again_while_garbage_goes_is_there(database: Database, blobs: Blobs) -> None:
    add_node(database)
    contents = [f"reading {number}".encode() for number in range(150)]
    for content in contents:
        put(blobs, content)
    random.Random(1).shuffle(contents)
    begun = threading.Event()

    def upload() -> None:
        for at in range(0, len(contents), 10):
            digests = blobs.put_many(contents[at : at + 10])
            begun.set()
            with database.write() as conn:
                conn.execute(insert(sample), [row(f"s{at + k}", digest) for k, digest in enumerate(digests)])

    thread = threading.Thread(target=upload)
    thread.start()
    assert begun.wait(20)
    removed = 0
    while thread.is_alive():
        removed += clean(database, blobs, now_s=time.time(), actor="core").blobs
    thread.join()
    assert removed > 0, "they did not meet"
    with database.read() as conn:
        lost = [digest for digest in conn.execute(select(sample.c.blob)).scalars() if not blobs.has(digest)]
    assert lost == []


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_it_is_done_once_a_day_by_any_clock(database: Database, blobs: Blobs) -> None:
    now_s = time.time()
    core: Any = SimpleNamespace(database=database, blobs=blobs, clock=lambda: now_s)
    upkeep = Upkeep(core, first_s=600.0)

    def goes(at_s: float) -> bool:
        digest = put(blobs, f"garbage {at_s}".encode(), days_old=40.0)
        upkeep.tick(at_s)
        return not blobs.has(digest)

    after = [0.0, 599.0, 600.0, 700.0, 600.0 + DAY_S - 1, 600.0 + DAY_S, 100.0, 200.0]
    assert [goes(now_s + one) for one in after] == [False, False, True, False, False, True, True, False]


def test_a_defect_ends_neither_jobs_nor_drivers(caplog: pytest.LogCaptureFixture) -> None:
    core: Any = SimpleNamespace(clock=time.time)
    seen: list[str] = []

    def broken(*_: object) -> None:
        seen.append("broken")
        raise ZeroDivisionError

    def twice(name: str) -> Callable[[], bool]:
        return lambda: seen.count(name) >= 2

    jobs = Jobs(core, [Job("broken", 0.01, broken), Job("fine", 0.01, lambda *_: seen.append("fine"))])
    try:
        until(lambda: twice("broken")() and twice("fine")())
    finally:
        jobs.close()
    seen.clear()
    driver: Any = SimpleNamespace(tick=broken, close=lambda: seen.append("closed"))
    drive = Drive(core, lambda _: driver, every_s=0.01)
    try:
        until(twice("broken"))
    finally:
        drive.close()
    assert seen[-1] == "closed"
    assert "a defect of edgehone" in caplog.text and "ZeroDivisionError" in caplog.text


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not found():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
