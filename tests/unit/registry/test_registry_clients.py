"""After every command, in a folder and in a bucket: an unmodified python-tuf client updates, and the text of the
specification agrees.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tuf.api.exceptions import ExpiredMetadataError, UnsignedMetadataError

from edgehone.errors import InputError
from edgehone.registry.create import add_task
from edgehone.registry.names import Expiry
from edgehone.registry.publish import publish
from edgehone.registry.rotation import revoke_key, rotate
from edgehone.registry.state import read
from edgehone.registry.upkeep import prune, refresh, revoke_release
from edgehone_agent.errors import RegistryError, TrustError

pytestmark = pytest.mark.parametrize("place", ["folder", "bucket"], indirect=True)
Check = Callable[[Any], Any]

FIRST = "digits/1-w22-int8.bundle"


def test_a_release_arrives(digits: Any, second_opinion: Check) -> None:
    digits.updater().refresh()  # empty, and good
    second_opinion(digits)
    done = digits.publish("digits", 1, "w22-int8", "w14-int8")
    assert done.added == (FIRST, "digits/1-w14-int8.bundle") and done.new
    second_opinion(digits)
    assert digits.get(FIRST) == digits.bundle().read_bytes()
    info = digits.updater().get_targetinfo("digits/1-w14-int8.bundle")
    assert info is not None
    about = info.custom["edgehone"]
    assert (about["version"], about["member"], about["rank"], about["channel"]) == (1, "w14-int8", 1, "stable")
    assert about["fit"]["latency_us"] == 251  # signed JSON has no fractions: an upper bound rounds up
    assert about["fit"]["runtimes"] == ["litert"] and about["deltas"] == []


@pytest.mark.parametrize("who", ["root", "targets", "online", "digits"])
@pytest.mark.parametrize("single", [False, True])
def test_keys_are_rotated(who: str, single: bool, digits: Any, second_opinion: Check) -> None:
    digits.publish()
    digits.get(FIRST)
    state = read(digits.store)
    role = {"online": "timestamp", "digits": "task-digits"}.get(who, who)
    delegator = state.targets.signed if who == "digits" else state.root.signed
    before = list(delegator.get_delegated_role(role).keyids)
    done = rotate(digits.store, digits.ring(), who, digits.now, key=before[0] if single else None, anchor=digits.anchor)
    second_opinion(digits)
    for node in ("node", "fresh"):
        assert digits.get(FIRST, node) is not None
    state = read(digits.store, digits.anchor)
    delegator = state.targets.signed if who == "digits" else state.root.signed
    after = delegator.get_delegated_role(role).keyids
    assert len(after) == len(before) and set(after) & set(before) == (set(before[1:]) if single else set())
    assert len(done.new) == (1 if single else len(before))
    assert {path.stem.rpartition("-")[2] for path in (digits.keys / "retired").iterdir()} == set(done.old)
    digits.publish(version=2)
    assert digits.get("digits/2-w22-int8.bundle") is not None
    second_opinion(digits)


def test_a_lost_online_key_is_replaced(digits: Any, second_opinion: Check) -> None:
    digits.publish()
    digits.get(FIRST)
    (lost,) = digits.keys.glob("online-*.pem")
    lost.unlink()
    (done,) = revoke_key(digits.store, digits.ring(), lost.stem.rpartition("-")[2], digits.now, anchor=digits.anchor)
    assert done.role == "online"
    second_opinion(digits)
    assert digits.get(FIRST) is not None and digits.get(FIRST, "fresh") is not None


def test_a_replaced_key_signs_for_nobody(digits: Any) -> None:
    digits.publish()
    (old,) = digits.keys.glob("task-digits-*.pem")
    (done,) = revoke_key(digits.store, digits.ring(), old.stem.rpartition("-")[2], digits.now, anchor=digits.anchor)
    assert done.role == "task-digits"
    stolen = digits.ring(digits.keys / "retired").open(digits.keys / "retired" / old.name)
    _forge(digits, "task-digits", stolen)
    with pytest.raises(UnsignedMetadataError):
        digits.get(FIRST, "fresh")


def _forge(world: Any, role: str, signer: Any, *, rename: tuple[str, str] | None = None) -> None:
    """What a thief of one task's key *and* of the online key can do: sign that role, and a matching snapshot."""
    from edgehone.registry.tuf import MetaFile

    state = read(world.store)
    metadata = state.roles[role]
    metadata.signed.version += 1
    if rename:
        file = metadata.signed.targets.pop(rename[0])
        file.path = rename[1]
        metadata.signed.targets[rename[1]] = file
    metadata.sign(signer)
    folder = world.served / "metadata"
    (folder / f"{metadata.signed.version}.{role}.json").write_bytes(metadata.to_bytes())
    ring = world.ring()
    online = ring.signer(state.root.signed.get_key(state.root.signed.roles["timestamp"].keyids[0]))
    state.snapshot.signed.version += 1
    named = MetaFile.from_data(metadata.signed.version, metadata.to_bytes(), ["sha256"])
    state.snapshot.signed.meta[f"{role}.json"] = named
    state.snapshot.sign(online)
    (folder / f"{state.snapshot.signed.version}.snapshot.json").write_bytes(state.snapshot.to_bytes())
    state.timestamp.signed.version += 1
    state.timestamp.signed.snapshot_meta = MetaFile.from_data(
        state.snapshot.signed.version, state.snapshot.to_bytes(), ["sha256"]
    )
    state.timestamp.sign(online)
    (folder / "timestamp.json").write_bytes(state.timestamp.to_bytes())


