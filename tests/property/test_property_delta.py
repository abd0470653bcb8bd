"""Any two bundles have a delta that makes the new one. A damaged delta makes that, or ends in a BundleError."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.bundle.delta import make_delta
from edgehone.testing.faults import Tally, mutations
from edgehone_agent.delta import HEADER, OPERATION, apply_delta
from edgehone_agent.errors import BundleError
from edgehone_agent.frames import WINDOW_LOG
from edgehone_agent.wire.manifest import Manifest, Values

Bodies = list[tuple[str, bytes]]
FRAMES = 8
NAMES = ("models/onnxruntime/model.onnx", "probe.npz", "README.md")
quick = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(quick, max_examples=mutations(400))


def model(*tensors: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    """An .onnx file with these weights; nothing computes with them."""
    weights = [numpy_helper.from_array(value, f"w{index}") for index, value in enumerate(tensors)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value], weights)
    return bytes(helper.make_model(graph).SerializeToString())


def write(path: Path, bodies: Bodies, version: int) -> Path:
    manifest = Manifest(
        "t", "regression", version, "m", "2026-01-01T00:00:00+00:00", (), Values("x", (3,)), Values("y", (1,))
    )
    contents = [Content(name, "model" if name.endswith("onnx") else "notes", body) for name, body in bodies]
    path.write_bytes(bundle_bytes(manifest, contents))
    return path


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Bytes, and what became of them: stretches were kept, dropped, moved or new."""
    dice = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    pieces = [
        dice.integers(0, draw(st.sampled_from([2, 256])), n, np.uint8).tobytes()
        for n in draw(st.lists(st.integers(0, 300), max_size=6))
    ]
    places = draw(st.lists(st.integers(0, max(0, len(pieces) - 1)), max_size=6)) if pieces else []
    new = b"".join(pieces[place] + draw(st.binary(max_size=12)) for place in places)
    return b"".join(pieces), new


