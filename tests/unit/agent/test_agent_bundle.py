"""A bundle is opened only when it is safe and whole; everything else is refused in one line."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone.testing.bundles import Made, write_bundle
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import BundleError, EdgehoneError
from edgehone_agent.model import open_model
from edgehone_agent.probe import Probe, read_probe
from edgehone_agent.wire.manifest import Manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "one.bundle", version=1)


def rebuilt(made: Made, target: Path, change: Any) -> Path:
    """The bundle with its members changed: `change` takes and returns a list of (ZipInfo, bytes)."""
    with zipfile.ZipFile(made.path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(target, "w") as archive:
        for info, content in change(members):
            archive.writestr(info, content)
    return target


def test_it_reads_what_was_packed(made: Made, tmp_path: Path) -> None:
    with open_bundle(made.path) as bundle:
        assert bundle.digest == made.digest and bundle.manifest.version == 1
        bundle.verify()
        bundle.unpack(tmp_path / "files")
        part = bundle.manifest.part("model", "litert")
        assert (tmp_path / "files" / part.path).read_bytes() == bundle.read(part)
        with open_model(tmp_path / "files" / part.path) as model:
            result = read_probe(bundle.read(bundle.manifest.part("probe"))).check(model)
    assert result.ok and result.largest_difference <= 1e-4


def test_a_part_that_is_not_there_is_named(made: Made) -> None:
    with open_bundle(made.path) as bundle, pytest.raises(BundleError, match="no model for onnxruntime"):
        bundle.manifest.part("model", "onnxruntime")


def _named(name: str) -> Any:
    def change(members: list[Any]) -> list[Any]:
        info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        return [*members, (info, b"x")]

    return change


@pytest.mark.parametrize(
    "name", ["../out", "/etc/passwd", "a/../../b", "folder/", "c:\\x", "models/litert/model.tflite", "extra.bin"]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_do_not_belong_are_refused(made: Made, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        open_bundle(rebuilt(made, tmp_path / "bad", _named(name)))


def test_links_and_bombs_are_refused(made: Made, tmp_path: Path) -> None:
    def linked(members: list[Any]) -> list[Any]:
        members[1][0].external_attr = 0o120777 << 16
        return members

    def packed(members: list[Any]) -> list[Any]:
        members[1][0].compress_type = zipfile.ZIP_DEFLATED
        return members

    with pytest.raises(BundleError, match="no plain file"):
        open_bundle(rebuilt(made, tmp_path / "link", linked))
    with pytest.raises(BundleError, match="compressed"):
        open_bundle(rebuilt(made, tmp_path / "bomb", packed))


def test_bytes_between_before_and_behind_are_refused(made: Made, tmp_path: Path) -> None:
    content = made.path.read_bytes()
    for name, bad in (("before", b"#!/bin/sh\n" + content), ("behind", content + b"more"), ("cut", content[:-5])):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(BundleError):
            open_bundle(tmp_path / name)


def test_a_changed_part_is_found_on_reading(made: Made, tmp_path: Path) -> None:
    def swapped(members: list[Any]) -> list[Any]:
        info, content = members[1]
        return [members[0], (info, bytes([content[0] ^ 1]) + content[1:]), *members[2:]]

    with (
        open_bundle(rebuilt(made, tmp_path / "bad", swapped)) as bundle,
        pytest.raises(BundleError, match="is not what"),
    ):
        bundle.verify()


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_what_is_no_file_is_said(tmp_path: Path, path: str) -> None:
    with pytest.raises(BundleError, match=r"cannot be read|no file"):
        open_bundle(tmp_path / path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_is_taken_for_the_bundle_or_crashes(made: Made, data: st.DataObject) -> None:
    content = bytearray(made.path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] ^= data.draw(st.integers(1, 255))
        else:
            del content[at : at + data.draw(st.integers(1, 50))]
    target = made.path.with_name("mutated")
    target.write_bytes(content)
    try:
        with open_bundle(target) as bundle:
            bundle.verify()
            assert bundle.digest != made.digest or bytes(content) == made.path.read_bytes()
    except EdgehoneError as error:
        assert isinstance(error, BundleError)


def manifest_of(made: Made) -> Manifest:
    with open_bundle(made.path) as bundle:
        return bundle.manifest


def test_a_manifest_comes_back_with_what_it_does_not_know(made: Made) -> None:
    manifest = replace(manifest_of(made), unknown={"added_later": {"a": [1, None]}})
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "../x"), ("task", "Upper"), ("task", None), ("kind", "poetry"), ("version", 0), ("version", True),
        ("version", 1.5), ("parts", {}), ("parts", [{}]), ("input", {"name": "x", "shape": [0]}), ("labels", [1]),
        ("input", {"name": "x", "shape": [2**20, 2**20]}), ("fit", {"latency_us": -1}), ("fit", {"latency_us": "fast"}),
        ("parent", "abc"), ("schema", 99), ("dataset", {"train": 5}), ("created", "x" * 99), ("measured", []),
    ],
)  # fmt: skip
def test_a_manifest_with_a_bad_field_is_refused_by_name(made: Made, name: str, value: Any) -> None:
    data = json.loads(json.dumps(manifest_of(made).to_json()))
    with pytest.raises(BundleError) as caught:
        Manifest.from_json({**data, name: value})
    assert "manifest.json" in str(caught.value)


def test_a_probe_survives_a_round_trip_and_damage_is_said() -> None:
    probe = Probe(np.ones((8, 3), np.float32), np.zeros((8, 2), np.float32), 0.5)
    content = probe.to_bytes()
    found = read_probe(content)
    assert np.array_equal(found.x, probe.x) and found.tolerance == 0.5 and content == found.to_bytes()
    few = Probe(probe.x[:7], probe.y[:7], 0.5).to_bytes()
    nan = Probe(probe.x * np.nan, probe.y, 0.5).to_bytes()
    pickled = io.BytesIO()
    np.savez(pickled, x=np.array([{}], object), y=probe.y, tolerance=np.float32(1))
    for bad in (b"", content[:100], few, nan, Probe(probe.x, probe.y, 0.0).to_bytes(), pickled.getvalue()):
        with pytest.raises(BundleError):
            read_probe(bad)


def test_a_wrong_model_fails_the_probe(tmp_path: Path) -> None:
    one, two = (write_bundle(tmp_path / f"{n}.bundle", version=n) for n in (1, 2))
    with open_bundle(one.path) as bundle, open_bundle(two.path) as other:
        other.unpack(tmp_path / "two")
        with open_model(tmp_path / "two" / "models/litert/model.tflite") as model:
            result = read_probe(bundle.read(bundle.manifest.part("probe"))).check(model)
    assert not result.ok and "another answer" in result.text