def test_two_tasks_cannot_touch_each_other(world: Any, second_opinion: Check) -> None:
    world.create("digits", "speech")
    world.publish("digits")
    world.publish("speech")
    second_opinion(world)
    (key,) = world.keys.glob("task-digits-*.pem")
    _forge(world, "task-digits", world.ring().open(key), rename=(FIRST, "speech/9-w22-int8.bundle"))
    updater = world.updater()
    assert updater.get_targetinfo("speech/9-w22-int8.bundle") is None
    assert updater.get_targetinfo("speech/1-w22-int8.bundle") is not None
    with pytest.raises(AssertionError, match=r"9-w22-int8\.bundle is not the business of digits/"):
        second_opinion(world)


def test_a_key_of_one_task_cannot_sign_the_role_of_another(world: Any) -> None:
    world.create("digits", "speech")
    world.publish("digits")
    world.publish("speech")
    (key,) = world.keys.glob("task-digits-*.pem")
    _forge(world, "task-speech", world.ring().open(key))
    with pytest.raises(UnsignedMetadataError):
        world.get("speech/1-w22-int8.bundle")
    with pytest.raises(TrustError, match="not signed by the key it was delegated to"):
        world.publish("digits", 2)  # a publisher does not build on it either


def test_refresh_comes_before_expiry(digits: Any, second_opinion: Check) -> None:
    digits.publish()
    digits.get(FIRST)
    stamp, snapshot = digits.file("timestamp"), digits.file("snapshot")
    digits.now += timedelta(hours=12)
    assert refresh(digits.store, digits.ring(), digits.now, anchor=digits.anchor) == ("timestamp",)
    assert digits.file("timestamp")["signed"]["expires"] > stamp["signed"]["expires"]
    assert digits.file("snapshot") == snapshot
    digits.now += timedelta(days=4)
    assert refresh(digits.store, digits.ring(), digits.now, anchor=digits.anchor) == ("snapshot", "timestamp")
    assert digits.file("snapshot")["signed"]["version"] == snapshot["signed"]["version"] + 1
    second_opinion(digits)
    assert digits.get(FIRST) is not None


def test_what_expired_is_refused_and_can_be_refreshed(world: Any, second_opinion: Check) -> None:
    world.now -= timedelta(days=100)
    world.create("digits")
    world.publish()
    world.now += timedelta(days=100)
    with pytest.raises(ExpiredMetadataError):
        world.get(FIRST)
    with pytest.raises(AssertionError):
        second_opinion(world)
    done = refresh(world.store, world.ring(), world.now, also=["digits"], anchor=world.anchor)
    assert done == ("task-digits", "snapshot", "timestamp")
    second_opinion(world)
    assert world.get(FIRST) is not None


def test_periods_are_chosen_and_changed(world: Any, second_opinion: Check) -> None:
    world.create("digits", expiry=Expiry.parse(["timestamp=0.5", "task=30"]))
    expires = world.file("timestamp")["signed"]["expires"]
    assert expires == (world.now + timedelta(hours=12)).strftime("%Y-%m-%dT%H:%M:%SZ")
    changed = Expiry.parse(["snapshot=3"], read(world.store).expiry)
    assert changed == Expiry(timestamp=0.5, task=30, snapshot=3)
    with pytest.raises(InputError, match="written in the root"):
        refresh(world.store, world.ring(), world.now, expiry=changed, anchor=world.anchor)
    refresh(world.store, world.ring(), world.now, also=["root"], expiry=changed, anchor=world.anchor)
    assert read(world.store, world.anchor).expiry == changed
    assert world.file("snapshot")["signed"]["expires"] < (world.now + timedelta(days=4)).isoformat()
    second_opinion(world)
    world.updater().refresh()


def test_a_release_is_taken_back(digits: Any, second_opinion: Check) -> None:
    digits.publish()
    digits.publish(version=2)
    gone = revoke_release(digits.store, digits.ring(), "digits", 2, digits.now, anchor=digits.anchor)
    assert gone == ("digits/2-w22-int8.bundle",)
    second_opinion(digits)
    assert digits.get("digits/2-w22-int8.bundle") is None and digits.get(FIRST) is not None
    with pytest.raises(InputError, match="version 2 of 'digits' is not higher than 2"):
        digits.publish(version=2)
    with pytest.raises(InputError, match="version 2 is not live"):
        revoke_release(digits.store, digits.ring(), "digits", 2, digits.now, anchor=digits.anchor)


