"""`edgehone fleet` on a core that does not run: its enrolment tokens, and plain words for what cannot be done."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgehone.cli import core as core_command
from edgehone.cli import fleet as fleet_command
from edgehone.cli import lineage as lineage_command
from edgehone.cli.main import build_parser, main
from edgehone.fleet.authority import Authority
from edgehone.records.database import open_database
from edgehone.service.settings import Place, write_settings

NOW_S = 1_800_000_000.0


@pytest.fixture
def core(tmp_path: Path) -> Path:
    place = Place(tmp_path)
    write_settings(place)
    Authority.make(place.authority, NOW_S)
    open_database(place.database_url, create=True).close()
    return tmp_path


def test_a_token_is_listed_and_withdrawn(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "tokens", "--core", str(core)]) == 0
    assert "no token waits" in capsys.readouterr().out
    assert main(["core", "token", str(core), "--node", "gate", "--tag", "site=north"]) == 0
    secret = capsys.readouterr().out.split("-")[1]
    assert main(["fleet", "tokens", "--core", str(core)]) == 0
    shown = capsys.readouterr().out
    assert "gate" in shown and "site=north" in shown and secret not in shown
    assert main(["fleet", "tokens", "--core", str(core), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["tokens"]
    assert one["id"] in shown and secret not in str(one)
    assert main(["fleet", "withdraw", one["id"][:8], "--core", str(core), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == one["id"]
    assert main(["fleet", "withdraw", one["id"], "--core", str(core)]) == 4
    assert "edgehone fleet tokens" in capsys.readouterr().err


def verbs_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A command's verbs and their steps; the command itself where it has none."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield parser
    for action in inner:
        for one in action.choices.values():
            yield from verbs_of(one)


@pytest.mark.parametrize("command", [core_command, fleet_command, lineage_command], ids=lambda one: one.__name__)
def test_every_verb_shows_examples_that_can_be_typed_and_answers_in_json(command: ModuleType) -> None:
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    for verb in verbs_of(commands[command.__name__.rpartition(".")[2]]):
        page = verb.format_help()
        assert "--json" in page, verb.prog
        examples = [line for line in page.split("examples:\n")[1].splitlines() if line.strip()]
        assert examples, verb.prog
        assert {line.strip() for line in examples} <= set(command.examples)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fleet", "withdraw", "", "--core"), "edgehone fleet tokens"),
        (("fleet", "cohorts", "--put", "x", "--core"), "--task"),
        (("fleet", "rollout", "status", "3f2a", "--core"), "rollout"),
        (("lineage", "gate", "--core"), "edgehone fleet list"),
        (("core", "token", "--hours", "nan"), "choose a shorter time"),
        (("core", "token", "--tag", "north"), "KEY=VALUE"),
    ],
)
def test_what_cannot_be_done_is_said(
    core: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert main([*words, str(core)]) == 4
    assert told in capsys.readouterr().err


def test_people_that_are_not_there_are_not_let_out(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for deed in ("disable", "api-token"):
        assert main(["core", "person", str(core), deed, "eve"]) == 4
        assert "edgehone core person CORE list" in capsys.readouterr().err
