"""A backup is made while the core works, is checked before it is restored, and overwrites nothing."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from edgehone.records.backup import backup, copy, restore, verify
from edgehone.records.blobs import Blobs, open_blobs
from edgehone.records.database import Database, open_database, sqlite_url
from edgehone.records.tables import dataset, setting
from edgehone.testing.databases import new_url
from edgehone.testing.rows import everything, fill
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import StateError


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path / "blobs"))


@pytest.fixture
def saved(tmp_path: Path, blobs: Blobs) -> Path:
    """A backup of an SQLite core with some of everything."""
    with closing(open_database(new_url("sqlite", tmp_path))) as database:
        fill(database, random.Random(3), rows=3)
        blobs.put_many([b"one", b"two"])
        (tmp_path / "ca").mkdir()
        (tmp_path / "ca" / "ca.key").write_bytes(b"key")
        (tmp_path / "ca" / "ca.key").chmod(0o600)
        (tmp_path / "core.toml").write_text("[core]\n")
        files = {"ca": tmp_path / "ca", "core.toml": tmp_path / "core.toml"}
        backup(database, blobs, tmp_path / "saved", now_s=5.0, files=files)
    return tmp_path / "saved"


def add(database: Database, key: str) -> None:
    with database.write() as connection:
        connection.execute(insert(setting), {"key": key, "value": 1, "changed_s": 1.0})


def keys(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(select(setting.c.key).order_by(setting.c.key)))


def test_it_is_the_database_of_one_moment_while_writes_go_on(database: Database, blobs: Blobs, tmp_path: Path) -> None:
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():  # two rows that belong together, again and again
            number = f"{len(written):06d}"
            with database.write() as connection:
                for half in "ab":
                    connection.execute(insert(setting), {"key": number + half, "value": 1, "changed_s": 1.0})
            written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        before = 0
        for attempt in range(3):
            made = backup(database, blobs, tmp_path / f"saved{attempt}", now_s=1.0)
            assert made.rows["setting"] % 2 == 0
            assert made.rows["setting"] >= before
            before = 2 * len(written)
    finally:
        stop.set()
        thread.join()
    restore(tmp_path / "saved2", sqlite_url(tmp_path / "new.sqlite"), open_blobs("memory://"))
    with closing(open_database(sqlite_url(tmp_path / "new.sqlite"))) as restored:
        found = keys(restored)
        assert len(found) == made.rows["setting"]
        assert (
            [key[:-1] for key in found[::2]] == [key[:-1] for key in found[1::2]] == sorted(written)[: len(found) // 2]
        )


def test_progress_is_told(database: Database, blobs: Blobs, tmp_path: Path) -> None:
    fill(database, random.Random(1), rows=2)
    blobs.put(b"x")
    told: list[tuple[str, int, int]] = []
    backup(database, blobs, tmp_path / "saved", now_s=1.0, progress=lambda *step: told.append(step))
    restore(
        tmp_path / "saved", sqlite_url(tmp_path / "n.sqlite"), open_blobs("memory://"),
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert {"saving blobs", "checking blobs", "checking files", "restoring blobs", "database"} <= {
        what for what, _, _ in told
    }
    assert all(0 < done <= total for _, done, total in told)


def test_blobs_that_were_lost_before_are_named_and_stop_nothing(database: Database, tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path / "blobs"))
    damaged, missing, fine = blobs.put(b"damaged"), "5a" * 32, blobs.put(b"fine")
    (tmp_path / "blobs" / damaged[:2] / damaged).write_bytes(b"other")
    with database.write() as connection:
        row = {"digest": missing, "task": "t", "created_s": 0.0, "parent": None, "counts": {}}
        connection.execute(insert(dataset), row)
    made = backup(database, blobs, tmp_path / "saved", now_s=1.0)
    assert made.lost == tuple(sorted([damaged, missing]))
    restored = open_blobs("memory://")
    assert restore(tmp_path / "saved", sqlite_url(tmp_path / "n.sqlite"), restored).lost == made.lost
    assert list(restored.digests()) == [fine]


def test_other_files_come_back_with_their_permissions(saved: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    files = {"ca": new / "ca", "core.toml": new / "core.toml"}
    restore(saved, sqlite_url(new / "core.sqlite"), open_blobs(str(new / "blobs")), files=files)
    assert (new / "ca" / "ca.key").read_bytes() == b"key"
    assert (new / "ca" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert (new / "core.toml").read_text() == "[core]\n"
    assert saved.stat().st_mode & 0o777 == 0o700


def test_files_that_are_published_meanwhile_belong_together(blobs: Blobs, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    registry.mkdir()
    stop = threading.Event()

    def publish() -> None:
        for number in range(30):
            write_bytes(registry / f"{number}.snapshot.json", b"x" * 1000)
            write_bytes(registry / "timestamp.json", b"%d" % number)
            if stop.wait(0.01):
                return

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        with closing(open_database(new_url("sqlite", tmp_path))) as database:
            backup(database, blobs, tmp_path / "saved", now_s=1.0, files={"registry": registry})
    finally:
        stop.set()
        thread.join()
    saved = tmp_path / "saved" / "files" / "registry"
    newest = int((saved / "timestamp.json").read_text()) if (saved / "timestamp.json").exists() else -1
    assert {path.name for path in saved.glob("*.snapshot.json")} >= {f"{n}.snapshot.json" for n in range(newest + 1)}


def test_files_that_never_rest_are_said(blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgehone.records import backup as module

    (tmp_path / "ca").write_bytes(b"0")
    save = module._save_file

    def save_and_change(file: Path, target: Path) -> None:
        save(file, target)
        file.write_bytes(file.read_bytes() + b"0")

    monkeypatch.setattr(module, "_save_file", save_and_change)
    with (
        closing(open_database(new_url("sqlite", tmp_path))) as database,
        pytest.raises(StateError, match="change all the time"),
    ):
        backup(database, blobs, tmp_path / "saved", now_s=1.0, files={"ca": tmp_path / "ca"})


def test_a_backup_goes_into_a_new_folder(saved: Path, database: Database, blobs: Blobs) -> None:
    before = sorted(saved.rglob("*"))
    with pytest.raises(StateError, match="the folder is not empty"):
        backup(database, blobs, saved, now_s=1.0)
    assert sorted(saved.rglob("*")) == before


def _files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_any_damage_of_any_file_is_seen_before_anything_is_written(saved: Path, tmp_path: Path) -> None:
    verify(saved)
    new = tmp_path / "new"
    for file in _files(saved):
        for damage in ("flip", "cut", "gone"):
            broken = tmp_path / "broken"
            shutil.copytree(saved, broken)
            content = bytearray((broken / file).read_bytes())
            if damage == "flip":
                content[len(content) // 2] ^= 0x20
            (broken / file).write_bytes(bytes(content[: len(content) // 2] if damage == "cut" else content))
            if damage == "gone":
                (broken / file).unlink()
            with pytest.raises(StateError, match=r"damaged|no backup"):
                blobs = open_blobs("memory://")
                restore(broken, sqlite_url(new / "core.sqlite"), blobs, files={"ca": new / "ca"})
            assert not new.exists()
            assert not list(blobs.digests())
            shutil.rmtree(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"files": {}}, {"files": []}, {"blobs": 1}, {"rows": None}, {"lost": 1}, {"made_s": "x"},
        {"files": {"../x": {"sha256": "", "size": 0, "mode": "600"}}}, {"files": {"/x": {}}}, {"revision": []},
    ],
)  # fmt: skip
def test_a_manifest_that_is_none(saved: Path, change: dict[str, Any]) -> None:
    manifest = json.loads((saved / "backup.json").read_text())
    if change.get("revision") == []:
        (saved / "backup.json").write_text("[]")
    else:
        if isinstance(change.get("files"), dict) and change["files"]:
            change = {"files": manifest["files"] | change["files"]}
        (saved / "backup.json").write_text(json.dumps(manifest | change))
    with pytest.raises(StateError) as caught:
        verify(saved)
    assert caught.value.where
    assert caught.value.do


def test_a_backup_of_a_newer_schema_is_refused(saved: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(saved / "database.sqlite")) as connection, connection:
        connection.execute("UPDATE edgehone_version SET version_num = '9999'")
    manifest = json.loads((saved / "backup.json").read_text())
    from edgehone.records.backup_manifest import measure

    found = measure(saved / "database.sqlite")
    manifest["files"]["database.sqlite"] |= {"sha256": found.sha256, "size": found.size_bytes}
    (saved / "backup.json").write_text(json.dumps(manifest))
    with pytest.raises(StateError, match="newer version"):
        restore(saved, sqlite_url(tmp_path / "new.sqlite"), open_blobs("memory://"))
    assert not (tmp_path / "new.sqlite").exists()
    assert not list(tmp_path.glob(".restore-*"))


def test_nothing_is_overwritten(saved: Path, database_url: str, tmp_path: Path) -> None:
    with closing(open_database(database_url)) as database:
        add(database, "mine")
        with pytest.raises(StateError, match=r"there is a database already|in use: its table 'setting' has rows"):
            restore(saved, database_url, open_blobs("memory://"))
        with pytest.raises(StateError, match="in use"), closing(open_database(new_url("sqlite", tmp_path))) as other:
            copy(other, database)
        assert keys(database) == ["mine"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "ca.key").write_bytes(b"another")
    with pytest.raises(StateError, match="another file already"):
        restore(saved, sqlite_url(tmp_path / "n.sqlite"), open_blobs("memory://"), files={"ca": tmp_path / "new"})
    assert (tmp_path / "new" / "ca.key").read_bytes() == b"another"
    assert not (tmp_path / "n.sqlite").exists()


def test_a_restore_that_was_cut_off_is_run_again(saved: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    blobs = open_blobs(str(new / "blobs"))
    blobs.put(b"one")
    (new / "ca").mkdir(parents=True)
    (new / "ca" / "ca.key").write_bytes(b"key")
    (new / ".restore-x").mkdir()
    restore(saved, sqlite_url(new / "core.sqlite"), blobs, files={"ca": new / "ca"})
    assert len(list(blobs.digests())) == 2


def test_a_copy_that_fails_leaves_nothing(database: Database, tmp_path: Path) -> None:
    with closing(open_database(new_url("sqlite", tmp_path))) as source:
        fill(source, random.Random(1), rows=2)

        def stop(what: str, done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            copy(source, database, progress=stop)
        assert not any(everything(database).values())
        copy(source, database)
        assert everything(database) == everything(source)