def test_the_101st_target_makes_the_oldest_leave(digits: Any, second_opinion: Check) -> None:
    for version in range(1, 4):
        members = [f"m{number}" for number in range(33)]
        assert digits.publish("digits", version, *members).removed == ()
    digits.publish("digits", 4, "last")
    assert len(digits.file("task-digits")["signed"]["targets"]) == 100
    done = digits.publish("digits", 5)
    assert set(done.removed) == {f"digits/1-m{number}.bundle" for number in range(33)}
    assert len(digits.file("task-digits")["signed"]["targets"]) == 68
    second_opinion(digits)
    assert digits.get("digits/1-m0.bundle") is None and digits.get("digits/2-m0.bundle") is not None
    blobs = [path for path in digits.listing() if path.startswith("targets/digits/")]
    assert len(blobs) == 101  # a node that read yesterday's metadata may still be downloading
    assert prune(digits.store, digits.now + timedelta(days=1)).blobs == ()
    done = prune(digits.store, digits.now + timedelta(days=8))
    assert len(done.blobs) == 33 and all("/digits/" in path and ".1-m" in path for path in done.blobs)
    second_opinion(digits)
    assert digits.get("digits/2-m0.bundle", "fresh") is not None


def test_prune_leaves_what_nodes_need(place: str, digits: Any, second_opinion: Check) -> None:
    for version in range(1, 4):
        digits.publish(version=version)
    rotate(digits.store, digits.ring(), "root", digits.now, anchor=digits.anchor)
    revoke_release(digits.store, digits.ring(), "digits", 1, digits.now, anchor=digits.anchor)
    if place == "folder":  # what killed writers leave; a bucket shows nothing half done
        (digits.served / "metadata" / ".timestamp.json.partial").write_bytes(b"half")
        (digits.served / "targets" / "digits" / "abc.bundle#1").write_bytes(b"half")
    done = prune(digits.store, digits.now + timedelta(days=1), keep_days=0, anchor=digits.anchor)
    assert len(done.blobs) == 1 and ".1-w22-int8.bundle" in done.blobs[0] and done.size_bytes > 0
    kept = {path for path in digits.listing() if not path.startswith("targets")}
    assert kept - {".lock"} == {
        "metadata/1.root.json", "metadata/2.root.json", "metadata/1.targets.json", "metadata/timestamp.json",
        "metadata/5.task-digits.json", "metadata/5.snapshot.json",
    }  # fmt: skip
    assert not [path for path in digits.listing() if "#" in path]
    second_opinion(digits)
    assert digits.get("digits/3-w22-int8.bundle") is not None
    again = prune(digits.store, digits.now + timedelta(days=1), keep_days=0, anchor=digits.anchor)
    assert (again.blobs, again.metadata, again.size_bytes) == ((), (), 0)


def test_a_task_is_added(digits: Any, second_opinion: Check) -> None:
    digits.publish()
    add_task(digits.store, digits.ring(), "speech", digits.now, approve="auto", anchor=digits.anchor)
    second_opinion(digits)
    (key,) = digits.keys.glob("task-speech-*.pem")
    assert b"ENCRYPTED" not in key.read_bytes()
    digits.publish("speech", 7)
    assert digits.get("speech/7-w22-int8.bundle") is not None and digits.get(FIRST) is not None
    second_opinion(digits)
    with pytest.raises(InputError, match="has the task 'speech' already"):
        add_task(digits.store, digits.ring(), "speech", digits.now, anchor=digits.anchor)


def test_publishing_twice_changes_nothing(digits: Any) -> None:
    digits.publish("digits", 1, "a", "b")
    before = digits.listing()
    assert not digits.publish("digits", 1, "a", "b").new
    assert digits.listing() == before
    for members in (("a",), ("a", "b", "c"), ("b",)):
        with pytest.raises(InputError, match="not higher"):
            digits.publish("digits", 1, *members)
    assert digits.listing() == before


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_version_that_is_not_higher_is_refused(version: int, digits: Any) -> None:
    digits.publish(version=3)
    with pytest.raises(InputError, match=f"version {version} of 'digits' is not higher than 3"):
        publish(
            digits.store, digits.ring(), [digits.bundle("digits", version, "other")], [], digits.now,
            anchor=digits.anchor,
        )  # fmt: skip
    assert digits.get("digits/3-w22-int8.bundle") is not None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "task-digits", "1.root"])
def test_the_second_opinion_sees_a_flipped_bit(role: str, digits: Any, second_opinion: Check) -> None:
    digits.publish()
    second_opinion(digits)
    metadata = digits.served / "metadata"
    path = metadata / f"{role}.json" if role in ("timestamp", "1.root") else max(metadata.glob(f"*.{role}.json"))
    file = json.loads(path.read_text())
    file["signed"]["expires"] = file["signed"]["expires"].replace("202", "203", 1)
    path.write_text(json.dumps(file))
    with pytest.raises(AssertionError):
        second_opinion(digits)
    with pytest.raises((TrustError, RegistryError)):
        read(digits.store)
