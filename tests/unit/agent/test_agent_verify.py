"""What a node believes: what it is offered, and every attack that TUF knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Metadata, MetaFile, Snapshot, TargetFile

from edgehone.testing.trust import SITE_NOW_S as NOW_S
from edgehone.testing.trust import Site, digest, sign
from edgehone_agent.errors import InputError, RegistryError, TrustError
from edgehone_agent.transport import open_source
from edgehone_agent.verify import Checked, Verifier, location

YEAR_S = 365.25 * 86400.0


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def versions(checked: Checked) -> list[int]:
    return [release.version for release in checked.releases]


def flags(checked: Checked) -> set[str]:
    return {flag.name for flag in checked.flags}


# What is offered


def test_a_check_offers_the_newest_first_and_by_rank(site: Site) -> None:
    site.repository.release("gauge", 10, b"large", member="large", rank=1)
    site.repository.release("gauge", 10, b"small", member="small", rank=0)
    site.repository.release("gauge", 9, b"middle")
    site.repository.commit()
    checked = site.check()
    assert [(r.version, r.member) for r in checked.releases] == [
        (10, "small"),
        (10, "large"),
        (9, "small"),
        (1, "small"),
    ]
    assert checked.fresh and checked.flags == ()


def test_a_release_says_what_was_signed(site: Site, tmp_path: Path) -> None:
    old, new, delta = digest(b"first"), b"second", b"difference"
    path = f"gauge/2-from-{old[:16]}.delta"
    fit = {"machines": ["x86_64"], "runtimes": ["litert"], "memory_bytes": 5, "latency_us": 7, "agent": "0.1.0"}
    site.repository.release("gauge", 2, new, fit=fit, deltas=[{"from": old, "path": path}])
    site.repository.put_target("gauge", path, delta, {"from": old, "to": digest(new)})
    site.repository.commit()
    verifier = site.verifier()
    release = verifier.check("gauge").releases[0]
    assert (release.task, release.path, release.sha256, release.size_bytes) == (
        "gauge", "gauge/2-small.bundle", digest(new), 6,
    )  # fmt: skip
    assert (release.fit.machines, release.fit.runtimes, release.fit.memory_bytes) == (("x86_64",), ("litert",), 5)
    (found,) = release.deltas
    assert (found.from_sha256, found.path, found.sha256, found.size_bytes) == (old, path, digest(delta), 10)
    verifier.download(release, tmp_path / "bundle")
    verifier.download(found, tmp_path / "delta")
    assert ((tmp_path / "bundle").read_bytes(), (tmp_path / "delta").read_bytes()) == (new, delta)
    assert location(release) == f"targets/gauge/{digest(new)}.2-small.bundle"


def test_a_delta_that_leads_elsewhere_is_left_out(site: Site) -> None:
    old = digest(b"first")
    path = f"gauge/2-from-{old[:16]}.delta"
    site.repository.release("gauge", 2, b"second", deltas=[{"from": old, "path": path}, {"from": 1, "path": path}, 3])
    site.repository.put_target("gauge", path, b"difference", {"from": old, "to": digest(b"other")})
    site.repository.commit()
    assert site.check().releases[0].deltas == ()


def test_a_release_that_was_taken_back_is_no_longer_offered(site: Site) -> None:
    assert versions(site.check()) == [1]
    site.repository.tasks["gauge"].targets.clear()
    site.repository.commit()
    assert site.check() == Checked((), (), True)


def test_each_task_sees_its_own(tmp_path: Path) -> None:
    site = Site(tmp_path, tasks=("gauge", "valve"))
    site.repository.release("valve", 7, b"valve")
    site.repository.commit()
    verifier = site.verifier()
    assert versions(verifier.check("gauge")) == [1] and versions(verifier.check("valve")) == [7]


def test_an_unknown_task_is_said_with_those_there_are(site: Site) -> None:
    with pytest.raises(InputError, match="no task 'gaugge'") as caught:
        site.verifier().check("gaugge")
    assert "gauge" in caught.value.do and not isinstance(caught.value, TrustError)


@pytest.mark.parametrize("task", ["", "*", "../gauge", "a/b", "Gauge", "gauge\n", "x" * 65, "[a-z]"])
def test_no_pattern_passes_for_a_task(site: Site, task: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a task"):
        site.verifier().check(task)


# Attacks


def test_a_replayed_timestamp_is_refused(site: Site) -> None:
    site.check()
    old = site.keep("old")
    site.repository.write_timestamp()
    assert site.check().fresh
    site.show(old, "timestamp.json")
    with pytest.raises(TrustError):
        site.check()


def test_a_snapshot_that_rolls_a_role_back_is_refused(site: Site) -> None:
    site.repository.release("gauge", 2, b"second")
    site.repository.commit()
    site.check()
    site.repository.snapshot_meta["task-gauge.json"] = MetaFile(1)
    site.repository.write_snapshot()
    site.repository.write_timestamp()
    with pytest.raises(TrustError, match="version"):
        site.check()


@pytest.mark.parametrize("lost", [(), ("floor.json",), ("floor.sqlite",)], ids=["none", "file", "database"])
def test_a_wiped_client_does_not_take_an_older_state_that_has_not_expired(site: Site, lost: tuple[str, ...]) -> None:
    old = site.keep("old")
    site.repository.release("gauge", 2, b"second")
    site.repository.commit()
    assert versions(site.check()) == [2, 1]
    shutil.rmtree(site.state / "tuf")
    for name in lost:
        (site.state / name).unlink()
    site.show(old)
    with pytest.raises(TrustError, match="version 2, and version 3 was seen before"):
        site.check()
    site.repository.commit()  # the true registry comes back, newer than ever
    assert versions(site.check()) == [2, 1]


def test_the_older_state_would_be_taken_without_floors(site: Site) -> None:
    """Shows that the test above looks at the floors and at nothing else."""
    old = site.keep("old")
    site.repository.release("gauge", 2, b"second")
    site.repository.commit()
    site.check()
    shutil.rmtree(site.state)
    site.show(old)
    assert versions(site.check()) == [1]


def test_a_wiped_client_does_not_go_back_to_keys_that_were_revoked(site: Site) -> None:
    """The root that revoked them is withheld, and the thief signs with the old key."""
    site.check()
    thief = site.repository.rotate_online()
    assert site.check().fresh
    shutil.rmtree(site.state / "tuf")
    (site.repository.folder / "metadata" / "2.root.json").unlink()
    site.repository.signers["online"] = [thief]
    site.repository.write_snapshot()
    site.repository.write_timestamp()
    with pytest.raises(TrustError, match="root version 1, and version 2 was seen before"):
        site.check()


def test_a_revoked_online_key_is_refused(site: Site) -> None:
    site.check()
    thief = site.repository.rotate_online()
    site.check()
    site.repository.signers["online"] = [thief]
    site.repository.write_timestamp()
    with pytest.raises(TrustError):
        site.check()


def test_a_revoked_task_key_is_refused(site: Site) -> None:
    site.check()
    thief = site.repository.rotate_task("gauge")
    site.check()
    site.repository.release("gauge", 2, b"stolen")
    site.repository.signers["gauge"] = [thief]
    site.repository.commit(tasks=["gauge"])
    with pytest.raises(TrustError):
        site.check()


def test_one_key_of_two_is_below_the_threshold(site: Site) -> None:
    site.check()
    root = site.repository.signers["root"]
    site.repository.write_root(signers=root[:1])
    with pytest.raises(TrustError):
        site.check()
    site.repository.root_role.version -= 1
    site.repository.write_root(signers=[root[0], root[0]])  # the same key twice is one key
    with pytest.raises(TrustError):
        site.check()
    site.repository.root_role.version -= 1
    site.repository.write_root(signers=root[1:])
    assert site.check().fresh


def test_targets_below_the_threshold_are_refused(site: Site) -> None:
    targets = site.repository.signers["targets"]
    site.repository.signers["targets"] = targets[:1]
    site.repository.commit()
    with pytest.raises(TrustError):
        site.check()


def test_mix_and_match_is_refused(site: Site) -> None:
    """A task's role of one time under the snapshot of another."""
    site.check()
    old = site.keep("old")
    site.repository.release("gauge", 2, b"second")
    site.repository.commit()
    shutil.copy(old / "metadata" / "2.task-gauge.json", site.repository.folder / "metadata" / "3.task-gauge.json")
    with pytest.raises(TrustError, match=r"version|v3"):
        site.check()


