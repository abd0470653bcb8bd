"""Shared values: few and well placed, the same after training and after int8, seen in compressed files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgehone.errors import RecipeError
from edgehone.exporters import EXPORTERS
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph
from edgehone.techniques.cluster import ClusterSettings, share_values, technique
from edgehone.techniques.quantize import QuantizeSettings
from edgehone.techniques.quantize import technique as int8
from edgehone.techniques.sparsify import SparsifySettings, compressed_bytes
from edgehone.techniques.sparsify import technique as sparsify


def drawn(size: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).laplace(size=(size // 40, 40)).astype(np.float32)


def distinct(graph: Graph) -> list[int]:
    """Most values in an output channel, layer by layer."""
    weights = (graph.params[node.params["weight"]] for node in graph.weighted())
    return [max(len(np.unique(channel)) for channel in weight) for weight in weights]


def quantized(digits, graph: Graph) -> QuantizedGraph:
    result = int8.apply(graph, QuantizeSettings(), digits.context).quantized
    assert result is not None
    return result


@pytest.mark.parametrize("levels", [3, 4, 5, 16, 256])
def test_values_become_levels_that_lie_better_than_a_grid(levels: int) -> None:
    """In units of a channel's largest weight: the same sizes in all channels, for both signs."""
    weight = drawn()
    largest = np.abs(weight).max(1, keepdims=True)
    shared = share_values(weight, levels).weight
    sizes = np.unique(np.round(np.abs(shared) / largest, 5))
    assert len(sizes) <= levels // 2
    assert max(len(np.unique(channel)) for channel in shared) <= levels
    np.testing.assert_array_equal(np.sign(shared), np.sign(weight))
    nearest = sizes[np.abs(np.abs(weight / largest)[..., None] - sizes).argmin(-1)]
    assert np.mean(np.isclose(nearest, np.abs(shared) / largest, atol=1e-4)) > 0.99
    grid = (np.arange(levels // 2) + 0.5) / (levels // 2)
    rounded = grid[np.abs(np.abs(weight / largest)[..., None] - grid).argmin(-1)] * np.sign(weight) * largest
    assert np.square(shared - weight).mean() < np.square(rounded - weight).mean()


def test_clusters_that_are_there_are_found_exactly() -> None:
    sizes, units = np.array([0.1, 0.4, 0.6, 1.0], np.float32), np.array([[0.5], [3.0], [-20.0]], np.float32)
    draw = np.random.default_rng(1)
    members = draw.integers(0, 4, (3, 200))
    members[:, 0] = 3  # the largest of each channel
    noise = draw.uniform(-0.01, 0.0, members.shape).astype(np.float32) * (members < 3)
    shared = share_values((sizes[members] + noise) * units * draw.choice([-1, 1], members.shape).astype(np.float32), 8)
    np.testing.assert_array_equal(shared.members.reshape(members.shape), members)
    np.testing.assert_allclose(np.abs(shared.weight / units), sizes[members], atol=0.01)


def test_zeros_stay_and_are_one_of_the_levels() -> None:
    weight = drawn()
    weight[np.abs(weight) < 0.5] = 0
    weight[3] = 0
    shared = share_values(weight, 8).weight
    np.testing.assert_array_equal(shared == 0, weight == 0)
    assert max(len(np.unique(channel)) for channel in shared) <= 7  # three sizes of both signs, and 0
    assert not share_values(np.zeros((2, 3), np.float32), 4).weight.any()


def test_few_values_stay_as_they_are() -> None:
    weight = np.array([[1.0, 0.0, -1.0, 2.5], [0.0, 0.0, 5.0, 0.0]], np.float32)
    np.testing.assert_allclose(share_values(weight, 5).weight, weight, rtol=1e-6)


def test_levels_move_in_training_and_weights_stay_with_theirs(digits) -> None:
    once = technique.apply(digits.graph, ClusterSettings(8, epochs=0), digits.context).graph
    trained = technique.apply(digits.graph, ClusterSettings(8, epochs=1, learning_rate=0.05), digits.context).graph
    assert max(distinct(once)) == max(distinct(trained)) == 8
    for node in once.weighted():
        before, after = (graph.params[node.params["weight"]] for graph in (once, trained))
        assert not np.array_equal(before, after)
        for old, new in zip(before, after, strict=True):
            for value in np.unique(old):
                assert len(np.unique(new[old == value])) == 1


def test_a_network_of_few_levels_recovers(digits) -> None:
    settings = ClusterSettings(3, epochs=2, learning_rate=0.05)
    once = technique.apply(digits.graph, replace(settings, epochs=0), digits.context).graph
    trained = technique.apply(digits.graph, settings, digits.context).graph
    full = digits.accuracy(digits.graph)
    assert digits.accuracy(once) < full - 0.05
    assert digits.accuracy(trained) > digits.accuracy(once) + 0.04
    assert max(distinct(trained)) <= 3


def test_levels_survive_int8_and_the_compressed_file_is_smaller(digits) -> None:
    clustered = technique.apply(digits.graph, ClusterSettings(16, epochs=0.5), digits.context).graph
    before, after = (quantized(digits, graph) for graph in (digits.graph, clustered))
    for node in after.graph.weighted():
        plain, few = (
            [len(np.unique(channel)) for channel in one.weights[node.output].values] for one in (before, after)
        )
        assert max(few) <= 16
        assert len(np.unique(np.abs(after.weights[node.output].values))) <= 8  # the same sizes in all channels
        if after.weights[node.output].values[0].size > 64:
            assert min(plain) > 16
    export = EXPORTERS.get("tflite").export
    plain_file, few_file = export(before), export(after)
    assert abs(len(plain_file) - len(few_file)) < 64
    assert compressed_bytes(few_file) < 0.75 * compressed_bytes(plain_file)
    assert digits.accuracy(after.graph) > digits.accuracy(digits.graph) - 0.02


def test_zeros_of_a_sparse_network_stay_zeros(digits) -> None:
    sparse = sparsify.apply(digits.graph, SparsifySettings(0.7, epochs=0), digits.context).graph
    both = technique.apply(sparse, ClusterSettings(8, epochs=0.5), digits.context).graph
    for node in sparse.weighted():
        key = node.params["weight"]
        np.testing.assert_array_equal(both.params[key] == 0, sparse.params[key] == 0)
    assert max(distinct(both)) <= 8
    export = EXPORTERS.get("tflite").export
    sizes = [compressed_bytes(export(quantized(digits, graph))) for graph in (digits.graph, sparse, both)]
    assert sizes[2] < sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ClusterSettings(2), "levels is 2"),
        (lambda: ClusterSettings(257), "levels is 257"),
        (lambda: ClusterSettings(epochs=-0.5), "epochs is -0.5"),
        (lambda: ClusterSettings(epochs=float("nan")), "epochs is nan"),
        (lambda: ClusterSettings(learning_rate=float("inf")), "learning_rate is inf"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], ClusterSettings], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        wrong()


def test_labels_decode() -> None:
    said = {"cluster-16-1": ClusterSettings(), "cluster-4-0.5": ClusterSettings(4, 0.5)}
    assert {technique.step(settings).label: settings for settings in said.values()} == said
    assert {label: technique.from_label(label) for label in said} == said
    assert technique.from_label("cluster-16") is None
