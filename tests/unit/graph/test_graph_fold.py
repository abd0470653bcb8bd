"""Folding: which nodes are left, that values stay, and what happens to parameters that are shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.testing.networks import settle

SHAPE = (1, 4, 8, 8)


def folded(network: nn.Module, shape: tuple[int, ...] = SHAPE) -> Graph:
    """The deployed form, after it gave the network's answers."""
    torch.manual_seed(0)
    settle(network, shape)
    x = torch.randn(3, *shape[1:]) * 2
    graph = trace(network, x[:2])
    before = {key: array.copy() for key, array in graph.params.items()}
    deployed = deploy(graph)
    assert all(np.array_equal(before[key], array) for key, array in graph.params.items())
    with torch.no_grad():
        expected, found = network(x), GraphNetwork(deployed).eval()(x)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    again = deploy(deployed)
    assert kinds(again) == kinds(deployed)
    assert all(
        np.array_equal(again.param(a, r), deployed.param(b, r))
        for a, b in zip(again.nodes, deployed.nodes, strict=True)
        for r in b.params
    )
    return deployed


def kinds(graph: Graph) -> list[str]:
    return [node.op + (f"+{node.activation}" if node.activation else "") for node in graph.nodes]


class Affine(nn.Module):
    """scale * x + shift with parameters or numbers."""

    def __init__(self, scale: Tensor | float, shift: Tensor | float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def channels(count: int, rank: int = 4) -> Tensor:
    return torch.linspace(0.5, 2, count).reshape(1, -1, *[1] * (rank - 2))


def conv(padding: int = 0, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(4, 8, 3, padding=padding, groups=groups)


def test_batch_norm_and_relu_join_the_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Dropout(0.5))
    graph = folded(network)
    assert kinds(graph) == ["conv+relu6"]
    assert graph.nodes[0].params == {"weight": "0.weight", "bias": "0.bias"}
    assert graph.nodes[0].module == "0"


def test_batch_norm_joins_linear_and_one_dimensional_convolution() -> None:
    network = nn.Sequential(
        nn.Conv1d(4, 8, 3, groups=2), nn.BatchNorm1d(8), nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5)
    )
    assert kinds(folded(network, (1, 4, 8))) == ["conv", "reshape", "linear"]


def test_batch_norm_before_relu_becomes_a_depthwise_convolution() -> None:
    graph = folded(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), conv(1)))
    assert kinds(graph) == ["conv+relu", "conv"]
    first = graph.nodes[0]
    assert first.attrs["groups"] == 4 and graph.param(first, "weight").shape == (4, 1, 1, 1)  # type: ignore[union-attr]


