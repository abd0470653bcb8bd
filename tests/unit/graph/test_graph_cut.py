"""Cuts by hand, illegal cuts, and every reference network cut against its masked self."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from edgehone.errors import CutError
from edgehone.graph.cost import widths
from edgehone.graph.cut import cut
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape


def chain() -> Graph:
    b = GraphBuilder((1, 3, 8, 8))
    x = b.relu(b.batch_norm(b.conv(b.input, 6)))
    return b.graph(b.linear(b.mean(b.conv(x, 4)), 2))


def test_arrays_shrink_where_the_channels_were() -> None:
    graph = chain()
    before = {key: array.copy() for key, array in graph.params.items()}
    smaller = cut(graph, {"conv0": (1, 4)})
    np.testing.assert_array_equal(smaller.params["conv0.weight"], graph.params["conv0.weight"][[1, 4]])
    np.testing.assert_array_equal(smaller.params["conv3.weight"], graph.params["conv3.weight"][:, [1, 4]])
    np.testing.assert_array_equal(smaller.params["batch_norm1.mean"], graph.params["batch_norm1.mean"][[1, 4]])
    assert smaller.shapes["relu2"] == (1, 2, 8, 8)
    assert widths(smaller) == {"conv0": 2, "conv3": 4, "linear5": 2}
    assert all(np.array_equal(graph.params[key], array) for key, array in before.items())


def test_attributes_follow() -> None:
    b = GraphBuilder((1, 3, 4, 4))
    stem = b.conv(b.input, 8)
    depthwise = b.conv(stem, 16, groups=8)
    part = b.slice(depthwise, 4, 12)  # channels 2 to 5 of the stem, twice each
    padded = b.node("pad", part, pads=((0, 0), (2, 2), (0, 0), (0, 0)), value=0.0)
    wide = b.conv(b.input, 12)
    flat = b.flatten(b.node("add", padded, wide))
    graph = b.graph(b.linear(flat, 2))
    assert [(g.name, g.width) for g in channel_groups(graph)] == [(stem, 4), (f"{stem}#2", 4), (wide, 4)]
    smaller = cut(graph, {stem: (0, 3), f"{stem}#2": (1, 2, 3), wide: (1, 2, 3)})
    nodes = {node.output: node for node in smaller.nodes}
    np.testing.assert_array_equal(smaller.params[f"{stem}.weight"], graph.params[f"{stem}.weight"][[0, 3, 4, 5, 7]])
    assert nodes[depthwise].attrs["groups"] == 5
    assert (nodes[part].attrs["start"], nodes[part].attrs["stop"]) == (2, 8)
    assert nodes[padded].attrs["pads"] == ((0, 0), (1, 2), (0, 0), (0, 0))
    assert nodes[flat].attrs["shape"] == smaller.shapes[flat] == (1, 9 * 16)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv0": ()}, "nothing would stay"),
        ({"conv0": (2, 1)}, "not ascending"),
        ({"conv0": (1, 1)}, "named twice"),
        ({"conv0": (-1, 2)}, "classes 0 to 5"),
        ({"conv0": (0, 6)}, "classes 0 to 5"),
        ({"conv0": (0.5,)}, "whole numbers"),
        ({"linear5": (0,)}, "frozen"),
        ({"nowhere": (0,)}, "no such group"),
    ],
)
def test_illegal_cuts_are_refused(keep: dict[str, Sequence[int]], message: str) -> None:
    with pytest.raises(CutError, match=message):
        cut(chain(), keep)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_reference_networks_lose_exactly_the_channels_that_are_cut(name: str) -> None:
    """Where consumers of the lost classes have zero weights on them, the outputs of both networks are the same."""
    shape = example_shape(name)
    graph = trace(NETWORKS[name](), torch.zeros((2, *shape[1:])))
    generator = np.random.default_rng(0)
    params = {key: array.copy() for key, array in graph.params.items()}
    keep = {}
    weights = {node.params["weight"] for node in graph.weighted()}
    for group in channel_groups(graph):
        kept = np.sort(generator.choice(group.width, max(1, group.width // 2), replace=False))
        keep[group.name] = kept.tolist()
        gone = np.setdiff1d(np.arange(group.width), kept)
        for slots in group.params:
            if slots.axis == 1 and slots.name in weights:
                params[slots.name][:, slots.indices[gone].ravel()] = 0
    silent = graph.with_nodes(graph.nodes, params=params)
    x = torch.randn((4, *shape[1:]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, smaller = (GraphNetwork(g).eval()(x) for g in (silent, cut(graph, keep)))
    assert whole.std() > 0
    torch.testing.assert_close(smaller, whole, rtol=1e-4, atol=1e-4)


def test_a_cut_network_trains() -> None:
    graph = trace(NETWORKS["resnet8"](), torch.zeros(2, 3, 32, 32))
    network = GraphNetwork(cut(graph, {group.name: range(8) for group in channel_groups(graph)})).train()
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
