"""What the publishing side refuses, and that a refusal changes nothing."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgehone.errors import HostError, InputError
from edgehone.registry.commit import Changes, commit
from edgehone.registry.create import add_task, create, load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.names import Expiry, check_member, check_task
from edgehone.registry.publish import publish
from edgehone.registry.rotation import revoke_key, rotate
from edgehone.registry.state import read
from edgehone.registry.store import Store
from edgehone.registry.upkeep import prune, refresh, revoke_release
from edgehone_agent.errors import BundleError, BusyError, RegistryError, TrustError

Check = Callable[[Any], Any]


@pytest.fixture
def unchanged(digits: Any, second_opinion: Check) -> Any:
    """A registry with one release that must be the same afterwards, keys included."""
    digits.publish()
    before, keys = digits.listing(), _files(digits.keys)
    yield digits
    assert digits.listing() == before
    assert _files(digits.keys) == keys
    second_opinion(digits)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.pem")}


def _hide(world: Any, pattern: str, count: int | None = None) -> Callable[[], None]:
    """Take key files away; returns what brings them back."""
    away = world.folder / "away"
    away.mkdir()
    for path in sorted(world.keys.glob(pattern))[:count]:
        shutil.move(path, away / path.name)
    return lambda: [shutil.move(path, world.keys / path.name) for path in away.iterdir()] and None


def _blobs_only(before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    added = after.keys() - before.keys()
    return all(path.startswith("targets/") for path in added) and {path: after[path] for path in before} == before


def test_a_wrong_passphrase(digits: Any) -> None:
    digits.publish()
    before = digits.listing()
    ring = digits.ring(passphrase="wrong horse battery staple")
    with pytest.raises(InputError, match="wrong passphrase") as caught:
        publish(digits.store, ring, [digits.bundle(version=2)], [], digits.now, anchor=digits.anchor)
    assert not isinstance(caught.value, TrustError) and "task-digits-" in caught.value.where
    assert "horse" not in str(caught.value)
    assert _blobs_only(before, digits.listing())
    assert digits.publish(version=2).new  # the same again, with the right one


def test_no_passphrase_and_nobody_to_ask(unchanged: Any) -> None:
    with pytest.raises(InputError, match="nobody can be asked"):
        refresh(unchanged.store, KeyRing([unchanged.keys], Passphrases()), unchanged.now)


def test_asking_stops_after_three_tries(unchanged: Any) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "no idea"

    with pytest.raises(InputError, match="wrong passphrase"):
        refresh(unchanged.store, KeyRing([unchanged.keys], Passphrases(ask=ask)), unchanged.now)
    assert len(asked) == 3 and all("online-" in prompt for prompt in asked)


def test_one_answer_opens_all_keys(digits: Any) -> None:
    answers = iter(["a typing mistake", digits.passphrase])
    ring = KeyRing([digits.keys], Passphrases(ask=lambda _: next(answers)))
    assert publish(digits.store, ring, [digits.bundle()], [], digits.now, anchor=digits.anchor).new


def test_keys_may_have_different_passphrases(tmp_path: Path) -> None:
    store = Store(tmp_path / "registry")
    first, second = "a first long passphrase", "a second long passphrase"
    now = datetime.now(UTC)
    create(store, KeyRing([tmp_path / "keys"], Passphrases([first])), [], now)
    other = KeyRing([tmp_path / "more", tmp_path / "keys"], Passphrases([second, first]))
    add_task(store, other, "digits", now, anchor=load_anchor(other))
    (key,) = (tmp_path / "more").glob("task-digits-*.pem")
    with pytest.raises(InputError, match="wrong passphrase"):
        KeyRing([], Passphrases([first])).open(key)
    assert KeyRing([], Passphrases([first, second])).open(key)


@pytest.mark.parametrize(
    ("pattern", "count", "said"),
    [
        ("task-digits-*.pem", None, "the task-digits role needs 1 signature, and too few"),
        ("online-*.pem", None, "the snapshot role needs 1 signature, and too few"),
    ],
)
def test_a_missing_key(pattern: str, count: int | None, said: str, digits: Any) -> None:
    digits.publish()
    before = digits.listing()
    back = _hide(digits, pattern, count)
    with pytest.raises(TrustError, match=said):
        digits.publish(version=2)
    assert _blobs_only(before, digits.listing())
    back()
    assert digits.publish(version=2).new


@pytest.mark.parametrize(
    ("who", "pattern"), [("root", "root-*.pem"), ("targets", "targets-*.pem"), ("digits", "targets-*.pem")]
)
def test_below_the_threshold(who: str, pattern: str, unchanged: Any) -> None:
    back = _hide(unchanged, pattern, 2)
    if who == "targets":  # the root names new targets keys, so the root's own keys must be short
        back()
        (unchanged.folder / "away").rmdir()
        back = _hide(unchanged, "root-*.pem", 2)
    with pytest.raises(TrustError, match="needs 2 signatures, and too few of its keys are here; not found"):
        rotate(unchanged.store, unchanged.ring(), who, unchanged.now, anchor=unchanged.anchor)
    back()


def test_one_of_three_may_be_lost(digits: Any, second_opinion: Check) -> None:
    digits.publish()
    for pattern in ("root-*.pem", "targets-*.pem"):
        lost = sorted(digits.keys.glob(pattern))[0]
        lost.unlink()
        revoke_key(digits.store, digits.ring(), lost.stem.rpartition("-")[2], digits.now, anchor=digits.anchor)
        second_opinion(digits)
    assert digits.get("digits/1-w22-int8.bundle") is not None


def test_lost_targets_keys_are_replaced_by_the_root(digits: Any, second_opinion: Check) -> None:
    digits.publish()
    digits.get("digits/1-w22-int8.bundle")
    for path in sorted(digits.keys.glob("targets-*.pem"))[:2]:
        path.unlink()
    rotate(digits.store, digits.ring(), "targets", digits.now, anchor=digits.anchor)
    second_opinion(digits)
    assert digits.get("digits/1-w22-int8.bundle") is not None


def test_a_rotation_cut_between_root_and_timestamp_is_repaired(digits: Any, second_opinion: Check) -> None:
    """The one place where nodes must wait: an online key that is lost, so nothing can please both roots."""
    digits.publish()
    old, anchor = digits.listing(), digits.anchor
    (lost,) = digits.keys.glob("online-*.pem")
    lost.unlink()
    rotate(digits.store, digits.ring(), "online", digits.now, anchor=digits.anchor)
    (digits.store.folder / "metadata" / "timestamp.json").write_bytes(old["metadata/timestamp.json"])
    (digits.keys / "root.json").write_bytes(anchor)
    state = read(digits.store, digits.anchor)
    assert state.behind == ("timestamp", "snapshot")
    with pytest.raises(AssertionError):
        second_opinion(digits)
    assert refresh(digits.store, digits.ring(), digits.now, anchor=digits.anchor) == ("timestamp",)
    second_opinion(digits)
    assert digits.get("digits/1-w22-int8.bundle") is not None


def test_a_key_file_under_a_wrong_name(unchanged: Any) -> None:
    (online,) = unchanged.keys.glob("online-*.pem")
    content = online.read_bytes()
    online.write_bytes(next(unchanged.keys.glob("task-*.pem")).read_bytes())
    with pytest.raises(InputError, match="another key than its name says"):
        refresh(unchanged.store, unchanged.ring(), unchanged.now)
    online.write_bytes(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(InputError, match="wrong passphrase"):
        refresh(unchanged.store, unchanged.ring(), unchanged.now)
    online.write_bytes(b"no key at all")
    with pytest.raises(InputError, match="no private key file"):
        refresh(unchanged.store, unchanged.ring(), unchanged.now)
    online.write_bytes(content)


def test_keys_are_encrypted_and_private(digits: Any) -> None:
    assert digits.keys.stat().st_mode & 0o777 == 0o700
    for path in digits.keys.glob("*.pem"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    served = b"".join(digits.listing().values())
    assert b"PRIVATE" not in served and digits.passphrase.encode() not in served


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "a/b", "Digits", "a*", "a[b]", "a b", "x" * 65, "-a", "a\n", "ä"]
)
def test_names_that_no_path_or_pattern_may_hold(name: str) -> None:
    with pytest.raises(InputError):
        check_task(name)
    if name != "Digits":
        with pytest.raises(InputError):
            check_member(name)


@pytest.mark.parametrize(
    "word", ["timestamp", "timestamp=", "timestamp=soon", "timestamp=0", "week=7", "root=1e9", "task=nan"]
)
def test_periods_that_make_no_sense(word: str) -> None:
    with pytest.raises(InputError):
        Expiry.parse([word])


def test_a_short_passphrase_makes_no_key(tmp_path: Path, digits: Any) -> None:
    ring = KeyRing([tmp_path / "new-keys"], Passphrases(["short"]))
    with pytest.raises(InputError, match="at least 12 characters"):
        create(Store(tmp_path / "new"), ring, [], digits.now)
    assert not (tmp_path / "new-keys").exists()


def test_two_answers_must_agree(tmp_path: Path, digits: Any) -> None:
    answers = iter(["a long passphrase", "a long passphrasf"])
    ring = KeyRing([tmp_path / "new-keys"], Passphrases(ask=lambda _: next(answers)))
    with pytest.raises(InputError, match="differ"):
        create(Store(tmp_path / "new"), ring, [], digits.now)


def test_keys_may_not_be_served(tmp_path: Path, digits: Any) -> None:
    for keys in (tmp_path / "new", tmp_path / "new" / "keys"):
        with pytest.raises(InputError, match="may not lie in the folder that is served"):
            create(Store(tmp_path / "new"), digits.ring(keys), [], digits.now)
    (tmp_path / "link").symlink_to(digits.store.folder)
    with pytest.raises(InputError, match="may not lie"):
        rotate(digits.store, digits.ring(tmp_path / "link" / "keys", digits.keys), "online", digits.now)


def test_what_is_there_is_not_made_again(unchanged: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a registry already"):
        create(unchanged.store, unchanged.ring(tmp_path / "other"), [], unchanged.now)
    with pytest.raises(InputError, match="keys of another registry"):
        create(Store(tmp_path / "new"), unchanged.ring(), [], unchanged.now)


def test_a_clock_that_was_lost_signs_nothing(unchanged: Any) -> None:
    for lost in (datetime(1970, 1, 1, tzinfo=UTC), unchanged.now - timedelta(days=2)):
        with pytest.raises(HostError, match="the clock says"):
            refresh(unchanged.store, unchanged.ring(), lost, anchor=unchanged.anchor)


def test_clocks_of_publishers_may_differ_a_little(digits: Any, second_opinion: Check) -> None:
    refresh(digits.store, digits.ring(), digits.now - timedelta(minutes=30), anchor=digits.anchor)
    second_opinion(digits)


def test_a_registry_that_slept_for_years_is_woken(digits: Any, second_opinion: Check) -> None:
    digits.publish()
    digits.now += timedelta(days=1000)
    also = ["root", "targets", "digits"]
    refresh(digits.store, digits.ring(), digits.now, also=also, anchor=digits.anchor)
    second_opinion(digits)


@pytest.mark.parametrize("left", ["metadata", "targets", "both"])
def test_what_is_left_of_a_registry_is_not_overwritten(left: str, digits: Any, tmp_path: Path) -> None:
    digits.publish()
    (digits.store.folder / "metadata" / "timestamp.json").unlink()
    if left == "metadata":
        shutil.rmtree(digits.store.folder / "targets")
    elif left == "targets":
        shutil.rmtree(digits.store.folder / "metadata")
    before = digits.listing()
    with pytest.raises(InputError, match="holds a registry already"):
        create(digits.store, digits.ring(tmp_path / "new"), ["digits"], digits.now)
    assert digits.listing() == before and not list((tmp_path / "new").glob("*.pem"))


def test_an_init_that_was_killed_is_run_again(digits: Any, tmp_path: Path, second_opinion: Check) -> None:
    (digits.store.folder / "metadata" / "timestamp.json").unlink()
    (digits.store.folder / "metadata" / ".timestamp.json.partial").write_bytes(b"{")
    (digits.keys / "root.json").unlink()
    create(digits.store, digits.ring(), ["digits"], digits.now)
    (digits.store.folder / "metadata" / ".timestamp.json.partial").unlink(missing_ok=True)
    second_opinion(digits)


def test_no_registry_here(tmp_path: Path, digits: Any) -> None:
    with pytest.raises(RegistryError, match="no registry in this folder"):
        read(Store(tmp_path / "nothing"))
    with pytest.raises(TrustError, match="not the one kept with the keys"):
        read(Store(tmp_path / "nothing"), digits.anchor)


def test_a_folder_that_somebody_swapped(digits: Any, tmp_path: Path) -> None:
    """A whole registry, consistent in itself, made by somebody else."""
    anchor = digits.anchor
    create(Store(tmp_path / "evil"), digits.ring(tmp_path / "evil-keys"), ["digits"], digits.now)
    shutil.rmtree(digits.store.folder / "metadata")
    shutil.copytree(tmp_path / "evil" / "metadata", digits.store.folder / "metadata")
    read(digits.store)
    with pytest.raises(TrustError, match="not the one kept with the keys"):
        publish(digits.store, digits.ring(), [digits.bundle()], [], digits.now, anchor=anchor)


def test_a_root_that_does_not_follow(unchanged: Any, tmp_path: Path) -> None:
    create(Store(tmp_path / "evil"), unchanged.ring(tmp_path / "evil-keys"), ["digits"], unchanged.now)
    rotate(Store(tmp_path / "evil"), unchanged.ring(tmp_path / "evil-keys"), "root", unchanged.now)
    forged = unchanged.store.folder / "metadata" / "2.root.json"
    shutil.copy(tmp_path / "evil" / "metadata" / "2.root.json", forged)
    with pytest.raises(TrustError, match="does not follow"):
        read(unchanged.store, unchanged.anchor)
    forged.unlink()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"signed": {}}', b"\xff" * 99])
@pytest.mark.parametrize(
    "name", ["timestamp.json", "1.root.json", "2.snapshot.json", "1.targets.json", "2.task-digits.json"]
)
def test_damaged_metadata(name: str, damage: bytes, digits: Any) -> None:
    digits.publish()
    (digits.store.folder / "metadata" / name).write_bytes(damage)
    with pytest.raises(TrustError):
        read(digits.store)


def test_missing_metadata(digits: Any) -> None:
    digits.publish()
    (digits.store.folder / "metadata" / "2.task-digits.json").unlink()
    with pytest.raises(RegistryError, match="a file of the registry is missing"):
        read(digits.store)


def test_two_publishers_at_once(unchanged: Any) -> None:
    with unchanged.store.lock():
        with pytest.raises(BusyError, match="another command is changing"):
            publish(unchanged.store, unchanged.ring(), [unchanged.bundle(version=2)], [], unchanged.now)
        with pytest.raises(BusyError):
            prune(unchanged.store, unchanged.now)


def test_bundles_that_make_no_release(unchanged: Any, tmp_path: Path) -> None:
    def refused(*bundles: Path) -> str:
        with pytest.raises(InputError) as caught:
            publish(unchanged.store, unchanged.ring(), bundles, [], unchanged.now, anchor=unchanged.anchor)
        return str(caught.value)

    assert "no bundle" in refused()
    assert "one version of one task" in refused(unchanged.bundle(version=2), unchanged.bundle(version=3))
    assert "one version of one task" in refused(unchanged.bundle(version=2), unchanged.bundle("speech", 2))
    assert "same member" in refused(unchanged.bundle(version=2), unchanged.bundle(version=2))
    assert "no task 'speech'" in refused(unchanged.bundle("speech", 2))
    (tmp_path / "text.bundle").write_text("nothing of the kind")
    with pytest.raises(BundleError):
        publish(unchanged.store, unchanged.ring(), [tmp_path / "text.bundle"], [], unchanged.now)


def test_a_bundle_whose_model_was_swapped(unchanged: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(unchanged.bundle(version=2)) as good, zipfile.ZipFile(tmp_path / "bad.bundle", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            bad.writestr(name, content if name == "manifest.json" else content[::-1].swapcase()[:-1] + b"!")
    with pytest.raises(BundleError):
        publish(unchanged.store, unchanged.ring(), [tmp_path / "bad.bundle"], [], unchanged.now)


def test_a_blob_that_was_cut_is_put_again(digits: Any, second_opinion: Check) -> None:
    bundle = digits.bundle()
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    blob = digits.store.folder / "targets" / "digits" / f"{digest}.1-w22-int8.bundle"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bundle.read_bytes()[:50])
    digits.publish()
    second_opinion(digits)


def test_unknown_roles_tasks_and_keys(unchanged: Any) -> None:
    world = unchanged
    for call, said in (
        (lambda: rotate(world.store, world.ring(), "speech", world.now), "no role or task 'speech'"),
        (lambda: rotate(world.store, world.ring(), "root", world.now, key="000000"), "the key of nothing here"),
        (lambda: rotate(world.store, world.ring(), "root", world.now, key=""), "the key of nothing here"),
        (lambda: revoke_key(world.store, world.ring(), "000000", world.now), "no role uses a key"),
        (lambda: revoke_key(world.store, world.ring(), "", world.now), "no role uses a key"),
        (lambda: refresh(world.store, world.ring(), world.now, also=["speech"]), "no role or task 'speech'"),
        (lambda: revoke_release(world.store, world.ring(), "speech", 1, world.now), "no task 'speech'"),
        (lambda: prune(world.store, world.now, keep_days=-1), "no time to keep"),
    ):
        with pytest.raises(InputError, match=said):
            call()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(unchanged: Any) -> None:
    metadata = unchanged.store.folder / "metadata"
    metadata.chmod(0o500)
    try:
        with pytest.raises(HostError):
            refresh(unchanged.store, unchanged.ring(), unchanged.now)
    finally:
        metadata.chmod(0o700)


def test_a_disk_that_is_full(unchanged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full answers every write as a full disk does."""
    partial = unchanged.store.folder / "metadata" / ".timestamp.json.partial"
    partial.symlink_to("/dev/full")
    with pytest.raises(HostError, match="No space left"):
        refresh(unchanged.store, unchanged.ring(), unchanged.now)
    assert not partial.is_symlink()