def test_a_snapshot_of_another_version_is_refused(site: Site) -> None:
    site.check()
    site.repository.write_snapshot()
    site.repository.write_timestamp()
    metadata = site.repository.folder / "metadata"
    shutil.copy(metadata / "2.snapshot.json", metadata / "3.snapshot.json")
    with pytest.raises(TrustError):
        site.check()


def test_the_key_of_one_task_does_not_release_for_another(tmp_path: Path) -> None:
    site = Site(tmp_path, tasks=("gauge", "valve"))
    site.repository.signers["gauge"] = site.repository.signers["valve"]
    site.repository.release("gauge", 2, b"foreign")
    site.repository.commit()
    with pytest.raises(TrustError):
        site.check()


def test_a_role_that_lists_the_files_of_another_task_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, tasks=("gauge", "valve"))
    about = {"version": 9, "member": "small", "rank": 0, "fit": {}, "deltas": []}
    site.repository.put_target("valve", "gauge/9-small.bundle", b"foreign", about)
    site.repository.commit()
    verifier = site.verifier()
    assert versions(verifier.check("gauge")) == [1]
    with pytest.raises(TrustError, match="may release for 'valve' only"):
        verifier.check("valve")


@pytest.mark.parametrize("change", ["wide", "open", "shadow", "not terminating"])
def test_a_delegation_that_says_more_than_one_task_is_refused(site: Site, change: str) -> None:
    delegations = site.repository.targets.delegations
    assert delegations is not None and delegations.roles is not None
    role = delegations.roles["task-gauge"]
    if change == "wide":
        role.paths = ["*/*"]
    elif change == "open":
        role.paths = ["gauge/*", "valve/*"]
    elif change == "not terminating":
        role.terminating = False
    else:
        other = DelegatedRole("task-other", [], 1, True, paths=["*/*"])
        delegations.roles = {"task-other": other, **delegations.roles}
        site.repository.signers["other"] = [CryptoSigner.generate_ed25519()]
        site.repository.targets.add_key(site.repository.signers["other"][0].public_key, "task-other")
        site.repository.tasks["other"] = type(site.repository.targets)()
    site.repository.commit()
    with pytest.raises(TrustError, match=r"may release more|stands before"):
        site.check()


