"""`edgehone loop` on a core without nodes: policies, history, and plain words for what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgehone.cli.main import main
from edgehone.records.database import open_database
from edgehone.service.settings import Place, write_settings

POLICY = {"source": "digits", "study": "nowhere", "members": ["int8"]}


@pytest.fixture
def core(tmp_path: Path) -> Path:
    place = Place(tmp_path)
    write_settings(place)
    open_database(place.database_url, create=True).close()
    return tmp_path


def test_a_policy_is_set_and_shown(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (core / "policy.json").write_text(json.dumps(POLICY))
    assert main(["loop", "policy", "digits", "--core", str(core), "--set", str(core / "policy.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["approve"] == "manual"
    assert main(["loop", "status", "--core", str(core)]) == 0
    assert "no round yet" in capsys.readouterr().out
    assert main(["loop", "history", "--core", str(core), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rounds": [], "decisions": []}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "digits"), "no policy"),
        (("policy", "digits"), "no policy"),
        (("approve", "3f2a"), "no round"),
        (("abort", "3f2a"), "no round"),
    ],
)
def test_what_cannot_be_done_is_said(
    core: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert main(["loop", *words, "--core", str(core)]) == 4
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"source": "digits"}', json.dumps({**POLICY, "speed": 1})])
def test_a_wrong_policy_changes_nothing(core: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (core / "policy.json").write_text(content)
    assert main(["loop", "policy", "digits", "--core", str(core), "--set", str(core / "policy.json")]) == 4
    assert "EH100" in capsys.readouterr().err
    assert main(["loop", "policy", "digits", "--core", str(core)]) == 4
