"""Whatever happens to the bytes of a bundle: it is refused, or read as what it was, and that takes little memory."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehone.bundle.archive import pack
from edgehone.testing.bundles import write_bundle
from edgehone.testing.faults import Tally, mutations
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import BundleError
from edgehone_agent.probe import Probe, read_probe
from edgehone_agent.wire.manifest import Manifest

LITTLE_BYTES = 8 << 20
Record = Callable[[str, object], None]
_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]
Parts = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return write_bundle(folder / "good", version=1, extra=(("README.md", "notes", b"# A note\n" * 20),)).path


def contents(path: Path) -> tuple[Manifest, Parts]:
    """Manifest and parts of a bundle. Raises BundleError."""
    with open_bundle(path) as bundle:
        bundle.verify()
        return bundle.manifest, {part.path: bundle.read(part) for part in bundle.manifest.parts}


def peak_bytes(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes after one to four changes; most of them near the records of the archive."""
    changed = bytearray(content)
    marks = [at for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6", b'"') for at in _places(content, mark)]
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.sampled_from(marks)) + draw(st.integers(0, 46))
        at = min(draw(st.sampled_from([near, draw(st.integers(0, len(changed)))])), len(changed))
        match draw(st.sampled_from(["flip", "set", "cut", "drop", "insert", "repeat", "swap"])):
            case "flip" if at < len(changed):
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                changed[at : at + 4] = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"PK\6\7", b"\1\0\0\0"]))
            case "cut":
                del changed[at:]
            case "drop":
                del changed[at : at + draw(st.integers(1, 60))]
            case "insert":
                changed[at:at] = draw(st.binary(min_size=1, max_size=60))
            case "repeat":
                changed[at:at] = changed[at : at + draw(st.integers(1, 200))]
            case "swap":
                size = draw(st.integers(1, 40))
                changed[at : at + size], changed[:size] = changed[:size], changed[at : at + size]
    return bytes(changed)


def _places(content: bytes, mark: bytes) -> list[int]:
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


def test_a_mutated_bundle_is_refused_or_reads_the_same(good: Path, record_property: Record) -> None:
    expected, content, tally = contents(good), good.read_bytes(), Tally()
    target = good.with_name("mutated")

    @settings(max_examples=mutations(1500), deadline=None, suppress_health_check=_CALM)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        changed = data.draw(mutated(content))
        target.write_bytes(changed)
        try:
            assert contents(target) == expected
            tally.add("unchanged" if changed == content else "reads the same")
        except BundleError as error:
            assert str(error)
            tally.add("refused")

    run()
    record_property("tally", tally.told())
    assert tally.outcomes["refused"] > tally.outcomes.total() / 2


@settings(max_examples=60, deadline=None, suppress_health_check=_CALM)
@given(st.data())
def test_and_it_takes_little_memory(good: Path, data: st.DataObject) -> None:
    target = good.with_name("mutated")
    target.write_bytes(data.draw(mutated(good.read_bytes())))

    def read() -> None:
        try:
            contents(target)
        except BundleError:
            return

    assert peak_bytes(read) < LITTLE_BYTES


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _paths(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(path for key, item in inner for path in _paths(item, (*place, key)))]


@settings(max_examples=mutations(800), deadline=None, suppress_health_check=_CALM)
@given(st.data())
def test_a_mutated_manifest_is_refused_or_comes_back_whole(good: Path, data: st.DataObject) -> None:
    manifest = contents(good)[0]
    manifest = replace(
        manifest, measured={"latency_us litert": {"value": 3, "low": 1.5}}, unknown={"later": {"a": [1]}}
    )
    changed = json.loads(manifest.to_bytes())
    path = data.draw(st.sampled_from(_paths(changed)[1:]))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(VALUES)
    try:
        read = Manifest.from_bytes(json.dumps(changed).encode())
    except BundleError as error:
        assert "manifest.json" in str(error)
        return
    assert Manifest.from_bytes(read.to_bytes()) == read
    assert read.unknown == {
        name: value for name, value in changed.items() if name not in vars(manifest) or name == "unknown"
    }


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=12), VALUES, max_size=4))
def test_fields_of_a_newer_format_survive_two_readers(drawn: dict[str, Any]) -> None:
    clean = json.loads(json.dumps(drawn), parse_constant=lambda _: 0)
    fields = {name: value for name, value in clean.items() if name not in Manifest.__dataclass_fields__}
    manifest = replace(MINIMAL, unknown=fields)
    try:
        content = manifest.to_bytes()
        once = Manifest.from_bytes(content)
    except BundleError as error:
        assert "surrogate" in str(error)
        return
    assert once.unknown == fields and once.to_bytes() == content


