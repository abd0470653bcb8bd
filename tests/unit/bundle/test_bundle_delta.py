"""A delta gives the signed file, and is short where weights moved a little, whatever else moved with them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.bundle.delta import WORTH, make_delta
from edgehone.data.builtin.digits import task
from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone_agent.bundle import open_bundle
from edgehone_agent.delta import HEADER, apply_delta
from edgehone_agent.errors import BundleError
from edgehone_agent.wire.manifest import Manifest, Values

TFLITE, ONNX, PROBE, NOTES = "models/litert/model.tflite", "models/onnxruntime/model.onnx", "probe.npz", "README.md"
ROLES = {TFLITE: "model", ONNX: "model", PROBE: "probe", NOTES: "notes"}
BODIES = Mapping[str, bytes]


def files(network: nn.Module, x: torch.Tensor, *, integers: bool = True) -> dict[str, bytes]:
    """The network as it travels: both model files and a probe."""
    graph = deploy(trace(network, x[:2]))
    source = quantize(graph, x.split(32)) if integers else graph
    probe = io.BytesIO()
    with torch.no_grad():
        np.savez(probe, x=x[:16].numpy(), y=network(x[:16]).numpy(), tolerance=np.float32(0.1))
    bodies = {TFLITE: EXPORTERS.get("tflite").export(source), ONNX: EXPORTERS.get("onnx").export(source)}
    return {**bodies, PROBE: probe.getvalue(), NOTES: b"# Notes\n\nWhat one should know.\n"}


def write(path: Path, bodies: BODIES, version: int = 1) -> Path:
    manifest = Manifest(
        "task", "classification", version, "m", "2026-01-01T00:00:00+00:00", (), Values("x", (3,)), Values("y", (10,)),
        labels=tuple("0123456789"),
    )  # fmt: skip
    contents = [
        Content(name, ROLES.get(name, "notes"), body)  # type: ignore[arg-type]
        for name, body in bodies.items()
    ]
    path.write_bytes(bundle_bytes(manifest, contents))
    return path


def noisy(network: nn.Module, share: float, seed: int = 1) -> nn.Module:
    """A copy with noise on all weights, as a share of their spread."""
    network, dice = deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight += share * weight.std() * torch.randn(weight.shape, generator=dice)
    return network


X = torch.rand(64, *example_shape("resnet20")[1:], generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """With weights that are spread like those of trained networks."""
    network, dice = NETWORKS["resnet20"](), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, float(weight.std()), generator=dice)
    return network


@pytest.fixture(scope="module")
def old(network: nn.Module) -> dict[str, bytes]:
    return files(network, X)


@pytest.fixture(scope="module")
def moved(network: nn.Module) -> dict[str, bytes]:
    """2 % noise."""
    return files(noisy(network, 0.02), X)


def share(folder: Path, old: BODIES, new: BODIES) -> float:
    """Length of the delta as a share of the new bundle, after the delta was seen to work."""
    before, after = write(folder / "old", old), write(folder / "new", new, 2)
    delta = make_delta(before, after, worth=10.0)
    assert delta is not None and make_delta(before, after, worth=10.0) == delta
    (folder / "delta").write_bytes(delta)
    apply_delta(before, folder / "delta", folder / "made", hashlib.sha256(after.read_bytes()).hexdigest())
    assert (folder / "made").read_bytes() == after.read_bytes()
    return len(delta) / after.stat().st_size


def test_the_same_network_costs_next_to_nothing(tmp_path: Path, old: BODIES) -> None:
    assert share(tmp_path, old, {**old, NOTES: b"# Notes\n\nSomething else that one should know.\n"}) < 0.003


@pytest.mark.parametrize(("noise", "most"), [(0.004, 0.13), (0.02, 0.30)])
def test_noise_on_all_weights(tmp_path: Path, network: nn.Module, old: BODIES, noise: float, most: float) -> None:
    assert 0.05 < share(tmp_path, old, files(noisy(network, noise), X)) < most


@pytest.mark.parametrize("only", [TFLITE, ONNX])
def test_each_format_is_understood(tmp_path: Path, old: BODIES, moved: BODIES, only: str) -> None:
    assert share(tmp_path, {only: old[only]}, {only: moved[only]}) < 0.30


def test_a_new_head_costs_a_head(tmp_path: Path, network: nn.Module, old: BODIES) -> None:
    other = deepcopy(network)
    with torch.no_grad():
        other.head.weight += torch.randn(other.head.weight.shape, generator=torch.Generator().manual_seed(0))
    assert share(tmp_path, old, files(other, X)) < 0.02


def test_a_really_trained_network(tmp_path: Path) -> None:
    digits = task()
    x = torch.from_numpy(digits.train[0]).float() / 16
    y = torch.from_numpy(digits.train[1])
    torch.manual_seed(0)
    network = digits.network()

    def train(epochs: int, rate: float) -> dict[str, bytes]:
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
        return files(network.eval(), x[:256])

    first = train(4, 0.05)
    assert share(tmp_path, first, train(1, 0.005)) < 0.30


def test_names_that_are_numbers_may_shift(tmp_path: Path, old: BODIES, moved: BODIES) -> None:
    model = onnx.load_model_from_string(moved[ONNX])
    names = {tensor.name: str(int(tensor.name) + 2) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    assert share(tmp_path, {ONNX: old[ONNX]}, {ONNX: model.SerializeToString()}) < 0.30


def test_weights_may_change_their_order(tmp_path: Path, old: BODIES, moved: BODIES) -> None:
    model = onnx.load_model_from_string(moved[ONNX])
    turned = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(turned)
    assert share(tmp_path, {ONNX: old[ONNX]}, {ONNX: model.SerializeToString()}) < 0.30


def test_files_may_come_go_and_change_places(tmp_path: Path, old: BODIES, moved: BODIES) -> None:
    after = {"notes/new.md": b"new", **{name: moved[name] for name in (PROBE, ONNX, TFLITE)}}
    assert share(tmp_path, old, after) < 0.30


@pytest.mark.parametrize("damage", [b"", b"no model", b"\xff" * 4000])
def test_files_that_are_no_models_are_bytes(tmp_path: Path, old: BODIES, damage: bytes) -> None:
    before = {TFLITE: old[TFLITE], ONNX: damage}
    assert share(tmp_path, before, {TFLITE: damage + old[TFLITE][len(damage) :], ONNX: damage[::-1]}) < 0.03


def test_floats_of_the_original(tmp_path: Path, network: nn.Module) -> None:
    before, after = (files(net, X, integers=False) for net in (network, noisy(network, 0.0001)))
    assert share(tmp_path, before, after) < 0.55


def test_another_network_is_not_worth_a_delta(tmp_path: Path, network: nn.Module, old: BODIES) -> None:
    other = files(noisy(network, 3.0), X)
    assert make_delta(write(tmp_path / "a", old), write(tmp_path / "b", other)) is None
    assert 0.6 < share(tmp_path, old, other) < 1.0


def test_what_it_is_worth_is_the_callers(tmp_path: Path, old: BODIES, moved: BODIES) -> None:
    before, after = write(tmp_path / "a", old), write(tmp_path / "b", moved)
    delta = make_delta(before, after)
    assert delta is not None and len(delta) <= WORTH * after.stat().st_size
    exact = len(delta) / after.stat().st_size
    assert make_delta(before, after, worth=exact) == delta
    assert make_delta(before, after, worth=0.99 * exact) is None


def test_the_header_says_from_what_to_what(tmp_path: Path, old: BODIES, moved: BODIES) -> None:
    before, after = write(tmp_path / "a", old), write(tmp_path / "b", moved)
    delta = make_delta(before, after)
    assert delta is not None
    with open_bundle(before) as one, open_bundle(after) as two:
        expected = bytes.fromhex(one.digest), bytes.fromhex(two.digest), one.size_bytes, two.size_bytes
    assert HEADER.unpack_from(delta)[1:5] == expected


def test_what_is_no_bundle_is_refused(tmp_path: Path, old: BODIES) -> None:
    good, bad = write(tmp_path / "good", old), tmp_path / "bad"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("anything", b"else")
    for pair in ((good, bad), (bad, good), (good, tmp_path / "missing")):
        with pytest.raises(BundleError):
            make_delta(*pair)
