"""What a node remembers, and what is left of it when its files are damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edgehone.testing.trust import SITE_NOW_S as NOW_S
from edgehone.testing.trust import Repository, Site
from edgehone_agent.errors import EdgehoneError, StateError, TrustError
from edgehone_agent.transport import FolderSource
from edgehone_agent.verify import Checked, Verifier


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def versions(checked: Checked) -> list[int]:
    return [release.version for release in checked.releases]


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


def test_a_floor_of_a_stolen_key_goes_with_the_key(site: Site) -> None:
    """Or a stolen key that released version 9,000,000 would have stopped updates for ever."""
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 9_000_000)
    assert verifier.check("gauge").releases == ()
    site.repository.rotate_task("gauge")
    checked = verifier.check("gauge")
    assert versions(checked) == [1] and checked.highest == 1 and site.verifier().floor("gauge") == 1


def test_a_new_key_takes_the_floor_over_that_it_knows_of(site: Site) -> None:
    for version in (2, 3, 4):
        site.repository.release("gauge", version, b"%d" % version)
    site.repository.commit()
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 3)
    site.repository.rotate_task("gauge")
    assert versions(verifier.check("gauge")) == [4, 3] and site.verifier().floor("gauge") == 3


def test_a_release_that_was_taken_back_keeps_its_floor_under_a_new_key(site: Site) -> None:
    role = site.repository.tasks["gauge"]
    site.repository.release("gauge", 2, b"second")
    site.repository.commit()
    verifier = site.verifier()
    verifier.check("gauge")
    verifier.raise_floor("gauge", 2)
    del role.targets["gauge/2-small.bundle"]
    role.unrecognized_fields["x-edgehone"] = {"highest_version": 2}  # as `edgehone registry revoke` leaves it
    site.repository.rotate_task("gauge")
    checked = verifier.check("gauge")
    assert checked.releases == () and checked.highest == 2 and site.verifier().floor("gauge") == 2


@pytest.mark.parametrize("stated", [None, 7, {}, {"highest_version": "9"}, {"highest_version": True},
                                    {"highest_version": 2**60}, {"highest_version": -4}], ids=str)  # fmt: skip
def test_nonsense_about_the_highest_version_is_passed_over(stated: object, site: Site) -> None:
    site.repository.tasks["gauge"].unrecognized_fields["x-edgehone"] = stated
    site.repository.commit()
    assert site.check().highest == 1


def test_another_registry_may_be_younger_and_the_old_one_may_not(site: Site) -> None:
    """A person brings the root.json of another registry; and one of the same registry, which changes nothing."""
    old = site.keep("old")
    for _ in range(3):
        site.repository.write_root()
    assert site.check().fresh and site.verifier()._floors.roles["root"].version == 4
    newer = (site.repository.folder / "metadata" / "3.root.json").read_bytes()
    assert site.verifier(newer).check("gauge").fresh
    shown = Repository(site.folder / "other", now_s=site.repository.now_s)
    shown.release("gauge", 1, b"of another registry")
    shown.commit()
    other = Verifier(
        site.state, FolderSource(shown.folder), shown.root,
        clock=lambda: site.clocks.now_s, uptime=lambda: site.clocks.up_s,
    )  # fmt: skip
    assert versions(other.check("gauge")) == [1] and other._floors.roles["root"].version == 1
    assert site.check().fresh
    for withheld in (2, 3, 4):
        (site.repository.folder / "metadata" / f"{withheld}.root.json").unlink()
    shutil.rmtree(site.state / "tuf")
    site.show(old)
    with pytest.raises(TrustError, match="seen before"):
        site.check()


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