def test_files_that_the_targets_role_itself_lists_are_not_releases(site: Site) -> None:
    custom = {"custom": {"edgehone": {"version": 9, "member": "small", "rank": 0}}}
    file = TargetFile(3, {"sha256": digest(b"top")}, "gauge/9-small.bundle", custom)
    site.repository.targets.targets[file.path] = file
    site.repository.commit()
    assert versions(site.check()) == [1]


@pytest.mark.parametrize(
    "about",
    [
        {"version": True}, {"version": 0}, {"version": "2"}, {"version": 3}, {"version": 2**60}, {"member": "../x"},
        {"member": 5}, {"rank": "first"}, {"deltas": {}}, {"fit": []}, {"fit": {"machines": "x86_64"}},
        {"fit": {"memory_bytes": -1}}, {"fit": {"agent": 1}}, {"fit": {"latency_us": "fast"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_signed_release_that_makes_no_sense_is_refused(site: Site, about: dict[str, object]) -> None:
    custom = {"version": 2, "member": "small", "rank": 0, "fit": {}, "deltas": [], **about}
    site.repository.put_target("gauge", "gauge/2-small.bundle", b"second", custom)
    site.repository.commit()
    with pytest.raises(TrustError):
        site.check()


def test_names_and_keys_that_are_numbers_are_no_crash(site: Site) -> None:
    """python-tuf takes them, signed by the right keys as they are."""
    delegations = site.repository.targets.delegations
    assert delegations is not None and delegations.roles is not None
    delegations.roles = {5: DelegatedRole(5, [], 1, True, paths=["x/*"])}  # type: ignore[dict-item,arg-type]
    site.repository.commit()
    with pytest.raises(InputError, match="no task 'gauge'"):
        site.check()
    for role in site.repository.root_role.roles.values():
        role.keyids.append(7)  # type: ignore[arg-type]
    site.repository.write_root()
    with pytest.raises(InputError, match="no task 'gauge'"):
        site.check()
    site.clocks.now_s += 10 * YEAR_S
    assert flags(site.check()) == {"stale_metadata"}


def test_a_file_without_a_sha256_is_refused(site: Site) -> None:
    custom = {"custom": {"edgehone": {"version": 2, "member": "small"}}}
    file = TargetFile(3, {"sha512": "00"}, "gauge/2-small.bundle", custom)
    site.repository.tasks["gauge"].targets[file.path] = file
    site.repository.commit()
    with pytest.raises(TrustError, match="without a sha256"):
        site.check()


def test_other_targets_and_unknown_fields_are_left_alone(site: Site) -> None:
    site.repository.release("gauge", 2, b"second", colour="red", fit={"moon": "full"})
    file = TargetFile(3, {"sha256": digest(b"top")}, "gauge/readme", {"custom": "text"})
    site.repository.tasks["gauge"].targets[file.path] = file
    site.repository.commit()
    assert versions(site.check()) == [2, 1]


def test_an_oversize_timestamp_is_refused(site: Site) -> None:
    site.check()
    path = site.repository.folder / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes() + b" " * 20_000)
    with pytest.raises(TrustError, match="larger than the 16384 bytes"):
        site.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 5000, b"\xff\xfe", b"<html>log in</html>", b'{"signed": 1}'])
def test_nonsense_is_refused(site: Site, content: bytes) -> None:
    site.check()
    site.repository.put("metadata/timestamp.json", content)
    with pytest.raises(TrustError):
        site.check()


def test_a_wrong_file_is_refused(site: Site, tmp_path: Path) -> None:
    verifier = site.verifier()
    (release,) = verifier.check("gauge").releases
    for content in (b"fIrst", b"firs", b"first and more"):
        site.repository.put(location(release), content)
        with pytest.raises(TrustError):
            verifier.download(release, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists() and not (tmp_path / "bundle.part").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100])
