"""A finished family learns what the field has shown: better there, as good as before elsewhere, and once more."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import SOURCE, draw

import edgehone
from edgehone.data.load import load_task
from edgehone.errors import InputError, OutputFolderError
from edgehone.record import from_json
from edgehone.report.study_file import read
from edgehone.search.refresh import FIGURES, FieldData, Refreshed, RefreshSettings, Result, mix, refresh
from edgehone_agent.model import open_model

pytestmark = pytest.mark.slow

QUICK = RefreshSettings(epochs=8, rate=0.8, least_replay=300, share=0.4, seed=1)


@pytest.fixture(scope="module")
def members(small_family: Path) -> list[str]:
    """Names of the full width and of a narrower one."""
    return [member.name for member in read(small_family).members][:2]


@pytest.fixture(scope="module")
def field(small_task: Path) -> FieldData:
    """The test pictures as a camera gives them that was mounted upside down."""
    x, y = load_task(str(small_task)).test
    x = np.ascontiguousarray(np.asarray(x, np.float32).reshape(len(y), 1, 8, 8)[:, :, ::-1])
    half = len(y) // 2
    return FieldData(x[:half], np.asarray(y)[:half], x[half:], np.asarray(y)[half:], digest="1" * 64)


@pytest.fixture(scope="module")
def first(
    small_family: Path, members: list[str], small_task: Path, field: FieldData, once: Callable[..., Path]
) -> Result:
    """What came of the small family in that camera."""
    folder = once(
        "refreshed",
        lambda output: refresh(small_family, str(small_task), field, output, members=members, settings=QUICK),
    )
    told = json.loads((folder / FIGURES).read_text())
    return Result(folder, tuple(from_json(Refreshed, one) for one in told))


@pytest.fixture(scope="module")
def gas() -> FieldData:
    """Readings of sensors that have drifted: learnt, and measured, in a moment."""
    (x, y), (held_x, held_y) = draw(200, 11, 1.2), draw(100, 12, 1.2)
    return FieldData(x, y, held_x, held_y, digest="2" * 64)


def test_it_is_better_in_the_field_and_as_good_as_before(first: Result, members: list[str]) -> None:
    assert [member.member for member in first.members] == members
    for member in first.members:
        new, old = member.slices["new"], member.slices["old"]
        assert new.after > new.before + 0.15 and new.drop.high_pp < 0, member
        assert old.after > old.before - 0.05, member
        assert new.flips is not None and new.flips > 0.1
        assert member.size == pytest.approx(1, abs=0.02)


def test_the_result_is_a_study_that_bundles_come_from(first: Result, small_family: Path, members: list[str]) -> None:
    before = [member for member in read(small_family).members if member.name in members]
    after = read(first.folder)
    assert after.task["digest"]["field"] == "1" * 64
    for old, new in zip(before, after.members, strict=True):
        assert (new.name, new.parameters, new.macs) == (old.name, old.parameters, old.macs)
        assert [step["technique"] for step in new.recipe][-2:] == ["distil", "quantize"]
        assert new.files[0].sha256 != old.files[0].sha256


def test_it_goes_on_from_there_and_its_recipe_does_not_grow(gas: FieldData, tmp_path: Path) -> None:
    """For a profile of one's own, whose file is no longer there."""
    source, profile = tmp_path / "gas_task.py", tmp_path / "my_gateway.toml"
    source.write_text(SOURCE)
    profile.write_text((Path(edgehone.__file__).parent / "devices/raspberry_pi_4.toml").read_text())
    edgehone.optimize(str(source), members=1, device=str(profile), output=tmp_path / "family")
    profile.unlink()
    once = refresh(tmp_path / "family", str(source), gas, tmp_path / "1", settings=QUICK)
    twice = refresh(once.folder, str(source), gas, tmp_path / "2", members=["int8"], settings=QUICK)
    assert [member.member for member in twice.members] == ["int8"]
    recipes = [[step["technique"] for step in read(made.folder).members[0].recipe] for made in (once, twice)]
    assert recipes[0] == recipes[1]
    assert read(twice.folder).device["name"] == "my-gateway" == read(tmp_path / "family").device["name"]


def test_a_refresh_that_was_killed_goes_on(gas_family: Path, gas: FieldData, tmp_path: Path) -> None:
    """What is finished is not learnt again: the files are the same, byte by byte."""
    family, source = gas_family / "family", str(gas_family / "gas_task.py")
    done = refresh(family, source, gas, tmp_path / "round", settings=QUICK)
    files = {file: file.read_bytes() for file in sorted(done.folder.rglob("model.*"))}
    assert files
    for file in files:
        file.unlink()
    (done.folder / "study.json").unlink()
    refresh(family, source, gas, done.folder, settings=QUICK)
    assert {file: file.read_bytes() for file in sorted(done.folder.rglob("model.*"))} == files
    with pytest.raises(OutputFolderError):
        refresh(family, source, gas, done.folder, settings=replace(QUICK, epochs=7))


def test_the_file_answers_as_the_figures_say(first: Result, field: FieldData) -> None:
    member = first.members[0]
    with open_model(first.folder / "members" / member.member / "model.tflite") as model:
        found = (model.predict(field.held_x).argmax(1) == field.held_y).mean()
    assert found == pytest.approx(member.slices["new"].after)


def test_what_does_not_fit_is_refused(small_family: Path, small_task: Path, field: FieldData, tmp_path: Path) -> None:
    def tried(data: FieldData, **more: object) -> None:
        refresh(small_family, str(small_task), data, tmp_path / "out", **more)  # type: ignore[arg-type]

    with pytest.raises(InputError, match="class 99 is new"):
        tried(replace(field, y=np.full_like(field.y, 99)))
    with pytest.raises(InputError, match="readings are"):
        tried(replace(field, x=field.x[:, :, :4]))
    with pytest.raises(InputError, match="no member"):
        tried(field, members=["w1-int8"])
    with pytest.raises(InputError, match="targets"):
        replace(field, y=field.y[:-1])
    with pytest.raises(InputError, match="would forget"):
        RefreshSettings(replay=0.1)
    assert not (tmp_path / "out").exists()


def test_replayed_and_field_examples_are_mixed_by_trust(field: FieldData) -> None:
    import torch

    from edgehone.data.examples import Examples

    old = Examples(torch.zeros(1000, 1, 8, 8), torch.arange(1000) % 10)
    marked = replace(field, x=np.ones_like(field.x))

    def share(data: FieldData) -> float:
        x: NDArray[np.float32] = mix(old, data, RefreshSettings(least_replay=500, share=0.4)).arrays()[0]
        assert (x[:, 0, 0, 0] == 0).sum() >= 500
        return float(x[:, 0, 0, 0].mean())

    assert share(marked) >= 0.35
    half = replace(marked, weights=np.full(len(marked.y), 0.5))
    assert share(half) < share(marked)
    assert share(replace(marked, weights=np.zeros(len(marked.y)))) == 0
