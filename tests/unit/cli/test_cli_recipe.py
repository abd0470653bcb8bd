"""`edgehone recipe`: lines, JSON, exit codes, and a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgehone.cli.main import main

TASK = """
import numpy as np
import torch
from torch import nn
from edgehone import Task

x = np.random.default_rng(0).normal(size=(90, 16)).astype("float32")
y = np.arange(90) % 3
x[:, 0] += 2 * y
torch.manual_seed(0)
layers = nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3)
task = Task(name="rows", network=nn.Sequential(*layers).eval(), train=(x, y), validation=(x, y), test=(x, y))
"""
RECIPE = """
[[step]]
technique = "reduce-inputs"
keep = 0.5

[[step]]
technique = "distil"
training = { epochs = 2, batch_size = 30, learning_rate = 0.1 }

[[step]]
technique = "quantize"
"""
NAME = "reduce-inputs-pca-50 + distil-2 + int8"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.py").write_text(TASK)
    (tmp_path / "small.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_shows_every_setting_and_the_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "check", "small.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == NAME
    assert lines[0] == "1. reduce-inputs-pca-50"
    assert "training.epochs 2.0, training.batch_size 30" in lines[3]
    assert main(["recipe", "check", "--name", lines[-1], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == NAME
    assert [step["technique"] for step in told["steps"]] == ["reduce-inputs", "distil", "quantize"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (["missing.toml"], "missing.toml: the recipe cannot be read"),
        (["."], "the recipe cannot be read"),
        (["rows.py"], "EH160: rows.py: this is not TOML"),
        (["--name", "int8 + distil-3"], "'distil' comes after 'quantize'"),
    ],
)
def test_what_is_wrong_is_told(
    argument: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "check", *argument]) == 4
    assert said in capsys.readouterr().err


def test_a_run_writes_files_and_tells_the_drop(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["recipe", "run", "small.toml", "rows.py", "-o", "out"]
    assert main(run) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == NAME
    assert any("16 inputs became 8" in line for line in out)
    assert any("on 90 validation examples; drop" in line for line in out)
    told = json.loads((folder / "out" / "recipe.json").read_text())
    assert told["name"] == NAME
    assert [point["epoch"] for point in told["curve"]] == [1.0, 2.0]
    assert [(folder / "out" / file["path"]).stat().st_size for file in told["files"]] == [
        file["size_bytes"] for file in told["files"]
    ]
    assert told["files"][0]["size_bytes"] < told["original"][0]["size_bytes"]
    assert main(run) == 6  # it is there already
    assert "add --resume" in capsys.readouterr().err
    assert main([*run, "--resume", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "curve": []} == {**told, "curve": []}
