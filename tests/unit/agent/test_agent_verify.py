"""What a node believes: every attack that TUF knows, and those that a node without a good clock or disk adds."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Metadata, MetaFile, Snapshot, TargetFile

from edgehone.testing.trust import Repository, digest, sign
from edgehone_agent import _tuf
from edgehone_agent.errors import EdgehoneError, HostError, InputError, RegistryError, StateError, TrustError
from edgehone_agent.transport import FolderSource, open_source
from edgehone_agent.verify import BUILT_S, Checked, Verifier, location

DAY_S, YEAR_S = 86400.0, 365.25 * 86400.0
NOW_S = BUILT_S + 400 * DAY_S  # some day in the life of this package


class Clocks:
    """A wall clock and an uptime that a test moves."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s, self.up_s = now_s, 0.0

    def run(self, seconds: float) -> None:
        self.now_s += seconds
        self.up_s += seconds


class Site:
    """A registry, a node's folder and its clocks."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.state, self.clocks = folder, folder / "state", Clocks()
        self.repository = Repository(folder / "registry", now_s=NOW_S, **settings)  # type: ignore[arg-type]
        self.repository.release("gauge", 1, b"first")
        self.repository.commit()

    def verifier(self, root: bytes | None = None) -> Verifier:
        """A node that has just started."""
        self.clocks.up_s = 0.0
        return Verifier(
            self.state,
            FolderSource(self.repository.folder),
            self.repository.root if root is None else root,
            clock=lambda: self.clocks.now_s,
            uptime=lambda: self.clocks.up_s,
        )

    def check(self) -> Checked:
        """A check after a start."""
        return self.verifier().check("gauge")

    def keep(self, name: str) -> Path:
        """A copy of the registry as it is now."""
        return Path(shutil.copytree(self.repository.folder, self.folder / name))

    def show(self, copy: Path, *names: str) -> None:
        """Show files of an old copy (all metadata by default) to the node."""
        for file in (copy / "metadata").iterdir():
            if not names or file.name in names:
                shutil.copy(file, self.repository.folder / "metadata" / file.name)

    def advance(self, days: float) -> None:
        """Let time pass everywhere."""
        self.clocks.run(days * DAY_S)
        self.repository.now_s += days * DAY_S


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


# Time


@pytest.mark.parametrize("years", [-60, -10, -1, -0.01, 0, 0.001])
def test_a_clock_that_is_behind_or_right_does_not_stop_updates(site: Site, years: float) -> None:
    site.clocks.now_s += years * YEAR_S
    checked = site.check()
    assert checked.fresh and versions(checked) == [1]
    assert flags(checked) == ({"clock_behind"} if years < 0 else set())


@pytest.mark.parametrize("years", [0.01, 0.5, 2, 10, 1e6, 1e300])
def test_a_clock_ahead_offers_nothing_says_so_and_heals(site: Site, years: float) -> None:
    verifier = site.verifier()
    assert verifier.check("gauge").fresh
    site.clocks.now_s += years * YEAR_S
    checked = verifier.check("gauge")
    assert not checked.fresh and checked.releases == () and flags(checked) == {"stale_metadata"}
    site.repository.write_timestamp()
    checked = verifier.check("gauge")
    root_is_good = years < 1
    assert flags(checked) == ({"stale_metadata", "clock_ahead"} if root_is_good else {"stale_metadata"})
    last = verifier.last("gauge")
    assert last is not None and versions(last) == [1]  # still known, not offered
    site.clocks.now_s = NOW_S
    assert verifier.check("gauge") == Checked(last.releases, (), True)


def test_metadata_that_is_out_of_date_is_offered_by_no_clock_that_stands_still(site: Site) -> None:
    """A freeze: the registry shows the same timestamp for ever, and the node's clock is at its epoch."""
    site.clocks.now_s = 0.0
    verifier = site.verifier()
    for _ in range(23):
        assert verifier.check("gauge").fresh
        site.clocks.up_s += 3600
    site.clocks.up_s += 2 * 3600
    checked = verifier.check("gauge")
    assert not checked.fresh and flags(checked) == {"stale_metadata", "clock_behind"}


def test_the_time_that_passed_survives_a_restart(site: Site) -> None:
    site.clocks.now_s = 0.0
    for _ in range(4):  # four starts, eight hours each
        verifier = site.verifier()
        checked = verifier.check("gauge")
        for _ in range(8):
            site.clocks.up_s += 3600
            checked = verifier.check("gauge")
    assert not checked.fresh and flags(checked) == {"stale_metadata", "clock_behind"}


def test_a_clock_set_back_does_not_open_an_older_state(site: Site) -> None:
    site.check()
    old = site.keep("old")
    site.advance(30)
    site.repository.commit()
    assert site.check().fresh
    site.clocks.now_s = NOW_S
    shutil.rmtree(site.state / "tuf")
    floors = json.loads((site.state / "floor.json").read_text())["floors"]
    assert floors["time_s"] == pytest.approx(NOW_S + 30 * DAY_S, abs=2)
    site.show(old)
    with pytest.raises(TrustError):
        site.check()


