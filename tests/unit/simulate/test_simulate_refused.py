"""What `edgehone simulate` refuses, before anything is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgehone.cli.main import main
from edgehone.simulate.scenario import load_scenario
from edgehone.testing.records import example_record
from edgehone.testing.studies import write_record

WORLD = 'name = "w"\nabout = "a"\ntask = "digits"\n[[phases]]\nname = "p"\nrows = 5\n'


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = tmp_path / "world.toml"
    path.write_text(WORLD)
    return path


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--nodes", "0"], "1 to 200 nodes"),
        (["--nodes", "201"], "1 to 200 nodes"),
        (["--nodes", "2001", "--fake"], "1 to 2000 nodes"),
        (["--seed", "-1"], "a seed from 0 on"),
        (["--speed", "nan"], "a speed above 0"),
        (["--days", "3"], "need --fake"),
        (["--no-training"], "need --fake"),
        (["--fake", "--keep"], "are for processes"),
        (["--fake", "--speed", "2"], "are for processes"),
        (["--fake", "--days", "0"], "0 days cannot be played"),
        (["--fake", "--days", "nan"], "nan days cannot be played"),
        (["--fake"], "study"),
    ],
)
def test_arguments(
    more: list[str], words: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["simulate", str(world), "--study", str(tmp_path / "none"), "-o", str(out), *more]) == 4
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "cannot be read"),
        ('colour = "red"\n' + WORLD, "there is no field 'colour'"),
        (WORLD + 'effect = "rain"\n', "there is no effect 'rain'"),
        (WORLD + 'cohort = "west"\n', "there is no cohort west"),
        (WORLD.replace("rows = 5", "rows = 0"), "0 cannot be"),
    ],
)
def test_scenarios(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "world.toml", tmp_path / "out"
    path.write_text(text)
    assert main(["simulate", str(path), "--study", str(tmp_path), "--fake", "-o", str(out)]) == 4
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_study_of_another_task(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = example_record(2, 4)
    write_record(tmp_path / "family", replace(record, task={**record.task, "name": "digits-like"}))
    out = tmp_path / "out"
    assert main(["simulate", str(world), "--study", str(tmp_path / "family"), "--fake", "-o", str(out)]) == 4
    assert "the study is of 'digits-like'" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_with_something_in_it(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(world), "--study", str(tmp_path), "--fake", "-o", str(tmp_path)]) != 0
    assert "the folder is not empty" in capsys.readouterr().err
    assert world.read_text() == WORLD


def test_a_task_beside_the_scenario_is_found(world: Path, tmp_path: Path) -> None:
    world.write_text(WORLD.replace("digits", "mine.py"))
    assert load_scenario(str(world)).task == "mine.py"
    (tmp_path / "mine.py").write_text("")
    assert load_scenario(str(world)).task == str(tmp_path / "mine.py")
