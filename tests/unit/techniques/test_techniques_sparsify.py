"""Zeros: as many as asked for and the right ones, growing and then fixed, kept by int8, seen in compressed files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgehone.errors import RecipeError
from edgehone.exporters import EXPORTERS
from edgehone.graph.ir import FloatArray, Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.quantized import QuantizedGraph
from edgehone.techniques import Context
from edgehone.techniques.quantize import QuantizeSettings
from edgehone.techniques.quantize import technique as int8
from edgehone.techniques.sparsify import SparsifySettings, _Masks, compressed_bytes, technique
from edgehone.testing.expect import identical
from edgehone.testing.graphs import GraphBuilder

AT_ONCE = {"epochs": 0.0}


def weights(graph: Graph) -> dict[str, FloatArray]:
    return {node.params["weight"]: graph.params[node.params["weight"]] for node in graph.weighted()}


def zeros(arrays: dict[str, FloatArray]) -> dict[str, float]:
    return {key: float((array == 0).mean()) for key, array in arrays.items()}


def quantized(graph: Graph, context: Context) -> QuantizedGraph:
    result = int8.apply(graph, QuantizeSettings(), context).quantized
    assert result is not None
    return result


def test_every_layer_loses_its_smallest_weights(digits) -> None:
    thin = technique.apply(digits.graph, SparsifySettings(0.7, **AT_ONCE), digits.context).graph
    for key, old in weights(digits.graph).items():
        new = thin.params[key]
        if old.shape[1] == 1:  # one input channel: a convolution as a depthwise one has
            assert np.array_equal(new, old)
            continue
        gone = new == 0
        assert gone.sum() == round(0.7 * old.size)
        assert np.abs(old[gone]).max() <= np.abs(old[~gone]).min()
        assert np.array_equal(old[~gone], new[~gone])


def test_global_takes_the_smallest_of_all_but_kills_no_layer(digits) -> None:
    params = dict(digits.graph.params)
    first, second, *_ = [key for key, weight in weights(digits.graph).items() if weight.shape[1] > 1]
    params[second] = params[second] * np.float32(1e-4)  # ranked alone, all of it would go
    graph = digits.graph.with_nodes(digits.graph.nodes, params=params)
    settings = SparsifySettings(0.8, allocation="global", **AT_ONCE)
    thin = weights(technique.apply(graph, settings, digits.context).graph)
    share = zeros(thin)
    assert share[second] == pytest.approx(0.95, abs=0.001)
    assert share[first] < 0.5
    may = [key for key in thin if thin[key].shape[1] > 1]
    total = sum(share[key] * thin[key].size for key in may) / sum(thin[key].size for key in may)
    assert total == pytest.approx(0.8, abs=1e-4)


def test_two_of_four_stay_along_the_inputs(digits) -> None:
    thin = technique.apply(digits.graph, SparsifySettings(pattern="2:4", **AT_ONCE), digits.context).graph
    seen = 0
    for key, old in weights(digits.graph).items():
        if old.shape[1] % 4:
            assert np.array_equal(thin.params[key], old)
            continue
        fours, was = (np.moveaxis(array, 1, -1).reshape(-1, 4) for array in (thin.params[key], old))
        assert ((fours != 0).sum(1) == 2).all()
        np.testing.assert_array_equal(np.sort(np.abs(fours))[:, 2:], np.sort(np.abs(was))[:, 2:])
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("settings", [SparsifySettings(0.8), SparsifySettings(0.8, allocation="global"),
                                      SparsifySettings(pattern="2:4")], ids=["uniform", "global", "2:4"])  # fmt: skip
def test_zeros_grow_by_the_cubic_schedule_and_then_stay(digits, settings: SparsifySettings) -> None:
    network = GraphNetwork(digits.graph)
    keys = [key for key, weight in weights(digits.graph).items() if weight.shape[1] % 4 == 0]
    masks = _Masks(network, keys, settings)
    noise = torch.Generator().manual_seed(0)

    def step(share: float) -> torch.Tensor:
        with torch.no_grad():
            for key in keys:
                weight = network.tensor(key)
                weight += 0.02 * torch.randn(weight.shape, generator=noise)
        masks(network, share)
        return torch.cat([network.tensor(key).flatten() == 0 for key in keys])

    before = step(0.0)
    assert not before.any()
    for share in np.linspace(0, settings.ramp, 13):
        now = step(float(share))
        progress = np.floor(share / settings.ramp * 20 + 1e-9) / 20
        expected = settings.sparsity * (1 - (1 - progress) ** 3)
        assert float(now.float().mean()) == pytest.approx(expected, abs=0.002)
        assert bool(now[before].all())
        before = now
    for share in (0.7, 0.9, 1.0):
        assert torch.equal(step(share), before)


def test_a_network_gets_used_to_its_zeros(digits) -> None:
    settings = SparsifySettings(0.8, epochs=2, learning_rate=0.05)
    once = technique.apply(digits.graph, replace(settings, epochs=0), digits.context)
    trained = technique.apply(digits.graph, settings, digits.context)
    full = digits.accuracy(digits.graph)
    assert digits.accuracy(once.graph) < full - 0.05
    assert digits.accuracy(trained.graph) > full - 0.03
    assert [point.epoch for point in trained.curve] == [1.0, 2.0]
    for weight in weights(trained.graph).values():
        assert (weight == 0).sum() == (round(0.8 * weight.size) if weight.shape[1] > 1 else 0)


def test_int8_keeps_the_zeros_and_only_the_compressed_file_is_smaller(digits) -> None:
    thin = technique.apply(digits.graph, SparsifySettings(0.8, **AT_ONCE), digits.context).graph
    before, after = (quantized(graph, digits.context) for graph in (digits.graph, thin))
    for node in after.graph.weighted():
        values = after.weights[node.output].values
        assert values.shape[1] == 1 or (values == 0).mean() >= 0.799
    export = EXPORTERS.get("tflite").export
    plain, sparse = export(before), export(after)
    assert abs(len(plain) - len(sparse)) < 64
    assert compressed_bytes(sparse) < 0.6 * compressed_bytes(plain)
    assert compressed_bytes(bytes(1000)) < 30


def test_zeros_that_were_there_stay(digits) -> None:
    many = technique.apply(digits.graph, SparsifySettings(0.8, **AT_ONCE), digits.context).graph
    fewer = technique.apply(many, SparsifySettings(0.5, epochs=0.5), digits.context).graph
    for key, weight in weights(many).items():
        assert not fewer.params[key][weight == 0].any()
    assert not identical(weights(many), weights(fewer))


def test_what_was_stopped_goes_on_to_the_same_zeros(digits, tmp_path: Path) -> None:
    """Stopped within the ramp, when the state of the optimizer would bring zeros back."""
    settings = SparsifySettings(0.9, epochs=2, learning_rate=0.05)

    def stop(done: int, total: int, loss: float) -> None:
        if done == 20:
            raise KeyboardInterrupt

    whole = technique.apply(digits.graph, settings, digits.context).graph
    context = replace(digits.context, checkpoint=tmp_path / "run.npz")
    with pytest.raises(KeyboardInterrupt):
        technique.apply(digits.graph, settings, replace(context, report=stop))
    assert (tmp_path / "run.npz").exists()
    resumed = technique.apply(digits.graph, settings, context).graph
    assert identical(resumed, whole)


@pytest.fixture
def depthwise() -> Iterator[Graph]:
    build = GraphBuilder((1, 1, 8, 8))
    x = build.conv(build.conv(build.input, 8), 8, groups=8)
    yield build.graph(build.linear(build.mean(x), 3))


def test_depthwise_weights_stay(digits, depthwise: Graph) -> None:
    thin = weights(technique.apply(depthwise, SparsifySettings(0.5, **AT_ONCE), digits.context).graph)
    assert list(zeros(thin).values()) == [0.0, 0.0, 0.5]


def test_a_network_without_such_weights_is_refused(digits) -> None:
    build = GraphBuilder((1, 1, 8, 8))
    graph = build.graph(build.mean(build.conv(build.input, 8)))
    with pytest.raises(RecipeError, match="no weights that may be zero"):
        technique.apply(graph, SparsifySettings(), digits.context)
    build = GraphBuilder((1, 6))
    graph = build.graph(build.linear(build.input, 8))
    with pytest.raises(RecipeError, match="no layer has input channels in fours"):
        technique.apply(graph, SparsifySettings(pattern="2:4"), digits.context)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: SparsifySettings(1.0), "sparsity is 1"),
        (lambda: SparsifySettings(-0.1), "sparsity is -0.1"),
        (lambda: SparsifySettings(float("nan")), "sparsity is nan"),
        (lambda: SparsifySettings(pattern="4:8"), "pattern '4:8' is not known"),
        (lambda: SparsifySettings(0.6, pattern="2:4"), "sparsity is 0.6, and 2:4 means 0.5"),
        (lambda: SparsifySettings(allocation="fair"), "allocation 'fair' is not known"),
        (lambda: SparsifySettings(epochs=-1), "epochs is -1"),
        (lambda: SparsifySettings(epochs=float("inf")), "epochs is inf"),
        (lambda: SparsifySettings(ramp=0), "ramp is 0"),
        (lambda: SparsifySettings(learning_rate=0), "learning_rate is 0"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], SparsifySettings], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        wrong()


def test_labels_decode() -> None:
    said = {
        "sparsify-50-uniform-1": SparsifySettings(),
        "sparsify-87.5-global-0": SparsifySettings(0.875, allocation="global", epochs=0),
        "sparsify-2of4-uniform-0.5": SparsifySettings(pattern="2:4", epochs=0.5),
    }
    assert {technique.step(settings).label: settings for settings in said.values()} == said
    assert {label: technique.from_label(label) for label in said} == said
    assert technique.from_label("sparsify-50") is None
