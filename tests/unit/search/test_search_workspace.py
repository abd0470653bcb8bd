"""The study's folder: whose it is, what is kept, and every way it can be wrong."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from edgehone.errors import OutputFolderError
from edgehone.search.workspace import concerns, folder_error, open_workspace, write_bytes

IDENTITY = {"task": "digits", "settings": {"seed": 0}}


def test_a_new_folder_is_made_and_belongs_to_its_study(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "a" / "b", IDENTITY, resume=False)
    workspace.write("step", {"keep": 0.5})
    again = open_workspace(tmp_path / "a" / "b", IDENTITY, resume=True)
    assert again.read("step") == {"keep": 0.5}
    assert again.read("other") is None and again.graph("step") is None


def test_the_same_study_needs_resume(tmp_path: Path) -> None:
    open_workspace(tmp_path / "s", IDENTITY, resume=False)
    with pytest.raises(OutputFolderError, match="--resume"):
        open_workspace(tmp_path / "s", IDENTITY, resume=False)


def test_another_study_is_refused_and_named(tmp_path: Path) -> None:
    open_workspace(tmp_path / "s", IDENTITY, resume=False)
    with pytest.raises(OutputFolderError, match="another study; it differs in: settings"):
        open_workspace(tmp_path / "s", {**IDENTITY, "settings": {"seed": 1}}, resume=True)


def test_foreign_content_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputFolderError, match="not empty and holds no study"):
        open_workspace(tmp_path, IDENTITY, resume=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OutputFolderError, match="a file, not a folder"):
        open_workspace(tmp_path / "taken", IDENTITY, resume=False)


def test_a_damaged_mark_is_refused(tmp_path: Path) -> None:
    open_workspace(tmp_path / "s", IDENTITY, resume=False)
    (tmp_path / "s" / ".work" / "study.json").write_text("{ not json")
    with pytest.raises(OutputFolderError, match="damaged"):
        open_workspace(tmp_path / "s", IDENTITY, resume=True)


def test_a_place_without_room_or_permission_is_said_in_words() -> None:
    full = folder_error(OSError(errno.ENOSPC, "No space left on device"), "out")
    assert "disk is full" in str(full) and "--resume" in str(full)
    locked = folder_error(OSError(errno.EROFS, "Read-only file system"), "out")
    assert "cannot be written: Read-only file system" in str(locked)


def test_errors_about_other_files_are_not_about_the_folder(tmp_path: Path) -> None:
    assert concerns(OSError(errno.EACCES, "no", str(tmp_path / "out" / "study.json")), tmp_path / "out")
    assert concerns(OSError(errno.ENOSPC, "full"), tmp_path / "out")
    assert not concerns(OSError(errno.ENOENT, "no such file", "pictures/1.png"), tmp_path / "out")


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.json"
    write_bytes(path, json.dumps({"old": True}).encode())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]