def test_the_age_of_the_package_counts_where_nothing_else_is_known(tmp_path: Path) -> None:
    """A wiped node without a clock is not shown what had expired when its software was built."""
    site = Site(tmp_path, states_periods=False)
    site.repository.now_s = BUILT_S - 2 * DAY_S
    site.repository.commit()
    site.clocks.now_s = 0.0
    assert flags(site.check()) == {"stale_metadata", "clock_behind"}
    site.repository.now_s = BUILT_S
    site.repository.commit()
    assert site.check().fresh


def test_the_embedded_root_is_a_date_too(site: Site) -> None:
    """Signed 400 days after the package was built: a timestamp of the day before is no news."""
    site.repository.now_s = NOW_S - 3 * DAY_S
    site.repository.commit()
    site.clocks.now_s = 0.0
    assert flags(site.check()) == {"stale_metadata", "clock_behind"}


def test_an_expired_snapshot_is_found_by_the_date_of_the_timestamp(site: Site) -> None:
    """Wiped node, no clock: the timestamp itself tells that the snapshot is past its date."""
    site.repository.now_s += 30 * DAY_S
    site.repository.write_timestamp()
    site.clocks.now_s = 0.0
    checked = site.check()
    assert not checked.fresh and checked.releases == ()
    assert "snapshot metadata is expired" in checked.flags[0].text


def test_an_expired_replay_is_a_replay(site: Site) -> None:
    site.check()
    old = site.keep("old")
    site.advance(3)
    site.repository.commit()
    assert site.check().fresh
    shutil.rmtree(site.state / "tuf")
    site.show(old)
    with pytest.raises(TrustError, match="seen before"):
        site.check()


def test_a_registry_that_nobody_signed_is_flagged_and_goes_on_when_signed(site: Site) -> None:
    site.check()
    site.advance(5)
    checked = site.check()
    assert not checked.fresh and "4.0 days ago" in checked.flags[0].text
    site.repository.commit()
    assert site.check().fresh


def test_a_shorter_life_of_the_timestamp_does_not_move_the_floor_ahead(site: Site) -> None:
    """A root that states one day, seen together with a timestamp that was signed for seven."""
    site.repository.periods_days["timestamp"] = 7
    site.repository.root_role.unrecognized_fields["x-edgehone"]["expiry_days"]["timestamp"] = "7"
    site.repository.write_root()
    site.repository.write_timestamp()
    assert site.check().fresh
    site.repository.root_role.unrecognized_fields["x-edgehone"]["expiry_days"]["timestamp"] = "1"
    site.repository.write_root()
    assert site.check() == Checked(site.check().releases, (), True)
    site.repository.periods_days["timestamp"] = 1
    site.repository.write_timestamp()
    assert site.check().fresh


def test_a_publisher_from_the_future_is_healed_by_a_new_online_key(site: Site) -> None:
    site.repository.now_s += 100 * DAY_S
    site.repository.commit()
    assert flags(site.check()) == {"clock_behind"}
    site.repository.now_s -= 100 * DAY_S
    site.repository.commit()
    assert not site.check().fresh
    site.repository.rotate_online()
    assert site.check() == Checked(site.check().releases, (), True)


def test_time_is_put_into_python_tuf_and_a_version_that_lost_the_place_is_refused(site: Site) -> None:
    """Our one look behind python-tuf's curtain: both sides of it."""
    site.state.mkdir()
    source = FolderSource(site.repository.folder)
    inside = _tuf.refresh(site.state / "tuf", site.repository.root, source, "gauge", NOW_S)
    outside = _tuf.refresh(site.state / "tuf", site.repository.root, source, "gauge", NOW_S + 2 * DAY_S)
    assert isinstance(inside, _tuf.Verified) and isinstance(outside, _tuf.Expired)
    with pytest.raises(HostError, match="takes its time from elsewhere"):
        _tuf._set_time(object(), 0.0)


def test_the_day_of_building_is_past() -> None:
    assert datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC).timestamp() < BUILT_S
    assert datetime.datetime.now(datetime.UTC).timestamp() > BUILT_S


# Floors


def test_nothing_below_the_floor_is_offered(site: Site) -> None:
    for version in (2, 3, 4):
        site.repository.release("gauge", version, b"x" * version)
    site.repository.commit()
    verifier = site.verifier()
    assert verifier.floor("gauge") == 0 and versions(verifier.check("gauge")) == [4, 3, 2, 1]
    verifier.raise_floor("gauge", 3)
    verifier.raise_floor("gauge", 2)  # never down
    assert verifier.floor("gauge") == 3 and versions(verifier.check("gauge")) == [4, 3]
    assert site.verifier().floor("gauge") == 3 and site.verifier().floor("valve") == 0


