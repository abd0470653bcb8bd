"""Criteria against networks whose right answer is known, and against finite differences of the loss.

What holds for every criterion is asked in tests/contract/test_criteria.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgehone.errors import DataError
from edgehone.graph.cut import cut
from edgehone.graph.groups import Group, channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.plugins import PluginError
from edgehone.techniques.criteria import CRITERIA, Probe, Scores
from edgehone.testing.graphs import GraphBuilder


def batches(shape: Sequence[int], classes: int, count: int = 2, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn((size, *shape[1:]), generator=generator),
            torch.randint(0, classes, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def residual() -> Graph:
    """conv0 → bn1 → relu2 is the stream; conv3 → bn4 → relu5 → conv6 → bn7 is added to it."""
    b = GraphBuilder((1, 3, 6, 6), seed=3)
    stream = b.relu(b.batch_norm(b.conv(b.input, 6)))
    branch = b.batch_norm(b.conv(b.relu(b.batch_norm(b.conv(stream, 5))), 6))
    return b.graph(b.linear(b.mean(b.relu(b.node("add", stream, branch))), 4))


def changed(graph: Graph, key: str, index: object, value: object) -> Graph:
    array = graph.params[key].copy()
    array[index] = value
    return replace(graph, params={**graph.params, key: array})


def score(name: str, graph: Graph, groups: tuple[Group, ...] | None = None, **probe: object) -> Scores:
    groups = channel_groups(graph) if groups is None else groups
    return CRITERIA.get(name).score(graph, groups, Probe(**{"batches": batches(graph.input_shape, 4), **probe}))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(PluginError, match="no criterion called"):
        CRITERIA.get("l3")


@pytest.mark.parametrize("name", ["l1", "l2", "geometric-median", "bn-scale"])
def test_layers_of_other_scale_rank_the_same(name: str) -> None:
    graph = residual()
    scaled = replace(graph, params={k: v * 7 if k == "conv3.weight" else v for k, v in graph.params.items()})
    before, after = score(name, graph), score(name, scaled)
    for group in before:
        np.testing.assert_allclose(after[group], before[group], rtol=1e-5)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_small_filters_come_last(name: str) -> None:
    graph = residual()
    weight = graph.params["conv3.weight"]
    small = changed(graph, "conv3.weight", 2, weight[2] * 1e-3)
    reads = changed(small, "conv6.weight", (slice(None), 2), graph.params["conv6.weight"][:, 2] * 1e-3)
    assert score(name, reads)["conv3"].argmin() == 2


def test_l1_is_the_sum_of_absolute_weights() -> None:
    graph = residual()
    norms = np.abs(graph.params["conv3.weight"].astype(np.float64)).sum((1, 2, 3))
    np.testing.assert_allclose(score("l1", graph)["conv3"], norms / norms.mean(), rtol=1e-6)
    coupled = [np.abs(graph.params[f"{n}.weight"].astype(np.float64)).sum((1, 2, 3)) for n in ("conv0", "conv6")]
    expected = np.mean([line / line.mean() for line in coupled], axis=0)
    np.testing.assert_allclose(score("l1", graph)["conv0"], expected, rtol=1e-6)


def test_l2_sees_who_reads_a_channel() -> None:
    graph = residual()
    loud = changed(graph, "conv6.weight", (slice(None), 1), 100.0)
    assert score("l2", loud)["conv3"].argmax() == 1
    np.testing.assert_array_equal(score("l1", loud)["conv3"], score("l1", graph)["conv3"])


def test_bn_scale_orders_by_scale() -> None:
    graph = changed(residual(), "batch_norm4.weight", slice(None), [0.3, -0.9, 0.1, 0.5, -0.7])
    assert np.argsort(score("bn-scale", graph)["conv3"]).tolist() == [2, 0, 3, 4, 1]


def test_bn_scale_without_a_batch_norm_reads_the_filters() -> None:
    b = GraphBuilder((1, 3, 6, 6))
    graph = b.graph(b.linear(b.mean(b.conv(b.input, 4)), 4))
    norms = np.linalg.norm(graph.params["conv0.weight"].reshape(4, -1).astype(np.float64), axis=1)
    np.testing.assert_allclose(score("bn-scale", graph)["conv0"], norms / norms.mean(), rtol=1e-6)


def test_geometric_median_gives_up_a_duplicate_first() -> None:
    b = GraphBuilder((1, 8, 6, 6))
    graph = b.graph(b.linear(b.mean(b.conv(b.input, 6)), 4))
    weight = graph.params["conv0.weight"]
    weight /= np.linalg.norm(weight.reshape(6, -1), axis=1)[:, None, None, None]  # all filters of one size
    doubled = changed(graph, "conv0.weight", 4, weight[1])
    scores = score("geometric-median", doubled)["conv0"]
    assert set(np.argsort(scores)[:2].tolist()) == {1, 4}
    distances = [
        [np.linalg.norm(a - b) for a in doubled.params["conv0.weight"]] for b in doubled.params["conv0.weight"]
    ]
    expected = np.sum(distances, axis=1)
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-5)


def test_a_dead_relu_is_worst_for_apoz_and_mean_activation() -> None:
    graph = changed(residual(), "batch_norm4.bias", 3, -1e6)
    for name in ("apoz", "mean-activation"):
        scores = score(name, graph)["conv3"]
        assert scores[3] == 0
        assert (np.delete(scores, 3) > 0).all()


def test_activation_criteria_are_plain_statistics_of_the_relu() -> None:
    graph = residual()
    data = batches(graph.input_shape, 4, count=2, size=3)
    with torch.no_grad():
        value = GraphNetwork(graph).eval().activations(torch.cat([x for x, _ in data]))["relu5"].double().numpy()
    for name, expected in (
        ("apoz", 1 - (value == 0).mean((0, 2, 3))),
        ("mean-activation", np.abs(value).mean((0, 2, 3))),
    ):
        np.testing.assert_allclose(score(name, graph, batches=data)["conv3"], expected / expected.mean(), rtol=1e-6)


def test_batches_of_unequal_size_count_by_their_examples() -> None:
    graph = residual()
    x, y = batches(graph.input_shape, 4, count=1, size=7)[0]
    parts = [(x[:5], y[:5]), (x[5:], y[5:])]
    whole, split = (score("mean-activation", graph, batches=b)["conv3"] for b in ([(x, y)], parts))
    np.testing.assert_allclose(whole, split, rtol=1e-6)


def test_taylor_is_the_squared_slope_of_the_loss_under_a_gate() -> None:
    """Gate by hand: scale every weight that reads a class, in float64, and difference the loss."""
    graph = residual()
    groups = channel_groups(graph)
    data = batches(graph.input_shape, 4, count=2)
    network = GraphNetwork(graph).eval().double()

    def loss(group: Group, item: int, factor: float, x: Tensor, y: Tensor) -> float:
        weights = [s for s in group.params if s.axis == 1]
        with torch.no_grad():
            for s in weights:
                network.tensor(s.name)[:, s.indices[item]] *= factor
            value = F.cross_entropy(network(x.double()), y).item()
            for s in weights:
                network.tensor(s.name)[:, s.indices[item]] /= factor
        return value

    slopes = {
        group.name: np.array(
            [
                np.mean(
                    [((loss(group, c, 1 + 1e-5, x, y) - loss(group, c, 1 - 1e-5, x, y)) / 2e-5) ** 2 for x, y in data]
                )
                for c in range(group.width)
            ]
        )
        for group in groups
    }
    mean = np.concatenate(list(slopes.values())).mean()
    scores = score("taylor", graph, groups, batches=data)
    for name, expected in slopes.items():
        np.testing.assert_allclose(scores[name], expected / mean, rtol=1e-3, atol=1e-4)


def test_taylor_predicts_which_removal_hurts() -> None:
    """A class that the head ignores costs nothing to remove, and scores nothing."""
    graph = residual()
    quiet = changed(graph, "conv6.weight", (slice(None), 2), 0.0)
    scores = score("taylor", quiet)["conv3"]
    assert scores[2] == 0
    x, _ = batches(graph.input_shape, 4)[0]
    with torch.no_grad():
        whole, smaller = (GraphNetwork(g).eval()(x) for g in (quiet, cut(quiet, {"conv3": (0, 1, 3, 4)})))
    torch.testing.assert_close(whole, smaller)


def test_random_follows_the_seed() -> None:
    graph = residual()
    one, same, other = (score("random", graph, seed=seed)["conv0"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", ["apoz", "mean-activation", "taylor"])
def test_criteria_that_need_data_say_so(name: str) -> None:
    with pytest.raises(DataError, match="needs examples"):
        score(name, residual(), batches=())
