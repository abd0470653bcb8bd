"""Durable writes against real kills and modelled power cuts; and the two instruments against a writer that cheats."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from edgehone.testing.faults import count_calls, run_failing, run_killed
from edgehone.testing.power import SURVIVALS, record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="package strace is not installed"),
]
WRITE = """
import sys
from pathlib import Path
from edgehone_agent.durable import write_bytes
write_bytes(Path(sys.argv[1]) / "deep" / "file", b"new" * 1000)
"""
CHEAT = """
import os, sys
path = os.path.join(sys.argv[1], "deep", "file")
with open(path + ".partial", "wb") as file:
    file.write(b"new" * 1000)
os.replace(path + ".partial", path)
"""
LINKS = """
import os, sys
base = sys.argv[1]
def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
os.symlink("deep/file", base + "/soft")
with open(base + "/soft", "ab") as file:       # writes into deep/file
    file.write(b"+soft")
os.link(base + "/deep/file", base + "/hard")
sync(base)                                     # both names, and no content
sync(base + "/hard")                           # the content, under every name
os.remove(base + "/soft")
os.symlink("deep", base + "/soft")             # another target
with open(base + "/soft/made", "wb") as file:  # a file in the folder that it leads to
    file.write(b"x")
"""
OLD, NEW = b"old", b"new" * 1000


def folder_with_old(parent: Path) -> Path:
    folder = parent / "state"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(OLD)
    return folder


def left_by_power_cuts(script: str, parent: Path) -> set[bytes]:
    folder = folder_with_old(parent)
    disk, operations = record([sys.executable, "-c", script, str(folder)], folder)
    found, cuts = set(), 0
    for operation in operations:
        if disk.apply(operation):
            cuts += 1
            for survival in SURVIVALS:
                left = parent / f"cut-{cuts}-{survival}"
                disk.leave(left, survival)
                file = left / "deep" / "file"
                found.add(file.read_bytes() if file.exists() else b"missing")
    assert (folder / "deep" / "file").read_bytes() == NEW and cuts >= 3
    return found


def test_a_power_cut_leaves_old_or_new(tmp_path: Path) -> None:
    assert left_by_power_cuts(WRITE, tmp_path) == {OLD, NEW}


def test_a_writer_that_does_not_sync_is_found_out(tmp_path: Path) -> None:
    assert b"" in left_by_power_cuts(CHEAT, tmp_path)


def test_after_it_returns_the_new_content_is_certain(tmp_path: Path) -> None:
    folder = folder_with_old(tmp_path)
    disk, operations = record([sys.executable, "-c", WRITE, str(folder)], folder)
    for operation in operations:
        disk.apply(operation)
    disk.leave(tmp_path / "after", "nothing")
    assert (tmp_path / "after" / "deep" / "file").read_bytes() == NEW


def test_links_are_names_and_their_files_are_synced_under_every_name(tmp_path: Path) -> None:
    folder = folder_with_old(tmp_path)
    disk, operations = record([sys.executable, "-c", LINKS, str(folder)], folder)
    found = []
    for number, (_, survival) in enumerate(disk.cuts(operations)):
        left = tmp_path / f"cut-{number}"
        disk.leave(left, survival)
        soft, hard = (left / name for name in ("soft", "hard"))
        told = (
            str(soft.readlink()) if soft.is_symlink() else None,
            (left / "deep" / "file").read_bytes(),
            hard.read_bytes() if hard.exists() else None,
            (left / "deep" / "made").exists(),
        )
        found.append((survival, *told))
    both = OLD + b"+soft"
    assert found == [
        ("nothing", None, OLD, None, False),
        ("names", "deep/file", OLD, None, False),
        ("everything", "deep/file", both, None, False),
        ("names", "deep/file", OLD, OLD, False),
        ("everything", "deep/file", both, both, False),
        ("names", None, both, both, False),
        ("names", "deep", both, both, False),
        ("names", "deep", both, both, True),
        ("everything", "deep", both, both, True),
    ]
    disk.leave(tmp_path / "after", "nothing")
    assert str((tmp_path / "after" / "soft").readlink()) == "deep/file"  # its folder was not synced again


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_kill_at_every_call_leaves_old_or_new(tmp_path: Path, call: str) -> None:
    folder = folder_with_old(tmp_path)
    command = [sys.executable, "-c", WRITE, str(folder)]
    calls = count_calls(command, call)
    assert calls >= 1
    left = []
    for number in range(1, calls + 1):
        folder_with_old(tmp_path)
        assert run_killed(command, call, number)
        left.append((folder / "deep" / "file").read_bytes())
    assert set(left) <= {OLD, NEW}


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    folder = folder_with_old(tmp_path)
    done = run_failing([sys.executable, "-c", WRITE, str(folder)], "fsync", "ENOSPC", 1)
    assert done.returncode == 1 and "StateError" in done.stderr and "No space left" in done.stderr
    assert [(p.name, p.read_bytes()) for p in (folder / "deep").iterdir()] == [("file", OLD)]
