"""`edgehone report` rebuilds the page and refuses what is no study."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest

from edgehone.cli.main import main
from edgehone.record import to_json
from edgehone.report import page
from edgehone.testing.records import example_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.json").write_text(json.dumps(to_json(example_record(1, 3))), encoding="utf-8")
    return tmp_path


def test_the_page_is_written_and_its_path_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text(encoding="utf-8") == page.render(example_record(1, 3))


def test_open_shows_it(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or False)
    assert main(["report", str(folder), "--open"]) == 0
    assert opened == [(folder / "report.html").as_uri()]
    assert "open the file by hand" in capsys.readouterr().out


def test_no_study_ends_in_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 4
    error = capsys.readouterr().err
    assert "there is no study.json here" in error
    assert "Traceback" not in error