def test_a_new_task_key_starts_anew(site: Site) -> None:
    """Or a stolen key that released version 9,000,000 would have stopped updates for ever."""
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 9_000_000)
    assert verifier.check("gauge").releases == ()
    site.repository.rotate_task("gauge")
    assert versions(verifier.check("gauge")) == [1] and site.verifier().floor("gauge") == 0


DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_bytes(b"nonsense" * 700),
    "edited": lambda path: path.write_bytes(path.read_bytes().replace(b"3", b"1")),
    "folder": lambda path: (path.unlink(), path.mkdir(), (path / "file").write_bytes(b"")),
}


@pytest.mark.parametrize("name", ["floor.json", "floor.sqlite"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_either_copy_of_the_floors_may_go(site: Site, name: str, damage: str) -> None:
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 3)
    DAMAGES[damage](site.state / name)
    after = site.verifier()
    assert after.floor("gauge") == 3
    after.check("gauge")  # repairs it
    other = {"floor.json": "floor.sqlite", "floor.sqlite": "floor.json"}[name]
    (site.state / other).unlink()
    assert site.verifier().floor("gauge") == 3


def test_an_older_copy_of_either_does_not_lower_the_floor(site: Site, tmp_path: Path) -> None:
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 3)
    for name in ("floor.json", "floor.sqlite"):
        shutil.copy(site.state / name, tmp_path / name)
    verifier.raise_floor("gauge", 5)
    for name in ("floor.json", "floor.sqlite"):
        newer = (site.state / name).read_bytes()
        shutil.copy(tmp_path / name, site.state / name)
        assert site.verifier().floor("gauge") == 5
        (site.state / name).write_bytes(newer)


def test_a_running_node_brings_both_copies_back(site: Site) -> None:
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 3)
    (site.state / "floor.json").unlink()
    (site.state / "floor.sqlite").unlink()
    verifier.check("gauge")
    assert (site.state / "floor.json").exists() and (site.state / "floor.sqlite").exists()
    assert site.verifier().floor("gauge") == 3


def test_another_program_in_the_database_is_no_harm(site: Site) -> None:
    site.state.mkdir()
    with sqlite3.connect(site.state / "floor.sqlite") as database:
        database.execute("CREATE TABLE floors (other TEXT)")
    database.close()
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 3)
    (site.state / "floor.json").unlink()
    assert site.verifier().floor("gauge") == 3


# Local metadata


LOCAL = ["root.json", "root_history/1.root.json", "root_history/2.root.json", "timestamp.json", "snapshot.json",
         "targets.json", "task-gauge.json"]  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_local_metadata_heals(site: Site, name: str, damage: str) -> None:
    site.repository.write_root()
    good = site.check()
    assert good.fresh
    DAMAGES[damage](site.state / "tuf" / name)
    assert site.check() == good
    assert site.check() == good


def test_a_file_where_the_folder_should_be_heals(site: Site) -> None:
    site.state.mkdir()
    (site.state / "tuf").write_bytes(b"")
    assert site.check().fresh


def test_left_overs_of_a_killed_refresh_are_cleared(site: Site) -> None:
    site.check()
    (site.state / "tuf" / "tmpabc").write_bytes(b"")
    site.check()
    assert list((site.state / "tuf").glob("tmp*")) == []


def test_a_forged_local_root_opens_nothing(site: Site, tmp_path: Path) -> None:
    """Somebody who can write the cache still does not own the anchor."""
    site.check()
    thief = Repository(tmp_path / "thief", now_s=NOW_S)
    thief.write_root()
    for source, name in (
        (thief.root, "1.root.json"),
        ((tmp_path / "thief/metadata/2.root.json").read_bytes(), "2.root.json"),
    ):
        (site.state / "tuf/root_history" / name).write_bytes(source)
    assert site.check().fresh
    shutil.rmtree(site.repository.folder)
    shutil.copytree(tmp_path / "thief", site.repository.folder)
    with pytest.raises(EdgehoneError):
        site.check()


def test_a_folder_that_cannot_be_written_is_said(site: Site) -> None:
    verifier = site.verifier()
    verifier._folder = Path("/proc/self/fdinfo/tuf")  # root itself makes no folder there
    with pytest.raises(StateError):
        verifier.check("gauge")


# A web server


def test_the_same_over_http(site: Site, serve: Callable[[Path], str], tmp_path: Path) -> None:
    url = serve(site.repository.folder)
    verifier = Verifier(site.state, open_source(url), site.repository.root, clock=lambda: NOW_S)
    (release,) = verifier.check("gauge").releases
    verifier.download(release, tmp_path / "bundle")
    assert (tmp_path / "bundle").read_bytes() == b"first"
    snapshot = Metadata[Snapshot].from_bytes((site.state / "tuf/snapshot.json").read_bytes())
    assert snapshot.signed.version == 2
