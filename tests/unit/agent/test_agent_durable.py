"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import StateError


def test_it_writes_reads_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_bytes(target, b"one")
    write_bytes(target, b"two", mode=0o600)
    assert target.read_bytes() == b"two" and [p.name for p in target.parent.iterdir()] == ["file"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_failure_keeps_the_old_content_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left") as caught:
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old" and str(target) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
