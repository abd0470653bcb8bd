"""study.json comes back as it was written, and every defect is said in plain words with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgehone.errors import InputError
from edgehone.record import SCHEMA, to_json
from edgehone.report import study_file
from edgehone.testing.records import bare_record, example_record


def write(folder: Path, data: Any) -> None:
    (folder / "study.json").write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize("study", [example_record(2), example_record(kind="anomaly", elsewhere=True), bare_record()])
def test_what_was_written_comes_back(tmp_path: Path, study: Any) -> None:
    write(tmp_path, to_json(study))
    assert json.dumps(to_json(study_file.read(tmp_path))) == json.dumps(to_json(study))


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    data = to_json(bare_record())
    data["later"] = data["original"]["later"] = 1
    write(tmp_path, data)
    assert study_file.read(tmp_path).original.name == "original"


def changed(place: list[str | int], value: Any) -> dict[str, Any]:
    data: Any = json.loads(json.dumps(to_json(example_record(1, 2))))
    whole = data
    for step in place[:-1]:
        data = data[step]
    if value is KeyError:
        del data[place[-1]]
    else:
        data[place[-1]] = value
    return whole  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (["members"], "many", "members is not a list"),
        (["task"], [], "task is not an object"),
        (["original"], None, "original is not an object"),
        (["verdict"], KeyError, "verdict is missing"),
        (["members", 0, "files", 1, "size_bytes"], "big", "files[1].size_bytes is 'big', which is not a whole"),
        (["members", 0, "metric", "test", "value"], KeyError, "members[0].metric.test.value is missing"),
        (["members", 0, "metric", "test", "value"], True, "metric.test.value is True, which is not a number"),
        (["members", 0, "latency", 0, "latency", "kind"], "guessed", "which is not one of 'measured', 'estimated'"),
        (["met"], "yes", "met is 'yes', which is not true or false"),
        (["members", 0, "name"], 7, "members[0].name is 7, which is not text"),
        (["members", 0, "layers", 0, "magnitudes", 3], 0.5, "magnitudes[3] is 0.5, which is not a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_place(tmp_path: Path, place: list[str | int], value: Any, says: str) -> None:
    write(tmp_path, changed(place, value))
    with pytest.raises(InputError) as caught:
        study_file.read(tmp_path)
    assert says in caught.value.what
    assert caught.value.where == str(tmp_path / "study.json")
    assert caught.value.do


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"schema": SCHEMA + 1})
    with pytest.raises(InputError, match=f"schema {SCHEMA + 1}"):
        study_file.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[1, 2]", "null", "[" * 100_000])
def test_what_is_no_study_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(InputError, match="this is"):
        study_file.read(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes(b"\xff\xfe\x00{}")
    with pytest.raises(InputError, match="not JSON"):
        study_file.read(tmp_path)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=r"no study\.json"):
            study_file.read(folder)