def test_a_blob_for_which_there_is_no_room(unchanged: Any) -> None:
    bundle = unchanged.bundle(version=2, model=os.urandom(300_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(HostError, match="the blob cannot be written"):
            publish(unchanged.store, unchanged.ring(), [bundle], [], unchanged.now, anchor=unchanged.anchor)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    unchanged.store.sweep()


def test_passphrases_of_any_bytes(tmp_path: Path, digits: Any) -> None:
    ring = KeyRing([tmp_path / "new-keys"], Passphrases(["schön und lang \udcff genug"]))
    signer = ring.make("online")
    (path,) = (tmp_path / "new-keys").iterdir()
    again = KeyRing([tmp_path / "new-keys"], Passphrases(["schön und lang \udcff genug"])).open(path)
    assert again.public_key == signer.public_key
    with pytest.raises(InputError, match="more than 1000 bytes"):
        KeyRing([tmp_path / "new-keys"], Passphrases(["x" * 1001])).make("online")


def test_a_registry_is_read_by_whoever_knows_more(digits: Any) -> None:
    """Fields of a newer version do not disturb and are kept."""
    digits.publish()
    state = read(digits.store)
    state.roles["task-digits"].signed.unrecognized_fields["x-newer"] = {"a": 1}
    changes = Changes(roles={"task-digits": state.roles["task-digits"].signed})
    commit(digits.store, state, digits.ring(), changes, digits.now)
    digits.publish(version=2)
    assert digits.file("task-digits")["signed"]["x-newer"] == {"a": 1}
