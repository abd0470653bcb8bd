"""Bias correction: channels keep the mean they had before rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from edgehone.errors import DataError
from edgehone.graph.bias_correction import correct_biases
from edgehone.graph.fold import deploy
from edgehone.graph.ir import WEIGHTED, Graph
from edgehone.graph.kernels import run_node
from edgehone.graph.twin import Twin
from edgehone.testing.graphs import GraphBuilder

torch.set_num_threads(1)


def network(shared: bool = False) -> Graph:
    build = GraphBuilder((1, 3, 8, 8))
    first = build.conv(build.relu(build.conv(build.input, 8, bias=True)), 8, bias=True)
    second = build.conv(build.relu(first), 8, like=first) if shared else build.conv(first, 8, groups=8, bias=True)
    return deploy(build.graph(build.linear(build.mean(build.relu(second)), 5)))


def calibrated(graph: Graph, bits: int = 3) -> tuple[Twin, Tensor]:
    x = torch.randn((64, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0))
    twin = Twin(graph, weight_bits=bits).eval()
    twin.calibrate([x])
    return twin, x


@torch.no_grad()
def shifts(twin: Twin, x: Tensor) -> dict[str, float]:
    """Largest shift of a channel's mean before the activation, over the channel's spread, per weighted node."""
    found = {}
    for node, exact, rounded, params in twin.side_by_side(x):
        if node.op in WEIGHTED:
            plain = replace(node, activation=None)
            want = run_node(plain, exact, params).transpose(0, 1).flatten(1)
            have = run_node(plain, rounded, twin.rounded_params(node)).transpose(0, 1).flatten(1)
            found[node.output] = float(((have - want).mean(1).abs() / want.std(1)).max())
    return found


def test_every_channel_gets_its_mean_back() -> None:
    twin, x = calibrated(network())
    before = shifts(twin, x)
    correct_biases(twin, x)
    after = shifts(twin, x)
    assert max(before.values()) > 0.1
    assert max(after.values()) < 0.02  # the bias is rounded too


def test_the_error_of_the_output_falls() -> None:
    twin, x = calibrated(network())
    with torch.no_grad():
        rounded = twin(x)
        twin.mode = "float"
        exact = twin(x)
        twin.mode = "quantized"
        correct_biases(twin, x)
        assert (twin(x) - exact).square().mean() < 0.7 * (rounded - exact).square().mean()


def test_weights_and_shared_biases_stay() -> None:
    graph = network(shared=True)
    twin, x = calibrated(graph)
    correct_biases(twin, x)
    found = twin.to_graph()
    uses = [key for node in graph.nodes for key in node.params.values()]
    for key, array in graph.params.items():
        moved = not np.array_equal(found.params[key], array)
        assert moved == (key.endswith("bias") and uses.count(key) == 1), key


def test_a_twin_without_ranges_is_refused() -> None:
    with pytest.raises(DataError, match="no ranges"):
        correct_biases(Twin(network()), torch.zeros((1, 3, 8, 8)))
