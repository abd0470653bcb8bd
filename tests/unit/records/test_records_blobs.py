"""Blobs: stored once, checked when read, kept while they are young or named."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from edgehone.errors import InputError
from edgehone.records.blob_folder import BlobFolder
from edgehone.records.blobs import Blobs, open_blobs
from edgehone.records.database import Database
from edgehone.records.garbage import Garbage, find_garbage, named, remove_garbage
from edgehone.records.tables import dataset, node, release, sample, setting
from edgehone_agent.errors import ConfigError, StateError


@pytest.fixture(params=["path", "file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    places = {"path": str(tmp_path / "b"), "file": (tmp_path / "with space").as_uri(), "memory": "memory://"}
    return open_blobs(places[request.param])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_was_put_is_got(blobs: Blobs) -> None:
    contents = [b"", b"x", os.urandom(300_000)]
    digests = [blobs.put(content) for content in contents]
    assert digests == [sha256(content) for content in contents]
    assert [blobs.get(digest) for digest in digests] == contents
    assert all(blobs.has(digest) for digest in digests)
    assert sorted(blobs.digests()) == sorted(digests)
    assert {blob.digest: blob.size_bytes for blob in blobs.stored()} == dict(
        zip(digests, map(len, contents), strict=True)
    )
    assert all(abs(blob.put_s - time.time()) < 60 for blob in blobs.stored())


def test_many_are_put_together_and_twice_the_same_is_once(blobs: Blobs) -> None:
    contents = [b"%d" % (number % 40) for number in range(100)]
    assert blobs.put_many(contents) == [sha256(content) for content in contents]
    assert len(list(blobs.digests())) == 40
    assert blobs.put_many([]) == []


def test_deleted_is_gone_and_may_be_deleted_again(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    for _ in range(2):
        blobs.delete(digest)
        assert not blobs.has(digest)
    with pytest.raises(StateError, match="there is no such blob") as caught:
        blobs.get(digest)
    assert digest in caught.value.where
    assert blobs.put(b"x") == digest
    assert blobs.get(digest) == b"x"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"])
def test_what_is_no_digest_is_no_path(blobs: Blobs, name: str) -> None:
    for call in (blobs.get, blobs.has, blobs.delete, lambda digest: blobs.delete_older(digest, 0.0)):
        with pytest.raises(InputError, match="no SHA-256"):
            call(name)


@pytest.mark.parametrize("damage", [b"", b"y", b"x" * 100])
def test_a_damaged_blob_is_no_answer_and_heals(tmp_path: Path, damage: bytes) -> None:
    blobs = open_blobs(str(tmp_path))
    digest = blobs.put(b"x")
    (tmp_path / digest[:2] / digest).write_bytes(damage)
    with pytest.raises(StateError, match="the blob is damaged"):
        blobs.get(digest)
    blobs.put(b"x")
    assert blobs.get(digest) == b"x"


def test_what_killed_writers_left_is_removed_but_not_what_is_being_written(tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path))
    digest = blobs.put(b"x")
    left, new = (tmp_path / digest[:2] / f".{digest}.0000000{number}.part" for number in (0, 1))
    for path in (left, new):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 3601,) * 2)
    assert list(blobs.digests()) == [digest]
    assert list(open_blobs(str(tmp_path)).digests()) == [digest]
    assert new.exists() and not left.exists()


def test_a_place_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError):
        open_blobs(str(tmp_path / "file"))


@pytest.mark.parametrize("url", ["http://somewhere/b", "ftp://x", "sqlite:///x"])
def test_other_schemes_are_named(url: str) -> None:
    with pytest.raises(ConfigError, match="blobs cannot be kept in"):
        open_blobs(url)


def test_a_bucket_is_not_asked_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "eu-1")
    assert open_blobs("s3://bucket/folder").url == "s3://bucket/folder"


def test_threads_that_put_and_delete_the_same_see_all_or_nothing(blobs: Blobs) -> None:
    wrong: list[BaseException] = []
    contents = [b"%d" % number * 1000 for number in range(5)]

    def work(seed: int) -> None:
        try:
            for step in range(30):
                content = contents[(step * seed) % 5]
                digest = blobs.put(content)
                if step % 7 == 0:
                    blobs.delete(sha256(contents[(step + seed) % 5]))
                try:
                    assert blobs.get(digest) == content
                except StateError as error:
                    assert "no such blob" in error.what
        except (AssertionError, StateError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Garbage -----------------------------------------------------------------------------------------------------


def age(blobs: BlobFolder, digest: str, by_s: float) -> None:
    path = blobs.folder / digest[:2] / digest
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - by_s))


def add_rows(database: Database, digests: dict[str, str]) -> None:
    """One row for each way to name a blob."""
    common: dict[str, Any] = {"task": "t", "digest": "0" * 64}
    with database.write() as connection:
        connection.execute(
            insert(node),
            {
                "id": "n",
                "name": "n",
                "tags": {},
                "state": "active",
                "why": "",
                "facts": {},
                "enrolled_s": 0.0,
                "status": {},
            },
        )
        connection.execute(
            insert(sample),
            common | {"node": "n", "id": "1", "time_s": 0.0, "received_s": 0.0, "share": "uniform", "propensity": 1.0,
                      "informativeness": 0.0, "stratum": "", "answer": {}, "blob": digests["sample"], "size_bytes": 1},
        )  # fmt: skip
        connection.execute(
            insert(dataset), {"digest": digests["dataset"], "task": "t", "created_s": 0.0, "parent": None, "counts": {}}
        )
        connection.execute(
            insert(release),
            common | {"digest": digests["release"], "version": 1, "member": "m", "rank": 0, "size_bytes": 1, "fit": {},
                      "measured": {}, "published_s": 0.0},
        )  # fmt: skip
        connection.execute(
            insert(setting), {"key": "k", "value": {"deep": [{"down": digests["json"]}]}, "changed_s": 0.0}
        )


def test_garbage_is_what_no_row_names_and_is_old(database: Database, tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    names = {
        name: blobs.put(name.encode()) for name in ("sample", "dataset", "release", "json", "kept", "old", "young")
    }
    add_rows(database, names)
    for name in names:
        if name != "young":
            age(blobs, names[name], 7200)
    options: dict[str, Any] = {"now_s": time.time(), "grace_s": 3600, "keep": [names["kept"]]}
    assert [blob.digest for blob in find_garbage(database, blobs, **options)] == [names["old"]]
    assert remove_garbage(database, blobs, **options) == Garbage(1, 3)
    assert set(blobs.digests()) == set(names.values()) - {names["old"]}
    with database.read() as connection:
        assert {names[name] for name in ("sample", "dataset", "release", "json")} <= named(connection)


def test_what_is_put_again_is_young_again(database: Database, tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    digest = blobs.put(b"x")
    age(blobs, digest, 7200)
    found = find_garbage(database, blobs, now_s=time.time(), grace_s=3600)
    blobs.put(b"x")
    assert [blob.digest for blob in found] == [digest]
    assert not blobs.delete_older(digest, time.time() - 3600)
    assert remove_garbage(database, blobs, now_s=time.time(), grace_s=3600) == Garbage(0, 0)
    assert blobs.get(digest) == b"x"


def test_older_than_is_asked_of_every_store(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    assert not blobs.delete_older(digest, time.time() - 60)
    assert blobs.delete_older(digest, time.time() + 60)
    assert not blobs.has(digest)
    assert not blobs.delete_older(digest, time.time() + 60)
