"""A finished family learns what the field has shown: better there, as good as before elsewhere, and once more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgehone
from edgehone.data.load import load_task
from edgehone.errors import InputError, OutputFolderError
from edgehone.report.study_file import read
from edgehone.search.refresh import FieldData, RefreshSettings, Result, mix, refresh
from edgehone_agent.model import open_model

pytestmark = pytest.mark.slow

QUICK = RefreshSettings(epochs=8, rate=0.8, least_replay=300, share=0.4, seed=1)


@pytest.fixture(scope="module")
def family(small_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refresh") / "family"
    edgehone.optimize(str(small_task), members=2, output=folder)
    return folder


@pytest.fixture(scope="module")
def field(small_task: Path) -> FieldData:
    """The test pictures as a camera gives them that was mounted upside down."""
    x, y = load_task(str(small_task)).test
    x = np.ascontiguousarray(np.asarray(x, np.float32).reshape(len(y), 1, 8, 8)[:, :, ::-1])
    half = len(y) // 2
    return FieldData(x[:half], np.asarray(y)[:half], x[half:], np.asarray(y)[half:], digest="1" * 64)


@pytest.fixture(scope="module")
def first(family: Path, small_task: Path, field: FieldData) -> Result:
    return refresh(family, str(small_task), field, family.parent / "round-1", settings=QUICK)


def test_it_is_better_in_the_field_and_as_good_as_before(first: Result, family: Path) -> None:
    assert [member.member for member in first.members] == [member.name for member in read(family).members]
    for member in first.members:
        new, old = member.slices["new"], member.slices["old"]
        assert new.after > new.before + 0.15 and new.drop.high_pp < 0, member
        assert old.after > old.before - 0.05, member
        assert new.flips is not None and new.flips > 0.1
        assert member.size == pytest.approx(1, abs=0.02)


def test_the_result_is_a_study_that_bundles_come_from(first: Result, family: Path, small_task: Path) -> None:
    before, after = read(family), read(first.folder)
    assert after.task["digest"]["field"] == "1" * 64
    for old, new in zip(before.members, after.members, strict=True):
        assert (new.name, new.parameters, new.macs) == (old.name, old.parameters, old.macs)
        assert [step["technique"] for step in new.recipe][-2:] == ["distil", "quantize"]
        assert new.files[0].sha256 != old.files[0].sha256


def test_it_goes_on_from_there_and_its_recipe_does_not_grow(
    first: Result, family: Path, small_task: Path, field: FieldData
) -> None:
    one = read(first.folder).members[-1].name
    second = refresh(first.folder, str(small_task), field, family.parent / "round-2", members=[one], settings=QUICK)
    assert [member.member for member in second.members] == [one]
    recipes = [
        [step["technique"] for step in next(m for m in read(folder).members if m.name == one).recipe]
        for folder in (first.folder, second.folder)
    ]
    assert recipes[0] == recipes[1]


def test_a_family_for_a_profile_of_ones_own_is_refreshed_without_the_file(
    small_task: Path, field: FieldData, tmp_path: Path
) -> None:
    profile = tmp_path / "my_gateway.toml"
    profile.write_text((Path(edgehone.__file__).parent / "devices/raspberry_pi_4.toml").read_text())
    edgehone.optimize(str(small_task), members=1, device=str(profile), output=tmp_path / "family")
    profile.unlink()
    once = refresh(tmp_path / "family", str(small_task), field, tmp_path / "1", settings=QUICK)
    twice = refresh(once.folder, str(small_task), field, tmp_path / "2", settings=QUICK)
    assert read(twice.folder).device["name"] == "my-gateway" == read(tmp_path / "family").device["name"]


def test_a_refresh_that_was_killed_goes_on(first: Result, family: Path, small_task: Path, field: FieldData) -> None:
    """What is finished is not learnt again: the files are the same, byte by byte."""
    files = {file: file.read_bytes() for file in sorted(first.folder.rglob("model.*"))}
    for file in files:
        file.unlink()
    (first.folder / "study.json").unlink()
    refresh(family, str(small_task), field, first.folder, settings=QUICK)
    assert {file: file.read_bytes() for file in sorted(first.folder.rglob("model.*"))} == files
    with pytest.raises(OutputFolderError):
        refresh(family, str(small_task), field, first.folder, settings=replace(QUICK, epochs=7))


def test_the_file_answers_as_the_figures_say(first: Result, field: FieldData) -> None:
    member = first.members[0]
    with open_model(first.folder / "members" / member.member / "model.tflite") as model:
        found = (model.predict(field.held_x).argmax(1) == field.held_y).mean()
    assert found == pytest.approx(member.slices["new"].after)


def test_what_does_not_fit_is_refused(family: Path, small_task: Path, field: FieldData, tmp_path: Path) -> None:
    def tried(data: FieldData, **more: object) -> None:
        refresh(family, str(small_task), data, tmp_path / "out", **more)  # type: ignore[arg-type]

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
