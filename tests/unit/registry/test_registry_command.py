"""`edgehone registry` through the real entry point: what it prints, what it returns, what it asks."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.cli.main import main

Run = Callable[..., Any]


@pytest.fixture
def command(world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb on the world's registry with --json; returns what it printed. The passphrase is in the environment."""
    monkeypatch.setenv("EDGEHONE_PASSPHRASE", world.passphrase)

    def run(verb: str, *words: object, code: int = 0, keys: bool = True, registry: bool = True) -> Any:
        line = ["registry", verb, *([str(world.store.folder)] if registry else []), *map(str, words), "--json"]
        assert main([*line, *(["--keys", str(world.keys)] if keys else [])]) == code
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err and world.passphrase not in shown.err + shown.out
        return json.loads(shown.out)["error"] if code else json.loads(shown.out)

    return run


def test_the_whole_way(world: Any, command: Run, second_opinion: Callable[[Any], Any]) -> None:
    made = command("init", "--task", "digits", "--expire", "timestamp=2")
    assert made["root"] == str(world.keys / "root.json") and Path(made["root"]).is_file()
    assert command("add-task", "speech", "--approve", "auto")["task"] == "speech"
    done = command("publish", world.bundle(), world.bundle(member="w14-int8"))
    assert done["added"] == ["digits/1-w22-int8.bundle", "digits/1-w14-int8.bundle"] and done["new"]
    assert not command("publish", world.bundle(), world.bundle(member="w14-int8"))["new"]
    command("publish", world.bundle("speech", 3))
    assert command("refresh")["signed"] == ["timestamp"]
    assert command("refresh", "--also", "root", "--expire", "snapshot=9")["signed"] == ["root", "snapshot", "timestamp"]
    assert command("rotate-key", "online", "--online-key-plain")["role"] == "online"
    key = command("status")["roles"][0]["keys"][0]["id"]
    (replaced,) = command("revoke", "--key", key)["replaced"]
    assert replaced["old"] == [key] and replaced["role"] == "root"
    assert command("revoke", "--release", "speech", "3")["removed"] == ["speech/3-w22-int8.bundle"]
    assert command("prune", "--keep-days", "0")["metadata"]
    found = command("status")
    assert found["warnings"] == [] and [task["task"] for task in found["tasks"]] == ["digits", "speech"]
    assert 1.9 < next(role for role in found["roles"] if role["role"] == "timestamp")["expires_in_days"] <= 2
    second_opinion(world)
    assert world.get("digits/1-w14-int8.bundle") is not None and world.get("speech/3-w22-int8.bundle") is None


def test_three_steps(world: Any, command: Run, tmp_path: Path) -> None:
    command("init", "--task", "digits")
    (key,) = world.keys.glob("task-digits-*.pem")
    key = key.rename(tmp_path / "k.pem")
    assert command("publish", world.bundle(), "--prepare", tmp_path / "to-sign")["version"] == 1
    error = command("publish", "--complete", tmp_path / "to-sign", code=4)
    assert error["code"] == "EH190" and "sign" in error["do"]
    signed = command("sign", tmp_path / "to-sign", "--key", key, keys=False, registry=False)
    assert signed["task"] == "digits" and key.stem != signed["key"]
    assert command("publish", "--complete", tmp_path / "to-sign")["new"]
    assert world.get("digits/1-w22-int8.bundle") is not None