@st.composite
def weights(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A model file, and one with other weights, fewer or more layers, or other shapes."""
    dice = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    old, new = [], []
    for length, kind in draw(
        st.lists(st.tuples(st.integers(1, 400), st.sampled_from(["i1", "u1", "<i4", "<f4"])), max_size=5)
    ):
        before = (30 * dice.standard_normal(length)).astype(np.int8).astype(kind)
        noise = draw(st.sampled_from([0, 1, 3, 200])) * dice.standard_normal(length)
        after = before + noise.astype(np.int64).astype(kind)
        what = draw(st.sampled_from(["both", "both", "old", "new", "other shape"]))
        old += [before] if what != "new" else []
        new += [after[: length // 2] if what == "other shape" else after] if what != "old" else []
    return model(*old), model(*new)


@st.composite
def bundles(draw: st.DrawFn) -> tuple[Bodies, Bodies]:
    """What is in two bundles: some files came, some went, and they may stand in another order."""
    pairs = dict(zip(NAMES, draw(st.tuples(weights(), texts(), texts())), strict=True))
    before, after = (draw(st.permutations(NAMES))[draw(st.sampled_from([0, 0, 1])) :] for _ in range(2))
    return [(name, pairs[name][0]) for name in before], [(name, pairs[name][1]) for name in after]


@quick
@given(pair=bundles())
def test_any_two_bundles_have_a_delta(pair: tuple[Bodies, Bodies], tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", pair[0], 1), write(tmp_path / "new", pair[1], 2)
    delta = make_delta(old, new, worth=100.0)
    assert delta is not None
    (tmp_path / "delta").write_bytes(delta)
    apply_delta(old, tmp_path / "delta", tmp_path / "made", hashlib.sha256(new.read_bytes()).hexdigest())
    assert (tmp_path / "made").read_bytes() == new.read_bytes()


class Change:
    """Two bundles, and the delta between them that has every kind of operation and no empty frame."""

    def __init__(self, folder: Path) -> None:
        dice = np.random.default_rng(0)
        levels = [(30 * dice.standard_normal(20000)).astype(np.int8) for _ in range(2)]
        scales = dice.uniform(0.01, 0.02, 300).astype(np.float32)
        moved = levels[0] + np.rint(0.8 * dice.standard_t(2, 20000)).astype(np.int8)
        texts = [" ".join(map(str, range(start, 400))).encode() for start in (0, 7)]
        self.folder = folder
        self.old = write(folder / "old", [(NAMES[0], model(*levels, scales)), (NAMES[2], texts[0])], 1)
        self.new = write(
            folder / "new", [(NAMES[0], model(moved, levels[1], scales * np.float32(1.001))), (NAMES[2], texts[1])], 2
        )
        delta = make_delta(self.old, self.new)
        assert delta is not None
        self.delta, self.sha256 = delta, hashlib.sha256(self.new.read_bytes()).hexdigest()
        self.digests = [hashlib.sha256(path.read_bytes()).digest() for path in (self.old, self.new)]

    def outcome(self, delta: bytes) -> str:
        """What comes of a delta: "made" or the error's words. Nothing else may happen."""
        (self.folder / "delta").write_bytes(delta)
        made = self.folder / "made"
        made.unlink(missing_ok=True)
        try:
            apply_delta(self.old, self.folder / "delta", made, self.sha256)
            text = "made"
            assert hashlib.sha256(made.read_bytes()).hexdigest() == self.sha256
        except BundleError as error:
            text = error.what
            assert not made.exists()
        assert {path.name for path in self.folder.iterdir()} - {"made"} == {"old", "new", "delta"}
        assert [hashlib.sha256(path.read_bytes()).digest() for path in (self.old, self.new)] == self.digests
        return text


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> Change:
    return Change(tmp_path_factory.mktemp("change"))


def frames(delta: bytes) -> list[bytes]:
    lengths = HEADER.unpack_from(delta)[6:]
    ends = [HEADER.size + sum(lengths[: place + 1]) for place in range(FRAMES)]
    return [delta[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def joined(head: bytes, parts: list[bytes]) -> bytes:
    """A delta that is whole on the outside, whatever its parts."""
    fields = HEADER.unpack(head)[:6]
    body = HEADER.pack(*fields, *map(len, parts)) + b"".join(parts)
    return body + hashlib.sha256(body).digest()


def test_the_delta_has_all_there_is(change: Change) -> None:
    assert change.outcome(change.delta) == "made"
    assert all(frames(change.delta))
    operations = zstd.decompress(frames(change.delta)[0])
    kinds = {kind for kind, _, _ in OPERATION.iter_unpack(operations[4:])}
    assert kinds == {0, 1, 2, 3, 4}
    assert joined(change.delta[: HEADER.size], frames(change.delta)) == change.delta


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that were changed, cut, repeated or put in."""
    changed = bytearray(content)
    at = draw(st.integers(0, max(0, len(content) - 1)))
    match draw(st.sampled_from(["flip", "flip", "cut", "grow", "repeat", "swap"])):
        case "flip":
            for place in draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=3)):
                changed[place : place + 1] = bytes([draw(st.integers(0, 255))])
        case "cut":
            del changed[at : at + draw(st.integers(1, 1 << 14))]
        case "grow":
            changed[at:at] = draw(st.binary(min_size=1, max_size=40))
        case "repeat":
            changed[at:at] = changed[at : at + draw(st.integers(1, 200))]
        case "swap":
            changed[at:], changed[:at] = changed[:at], changed[at:]
    return bytes(changed)


def test_a_mutated_delta_makes_nothing(change: Change, record_property: Callable[[str, object], None]) -> None:
    tally = Tally()

    @many
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        delta = data.draw(damaged(change.delta))
        outcome = change.outcome(delta)
        assert (outcome == "made") == (delta == change.delta)
        tally.add("unchanged" if outcome == "made" else "refused")

    run()
    record_property("tally", tally.told())
    assert tally.outcomes["refused"] > tally.outcomes.total() / 2


@many
@given(data=st.data())
def test_a_mutated_frame_behind_a_right_seal_makes_nothing_else(change: Change, data: st.DataObject) -> None:
    head, parts = change.delta[: HEADER.size], frames(change.delta)
    place = data.draw(st.integers(-1, FRAMES - 1))
    if place < 0:
        head = (data.draw(damaged(head)) + bytes(HEADER.size))[: HEADER.size]
    else:
        parts[place] = data.draw(damaged(parts[place]))
    change.outcome(joined(head, parts))


OPERATION_NUMBERS = st.one_of(
    st.integers(-40, 40), st.integers(-(1 << 62), 1 << 62), st.sampled_from([1 << 20, -(1 << 63)])
)


@many
@given(data=st.data())
@example(data=None)
def test_mutated_operations_make_nothing_else(change: Change, data: st.DataObject | None) -> None:
    """Sound frames with unsound content, which is further than chance gets."""
    parts = frames(change.delta)
    content = bytearray(zstd.decompress(parts[0]))
    if data is not None:
        for _ in range(data.draw(st.integers(1, 3))):
            at = 4 + OPERATION.size * data.draw(st.integers(0, (len(content) - 4) // OPERATION.size - 1))
            kind, seek, length = OPERATION.unpack_from(content, at)
            match data.draw(st.sampled_from(["kind", "seek", "length", "drop", "again"])):
                case "kind":
                    content[at] = data.draw(st.integers(0, 6))
                case "seek":
                    moved = max(-(1 << 63), min((1 << 63) - 1, seek + data.draw(OPERATION_NUMBERS)))
                    OPERATION.pack_into(content, at, kind, moved, length)
                case "length":
                    OPERATION.pack_into(content, at, kind, seek, (length + data.draw(OPERATION_NUMBERS)) % (1 << 64))
                case "drop" if len(content) > 4 + OPERATION.size:
                    del content[at : at + OPERATION.size]
                case _:
                    content[at:at] = content[at : at + OPERATION.size]
        struct.pack_into("<I", content, 0, (len(content) - 4) // OPERATION.size)
    parts[0] = zstd.compress(bytes(content), options={zstd.CompressionParameter.window_log: WINDOW_LOG})
    outcome = change.outcome(joined(change.delta[: HEADER.size], parts))
    assert data is not None or outcome == "made"