def _minimal() -> Manifest:
    end = {"name": "x", "shape": [2]}
    return Manifest.from_json(
        {"schema": 1, "task": "t", "kind": "regression", "version": 1, "member": "m", "created": "2026-01-01T00:00:00Z",
         "parts": [], "input": end, "output": end}
    )  # fmt: skip


MINIMAL = _minimal()


def test_a_mutated_probe_is_refused_or_is_a_probe_of_one_form(record_property: Record) -> None:
    content, tally = Probe(np.ones((8, 2, 3), np.float32), np.zeros((8, 4), np.float32), 0.5).to_bytes(), Tally()

    @settings(max_examples=mutations(400), deadline=None, suppress_health_check=_CALM)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        try:
            found = read_probe(data.draw(mutated(content)))
        except BundleError:
            tally.add("refused")
            return
        assert found.x.dtype == found.y.dtype == np.float32 and len(found.x) == len(found.y) >= 8
        assert np.isfinite(found.x).all() and found.tolerance > 0
        tally.add("a probe")  # its digest in the manifest is what refuses it then

    run()
    record_property("tally", tally.told())
    assert tally.outcomes["refused"] > tally.outcomes.total() / 2


@pytest.mark.parametrize(
    "shape", ["(1000000000000, 3)", "(2, 99999999999999999999)", "(0, 7)", "(8, 1" + ", 1" * 40 + ")"]
)
def test_an_array_that_promises_more_than_there_is_takes_no_memory(shape: str) -> None:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    body = b"\x93NUMPY\x01\x00" + len(head + b"\n").to_bytes(2, "little") + head + b"\n" + bytes(96)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("x", "y", "tolerance"):
            archive.writestr(f"{name}.npy", body)

    def read() -> None:
        with pytest.raises(BundleError):
            read_probe(buffer.getvalue())

    assert peak_bytes(read) < LITTLE_BYTES


@pytest.mark.parametrize("entries", [1, 65, 66, 65535])
def test_a_long_directory_is_refused_before_it_is_read(tmp_path: Path, entries: int) -> None:
    """A file of 200 MB that says that nearly all of it is directory."""
    size = 200_000_000
    end = b"PK\5\6" + bytes(4) + 2 * entries.to_bytes(2, "little") + (size - 22).to_bytes(4, "little") + bytes(6)
    with (tmp_path / "long").open("wb") as file:
        file.truncate(size - 22)
        file.seek(size - 22)
        file.write(end)

    def read() -> None:
        with pytest.raises(BundleError):
            open_bundle(tmp_path / "long")

    assert peak_bytes(read) < LITTLE_BYTES


def test_a_big_part_is_checked_and_unpacked_in_little_memory(tmp_path: Path) -> None:
    with open_bundle(write_bundle(tmp_path / "small", version=1).path) as bundle:
        manifest = bundle.manifest
    from edgehone.bundle.archive import Content, bundle_bytes

    (tmp_path / "big").write_bytes(bundle_bytes(manifest, [Content("notes", "notes", bytes(60_000_000))]))

    def act() -> None:
        with open_bundle(tmp_path / "big") as bundle:
            bundle.verify()
            bundle.unpack(tmp_path / "files")

    assert peak_bytes(act) < LITTLE_BYTES
    assert (tmp_path / "files" / "notes").stat().st_size == 60_000_000


def test_unpacking_leaves_no_part_that_is_not_as_promised(tmp_path: Path) -> None:
    with open_bundle(write_bundle(tmp_path / "good", version=1).path) as bundle:
        manifest = bundle.manifest
        bodies = {part.path: bundle.read(part) for part in manifest.parts}
    name = manifest.parts[0].path
    (tmp_path / "bad").write_bytes(pack(manifest, {**bodies, name: bodies[name][:-1] + b"?"}))
    with open_bundle(tmp_path / "bad") as bundle, pytest.raises(BundleError, match="is not what the manifest says"):
        bundle.unpack(tmp_path / "files")
    assert not (tmp_path / "files" / name).exists()
