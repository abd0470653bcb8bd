"""The independent check of metadata by the specification's text sees each rule broken, in each role."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgehone.bundle.delta import make_delta
from edgehone.registry.publish import publish
from edgehone.registry.shortcuts import Wanted

Shape = Callable[[str, Any], None]
KINDS = {"root": "1.root", "timestamp": "timestamp", "snapshot": "3.snapshot", "targets": "1.targets", "task": ""}


@pytest.fixture
def files(digits: Any) -> dict[str, Any]:
    """Signed content of one file of each kind; the task has two versions and a delta."""
    wanted = Wanted(lambda old, new, worth: make_delta(old, new, worth=worth))
    for version in (1, 2):
        bundle = digits.bundle("digits", version, "w22-int8", bytes(range(256)) * 40 + bytes([version]))
        publish(digits.store, digits.ring(), [bundle], [], digits.now, anchor=digits.anchor, wanted=wanted)
    names = {**KINDS, "task": "3.task-digits"}
    metadata = digits.served / "metadata"
    return {kind: json.loads((metadata / f"{name}.json").read_text()) for kind, name in names.items()}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document, but for `fit`, which is the node's business."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        if name != "fit":
            yield from places(item, (*path, name))


def changed(document: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    new = copy.deepcopy(document)
    if not path:
        return change(new)
    parent = new
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = change(parent[path[-1]])
    return new


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in fields.items() if other != name}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_as_it_should_be_and_nothing_else_is(kind: str, files: dict[str, Any], shape: Shape) -> None:
    shape("file", files[kind])
    signed = files[kind]["signed"]
    shape(kind, signed)
    count = 0
    for path in places(signed):
        for wrong in (None, 1.5, -1, [None], "\u0000", {"a": 1}, 2**60):
            with pytest.raises(AssertionError):
                shape(kind, changed(signed, path, lambda _, wrong=wrong: wrong))
            count += 1
    assert count > 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_more_or_less_is_seen(kind: str, files: dict[str, Any], shape: Shape) -> None:
    may_be_missing = {("delegations",), ("x-edgehone",)} if kind in ("targets", "task") else set()
    signed = files[kind]["signed"]
    for path in places(signed):
        value = signed
        for step in path:
            value = value[step]
        if not isinstance(value, dict):
            continue
        with pytest.raises(AssertionError, match="does not belong here"):
            shape(kind, changed(signed, path, lambda fields: {**fields, "NEW": 1}))
        for name in value:
            free = "keys" in path[-1:] or path[-1:] in (("targets",), ("meta",), ("expiry_days",))
            if (*path, name) in may_be_missing or (free and kind != "timestamp"):
                continue  # these hold as many as there are
            with pytest.raises(AssertionError, match="are missing"):
                shape(
                    kind, changed(signed, path, lambda fields, name=name: {k: fields[k] for k in fields if k != name})
                )


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("root", ("spec_version",), "2.0.0"),
        ("root", ("spec_version",), "1.0"),
        ("root", ("expires",), "2030-01-01T00:00:00+00:00"),
        ("root", ("expires",), "2030-01-01T00:00:00.5Z"),
        ("root", ("version",), 0),
        ("root", ("version",), True),
        ("root", ("roles", "root", "threshold"), 0),
        ("timestamp", ("meta", "snapshot.json", "hashes", "sha256"), "A" * 64),
        ("timestamp", ("_type",), "snapshot"),
        ("snapshot", ("meta", "targets.json", "length"), 0),
        ("targets", ("delegations", "roles", 0, "paths"), ["*"]),
        ("targets", ("delegations", "roles", 0, "paths"), ["digits/*", "speech/**"]),
        ("targets", ("delegations", "roles", 0, "terminating"), 1),
        ("targets", ("targets",), {"digits/1-a.bundle": {"length": 1, "hashes": {"sha256": "0" * 64}}}),
        ("task", ("_type",), "task"),
        ("task", ("x-edgehone", "highest_version"), "2"),
    ],
)
def test_values_that_are_nearly_right(
    kind: str, path: tuple[Any, ...], wrong: Any, files: dict[str, Any], shape: Shape
) -> None:
    with pytest.raises(AssertionError):
        shape(kind, changed(files[kind]["signed"], path, lambda _: wrong))


@pytest.mark.parametrize("wrong", [{"signed": {}}, {"signed": {}, "signatures": [], "more": 1}, {"signatures": []}])
def test_a_file_has_two_fields(wrong: Any, shape: Shape) -> None:
    with pytest.raises(AssertionError):
        shape("file", wrong)


def test_signatures_are_key_and_hex(files: dict[str, Any], shape: Shape) -> None:
    for field, wrong in (("sig", "zz"), ("sig", "0" * 127), ("keyid", "0" * 63), ("keyid", 7)):
        with pytest.raises(AssertionError):
            shape("file", changed(files["root"], ("signatures", 0, field), lambda _, wrong=wrong: wrong))
