"""Deltas give the signed file or nothing, and are short where weights moved a little."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehone.bundle.build import pack
from edgehone.bundle.delta import make_delta
from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone_agent.bundle import open_bundle
from edgehone_agent.delta import HEADER, apply_delta
from edgehone_agent.errors import BundleError
from edgehone_agent.wire.manifest import Manifest, Part, Values


def bundle(path: Path, noise: float, *, notes: bytes = b"notes", seed: int = 1) -> Path:
    """A ResNet-8 whose weights are moved by `noise` of their spread."""
    torch.manual_seed(0)
    network = NETWORKS["resnet8"]()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight += noise * weight.std() * torch.randn_like(weight)
    x = torch.rand(32, *example_shape("resnet8")[1:], generator=torch.Generator().manual_seed(0))
    integers = quantize(deploy(trace(network, x[:2])), x.split(32))
    contents = {
        f"models/{runtime}/model.{name}": EXPORTERS.get(name).export(integers)
        for name, runtime in (("tflite", "litert"), ("onnx", "onnxruntime"))
    }
    contents["README.md"] = notes
    parts = tuple(
        Part(p, "model" if "models" in p else "notes", hashlib.sha256(body).hexdigest(), len(body))
        for p, body in contents.items()
    )
    manifest = Manifest(
        "task",
        "classification",
        1,
        "m",
        "2026-01-01T00:00:00+00:00",
        parts,
        Values("x", (3, 32, 32)),
        Values("y", (10,)),
    )
    path.write_bytes(pack(replace(manifest), contents))
    return path


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("delta") / "old", 0.0)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("noise", "most"), [(0.0, 0.02), (0.004, 0.25), (0.02, 0.4)])
@pytest.mark.parametrize("notes", [b"notes", b"longer notes than before, so that everything behind them moves"])
def test_a_small_change_makes_a_short_delta(old: Path, tmp_path: Path, noise: float, most: float, notes: bytes) -> None:
    new = bundle(tmp_path / "new", noise, notes=notes)
    delta = make_delta(old, new)
    assert delta is not None and len(delta) <= most * new.stat().st_size, len(delta or b"") / new.stat().st_size
    (tmp_path / "delta").write_bytes(delta)
    apply_delta(old, tmp_path / "delta", tmp_path / "made", digest(new))
    assert (tmp_path / "made").read_bytes() == new.read_bytes()
    open_bundle(tmp_path / "made").close()


def test_another_network_is_not_worth_a_delta(old: Path, tmp_path: Path) -> None:
    assert make_delta(old, bundle(tmp_path / "new", 3.0)) is None


@pytest.fixture(scope="module")
def change(old: Path) -> tuple[Path, bytes, str]:
    new = bundle(old.with_name("new"), 0.01)
    delta = make_delta(old, new)
    assert delta is not None
    return old, delta, digest(new)


def test_another_old_file_or_another_promise_is_refused(change: tuple[Path, bytes, str], tmp_path: Path) -> None:
    old, delta, sha256 = change
    (tmp_path / "delta").write_bytes(delta)
    other = tmp_path / "other"
    other.write_bytes(old.read_bytes() + b"x")
    with pytest.raises(BundleError, match="another old file"):
        apply_delta(other, tmp_path / "delta", tmp_path / "made", sha256)
    with pytest.raises(BundleError, match="signed"):
        apply_delta(old, tmp_path / "delta", tmp_path / "made", "0" * 64)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["delta", "other"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_mutation_makes_a_file_or_crashes(change: tuple[Path, bytes, str], data: st.DataObject) -> None:
    old, delta, sha256 = change
    changed = bytearray(delta)
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "head"]))
    at = data.draw(st.integers(0, (HEADER.size if kind == "head" else len(delta)) - 1))
    if kind in ("flip", "head"):
        changed[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del changed[at:]
    else:
        changed[at:at] = os.urandom(data.draw(st.integers(1, 64)))
    folder = old.parent / "mutants"
    folder.mkdir(exist_ok=True)
    (folder / "delta").write_bytes(changed)
    try:
        apply_delta(old, folder / "delta", folder / "made", sha256)
    except BundleError:
        assert [p.name for p in folder.iterdir()] == ["delta"]
    else:  # a checksum-free byte of the compressed stream that changes nothing
        assert digest(folder / "made") == sha256
        (folder / "made").unlink()


def test_a_bomb_is_refused_in_little_memory(change: tuple[Path, bytes, str], tmp_path: Path) -> None:
    from backports import zstd

    old, delta, sha256 = change
    fields = list(HEADER.unpack(delta[: HEADER.size]))
    bomb = zstd.compress(bytes(200_000_000), 19)
    assert len(bomb) < 100_000
    frames = (bomb, zstd.compress(b""), zstd.compress(b""))
    head = HEADER.pack(*fields[:4], *(len(frame) for frame in frames))
    (tmp_path / "delta").write_bytes(b"".join((head, *frames)))
    with pytest.raises(BundleError, match="too many operations"):
        apply_delta(old, tmp_path / "delta", tmp_path / "made", sha256)


def test_it_adds_modulo_256() -> None:
    one, two = np.array([250, 3], np.uint8), np.array([4, 255], np.uint8)
    assert np.array_equal(one + (two - one), two)