def test_batch_norm_of_a_row_that_nothing_takes_is_mul_and_add() -> None:
    assert kinds(folded(nn.Sequential(nn.BatchNorm1d(6), nn.Tanh()), (1, 6))) == ["mul", "add", "tanh"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_constants_in_front_join_a_convolution_without_padding(groups: int) -> None:
    network = nn.Sequential(Affine(channels(4), channels(4) - 1), nn.BatchNorm2d(4), conv(0, groups), nn.ReLU())
    assert kinds(folded(network)) == ["conv+relu"]


def test_a_shift_in_front_of_padding_stays() -> None:
    graph = folded(nn.Sequential(Affine(channels(4), channels(4)), conv(1)))
    assert kinds(graph) == ["conv", "conv"]
    assert graph.nodes[0].attrs["groups"] == 4
    assert kinds(folded(nn.Sequential(Affine(1.0, 0.3), conv(1)))) == ["add", "conv"]


def test_a_scale_in_front_of_padding_joins() -> None:
    assert kinds(folded(nn.Sequential(Affine(channels(4), 0.0), conv(1)))) == ["conv"]
    assert kinds(folded(nn.Sequential(Affine(1 / 255, 0.0), conv(1)))) == ["conv"]


def test_constants_behind_join() -> None:
    assert kinds(folded(nn.Sequential(conv(1), Affine(channels(8), 1.0), Affine(0.5, channels(8))))) == ["conv"]
    assert kinds(folded(nn.Sequential(nn.Linear(6, 3), Affine(2.0, channels(3, 2))), (1, 6))) == ["linear"]


def test_constants_that_differ_by_place_stay_and_join_each_other() -> None:
    places = torch.randn(1, 1, 8, 8)
    network = nn.Sequential(Affine(places, 0.5), Affine(2.0, places), nn.Tanh())
    assert kinds(folded(network)) == ["mul", "add", "tanh"]


def test_a_single_constant_stays_as_the_user_wrote_it() -> None:
    graph = folded(nn.Sequential(nn.Hardsigmoid()))
    assert kinds(graph) == ["add+relu6", "mul"]
    assert all(node.attrs["fixed"] for node in graph.nodes)


def test_one_map_in_front_of_two_convolutions_joins_both() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            return F.relu(self.a(x)) - self.b(x)

    assert kinds(folded(Fork())) == ["conv+relu", "conv", "sub"]


class Shared(nn.Module):
    """One convolution called twice, followed by norms or by the same norm."""

    def __init__(self, norms: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(norms))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.conv(x)))
        return self.norms[-1](self.conv(x))  # type: ignore[no-any-return]


def test_a_shared_weight_folded_differently_gets_keys_of_its_own() -> None:
    graph = folded(Shared(2))
    assert [dict(node.params) for node in graph.nodes] == [
        {"weight": "conv2d.weight", "bias": "conv2d.bias"},
        {"weight": "conv2d_1.weight", "bias": "conv2d_1.bias"},
    ]


def test_a_shared_weight_folded_alike_stays_one() -> None:
    graph = folded(Shared(1))
    first, second = graph.nodes
    assert first.params == second.params
    assert len(graph.params) == 2


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.relu(self.norm(y)) + y


def test_a_convolution_with_two_readers_is_left_alone() -> None:
    assert kinds(folded(Twice())) == ["conv", "conv+relu", "add"]


def test_an_activation_joins_only_what_it_alone_reads() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return F.relu(y) * y

    assert kinds(folded(Skip())) == ["conv", "relu", "mul"]


def test_a_constant_that_repeats_channels_stays() -> None:
    network = nn.Sequential(nn.Conv2d(4, 1, 3), Affine(channels(3), 0.0), nn.BatchNorm2d(3))
    graph = folded(network)
    assert kinds(graph) == ["conv", "mul", "conv"]
    assert [graph.shapes[node.output][1] for node in graph.nodes] == [1, 3, 3]


def test_silu_becomes_sigmoid_and_mul() -> None:
    assert kinds(folded(nn.Sequential(conv(1), nn.SiLU()))) == ["conv", "sigmoid", "mul"]


def test_activations_join_arithmetic_once() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(x + torch.tanh(x))
            return F.relu6(y * y) - F.relu(y)

    assert kinds(folded(Sum())) == ["tanh", "add+relu", "mul+relu6", "sub"]


def test_flatten_joins_the_global_mean() -> None:
    graph = folded(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Flatten()))
    assert kinds(graph) == ["mean"]
    assert graph.nodes[0].attrs["keepdim"] is False and graph.output_shape == (1, 4)


def test_a_mean_that_others_read_keeps_its_axes() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean((2, 3), keepdim=True)
            return x * mean + mean.flatten(1).reshape(-1, 4, 1, 1)

    assert kinds(folded(Both())) == ["mean", "mul", "add"]


def test_folding_is_as_exact_as_float32_allows() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8))
    (node,) = (graph := folded(network)).nodes
    convolution, norm = network[0], network[1]
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = convolution.weight.double() * scale.view(-1, 1, 1, 1)
    assert np.array_equal(graph.params[node.params["weight"]], weight.float().detach().numpy())
