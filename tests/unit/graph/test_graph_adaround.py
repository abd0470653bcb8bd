"""AdaRound: up or down, whatever the layer's output asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from edgehone.errors import DataError
from edgehone.graph.adaround import Learning, round_adaptively
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.oracle import run
from edgehone.graph.twin import Twin
from edgehone.testing.expect import identical
from edgehone.testing.graphs import GraphBuilder

torch.set_num_threads(1)

QUICK = Learning(steps=40)


def data(graph: Graph, count: int = 64) -> Tensor:
    """Neighbouring places and channels are alike, as in pictures: rounding errors of neighbours can cancel."""
    x = torch.randn((count, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0))
    return x + x.roll(1, -1) + x.mean(-1, keepdim=True) * 4 + x.roll(1, 1) + 1


def calibrated(graph: Graph, bits: int = 4) -> Twin:
    twin = Twin(graph, weight_bits=bits).eval()
    twin.calibrate([data(graph)])
    return twin


def error(twin: Twin) -> float:
    x = data(twin.graph)
    with torch.no_grad():
        found = twin(x)
        twin.mode = "float"
        network = Twin(twin.network.graph).eval()  # the weights it was made of
        expected = network(x)
        twin.mode = "quantized"
    return float((found - expected).square().mean() / expected.var())


def conv(shape: tuple[int, ...] = (1, 4, 9, 7), outputs: int = 8, kernel: int = 3, groups: int = 1, **attrs) -> Graph:
    build = GraphBuilder(shape)
    graph = build.graph(build.conv(build.input, outputs, kernel, groups=groups, bias=True))
    graph = graph.with_nodes((replace(graph.nodes[0], attrs={**graph.nodes[0].attrs, **attrs}),))
    result = tuple(Twin(graph)(torch.zeros(shape)).shape)
    return replace(graph, shapes={**graph.shapes, graph.output: result})


def linear() -> Graph:
    build = GraphBuilder((1, 40))
    return build.graph(build.linear(build.input, 16))


LAYERS = {
    "conv": conv,
    "one-sided padding": lambda: conv(stride=(2, 2), padding=((0, 1), (1, 0))),
    "dilated": lambda: conv(dilation=(2, 1)),
    "depthwise": lambda: conv(groups=4),
    "grouped": lambda: conv(groups=2),
    "one dimension": lambda: conv((1, 6, 30), kernel=5),
    "pointwise": lambda: conv((1, 16, 5, 5), kernel=1),
    "linear": linear,
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_answers_better_than_rounded_to_nearest(name: str) -> None:
    twin = calibrated(LAYERS[name]())
    nearest = error(twin)
    round_adaptively(twin, data(twin.graph), QUICK)
    assert error(twin) < 0.9 * nearest


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_rounded_to_one_of_two_neighbours_on_the_same_grid(bits: int) -> None:
    graph = conv(groups=2)
    twin = calibrated(graph, bits)
    (node,) = graph.weighted()
    before = twin.to_quantized().weights[node.output]
    round_adaptively(twin, data(graph), QUICK)
    after = twin.to_quantized().weights[node.output]
    np.testing.assert_allclose(after.scale, before.scale, rtol=1e-6)
    position = graph.params[node.params["weight"]] / before.scale[:, None, None, None]
    assert np.abs(after.values - position).max() < 1 + 1e-3
    assert np.abs(after.values).max() == 2 ** (bits - 1) - 1
    assert (after.values != before.values).any()


def network() -> Graph:
    build = GraphBuilder((1, 3, 8, 8))
    x = build.relu(build.conv(build.input, 12, bias=True))
    x = build.relu(build.conv(x, 12, groups=12, bias=True))
    return deploy(build.graph(build.linear(build.mean(build.relu(build.conv(x, 16, 1, bias=True))), 6)))


def test_a_network_of_four_bits_gains_most_of_what_rounding_took() -> None:
    twin = calibrated(network())
    nearest = error(twin)
    round_adaptively(twin, data(twin.graph), QUICK)
    assert error(twin) < 0.4 * nearest


def test_the_integers_are_what_the_twin_computes() -> None:
    twin = calibrated(network())
    round_adaptively(twin, data(twin.graph), QUICK)
    quantized = twin.to_quantized()
    source, target = (quantized.tensors[name] for name in (quantized.graph.input, quantized.graph.output))
    x = data(twin.graph)
    with torch.no_grad():
        found = target.quantize(twin(x).numpy())
    assert np.abs(run(quantized, source.quantize(x.numpy())).astype(int) - found).max() <= 1


def test_it_follows_its_seed() -> None:
    def integers() -> object:
        twin = calibrated(network())
        round_adaptively(twin, data(twin.graph), QUICK, seed=3)
        return twin.to_quantized()

    assert identical(integers(), integers())


def test_shared_weights_and_dead_channels_stay() -> None:
    build = GraphBuilder((1, 8, 6, 6))
    first = build.conv(build.input, 8, bias=True)
    shared = deploy(build.graph(build.conv(build.relu(first), 8, like=first)))
    twin = calibrated(shared)
    round_adaptively(twin, data(shared), QUICK)
    assert identical(dict(twin.to_graph().params), dict(shared.params))
    graph = conv()
    (node,) = graph.weighted()
    graph.params[node.params["weight"]][3] = 0.0
    twin = calibrated(graph)
    round_adaptively(twin, data(graph), QUICK)
    found = twin.to_graph()
    assert not found.params[node.params["weight"]][3].any()
    assert found.params[node.params["bias"]][3] == graph.params[node.params["bias"]][3]


def test_a_twin_without_ranges_is_refused() -> None:
    with pytest.raises(DataError, match="no ranges"):
        round_adaptively(Twin(network()), torch.zeros((1, 3, 8, 8)))
