"""manifest.json is read strictly: any two readers see the same in it, and what it says can be shown as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgehone_agent.errors import BundleError
from edgehone_agent.wire.manifest import MAX_PARTS, Fit, Manifest, Part, Values
from edgehone_agent.wire.strict_json import read_json

MANIFEST = Manifest(
    task="gestures", kind="classification", version=3, member="w22-int8", created="2026-11-24T09:30:00+00:00",
    parts=(Part("models/litert/model.tflite", "model", "ab" * 32, 1000, "litert"),),
    input=Values("input", (3, 8, 8), unit="°C", low=-4.0, high=250.5), output=Values("output", (4,)),
    labels=("rest", "swipe", "tap", "shake"), fit=Fit(("x86_64",), ("litert",), 2000, 30.5, "0.1.0"),
    measured={"accuracy test": {"value": 0.93, "unit": "accuracy", "low": 0.92, "high": 0.94}},
    recipe="prune + quantize", dataset={"validation": "cd" * 32}, parent="ef" * 32,
    unknown={"later": [1, {"deeper": None}], "unknown": "a name like another"},
)  # fmt: skip


def test_it_comes_back_as_it_was_and_as_the_same_bytes() -> None:
    content = MANIFEST.to_bytes()
    assert Manifest.from_bytes(content) == MANIFEST
    assert Manifest.from_bytes(content).to_bytes() == content


def test_what_may_be_left_out_has_its_default() -> None:
    least = {name: json.loads(MANIFEST.to_bytes())[name] for name in (
        "schema", "task", "kind", "version", "member", "created", "parts", "input", "output",
    )}  # fmt: skip
    read = Manifest.from_json(least)
    assert (read.labels, read.fit, read.measured, read.parent, read.unknown) == ((), Fit(), {}, None, {})
    for name in least:
        with pytest.raises(BundleError):
            Manifest.from_json({key: value for key, value in least.items() if key != name})


def test_a_field_of_ours_is_never_hidden_by_an_unknown_one() -> None:
    assert replace(MANIFEST, unknown={"version": 9}).to_json()["version"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff", "utf-8"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b'{"a": 1', "no JSON"),
        (b'{"a": 1} 2', "Extra data"),
        (b'{"a": 1, "a": 2}', "a name is given twice"),
        (b'{"a": [{"b": 1, "b": 1}]}', "a name is given twice"),
        (b'{"a": NaN}', "no finite number"),
        (b'{"a": -Infinity}', "no finite number"),
        (b'{"a": 1e999}', "no finite number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
    ],
)
def test_text_that_two_readers_may_see_differently_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        read_json(text, "manifest.json")
    assert caught.value.where == "manifest.json"


def test_good_json_is_read() -> None:
    assert read_json(b'{"a": [1, 2.5, "\\ud83d\\ude00", null, true]}', "x") == {"a": [1, 2.5, "😀", None, True]}


PART = {"path": "a", "role": "notes", "sha256": "ab" * 32, "size_bytes": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": [{**PART, "path": "../a"}]}, "path is '../a'"),
        ({"parts": [{**PART, "path": "/a"}]}, "path is '/a'"),
        ({"parts": [{**PART, "path": "a//b"}]}, "path is"),
        ({"parts": [{**PART, "path": "a/.hidden"}]}, "path is"),
        ({"parts": [{**PART, "path": "a" * 201}]}, "longer than 200"),
        ({"parts": [{**PART, "path": "/".join("abcdefghi")}]}, "path is"),
        ({"parts": [{**PART, "path": "manifest.json"}]}, "name a path twice"),
        ({"parts": [PART, PART]}, "name a path twice"),
        ({"parts": [{**PART, "path": f"p{i}"} for i in range(MAX_PARTS + 1)]}, "more than 64"),
        ({"parts": [{**PART, "role": "virus"}]}, "role is none of"),
        ({"parts": [{**PART, "size_bytes": 1 << 31}]}, "part 1: size_bytes is 2147483648"),
        ({"parts": [{**PART, "size_bytes": -1}]}, "size_bytes is -1"),
        ({"parts": [{**PART, "sha256": "AB" * 32}]}, "sha256 is"),
        ({"parts": [{**PART, "runtime": 5}]}, "runtime is no text"),
        ({"labels": ["a\x1b[2J"]}, "labels"),
        ({"labels": ["a"] * 10_001}, "more than 10000"),
        ({"recipe": "a\nb"}, "control characters"),
        ({"created": "soon"}, "created is 'soon'"),
        ({"input": {"name": "x", "shape": [2], "low": 3, "high": 2}}, "low is 3.0, above high"),
        ({"input": {"name": "x", "shape": []}}, "shape is no shape"),
        ({"input": {"name": "x", "shape": [1 << 27]}}, "shape is no shape"),
        ({"input": {"name": "x", "shape": [True]}}, "shape is no shape"),
        ({"fit": {"memory_bytes": 1 << 60}}, "memory_bytes is"),
        ({"fit": {"latency_us": 10**400}}, "latency_us is no finite number"),
        ({"fit": []}, "fit"),
        ({"measured": {"a": 5}}, "measured 'a'"),
        ({"measured": {"a": {}}}, "value is missing"),
        ({"measured": {"a": {"value": "5"}}}, "value is no finite number"),
        ({"measured": {"a": {"value": 5, "high": []}}}, "high is no finite number"),
        ({"measured": {"a\n": {"value": 5}}}, "proper name"),
        ({"dataset": {"train": 5}}, "dataset"),
    ],
)
def test_what_may_not_stand_there_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words.replace("[", r"\[")):
        Manifest.from_json({**json.loads(MANIFEST.to_bytes()), **change})


def test_a_newer_format_says_what_to_do() -> None:
    with pytest.raises(BundleError, match="has format 2, this version reads up to 1") as caught:
        Manifest.from_json({**MANIFEST.to_json(), "schema": 2})
    assert caught.value.do == "update the agent"


@pytest.mark.parametrize("data", [None, [], "text", 5])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(BundleError, match="no JSON object"):
        Manifest.from_json(data)
