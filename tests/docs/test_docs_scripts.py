"""The scripts under examples/ run as they stand, make a family, and stay short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgehone.record import StudyRecord
from edgehone.report import study_file

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 40


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_makes_a_family(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = tmp_path.glob("*-family")
    study = study_file.read(folder)
    assert isinstance(study, StudyRecord) and study.members
    assert study.verdict in done.stdout
    for member in study.members:
        assert all((folder / file.path).is_file() for file in member.files)
    page = (EXAMPLES[0].parents[1] / "docs/formats/study.md").read_text()
    for part in ("task", "device", "budget", "settings", "machine"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{part}` |"))
        assert [key for key in getattr(study, part) if f"`{key}`" not in row] == []
    majority = 0.6  # a network that learnt nothing stays below
    assert study.original.metric["test"].value > majority


def test_every_example_is_listed() -> None:
    page = (EXAMPLES[0].parent / "README.md").read_text()
    assert [example.name for example in EXAMPLES if f"]({example.name})" not in page] == []
