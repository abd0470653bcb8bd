"""Costs against published figures, formulas and a brute-force planner check."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from edgehone.graph.cost import macs, node_macs, parameter_bytes, peak_activation_bytes, widths
from edgehone.graph.trace import trace
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, ResNet


@pytest.mark.parametrize(("name", "low", "high"), [("resnet20", 40.6e6, 41.4e6), ("resnet8", 12.5e6, 12.8e6)])
def test_macs_are_the_published_ones(name: str, low: float, high: float) -> None:
    assert low <= macs(trace(NETWORKS[name](), torch.zeros(2, 3, 32, 32))) <= high


def test_resnet56_macs() -> None:
    assert macs(trace(ResNet(9).eval(), torch.zeros(2, 3, 32, 32))) == pytest.approx(125.5e6, rel=0.01)


def test_macs_of_every_kind_of_layer() -> None:
    b = GraphBuilder((1, 4, 6, 6))
    strided = b.conv(b.input, 8, 3, stride=2)  # (8, 3, 3)
    depthwise = b.conv(strided, 8, 3, groups=8)
    grouped = b.conv(depthwise, 6, 1, groups=2)
    last = b.linear(b.flatten(grouped), 5)
    graph = b.graph(last)
    found = {node.output: node_macs(graph, node) for node in graph.weighted()}
    assert found == {strided: 9 * 8 * 4 * 9, depthwise: 9 * 8 * 9, grouped: 9 * 6 * 4, last: 54 * 5}
    assert widths(graph) == {strided: 8, depthwise: 8, grouped: 6, last: 5}


def test_parameter_bytes_count_a_shared_weight_once_and_fold_batch_norms() -> None:
    b = GraphBuilder((1, 4, 6, 6))
    first = b.conv(b.input, 4)
    again = b.conv(b.batch_norm(first), 4, like=first)
    graph = b.graph(b.constant("add", again, (1, 4, 1, 1)))
    assert parameter_bytes(graph) == 4 * 4 * 9 + 4 + 4 * 4
    assert parameter_bytes(graph, bytes_per_weight=4) == 4 * (4 * 4 * 9 + 4) + 4 * 4


def test_arena_of_a_chain_is_its_worst_neighbours() -> None:
    b = GraphBuilder((1, 2, 8, 8))  # 128 values
    x = b.conv(b.input, 4)  # 256
    y = b.relu(b.batch_norm(b.conv(x, 8)))  # 512, one buffer
    graph = b.graph(b.mean(y))
    assert peak_activation_bytes(graph) == 256 + 512
    assert peak_activation_bytes(graph, bytes_per_value=4) == 4 * (256 + 512)


def test_arena_holds_what_a_shortcut_keeps_alive() -> None:
    b = GraphBuilder((1, 4, 8, 8))  # every tensor 256 values
    x = b.conv(b.input, 4)
    y = b.conv(b.relu(b.conv(x, 4)), 4)
    assert peak_activation_bytes(b.graph(b.node("add", x, y))) == 3 * 256


def test_a_tensor_that_is_read_after_its_relu_keeps_its_own_place() -> None:
    b = GraphBuilder((1, 4, 8, 8))
    x = b.conv(b.input, 4)
    assert peak_activation_bytes(b.graph(b.node("add", x, b.relu(x)))) == 3 * 256


def test_sizes_are_aligned() -> None:
    b = GraphBuilder((1, 3))
    graph = b.graph(b.linear(b.input, 5))
    assert peak_activation_bytes(graph) == 32
    assert peak_activation_bytes(graph, alignment=1) == 8


@pytest.mark.parametrize("seed", range(20))
def test_arena_is_at_least_what_lives_at_once(seed: int) -> None:
    """On random branchy graphs: not below the largest sum of live tensors, and not absurdly above it."""
    draw = np.random.default_rng(seed)
    b = GraphBuilder((1, 2, 4, 4))
    tensors = [b.input]
    for _ in range(8):
        tensors.append(b.conv(tensors[draw.integers(max(0, len(tensors) - 3), len(tensors))], int(draw.integers(1, 9))))
    output = b.concat(*tensors[-3:])
    graph = b.graph(output)
    position = {name: index for index, name in enumerate(graph.shapes)}
    last = {name: max([position[r.output] for r in readers], default=0) for name, readers in graph.consumers().items()}
    last[output] = len(position)
    live = [
        sum(int(np.prod(graph.shapes[n])) for n in position if position[n] <= now <= max(last[n], position[n]))
        for now in range(len(position))
    ]
    assert max(live) <= peak_activation_bytes(graph, alignment=1) <= 1.5 * max(live)
    assert all(a <= b for a, b in itertools.pairwise(sorted(live)))
