"""Releases signed on a machine that never sees the registry, deltas, and the status."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgehone.bundle.delta import make_delta
from edgehone.errors import InputError
from edgehone.registry import release
from edgehone.registry.incoming import match_deltas
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.publish import complete, prepare, publish, read_prepared, sign
from edgehone.registry.rotation import rotate
from edgehone.registry.state import read
from edgehone.registry.status import status
from edgehone.registry.tuf import Targets
from edgehone.registry.upkeep import prune
from edgehone_agent.delta import apply_delta
from edgehone_agent.errors import BundleError, TrustError

Check = Callable[[Any], Any]
FIRST = "digits/1-w22-int8.bundle"


@pytest.fixture
def prepared(digits: Any) -> Any:
    """A prepared release; the key of the task lies elsewhere."""
    digits.elsewhere = digits.folder / "elsewhere"
    digits.elsewhere.mkdir()
    (key,) = digits.keys.glob("task-digits-*.pem")
    digits.key = Path(shutil.move(key, digits.elsewhere / "k.pem"))
    digits.to_sign = digits.folder / "to-sign"
    digits.done = prepare(digits.store, digits.to_sign, [digits.bundle()], [], digits.now, anchor=digits.anchor)
    return digits


def finish(world: Any) -> Any:
    return complete(world.store, world.ring(), world.to_sign, world.now, anchor=world.anchor)


def test_three_steps(prepared: Any, second_opinion: Check) -> None:
    assert prepared.get(FIRST) is None  # nobody sees it yet
    second_opinion(prepared)
    note, _ = read_prepared(prepared.to_sign)
    assert note["task"] == "digits" and note["added"] == [FIRST] and note["live_versions"] == [1]
    with pytest.raises(TrustError, match="0 of 1 needed signatures"):
        finish(prepared)
    assert sign(prepared.to_sign, prepared.ring(prepared.elsewhere), prepared.key) == note["keys"][0][:12]
    assert prune(prepared.store, prepared.now).blobs == ()  # what was uploaded waits for its signature
    assert finish(prepared).new
    second_opinion(prepared)
    assert prepared.get(FIRST) == prepared.bundle().read_bytes()
    before = prepared.listing()
    assert not finish(prepared).new  # once more changes nothing
    assert prepared.listing() == before


def test_a_prepared_release_is_out_of_date(prepared: Any) -> None:
    sign(prepared.to_sign, prepared.ring(), prepared.key)
    shutil.copy(prepared.key, prepared.keys / f"task-digits-{read_prepared(prepared.to_sign)[0]['keys'][0][:12]}.pem")
    prepared.publish(version=2)
    before = prepared.listing()
    with pytest.raises(InputError, match="the registry has changed since"):
        finish(prepared)
    assert prepared.listing() == before


def test_a_key_of_somebody_else(prepared: Any) -> None:
    for key in prepared.keys.glob("*.pem"):
        with pytest.raises(TrustError, match="this key may not release 'digits'"):
            sign(prepared.to_sign, prepared.ring(), key)
    note = json.loads((prepared.to_sign / "release.json").read_text())
    online = next(prepared.keys.glob("online-*.pem"))
    note["keys"] = [prepared.ring().open(online).public_key.keyid]  # somebody talks the signer into it
    (prepared.to_sign / "release.json").write_text(json.dumps(note))
    sign(prepared.to_sign, prepared.ring(), online)
    with pytest.raises(TrustError, match="0 of 1 needed signatures"):
        finish(prepared)


@pytest.mark.parametrize("field", ["digests", "expires", "role_version", "task", "version", "live_versions", "added"])
def test_a_note_that_lies_is_not_signed(field: str, prepared: Any) -> None:
    note = json.loads((prepared.to_sign / "release.json").read_text())
    lies = {"digests": {}, "expires": "2099-01-01", "role_version": 7, "task": "speech", "version": 9}
    note[field] = lies.get(field, [])
    (prepared.to_sign / "release.json").write_text(json.dumps(note))
    with pytest.raises(TrustError, match="does not say what the metadata says"):
        sign(prepared.to_sign, prepared.ring(), prepared.key)


def test_metadata_changed_after_it_was_signed(prepared: Any) -> None:
    sign(prepared.to_sign, prepared.ring(), prepared.key)
    role = json.loads((prepared.to_sign / "role.json").read_text())
    role["signed"]["targets"][FIRST]["custom"]["edgehone"]["rank"] = 5
    (prepared.to_sign / "role.json").write_text(json.dumps(role))
    with pytest.raises(TrustError, match="0 of 1 needed signatures"):
        finish(prepared)


def test_a_prepared_blob_is_gone(prepared: Any) -> None:
    sign(prepared.to_sign, prepared.ring(), prepared.key)
    for path in (prepared.store.folder / "targets").rglob("*.bundle"):
        path.unlink()
    with pytest.raises(TrustError, match="the blob is missing or altered"):
        finish(prepared)


@pytest.mark.parametrize("damage", [None, "", "{}", "[]", '{"digests": {}}', "null"])
@pytest.mark.parametrize("name", ["release.json", "role.json"])
def test_no_prepared_folder(name: str, damage: str | None, prepared: Any) -> None:
    (prepared.to_sign / name).unlink()
    if damage is not None:
        (prepared.to_sign / name).write_text(damage)
    with pytest.raises(InputError, match="holds no prepared release"):
        read_prepared(prepared.to_sign)


def test_preparing_needs_an_empty_folder_and_something_to_do(digits: Any, tmp_path: Path) -> None:
    digits.publish()
    with pytest.raises(InputError, match="not empty"):
        prepare(digits.store, digits.keys, [digits.bundle(version=2)], [], digits.now)
    with pytest.raises(InputError, match="live already"):
        prepare(digits.store, tmp_path / "to-sign", [digits.bundle()], [], digits.now)
    assert not (tmp_path / "to-sign").exists()


def toy_apply(old: Path, delta: Path, new: Path, sha256: str) -> None:
    """A delta that is the digest of the old file and then the new file whole."""
    content = delta.read_bytes()
    right = content[:32] == hashlib.sha256(old.read_bytes()).digest()
    if not right or hashlib.sha256(content[32:]).hexdigest() != sha256:
        raise BundleError("not for this pair")
    new.write_bytes(content[32:])


def test_a_delta_is_matched_by_applying_it(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("a", "b", "c", "d")}
    for name, path in files.items():
        path.write_bytes(name.encode() * 100)
    digest = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    delta = tmp_path / "x.delta"
    delta.write_bytes(bytes.fromhex(digest["b"]) + files["d"].read_bytes())
    old, new = {digest[n]: files[n] for n in "ab"}, {digest[n]: files[n] for n in "cd"}
    (found,) = match_deltas([delta], old, new, toy_apply)
    assert (found.from_sha256, found.to_sha256) == (digest["b"], digest["d"])
    assert found.sha256 == hashlib.sha256(delta.read_bytes()).hexdigest() and found.size_bytes == 132
    with pytest.raises(InputError, match="makes none of these bundles"):
        match_deltas([delta], {digest["a"]: files["a"]}, new, toy_apply)
    with pytest.raises(InputError, match="No such file"):
        match_deltas([tmp_path / "none"], old, new, toy_apply)


def test_a_real_delta_arrives(digits: Any, second_opinion: Check, tmp_path: Path) -> None:
    old_model = random.Random(0).randbytes(20_000)
    old = digits.bundle(version=1, model=old_model)
    new = digits.bundle(version=2, model=old_model[:-100] + bytes(100))
    publish(digits.store, digits.ring(), [old], [], digits.now)
    content = make_delta(old, new)
    assert content is not None
    delta = tmp_path / "1-to-2.delta"
    delta.write_bytes(content)
    stranger = digits.bundle(version=2, member="other")
    before = digits.listing()
    with pytest.raises(InputError, match="makes none of these bundles"):
        publish(digits.store, digits.ring(), [stranger], [delta], digits.now)
    assert digits.listing() == before
    assert publish(digits.store, digits.ring(), [stranger, new], [delta], digits.now).new
    assert not publish(digits.store, digits.ring(), [stranger, new], [delta], digits.now).new
    second_opinion(digits)
    info = digits.updater().get_targetinfo("digits/2-w22-int8.bundle")
    (way,) = info.custom["edgehone"]["deltas"]
    assert way["from"] == hashlib.sha256(old.read_bytes()).hexdigest()
    (tmp_path / "got.delta").write_bytes(digits.get(way["path"]))
    apply_delta(old, tmp_path / "got.delta", tmp_path / "made", info.hashes["sha256"])
    assert (tmp_path / "made").read_bytes() == new.read_bytes()


def bundles(version: int, *members: str) -> list[release.NewBundle]:
    return [
        release.NewBundle("digits", version, member, {}, hashlib.sha256(f"{version}{member}".encode()).hexdigest(), 9)
        for member in members
    ]


def empty() -> Targets:
    return Targets()


def test_deltas_are_listed_beside_their_bundle_and_leave_with_it() -> None:
    targets = empty()
    (old,), new = bundles(1, "a"), bundles(2, "a", "b")
    release.add(targets, [old], [])
    delta = release.NewDelta(old.sha256, new[0].sha256, "d" * 64, 3)
    paths = release.add(targets, new, [delta])
    path = f"digits/2-from-{old.sha256[:16]}.delta"
    assert paths["d" * 64] == path
    about = targets.targets["digits/2-a.bundle"].custom["edgehone"]
    assert about["deltas"] == [{"from": old.sha256, "path": path}]
    assert targets.targets["digits/2-b.bundle"].custom["edgehone"]["deltas"] == []
    assert targets.targets[path].custom["edgehone"] == {"from": old.sha256, "to": new[0].sha256, "version": 2}
    order = [(one.version, one.member, one.rank) for one in release.listed(targets)]
    assert order == [(2, "a", 0), (2, "b", 1), (1, "a", 0)]
    (way,) = release.ways(targets, 2)
    assert (way.path, way.member, way.from_version, way.size_bytes) == (path, "a", 1, 3) and way.share == 3 / 9
    assert release.same(targets, new, [delta]) and release.same(targets, new, [])  # nothing is asked that is not there
    assert not release.same(targets, new, [release.NewDelta(old.sha256, new[0].sha256, "e" * 64, 3)])
    assert not release.same(targets, new[:1], []) and not release.same(targets, new[::-1][:1], [])
    assert set(release.remove(targets, 2)) == {"digits/2-a.bundle", "digits/2-b.bundle", path}
    assert set(targets.targets) == {"digits/1-a.bundle"} and release.highest(targets) == 2


def test_deltas_that_lead_nowhere_or_clash() -> None:
    new = bundles(2, "a", "b")
    astray = release.NewDelta("0" * 64, "1" * 64, "d" * 64, 3)
    with pytest.raises(InputError, match="leads to none"):
        release.add(empty(), new, [astray])
    clash = [
        release.NewDelta("0" * 64, bundle.sha256, digest * 64, 3) for bundle, digest in zip(new, "de", strict=True)
    ]
    with pytest.raises(InputError, match="start from the same bundle"):
        release.add(empty(), new, clash)


def test_a_release_larger_than_a_role() -> None:
    targets = empty()
    release.add(targets, bundles(1, *map(str, range(100))), [])
    assert release.make_room(targets) == ()
    with pytest.raises(InputError, match="101 files in one release"):
        release.add(targets, bundles(2, *map(str, range(101))), [])
    release.add(targets, bundles(3, "a"), [])
    assert len(release.make_room(targets)) == 100 and set(targets.targets) == {"digits/3-a.bundle"}


def test_deltas_to_older_versions_leave_before_bundles_do() -> None:
    targets = empty()
    before: list[release.NewBundle] = []
    for version in range(1, 26):
        (new,) = bundles(version, "a")
        deltas = [
            release.NewDelta(old.sha256, new.sha256, hashlib.sha256(f"{old.version}-{version}".encode()).hexdigest(), 3)
            for old in before[-4:]
        ]
        release.add(targets, [new], deltas)
        gone = release.make_room(targets)
        assert all(path.endswith(".delta") and not path.startswith(f"digits/{version}-") for path in gone)
        before.append(new)
    assert [bundle.version for bundle in release.listed(targets)] == list(range(25, 0, -1))
    ways = {bundle.version: len(bundle.deltas) for bundle in release.listed(targets)}
    assert 100 - 4 <= len(targets.targets) <= 100  # deltas to one version leave together
    assert ways[25] == 4 and sorted(ways.values(), reverse=True) == [ways[version] for version in range(25, 0, -1)]
    named = [delta["path"] for file in targets.targets.values() for delta in file.custom["edgehone"].get("deltas", [])]
    assert set(named) == {path for path in targets.targets if path.endswith(".delta")}


def test_status_of_a_sound_registry(digits: Any) -> None:
    digits.publish("digits", 1, "w22-int8", "w14-int8")
    found = status(digits.store, read(digits.store), digits.ring(), digits.now)
    assert found["warnings"] == []
    roles = {role["role"]: role for role in found["roles"]}
    assert list(roles) == ["root", "targets", "task-digits", "snapshot", "timestamp"]
    assert roles["root"]["threshold"] == 2 and sum(key["signed"] for key in roles["root"]["keys"]) == 2
    assert 0.99 < roles["timestamp"]["expires_in_days"] <= 1.0
    assert all(key["file"] and not key["plain"] for role in found["roles"] for key in role["keys"])
    (task,) = found["tasks"]
    assert (task["task"], task["approve"], task["targets"], task["highest_version"]) == ("digits", "manual", 2, 1)
    (live,) = task["releases"]
    assert live["version"] == 1 and [member["member"] for member in live["members"]] == ["w22-int8", "w14-int8"]


def test_status_warns(digits: Any) -> None:
    digits.publish()
    blob = next((digits.store.folder / "targets").rglob("*.bundle"))
    blob.write_bytes(blob.read_bytes()[:-1])
    online = next(digits.keys.glob("online-*.pem"))
    online.chmod(0o644)
    (digits.keys / "root-000000000000.pem").write_text("?")
    (digits.keys / "root-000000000000.pem").chmod(0o600)

    def warnings(hours: float) -> list[str]:
        later = digits.now + timedelta(hours=hours)
        return status(digits.store, read(digits.store), digits.ring(), later)["warnings"]

    assert warnings(0) == [
        f"the blob of {FIRST} is missing or altered",
        f"{online.name} can be read by others: chmod 600 it",
        "root-000000000000.pem is of no use to this registry",
    ]
    assert warnings(20)[0] == "timestamp expires in 0.17 days: run `refresh`"
    assert warnings(25)[0] == "timestamp has expired: nodes take no updates until `refresh`"
    assert "task-digits expires in 10 days: run `refresh --also digits`" in warnings(80 * 24)
    assert "targets has expired: nodes take no updates until `refresh --also targets`" in warnings(366 * 24)


def test_a_task_becomes_unattended_and_attended_again(digits: Any, second_opinion: Check) -> None:
    rotate(digits.store, digits.ring(), "digits", digits.now, approve="auto", anchor=digits.anchor)
    rotate(digits.store, digits.ring(), "online", digits.now, plain=True, anchor=digits.anchor)
    nobody = KeyRing([digits.keys], Passphrases())
    assert publish(digits.store, nobody, [digits.bundle()], [], digits.now, anchor=digits.anchor).new
    second_opinion(digits)
    rotate(digits.store, digits.ring(), "online", digits.now, anchor=digits.anchor)  # stays as it was
    rotate(digits.store, digits.ring(), "digits", digits.now, approve="manual", anchor=digits.anchor)
    plain = {path.name.split("-")[0] for path in digits.keys.glob("*.pem") if b"ENCRYPTED" not in path.read_bytes()}
    assert plain == {"online"}
    second_opinion(digits)


def test_bundle_files_are_left_alone(digits: Any) -> None:
    bundle = digits.bundle()
    before = bundle.read_bytes()
    publish(digits.store, digits.ring(), [bundle], [], digits.now)
    assert bundle.read_bytes() == before and zipfile.is_zipfile(bundle)
