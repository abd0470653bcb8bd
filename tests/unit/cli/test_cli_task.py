"""`edgehone task`: exit codes, lines and JSON."""

import json
from pathlib import Path

import pytest

from edgehone.cli.main import main

GOOD = """
import numpy as np
from torch import nn
from edgehone import Task
from edgehone.task import Training

x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
y = np.arange(60) % 2
task = Task(
    name="good", network=nn.Linear(4, 2), train=(x[:40], y[:40]), test=(x[40:], y[40:]), training=Training()
)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "warned.py").write_text(
        GOOD.replace("nn.Linear(4, 2)", "nn.Sequential(nn.Linear(4, 2), nn.Softmax(1))")
    )
    (tmp_path / "wrong.py").write_text(GOOD.replace("nn.Linear(4, 2)", "nn.Linear(4, 1)"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "code", "mark", "last"),
    [
        ("good", 0, "✓ ", "ready"),
        ("warned", 0, "! network: ", "0 errors, 1 warning"),
        ("wrong", 4, "✗ network: ", "1 error, 0 warnings"),
    ],
)
def test_check(folder: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, mark: str, last: str) -> None:
    assert main(["task", "check", str(folder / f"{name}.py")]) == code
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(mark) for line in lines)
    assert lines[-1].endswith(last)
    if name != "good":
        place = next(index for index, line in enumerate(lines) if line.startswith(mark))
        assert lines[place + 1].startswith("  → ")


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "check", str(folder / "wrong.py"), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["task"].endswith("wrong.py")
    errors = [finding for finding in found["findings"] if finding["level"] == "error"]
    assert len(errors) == 1 and set(errors[0]) == {"level", "what", "where", "do"}


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "check", "nowhere.py"]) == 4
    said = capsys.readouterr().err
    assert "EH120" in said and "nowhere.py" in said and "Traceback" not in said


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "list"]) == 0
    assert {"digits", "fashion-mnist"} <= set(capsys.readouterr().out.split())