def test_lines_for_people(
    world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pass.txt").write_text(world.passphrase + "\n")
    monkeypatch.delenv("EDGEHONE_PASSPHRASE", raising=False)
    monkeypatch.chdir(tmp_path)

    def lines(verb: str, *words: object) -> str:
        words = (*words, "--passphrase-file", "pass.txt") if verb not in ("status", "prune") else words
        assert main(["registry", verb, *map(str, words)]) == 0
        return capsys.readouterr().out

    assert "nodes need registry.keys/root.json" in lines("init", "registry", "--task", "digits")
    assert "no releases yet" in lines("status", "registry")
    said = lines("publish", "registry", world.bundle(), "--prepare", "to-sign")
    assert said == "digits version 1 is prepared\nsign to-sign, then publish it with --complete\n"
    (key,) = Path("registry.keys").glob("task-digits-*.pem")
    said = lines("sign", "to-sign", "--key", key)
    assert said.startswith("digits version 1; live afterwards: 1; valid until ") and "signed with key" in said
    assert "  + digits/1-w22-int8.bundle  sha256 " in said
    assert lines("publish", "registry", "--complete", "to-sign") == (
        "digits version 1 is live\n  + digits/1-w22-int8.bundle\n"
    )
    assert "version 2 is live\n" in lines("publish", "registry", world.bundle(version=2))
    assert "version 2 is live already\n" in lines("publish", "registry", world.bundle(version=2))
    assert "  - digits/2-w22-int8.bundle" in lines("revoke", "registry", "--release", "digits", 2)
    assert lines("refresh", "registry") == "signed again: timestamp\n"
    assert " replaced by " in lines("rotate-key", "registry", "digits")
    assert "removed 0 blobs and 0 metadata files" in lines("prune", "registry")
    shown = lines("status", "registry")
    for word in (
        "root",
        "2 of 3",
        "task-digits",
        "version 1  w22-int8",
        "digits: approve manual, 1 of 100",
        "* (here)",
    ):
        assert word in shown
    assert shown.endswith("no warnings\n")


def test_a_terminal_is_asked(world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEHONE_PASSPHRASE", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return str(world.passphrase)

    monkeypatch.setattr(getpass, "getpass", answer)
    place = [str(world.store.folder), "--keys", str(world.keys)]
    assert main(["registry", "init", *place, "--task", "digits"]) == 0
    assert asked == ["passphrase for the new keys: ", "the same once more: "]
    asked.clear()
    assert main(["registry", "publish", *place, str(world.bundle())]) == 0
    assert len(asked) == 1 and "task-digits-" in asked[0]
    asked.clear()
    capsys.readouterr()
    assert main(["registry", "publish", *place, str(world.bundle(version=2)), "--approve", "auto"]) == 4
    assert asked == [] and "EDGEHONE_PASSPHRASE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "number", "said"),
    [
        (["publish", "@registry"], 4, "EH100", "no bundle to publish"),
        (["publish", "@registry", "missing.bundle"], 4, "EH180", ""),
        (["publish", "@registry", "@bundle", "--complete", "x"], 4, "EH100", "leave the bundles"),
        (["publish", "@registry", "--complete", "x"], 4, "EH100", "no prepared release"),
        (["publish", "nowhere", "@bundle"], 6, "EH340", "no registry in this folder"),
        (["init", "@registry"], 4, "EH100", "holds a registry already"),
        (["init", "other", "--task", "../x", "--keys", "k"], 4, "EH100", "cannot name a task"),
        (["init", "other", "--expire", "week=1", "--keys", "k"], 4, "EH100", "is no period"),
        (["add-task", "@registry", "digits"], 4, "EH100", "has the task"),
        (["revoke", "@registry", "--release", "digits", "x"], 4, "EH100", "is no version"),
        (["revoke", "@registry", "--release", "digits", "7"], 4, "EH100", "not live"),
        (["rotate-key", "@registry", "nobody"], 4, "EH100", "no role or task"),
        (["refresh", "@registry", "--passphrase-file", "missing.txt"], 4, "EH100", "passphrase file cannot be read"),
        (["refresh", "@registry", "--expire", "task=5"], 4, "EH100", "written in the root"),
        (["sign", "nowhere", "--key", "k.pem"], 4, "EH100", "no prepared release"),
        (["status", "nowhere"], 6, "EH340", "no registry in this folder"),
        (["prune", "@registry", "--keep-days", "-1"], 4, "EH100", "no time to keep"),
        (["prune", "@registry", "--keep-days", "nan"], 4, "EH100", "no time to keep"),
    ],
)
def test_bad_input_ends_in_one_message(
    words: list[str], code: int, number: str, said: str, world: Any,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("EDGEHONE_PASSPHRASE", world.passphrase)
    assert main(["registry", "init", "registry", "--task", "digits"]) == 0
    capsys.readouterr()
    before = world.listing()
    words = [{"@registry": "registry", "@bundle": str(world.bundle())}.get(word, word) for word in words]
    assert main(["registry", *words]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith(f"edgehone: {number}: ") and said in shown.err and "→" in shown.err
    assert "Traceback" not in shown.err and world.passphrase not in shown.err
    assert world.listing() == before
    assert not (world.folder / "nowhere").exists() and not (world.folder / "k").exists()


@pytest.mark.parametrize(
    "verb", ["init", "add-task", "publish", "sign", "rotate-key", "revoke", "refresh", "prune", "status"]
)
def test_every_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["registry", verb, "--help"])
    assert ended.value.code == 0
    assert f"edgehone registry {verb} " in capsys.readouterr().out.partition("examples:")[2]
