"""`edgehone bundle` through the real entry point: what it writes, what it prints, and what it says of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgehone.bundle import readings
from edgehone.cli.main import main
from edgehone.data import load_task, prepare
from edgehone.testing.studies import write_record, write_study
from edgehone_agent.bundle import open_bundle

TASK = """
import numpy as np
import torch
from edgehone import Task

rng = np.random.default_rng(0)
x = rng.uniform(0, 16, (900, 6)).astype(np.float32)
y = np.arange(900) % 4
task = Task(name="toy", network=torch.nn.Linear(6, 4), train=(x, y), test=(x[:90], y[:90]), labels=tuple("abcd"))
other = Task(name="toy", network=torch.nn.Linear(6, 4), train=(x + 1, y), test=(x[:90], y[:90]), labels=tuple("abcd"))
"""
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my_task.py and a family of it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "my_task.py").write_text(TASK)
    split = prepare(load_task(f"{folder / 'my_task.py'}:task"), 7).validation
    digest = {"validation": split.digest()}
    write_study(folder / "family", shape=(6,), task="toy", digest=digest, seed=7)
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.chdir(place)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["bundle", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


MEMBER = "family/members/int8"
DATA = ("--task", "my_task.py:task")


def test_build_writes_a_bundle_and_says_its_digest(say: Say, tmp_path: Path) -> None:
    target = tmp_path / "new" / "one.bundle"
    code, out, _ = say("build", MEMBER, "-o", target, *DATA, "--version", 4, "--unit", "g", "--max-latency", "3ms")
    with open_bundle(target) as bundle:
        said, digest = bundle.manifest, bundle.digest
        assert len(bundle.read(said.part("card"))) <= 6000
    assert code == 0 and f"sha256 {digest}" in out and "!" not in out
    assert (said.version, said.input.unit, said.fit.latency_us) == (4, "g", 3000.0)


def test_build_without_data_says_what_is_missing(say: Say, tmp_path: Path) -> None:
    code, out, _ = say("build", MEMBER, "-o", tmp_path / "one", "--no-data", "--max-latency", "none", "--json")
    found = json.loads(out)
    assert code == 0 and found["warnings"] == [
        "it has no card, because it was built without data: a node that runs it cannot watch for drift"
    ]
    assert (tmp_path / "one").stat().st_size == found["size_bytes"]
    assert [part["role"] for part in found["parts"]][:3] == ["model", "model", "probe"]
    with open_bundle(tmp_path / "one") as bundle:
        assert bundle.digest == found["sha256"] and bundle.manifest.fit.latency_us is None


def test_the_date_never_is_the_clock(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds, expected in (
        ("a", None, "2026-11-24T09:30:00+00:00"),
        ("b", "1000", "1970-01-01T00:16:40+00:00"),
    ):
        if seconds is not None:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
        assert say("build", MEMBER, "-o", tmp_path / name, "--no-data")[0] == 0
        with open_bundle(tmp_path / name) as bundle:
            assert bundle.manifest.created == expected
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    code, _, error = say("build", MEMBER, "-o", tmp_path / "c", "--no-data")
    assert code == 4 and "SOURCE_DATE_EPOCH: 'soon' is no number of seconds" in error


def test_a_parent_is_named_by_its_digest(say: Say, tmp_path: Path) -> None:
    say("build", MEMBER, "-o", tmp_path / "one", "--no-data")
    say("build", MEMBER, "-o", tmp_path / "two", "--no-data", "--version", 2, "--parent", tmp_path / "one")
    with open_bundle(tmp_path / "one") as one, open_bundle(tmp_path / "two") as two:
        assert two.manifest.parent == one.digest


def test_more_readings_than_can_be_held_are_sampled(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "MOST_ROWS", 40)
    code, out, _ = say("build", MEMBER, "-o", tmp_path / "one", *DATA)
    assert code == 0 and "40 readings are too few" in out


def test_inspect_shows_the_manifest(say: Say, tmp_path: Path) -> None:
    say("build", MEMBER, "-o", tmp_path / "one", *DATA, "--unit", "g")
    code, out, _ = say("inspect", tmp_path / "one")
    assert code == 0
    for words in (
        "toy int8, version 1, classification", "takes 6 in g, answers 4", "follows no other bundle",
        "needs litert or onnxruntime", "probe.npz", "drop_pp test", "memory_bytes: ", ", estimated",
    ):  # fmt: skip
        assert words in out
    found = json.loads(say("inspect", tmp_path / "one", "--json")[1])
    with open_bundle(tmp_path / "one") as bundle:
        assert found["manifest"] == json.loads(bundle.manifest.to_bytes()) and found["sha256"] == bundle.digest


def test_verify_asks_every_model(say: Say, tmp_path: Path) -> None:
    say("build", MEMBER, "-o", tmp_path / "one", *DATA)
    code, out, _ = say("verify", tmp_path / "one")
    assert code == 0 and out.count("as expected") == 2
    found = json.loads(say("verify", tmp_path / "one", "--json")[1])
    assert found["ok"] and set(found["probe"]) == {"models/litert/model.tflite", "models/onnxruntime/model.onnx"}


def test_diff_says_what_differs_and_makes_a_delta_where_it_is_worth_it(say: Say, tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    say("build", MEMBER, "-o", one, *DATA)
    say("build", MEMBER, "-o", two, *DATA, "--version", 2, "--parent", one)
    say("build", "family/members/w30-int8", "-o", three, "--no-data")
    code, out, _ = say("diff", one, two, "-o", tmp_path / "delta")
    assert code == 0 and "version: 1 → 2" in out and "% of the new bundle" in out
    assert (tmp_path / "delta").stat().st_size < 0.6 * two.stat().st_size
    found = json.loads(say("diff", one, two, "-o", tmp_path / "delta", "--json")[1])
    assert found["delta"]["size_bytes"] == (tmp_path / "delta").stat().st_size
    assert "delta" not in json.loads(say("diff", one, three, "--json")[1])
    assert "say and hold the same" in say("diff", one, one)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((MEMBER,), "give --task path/to/task.py"),
        ((MEMBER, "--task", "my_task.py:other"), "other validation data"),
        ((MEMBER, "--task", "nobodys"), "nobodys"),
        ((MEMBER, "--no-data", "--version", "0"), "version is 0"),
        ((MEMBER, "--no-data", "--max-latency", "0us"), "no model answers in no time"),
        ((MEMBER, "--no-data", "--max-latency", "fast"), "'fast' is not a latency"),
        ((MEMBER, "--no-data", "--parent", "my_task.py"), "no bundle"),
        ((MEMBER, "--no-data", "--unit", "a\nb"), "control characters"),
        (("family/members/w9", "--no-data"), "no member 'w9'"),
        (("family", "--no-data"), "like family/members/int8"),
        (("/", "--no-data"), "not the folder of a member"),
        (("members/x", "--no-data"), "there is no study.json here"),
    ],
)
def test_bad_input_to_build_is_said_and_nothing_is_written(
    say: Say, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, _, error = say("build", *arguments, "-o", tmp_path / "one")
    assert code == 4 and words in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(say: Say, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file" / "one"):
        code, _, error = say("build", MEMBER, "-o", target, "--no-data")
        assert code == 6 and "EH320" in error and "choose a place you may write to" in error
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_record_with_odd_fields_ends_in_a_message(say: Say, place: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "odd", shape=(6,), task="toy")
    odd = [{key: value for key, value in study.task.items() if key != name} for name in study.task]
    odd += [{}, {**study.task, "digest": 5}, {**study.task, "kind": "poetry"}, {**study.task, "labels": 5}]
    for task in odd:
        write_record(tmp_path / "odd", replace(study, task=task))
        for data in ((), DATA, ("--no-data",)):
            code, _, error = say("build", tmp_path / "odd/members/int8", "-o", tmp_path / "one", *data)
            assert code in (0, 4) and "Traceback" not in error
            assert code == 4 or data == ("--no-data",)


def test_an_error_is_json_too(say: Say, tmp_path: Path) -> None:
    code, out, _ = say("verify", tmp_path / "nothing", "--json")
    assert code == 4 and json.loads(out)["error"]["code"] == "EH180"


def test_the_help_of_a_verb_shows_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("build", "inspect", "verify", "diff"):
        with pytest.raises(SystemExit) as stopped:
            main(["bundle", verb, "--help"])
        assert stopped.value.code == 0
        assert f"  edgehone bundle {verb} " in capsys.readouterr().out


def test_the_built_in_task_is_found_by_the_name_of_the_study(say: Say, tmp_path: Path) -> None:
    split = prepare(load_task("digits"), 7).validation
    write_study(tmp_path / "family", task="digits", digest={"validation": split.digest()}, seed=7)
    code, out, error = say("build", tmp_path / "family/members/int8", "-o", tmp_path / "one", "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == 0 and found["warnings"] == [] and error == ""
