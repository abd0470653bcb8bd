"""Batch-norm re-estimation and the choice of arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.train.precision import fastest_precision
from edgehone.train.statistics import reestimate_statistics


def graph_of(net: nn.Module) -> object:
    return trace(net.eval(), torch.rand(2, 3, 6, 6))


def test_statistics_become_those_of_the_data_and_weights_stay() -> None:
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU()))
    batches = [torch.randn(64, 3, 6, 6) * 3 + 1 for _ in range(4)]
    found = reestimate_statistics(graph, batches)
    weight = torch.from_numpy(next(v for k, v in graph.params.items() if v.ndim == 4))
    outputs = torch.nn.functional.conv2d(torch.cat(batches), weight)
    norm = next(node for node in found.nodes if node.op == "batch_norm")
    np.testing.assert_allclose(found.params[norm.params["mean"]], outputs.mean((0, 2, 3)), atol=0.05)
    np.testing.assert_allclose(found.params[norm.params["variance"]], outputs.var((0, 2, 3)), rtol=0.05)
    for key in ("weight", "bias"):
        np.testing.assert_array_equal(found.params[norm.params[key]], graph.params[norm.params[key]])
    assert norm.attrs == next(node for node in graph.nodes if node.op == "batch_norm").attrs


def test_a_graph_without_batch_norm_is_returned_as_it_is() -> None:
    graph = graph_of(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()))
    assert reestimate_statistics(graph, [torch.rand(2, 3, 6, 6)]) is graph


def test_choosing_the_arithmetic_leaves_the_network_as_it_was() -> None:
    net = GraphNetwork(graph_of(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()))).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert fastest_precision(net, torch.rand(8, 3, 6, 6)) in ("float32", "bfloat16")
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not net.training and all(p.grad is None for p in net.parameters())


def test_dropout_has_no_part_in_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()
    graph = trace(net, torch.rand(2, 4))
    batches = [torch.rand(32, 4) for _ in range(3)]
    one, two = (reestimate_statistics(graph, batches) for _ in range(2))
    for key, value in one.params.items():
        np.testing.assert_array_equal(value, two.params[key])
    with torch.no_grad():
        hidden = torch.relu(net[0](torch.cat(batches))).mean(0).numpy()
    mean = next(value for key, value in one.params.items() if key.endswith("running_mean"))
    np.testing.assert_allclose(mean, hidden, rtol=1e-4)
    assert [node.attrs["rate"] for node in one.nodes if node.op == "dropout"] == [0.5]
