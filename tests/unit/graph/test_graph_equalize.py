"""Cross-layer equalisation: the same function, with channels that int8 can tell apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from edgehone.graph.equalize import chains, equalize
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.expect import untouched
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape

torch.set_num_threads(1)


def data(graph: Graph, count: int = 16) -> Tensor:
    return torch.randn((count, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0))


def answers(graph: Graph, x: Tensor) -> Tensor:
    with torch.no_grad():
        return GraphNetwork(graph).eval()(x)


def same_function(graph: Graph, other: Graph) -> bool:
    x = data(graph)
    expected = answers(graph, x)
    return bool((answers(other, x) - expected).abs().max() <= 1e-5 * expected.abs().max())


def scaled(graph: Graph, writer: str, reader: str, factor: np.ndarray) -> Graph:
    """The same function, channels of the writer multiplied; the reader is depthwise or takes one column each."""
    params = dict(graph.params)
    for role in ("weight", "bias"):
        array = params[f"{writer}.{role}"]
        params[f"{writer}.{role}"] = (array * factor.reshape(-1, *[1] * (array.ndim - 1))).astype(np.float32)
    array = params[f"{reader}.weight"]
    axes = (-1, 1, 1, 1) if array.shape[1] == 1 else (1, -1, *[1] * (array.ndim - 2))
    params[f"{reader}.weight"] = (array / factor.reshape(axes)).astype(np.float32)
    return replace(graph, params=params)


def separable() -> tuple[Graph, list[str]]:
    """conv, depthwise, pointwise, linear, each rectified; names of the weighted nodes."""
    build = GraphBuilder((1, 3, 8, 8))
    names = [build.conv(build.input, 8, bias=True)]
    names.append(build.conv(build.relu(names[-1]), 8, groups=8, bias=True))
    names.append(build.conv(build.relu(names[-1]), 12, 1, bias=True))
    names.append(build.linear(build.mean(build.relu(names[-1])), 5))
    return deploy(build.graph(names[-1])), names


def badly_scaled() -> Graph:
    graph, names = separable()
    factor = np.exp(np.random.default_rng(0).permutation(np.linspace(-4, 4, 8)))
    graph = scaled(graph, names[0], names[1], factor)
    return scaled(graph, names[1], names[2], factor)


@pytest.mark.parametrize("name", ["mobilenet", "resnet8", "conv1d-net", "shuffle-net", "mlp", "u-net", "autoencoder"])
def test_it_computes_the_same_in_float(name: str) -> None:
    graph = deploy(trace(NETWORKS[name](), torch.zeros((2, *example_shape(name)[1:]))))
    with untouched(graph):
        equal = equalize(graph, data(graph))
    assert same_function(graph, equal)
    assert equal.nodes == graph.nodes
    assert (equal is graph) == (not chains(graph))


def test_channels_of_what_a_depthwise_layer_reads_become_equal() -> None:
    graph = badly_scaled()
    x = data(graph)
    first = next(graph.weighted()).output

    def widths(of: Graph) -> Tensor:
        with torch.no_grad():
            return GraphNetwork(of).activations(x)[first].amax((0, 2, 3))

    assert widths(graph).max() > 100 * widths(graph).min()
    equal = equalize(graph, x)
    assert same_function(graph, equal)
    torch.testing.assert_close(widths(equal), widths(equal).mean().expand(8), rtol=1e-4, atol=0)


def test_it_gives_back_what_bad_scales_took_from_int8() -> None:
    def error(graph: Graph) -> float:
        twin = Twin(graph).eval()
        twin.calibrate([x])
        with torch.no_grad():
            return float((twin(x) - expected).square().mean() / expected.var())

    good, bad = separable()[0], badly_scaled()
    x = data(bad, 32)
    expected = answers(bad, x)
    assert error(bad) > 10 * error(good)
    assert error(equalize(bad, x)) < 1.5 * error(good)


def tail(op: str) -> Graph:
    """A conv whose channels pass an operator, then a flatten, to a linear layer and beyond."""
    build = GraphBuilder((1, 3, 6, 6))
    x = build.relu(build.conv(build.input, 8, bias=True))
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    attrs = {
        "max_pool": pool,
        "avg_pool": {**pool, "count_include_pad": True},
        "pad": {"pads": ((0, 0), (0, 0), (1, 0), (0, 1)), "value": 0.0},
        "pad with 1": {"pads": ((0, 0), (0, 0), (1, 0), (0, 1)), "value": 1.0},
        "pad of channels": {"pads": ((0, 0), (0, 1), (0, 0), (0, 0)), "value": 0.0},
        "leaky_relu": {"slope": 0.1},
        "slice": {"axis": 1, "start": 0, "stop": 4, "step": 1},
    }.get(op, {})
    x = build.node(op.split(" ")[0], x, **attrs)
    return deploy(build.graph(build.linear(build.flatten(x), 4)))


@pytest.mark.parametrize("op", ["max_pool", "avg_pool", "pad", "leaky_relu"])
def test_scales_pass_what_keeps_channels_apart(op: str) -> None:
    graph = tail(op)
    assert [(c.writer.op, c.readers[0].op) for c in chains(graph)] == [("conv", "linear")]
    assert chains(graph)[0].columns[0] == np.prod(graph.shapes[graph.nodes[-2].inputs[0]][2:])
    equal = equalize(graph, data(graph))
    assert same_function(graph, equal)
    assert not np.array_equal(next(iter(equal.params.values())), next(iter(graph.params.values())))


@pytest.mark.parametrize("op", ["relu6", "hard_swish", "sigmoid", "pad with 1", "pad of channels", "slice"])
def test_scales_stop_where_they_would_show(op: str) -> None:
    graph = tail(op)
    assert chains(graph) == []
    assert equalize(graph, data(graph)) is graph


def test_a_tensor_that_is_added_or_returned_is_left_alone() -> None:
    build = GraphBuilder((1, 3, 6, 6))
    a, b = build.conv(build.input, 8, bias=True), build.conv(build.input, 8, bias=True)
    assert chains(deploy(build.graph(build.conv(build.node("add", a, b), 4, bias=True)))) == []
    build = GraphBuilder((1, 3, 6, 6))
    first = build.conv(build.input, 8, bias=True)
    build.conv(first, 8, bias=True)
    assert chains(build.graph(first)) == []


def test_several_readers_and_groups_are_divided_alike() -> None:
    build = GraphBuilder((1, 3, 6, 6))
    x = build.relu(build.conv(build.input, 8, bias=True))
    one, two = build.conv(x, 6, bias=True), build.conv(x, 6, groups=2, bias=True)
    graph = deploy(build.graph(build.node("mul", one, two)))
    assert [len(chain.readers) for chain in chains(graph)] == [2]
    assert same_function(graph, equalize(graph, data(graph)))


def test_shared_weights_are_left_alone() -> None:
    build = GraphBuilder((1, 8, 6, 6))
    first = build.conv(build.input, 8, bias=True)
    graph = deploy(build.graph(build.conv(build.relu(first), 8, like=first)))
    assert chains(graph) == []


def test_dead_channels_stay_finite() -> None:
    graph = badly_scaled()
    names = [node.output for node in graph.weighted()]
    for array in (graph.params[f"{names[0]}.weight"], graph.params[f"{names[0]}.bias"]):
        array[2] = 0.0
    graph.params[f"{names[2]}.weight"][:, 5] = 0.0
    equal = equalize(graph, data(graph))
    assert all(np.isfinite(array).all() for array in equal.params.values())
    assert same_function(graph, equal)
