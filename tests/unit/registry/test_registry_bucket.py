"""A registry in a bucket: its lock, the order of what is put, and what is said when the bucket cannot be used."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from edgehone.bundle.delta import make_delta
from edgehone.cli.main import main
from edgehone.errors import HostError, InputError
from edgehone.registry.bucket import LEASE_S, Bucket, open_store
from edgehone.registry.create import create
from edgehone.registry.publish import publish
from edgehone.registry.shortcuts import Wanted
from edgehone.registry.state import read
from edgehone.registry.store import Store
from edgehone.registry.upkeep import prune, refresh
from edgehone.testing.buckets import bucket
from edgehone_agent.errors import BusyError, RegistryError


class Shared:
    """obstore's memory store, as two publishers on two machines see it, with a clock for each."""

    def __init__(self) -> None:
        self.objects = MemoryStore()
        self.now_s = 1_000_000.0

    def bucket(self, ahead_s: float = 0.0) -> Bucket:
        return Bucket(self.objects, "memory://", clock=lambda: self.now_s + ahead_s)


@pytest.fixture
def memory() -> Shared:
    shared = Shared()
    with shared.bucket().lock(new=True):
        shared.bucket().write("metadata/timestamp.json", b"{}")
    return shared


def test_one_publisher_at_a_time(memory: Shared) -> None:
    refused = pytest.raises(BusyError, match="another command is changing")
    with memory.bucket().lock(), refused as caught, memory.bucket().lock():
        pass
    assert "1970-01-12 14:01 UTC" in (caught.value.do or "")  # 15 minutes from then
    with memory.bucket().lock():  # it was given back
        pass
    assert [entry.path for entry in memory.bucket().entries("")] == ["metadata/timestamp.json"]


def test_the_lock_of_a_killed_publisher_passes_with_its_time(memory: Shared) -> None:
    memory.bucket()._take()  # killed: never gives it back
    memory.now_s += LEASE_S - 1
    with pytest.raises(BusyError), memory.bucket().lock():
        pass
    memory.now_s += 2
    with memory.bucket().lock(), pytest.raises(BusyError), memory.bucket().lock():
        pass


@pytest.mark.parametrize("act", ["write", "put", "delete"])
def test_who_slept_too_long_writes_nothing(act: str, memory: Shared, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"new")
    sleeper, other = memory.bucket(), memory.bucket()
    with sleeper.lock():
        memory.now_s += LEASE_S + 1
        with other.lock():
            other.write("metadata/timestamp.json", b"other")
            before = [(entry.path, entry.size_bytes) for entry in other.entries("")]
            with pytest.raises(BusyError, match="has begun to change"):
                if act == "write":
                    sleeper.write("metadata/timestamp.json", b"sleeper")
                elif act == "put":
                    sleeper.put("targets/x/blob", tmp_path / "blob", "0" * 64)
                else:
                    sleeper.delete("metadata/timestamp.json")
            assert [(entry.path, entry.size_bytes) for entry in other.entries("")] == before
            other.write("metadata/timestamp.json", b"still other")  # whose lock nobody took
    assert memory.bucket().read("metadata/timestamp.json") == b"still other"


def test_a_long_command_keeps_its_lock(memory: Shared) -> None:
    mine = memory.bucket()
    with mine.lock():
        for _ in range(10):
            memory.now_s += LEASE_S / 2
            mine.write("metadata/timestamp.json", b"{}")
            with pytest.raises(BusyError), memory.bucket().lock():
                pass


@pytest.mark.parametrize("left", [b"", b"no json", b"[]", b'{"until_s": "soon"}', b"{}"])
def test_a_lock_that_says_nothing_holds_nobody(left: bytes, memory: Shared) -> None:
    obstore.put(memory.objects, ".lock", left)
    with memory.bucket().lock():
        pass


def test_there_is_no_registry_and_none_is_begun() -> None:
    empty = Shared()
    with pytest.raises(RegistryError, match="no registry"), empty.bucket().lock():
        pass
    with pytest.raises(RegistryError, match="no registry"):
        read(empty.bucket())
    assert empty.bucket().entries("") == []