def test_an_embedded_root_that_is_none_is_said(site: Site, content: bytes) -> None:
    with pytest.raises(TrustError, match="no root of a registry"):
        site.verifier(root=content)


def test_a_root_that_is_not_signed_by_its_own_keys_is_none(site: Site) -> None:
    root = Metadata.from_bytes(site.repository.root)
    with pytest.raises(TrustError, match="no root of a registry"):
        site.verifier(root=sign(root.signed, site.repository.signers["online"]))
    timestamp = (site.repository.folder / "metadata" / "timestamp.json").read_bytes()
    with pytest.raises(TrustError, match="it is timestamp metadata"):
        site.verifier(root=timestamp)


# Registries that cannot be reached or are none


def test_no_registry_is_said_and_what_was_verified_stays_known(site: Site) -> None:
    verifier = site.verifier()
    assert verifier.last("gauge") is None
    checked = verifier.check("gauge")
    assert verifier.last("gauge") == checked
    site.repository.folder.rename(site.folder / "away")
    with pytest.raises(RegistryError):
        verifier.check("gauge")
    last = verifier.last("gauge")
    assert last is not None and last.releases == checked.releases and not last.fresh and flags(last) == {"unreachable"}
    (site.folder / "away").rename(site.repository.folder)
    assert verifier.check("gauge") == checked == verifier.last("gauge")


def test_an_empty_folder_is_no_registry(site: Site) -> None:
    shutil.rmtree(site.repository.folder)
    site.repository.folder.mkdir()
    with pytest.raises(RegistryError, match="no registry, or it is not complete"):
        site.check()


# A web server


def test_the_same_over_http(site: Site, serve: Callable[[Path], str], tmp_path: Path) -> None:
    url = serve(site.repository.folder)
    verifier = Verifier(site.state, open_source(url), site.repository.root, clock=lambda: NOW_S)
    (release,) = verifier.check("gauge").releases
    verifier.download(release, tmp_path / "bundle")
    assert (tmp_path / "bundle").read_bytes() == b"first"
    snapshot = Metadata[Snapshot].from_bytes((site.state / "tuf/snapshot.json").read_bytes())
    assert snapshot.signed.version == 2
