"""Branches are found on the graph and leave without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgehone.errors import CutError
from edgehone.graph.branches import branches, without
from edgehone.graph.cost import macs
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape

torch.set_num_threads(1)


def graph_of(name: str) -> Graph:
    torch.manual_seed(0)
    return trace(NETWORKS[name](), torch.rand(2, *example_shape(name)[1:]))


def answers(graph: Graph, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return GraphNetwork(graph).eval()(x).numpy()


def test_every_block_of_a_resnet_is_one() -> None:
    found = branches(graph_of("resnet20"))
    assert len(found) == 9
    assert all(branch.macs > 0 for branch in found)


def test_all_of_them_may_leave() -> None:
    graph = graph_of("resnet20")
    found = branches(graph)
    short = without(graph, [branch.name for branch in found])
    assert short.output_shape == graph.output_shape
    assert macs(short) == macs(graph) - sum(branch.macs for branch in found)
    assert branches(short) == ()


def test_one_after_the_other_is_the_same_as_together() -> None:
    graph = graph_of("resnet20")
    first, second = branches(graph)[1].name, branches(graph)[2].name
    x = torch.rand(3, *graph.input_shape[1:])
    together = answers(without(graph, [second, first]), x)
    np.testing.assert_array_equal(together, answers(without(without(graph, [first]), [second]), x))


def test_what_stays_computes_as_before() -> None:
    build = GraphBuilder((1, 4, 6, 6))
    stem = build.relu(build.conv(build.input, 4, 3))
    branch = build.conv(build.relu(build.conv(stem, 8, 3)), 4, 3)
    graph = build.graph(build.relu(build.node("add", stem, branch)))
    (found,) = branches(graph)
    assert found.stays == stem
    x = torch.rand(2, 4, 6, 6)
    kept = GraphNetwork(graph).eval().activations(x)[stem].detach().numpy()
    short = without(graph, [found.name])
    np.testing.assert_array_equal(answers(short, x), kept)
    assert [node.op for node in short.nodes] == ["conv", "relu"]  # the second ReLU did nothing any more


def test_what_others_read_stays() -> None:
    build = GraphBuilder((1, 4, 6, 6))
    stem = build.relu(build.conv(build.input, 4, 3))
    used_twice = build.conv(stem, 4, 3)
    total = build.node("add", stem, build.conv(used_twice, 4, 3))
    graph = build.graph(build.node("add", total, used_twice))
    names = {name for branch in branches(graph) for name in branch.nodes}
    assert used_twice not in names
    assert names == {"conv3", "add4"}
    short = without(graph, [branch.name for branch in branches(graph)])
    assert short.output == used_twice


def test_an_operand_that_is_broadcast_cannot_take_the_place() -> None:
    build = GraphBuilder((1, 4, 6, 6))
    stem = build.conv(build.input, 4, 3)
    graph = build.graph(build.node("add", stem, build.conv(build.mean(stem, keepdim=True), 4, 1)))
    assert branches(graph) == ()


def test_a_chain_has_none() -> None:
    assert branches(graph_of("mlp")) == ()


def test_a_name_that_no_branch_has_is_refused() -> None:
    with pytest.raises(CutError, match="no such branch"):
        without(graph_of("resnet20"), ["nowhere"])