def test_what_is_named_is_put_first(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a publish in a bucket, in the order that the bucket sees it."""
    objects, seen = MemoryStore(), []
    put = obstore.put

    def note(store: Any, path: str, *more: Any, **options: Any) -> Any:
        seen.append(path)
        return put(store, path, *more, **options)

    place = Bucket(objects, "memory://")
    ring = digits.ring(digits.folder / "other-keys")
    create(place, ring, ["digits"], digits.now)
    monkeypatch.setattr(obstore, "put", note)
    publish(place, ring, [digits.bundle()], [], digits.now)
    assert seen[0] == ".lock" and seen[1].endswith(".1-w22-int8.bundle")
    assert seen[2:] == [
        "metadata/2.task-digits.json", "metadata/2.snapshot.json", "metadata/timestamp.json",
    ]  # fmt: skip
    seen.clear()
    refresh(place, ring, digits.now)
    assert seen == [".lock", "metadata/timestamp.json"]
    assert prune(place, digits.now, keep_days=0).blobs == ()
    assert {entry.path.split("/")[0] for entry in place.entries("")} == {"metadata", "targets"}  # no lock is left


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
def test_deltas_start_from_blobs_in_the_bucket(digits: Any, second_opinion: Callable[[Any], Any]) -> None:
    model = random.Random(0).randbytes(20_000)
    wanted = Wanted(lambda old, new, worth: make_delta(old, new, worth=worth))
    for version in (1, 2, 3):
        bundle = digits.bundle("digits", version, "w22-int8", model[: -50 * version] + bytes(50 * version))
        done = publish(digits.store, digits.ring(), [bundle], [], digits.now, anchor=digits.anchor, wanted=wanted)
    assert [way.from_version for way in done.deltas] == [2, 1]
    second_opinion(digits)
    assert digits.get(done.deltas[1].path) is not None


def test_the_command_takes_a_url(
    world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("EDGEHONE_PASSPHRASE", world.passphrase)
    with bucket(world.served) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        url = "s3://models/registry"
        assert main(["registry", "init", url, "--task", "digits", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["keys"] == "registry.keys"
        world.keys = world.folder / "registry.keys"
        assert main(["registry", "publish", url, str(world.bundle())]) == 0
        assert world.get("digits/1-w22-int8.bundle") == world.bundle().read_bytes()
        capsys.readouterr()
        assert main(["registry", "status", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["registry"] == url
        assert main(["registry", "prune", url, "--keep-days", "0"]) == 0
        assert main(["registry", "publish", "s3://models/registry/elsewhere", str(world.bundle())]) == 6
        assert "no registry" in capsys.readouterr().err
    assert not (world.served / ".lock").exists()


def test_a_bucket_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehone.registry.bucket._RETRY", {"max_retries": 0})
    with bucket(Path("nowhere")) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
    store = open_store("s3://user:secret@models/registry")  # the server is gone
    for call in (lambda: store.read("x"), lambda: store.entries("x"), lambda: store.holds("x", "0" * 64)):
        with pytest.raises(RegistryError) as caught:
            call()
        assert "\n" not in caught.value.what and "secret" not in str(caught.value)
    with pytest.raises(HostError, match="cannot be locked"), store.lock(new=True):
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://models/registry", "cannot be changed through https://"),
        ("memory://x", "cannot be changed through memory://"),
        ("az://models/registry", "Account must be specified"),
        ("s3://", "Unable to recognise URL"),
    ],
)
def test_places_that_are_none(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=said) as caught:
        open_store(url)
    assert "\n" not in caught.value.what


def test_a_folder_by_its_url(tmp_path: Path) -> None:
    found = open_store(f"file://{tmp_path}/registry")
    assert isinstance(found, Store) and found.folder == tmp_path / "registry"
    other = open_store("my-registry")
    assert isinstance(other, Store) and other.folder == Path("my-registry")
