"""Every operator and every spelling of it, traced and folded, against torch itself; and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgehone.errors import NetworkError, UnsupportedOperatorError, UntraceableError
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.testing.networks import NETWORKS, example_shape, settle

Forward = Callable[[Tensor], Tensor]


class Call(nn.Module):
    """A network that is one function."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def error_of(graph: Graph, network: nn.Module, x: Tensor) -> float:
    """Largest difference in parts of the largest answer."""
    with torch.no_grad():
        expected, found = network(x.clone()), GraphNetwork(graph).eval()(x.clone())
    assert found.shape == expected.shape
    assert (1, *expected.shape[1:]) == graph.output_shape
    return float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-6))


def agrees(network: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The training graph, after it and its deployed form gave torch's answers on another batch size."""
    torch.manual_seed(0)
    network.eval()
    x = torch.randn(5, *shape) * 3
    graph = trace(network, x[:2])
    assert error_of(graph, network, x) <= 1e-5
    deployed = deploy(graph)
    assert error_of(deployed, network, x) <= 1e-5
    assert not {node.op for node in deployed.nodes} & {"batch_norm", "dropout", "silu"}
    assert all("bias" in node.params for node in deployed.weighted())
    return graph


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


IMAGE = (4, 9, 8)
SIGNAL = (4, 17)
ROW = (12,)

FUNCTIONS: dict[str, tuple[tuple[int, ...], Forward, list[str]]] = {
    # activations
    "relu": (IMAGE, torch.relu, ["relu"]),
    "relu twice": (IMAGE, lambda x: F.relu(F.relu(x)), ["relu"]),
    "relu6": (IMAGE, F.relu6, ["relu6"]),
    "hardtanh 0 6": (IMAGE, lambda x: F.hardtanh(x, 0, 6), ["relu6"]),
    "hardtanh": (IMAGE, F.hardtanh, ["add", "mul", "relu6", "mul", "add"]),
    "clamp below": (IMAGE, lambda x: x.clamp(min=0), ["relu"]),
    "clamp_min": (IMAGE, lambda x: x.clamp_min(0), ["relu"]),
    "clamp_min other": (IMAGE, lambda x: x.clamp_min(-1.5), ["add", "relu", "add"]),
    "clamp 0 6": (IMAGE, lambda x: x.clamp(0, 6), ["relu6"]),
    "clamp 0 1": (IMAGE, lambda x: torch.clip(x, 0, 1), ["mul", "relu6", "mul"]),
    "clamp above": (IMAGE, lambda x: x.clamp(max=1.0), ["mul", "add", "relu", "mul", "add"]),
    "hardswish": (IMAGE, F.hardswish, ["hard_swish"]),
    "hardswish by hand": (IMAGE, lambda x: x * F.relu6(x + 3) / 6, ["hard_swish"]),
    "hardswish by hand, gate first": (IMAGE, lambda x: (F.relu6(3 + x) / 6) * x, ["hard_swish"]),
    "hardswish from hardsigmoid": (IMAGE, lambda x: x * F.hardsigmoid(x), ["hard_swish"]),
    "almost hardswish": (IMAGE, lambda x: x * F.relu6(x + 2) / 6, ["add", "relu6", "mul", "mul"]),
    "hardsigmoid": (IMAGE, F.hardsigmoid, ["add", "relu6", "mul"]),
    "silu": (IMAGE, F.silu, ["silu"]),
    "sigmoid": (IMAGE, torch.sigmoid, ["sigmoid"]),
    "tanh": (IMAGE, torch.tanh, ["tanh"]),
    "leaky relu": (IMAGE, lambda x: F.leaky_relu(x, 0.2), ["leaky_relu"]),
    "softmax": (ROW, lambda x: x.softmax(1), ["softmax"]),
    "softmax last": (ROW, lambda x: F.softmax(x, dim=-1), ["softmax"]),
    "in place": (IMAGE, lambda x: F.relu(x * 2, inplace=True) + 1, ["mul", "relu", "add"]),
    # arithmetic
    "add scalar": (IMAGE, lambda x: 1.5 + x, ["add"]),
    "add alpha": (IMAGE, lambda x: torch.add(x, F.relu(x), alpha=3), ["relu", "mul", "add"]),
    "sub": (IMAGE, lambda x: x - F.relu(x), ["relu", "sub"]),
    "sub alpha": (IMAGE, lambda x: torch.sub(x, F.relu(x), alpha=2), ["relu", "mul", "add"]),
    "add minus": (IMAGE, lambda x: torch.add(x, F.relu(x), alpha=-1), ["relu", "sub"]),
    "sub scalar": (IMAGE, lambda x: x - 2.5, ["add"]),
    "scalar sub": (IMAGE, lambda x: 2.5 - x, ["mul", "add"]),
    "mul scalar": (IMAGE, lambda x: x * -0.3, ["mul"]),
    "mul one": (IMAGE, lambda x: F.relu(x * 1.0), ["relu"]),
    "div scalar": (IMAGE, lambda x: x / 3, ["mul"]),
    "neg": (IMAGE, lambda x: -x, ["mul"]),
    "square": (IMAGE, lambda x: x**2 + torch.square(x), ["mul", "mul", "add"]),
    "broadcast": (IMAGE, lambda x: x * x.mean((2, 3), keepdim=True), ["mean", "mul"]),
    "broadcast places": (IMAGE, lambda x: x + x[:, :1], ["slice", "add"]),
    "expand_as": (IMAGE, lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x), ["mean", "mul"]),
    "expand": (IMAGE, lambda x: F.relu(x.mean((2, 3), keepdim=True).expand(-1, -1, 3, 5)), ["mean", "resize", "relu"]),
    "constants": (IMAGE, lambda x: (x - torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1)) / torch.ones(4, 1, 1), ["add"]),
    "a constant for the batch": (ROW, lambda x: x + torch.ones(x.shape[0], 12), ["add"]),
    "a constant that repeats": (IMAGE, lambda x: x[:, :1] * torch.tensor([1.0, 2]).view(1, 2, 1, 1), ["slice", "mul"]),
    # shapes
    "cat": (IMAGE, lambda x: torch.cat([x, F.relu(x)], 1), ["relu", "concat"]),
    "cat negative axis": (IMAGE, lambda x: torch.cat([x, F.relu(x)], -1), ["relu", "concat"]),
    "cat zeros": (IMAGE, lambda x: torch.cat([x, torch.zeros_like(x)], 1), ["pad"]),
    "cat both ends": (
        IMAGE,
        lambda x: torch.cat([torch.zeros(x.shape[0], 2, 9, 8), x, F.relu(x), x.new_zeros(x.shape)], 1),
        ["relu", "concat", "pad"],
    ),
    "stack": (SIGNAL, lambda x: torch.stack([x, F.relu(x)], 1), ["relu", "reshape", "reshape", "concat"]),
    "slice": (IMAGE, lambda x: x[:, 1:3, ::2, -3:], ["slice", "slice", "slice"]),
    "slice of slice": (IMAGE, lambda x: x[:, :, 1:8][:, :, 1:6:2], ["slice"]),
    "slice all": (IMAGE, lambda x: F.relu(x[:, :]), ["relu"]),
    "narrow": (IMAGE, lambda x: x.narrow(1, 1, 2), ["slice"]),
    "select": (IMAGE, lambda x: x[:, -1], ["slice", "reshape"]),
    "split": (IMAGE, lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1), ["slice", "slice", "concat"]),
    "split equal": (IMAGE, lambda x: torch.cat(x.split(4, 3)[::-1], 1), ["slice", "slice", "concat"]),
    "chunk, one used": (IMAGE, lambda x: x.chunk(2, 1)[1], ["slice"]),
    "unbind": (SIGNAL, lambda x: x.unbind(1)[2], ["slice", "reshape"]),
    "pad": (IMAGE, lambda x: F.pad(x, (1, 0, 2, 1), value=0.5), ["pad"]),
    "pad channels": (IMAGE, lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), ["pad"]),
    "pad pad": (IMAGE, lambda x: F.pad(F.pad(x, (1, 0)), (0, 2)), ["pad"]),
    "pad nothing": (IMAGE, lambda x: F.relu(F.pad(x, (0, 0))), ["relu"]),
    "crop": (IMAGE, lambda x: F.pad(x, (-1, 2, 0, -2)), ["slice", "slice", "pad"]),
    "flatten": (IMAGE, lambda x: x.flatten(1), ["reshape"]),
    "view": (IMAGE, lambda x: x.view(x.size(0), -1), ["reshape"]),
    "reshape chain": (IMAGE, lambda x: x.reshape(-1, 4, 72).flatten(1), ["reshape"]),
    "unflatten": (ROW, lambda x: x.unflatten(1, (3, 4)), ["reshape"]),
    "squeeze": (IMAGE, lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(), ["mean", "reshape"]),
    "unsqueeze": (SIGNAL, lambda x: x.unsqueeze(2), ["reshape"]),
    "squeeze to one value": (ROW, lambda x: x[:, :1].squeeze(1), ["slice", "reshape"]),
    "permute": (IMAGE, lambda x: x.permute(0, 2, 3, 1), ["transpose"]),
    "transpose back": (IMAGE, lambda x: F.relu(x.transpose(1, 2).transpose(2, 1)), ["relu"]),
    "transposes": (IMAGE, lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 2, 1), ["transpose"]),
    "channel shuffle": (IMAGE, nn.ChannelShuffle(2), ["reshape", "transpose", "reshape"]),
    "pixel shuffle": (IMAGE, lambda x: F.pixel_shuffle(x, 2), ["reshape", "transpose", "reshape"]),
    "pixel unshuffle": (
        IMAGE,
        lambda x: F.pixel_unshuffle(x[:, :, :8], 2),
        ["slice", "reshape", "transpose", "reshape"],
    ),
    "vanishing": (IMAGE, lambda x: F.relu(x.contiguous().clone().detach().to(torch.float32)), ["relu"]),
    # pooling and reduction
    "max_pool2d": (IMAGE, lambda x: F.max_pool2d(x, 2), ["max_pool"]),
    "max_pool2d padded": (IMAGE, lambda x: F.max_pool2d(x - 9, 3, 2, 1), ["add", "max_pool"]),
    "max_pool2d ceil": (IMAGE, lambda x: F.max_pool2d(x - 9, (2, 3), 2, ceil_mode=True), ["add", "max_pool"]),
    "max_pool2d 1x1": (IMAGE, lambda x: F.relu(F.max_pool2d(x, 1)), ["relu"]),
    "max_pool1d": (SIGNAL, lambda x: F.max_pool1d(x, 3, 2, 1), ["max_pool"]),
    "max_pool1d ceil": (SIGNAL, lambda x: F.max_pool1d(x - 9, 2, ceil_mode=True), ["add", "max_pool"]),
    "avg_pool2d": (IMAGE, lambda x: F.avg_pool2d(x, 2), ["avg_pool"]),
    "avg_pool2d padded": (IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1), ["avg_pool"]),
    "avg_pool2d without padding counted": (
        IMAGE,
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        ["avg_pool"],
    ),
    "avg_pool2d ceil": (IMAGE, lambda x: F.avg_pool2d(x, 2, ceil_mode=True), ["avg_pool"]),
    "avg_pool2d ceil padded": (IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), ["pad", "avg_pool"]),
    "avg_pool2d all": (IMAGE, lambda x: F.avg_pool2d(x, x.shape[2:]), ["mean"]),
    "avg_pool1d": (SIGNAL, lambda x: F.avg_pool1d(x, 3, 2, 1), ["avg_pool"]),
    "avg_pool1d ceil padded": (SIGNAL, lambda x: F.avg_pool1d(x, 4, 2, 1, ceil_mode=True), ["pad", "avg_pool"]),
    "avg_pool1d all": (SIGNAL, lambda x: F.avg_pool1d(x, 17), ["mean"]),
    "adaptive_avg_pool2d 1": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, 1), ["mean"]),
    "adaptive_avg_pool2d 3 4": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, (3, 4)), ["avg_pool"]),
    "adaptive_avg_pool2d 1 none": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, (1, None)), ["avg_pool"]),
    "adaptive_avg_pool1d": (SIGNAL, lambda x: F.adaptive_avg_pool1d(x, 1), ["mean"]),
    "adaptive_max_pool2d": (IMAGE, lambda x: F.adaptive_max_pool2d(x, 1), ["max_pool"]),
    "adaptive_max_pool1d": (SIGNAL, lambda x: F.adaptive_max_pool1d(x, 1), ["max_pool"]),
    "mean": (IMAGE, lambda x: x.mean((-1, -2)), ["mean"]),
    "mean one axis": (IMAGE, lambda x: x.mean(2), ["avg_pool", "reshape"]),
    "mean 1d": (SIGNAL, lambda x: x.mean(-1), ["mean"]),
    "sum": (IMAGE, lambda x: x.sum((2, 3)), ["mean", "mul"]),
    "sum one axis": (IMAGE, lambda x: x.sum(3, keepdim=True), ["mul", "avg_pool"]),
    "amax": (IMAGE, lambda x: x.amax((2, 3)), ["max_pool", "reshape"]),
    "amax keepdim": (IMAGE, lambda x: x.amax((2, 3), keepdim=True), ["max_pool"]),
    # resizing
    "nearest": (IMAGE, lambda x: F.interpolate(x, scale_factor=2), ["resize"]),
    "nearest to a size": (IMAGE, lambda x: F.interpolate(x, size=(7, 13)), ["resize"]),
    "nearest exact": (IMAGE, lambda x: F.interpolate(x, size=(7, 13), mode="nearest-exact"), ["resize"]),
    "bilinear": (IMAGE, lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), ["resize"]),
    "bilinear corners": (
        IMAGE,
        lambda x: F.interpolate(x, size=(5, 16), mode="bilinear", align_corners=True),
        ["resize"],
    ),
    "resize nothing": (IMAGE, lambda x: F.relu(F.interpolate(x, size=(9, 8), mode="bilinear")), ["relu"]),
    "nearest 1d": (SIGNAL, lambda x: F.interpolate(x, scale_factor=3), ["resize"]),
    "linear 1d": (SIGNAL, lambda x: F.interpolate(x, size=40, mode="linear"), ["resize"]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    shape, function, expected = FUNCTIONS[name]
    assert ops(agrees(Call(function), shape)) == expected


def seeded(*layers: nn.Module) -> nn.Module:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 0, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return nn.Sequential(*layers)


LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], list[nn.Module]]]] = {
    "conv2d": (IMAGE, lambda: [nn.Conv2d(4, 6, 3)]),
    "conv2d stride padding": (IMAGE, lambda: [nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), bias=False)]),
    "conv2d dilated": (IMAGE, lambda: [nn.Conv2d(4, 6, 3, padding=2, dilation=2)]),
    "conv2d grouped": (IMAGE, lambda: [nn.Conv2d(4, 6, 3, groups=2)]),
    "conv2d depthwise": (IMAGE, lambda: [nn.Conv2d(4, 4, 3, groups=4)]),
    "conv2d depthwise multiplied": (IMAGE, lambda: [nn.Conv2d(4, 8, 3, groups=4)]),
    "conv2d same": (IMAGE, lambda: [nn.Conv2d(4, 6, 3, padding="same")]),
    "conv2d same, even kernel": (IMAGE, lambda: [nn.Conv2d(4, 6, (4, 2), padding="same", dilation=(1, 3))]),
    "conv2d valid": (IMAGE, lambda: [nn.Conv2d(4, 6, 3, padding="valid")]),
    "zero pad conv2d": (IMAGE, lambda: [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 6, 3, 2)]),
    "conv1d": (SIGNAL, lambda: [nn.Conv1d(4, 6, 5, 2, 2)]),
    "conv1d same": (SIGNAL, lambda: [nn.Conv1d(4, 6, 4, padding="same", dilation=2, groups=2)]),
    "zero pad conv1d": (SIGNAL, lambda: [nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(4, 6, 3)]),
    "linear": (ROW, lambda: [nn.Linear(12, 5)]),
    "linear without bias": (ROW, lambda: [nn.Linear(12, 5, bias=False)]),
    "batch norm of a picture": (IMAGE, lambda: [nn.BatchNorm2d(4)]),
    "batch norm of a signal": (SIGNAL, lambda: [nn.BatchNorm1d(4)]),
    "batch norm of a row": (ROW, lambda: [nn.BatchNorm1d(12)]),
    "batch norm without scale": (ROW, lambda: [nn.Linear(12, 5), nn.BatchNorm1d(5, affine=False)]),
    "prelu": (IMAGE, lambda: [nn.PReLU()]),
    "dropout": (IMAGE, lambda: [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.Identity(), nn.Tanh()]),
    "weight norm": (ROW, lambda: [nn.utils.parametrizations.weight_norm(nn.Linear(12, 5))]),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's note about its own speed
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    shape, build = LAYERS[name]
    agrees(settle(seeded(*build()), (1, *shape)), shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_networks(name: str) -> None:
    network = NETWORKS[name]()
    graph = agrees(network, example_shape(name)[1:])
    # Every value comes from the user's parameters, under their names.
    state = dict(network.state_dict())
    named = {key: array for key, array in graph.params.items() if key in state}
    assert len(named) >= len(list(network.parameters()))
    for key, array in named.items():
        assert np.array_equal(array.ravel(), state[key].numpy().ravel())


def test_padding_joins_the_convolution() -> None:
    shape, build = LAYERS["zero pad conv2d"]
    (node,) = agrees(seeded(*build()), shape).nodes
    assert node.attrs["padding"] == ((0, 1), (0, 1))


def test_a_module_called_twice_shares_its_parameters() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(F.relu(self.conv(x))))

    graph = agrees(Twice(), IMAGE)
    first, second = graph.weighted()
    assert first.params == second.params == {"weight": "conv.weight", "bias": "conv.bias"}
    assert first.module == second.module == "conv"
    assert len(deploy(graph).params) == 2


def test_tied_weights_are_one_parameter() -> None:
    first, second = nn.Linear(12, 12), nn.Linear(12, 12)
    second.weight = first.weight
    graph = agrees(nn.Sequential(first, nn.Tanh(), second), ROW)
    assert len({node.params["weight"] for node in graph.weighted()}) == 1
    assert len({node.params["bias"] for node in graph.weighted()}) == 2


def test_matrix_products_with_parameters_are_linear() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(12, 7)), nn.Parameter(torch.randn(7))
            self.v = nn.Parameter(torch.randn(7, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.b, x, self.w) @ self.v

    assert ops(agrees(Products(), ROW)) == ["linear", "linear"]


def test_constants_train_only_when_they_are_parameters() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1))
            self.register_buffer("middle", torch.tensor([4.0, 3.0, 2.0, 1.0]).view(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.middle) * self.scale * 0.5

    graph = agrees(Scaled(), IMAGE)
    trained = {tuple(p.shape) for p in GraphNetwork(graph).parameters()}
    assert [node.attrs.get("fixed", False) for node in graph.nodes] == [True, False, True]
    assert trained == {(1, 4, 1, 1)}
    assert {"scale", "middle"} <= graph.params.keys()


def test_writes_in_place_are_followed() -> None:
    def residual(x: Tensor) -> Tensor:
        kept = x * 2
        changed = kept.relu_()
        changed += 1
        return kept + changed  # both are the changed tensor

    agrees(Call(residual), IMAGE)


def test_a_write_into_a_part_of_another_tensor_is_refused() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x * 2
        y[:, :2].relu_()
        return y

    with pytest.raises(UnsupportedOperatorError, match="shares its memory") as caught:
        trace(Call(forward), torch.randn(2, *IMAGE))
    assert "returns a new tensor" in caught.value.do


LSTM, GRU = nn.LSTM(17, 3, batch_first=True), nn.GRU(17, 3, batch_first=True)
REFUSED: dict[str, tuple[tuple[int, ...], Forward, type[NetworkError], str]] = {
    "layer_norm": (ROW, nn.LayerNorm(12), UnsupportedOperatorError, "batch norm"),
    "group_norm": (IMAGE, nn.GroupNorm(2, 4), UnsupportedOperatorError, "batch norm"),
    "instance_norm": (IMAGE, nn.InstanceNorm2d(4), UnsupportedOperatorError, "batch norm"),
    "lstm": (SIGNAL, lambda x: LSTM(x)[0], UnsupportedOperatorError, "one step"),
    "gru": (SIGNAL, lambda x: GRU(x)[0], UnsupportedOperatorError, "one step"),
    "conv_transpose2d": (IMAGE, nn.ConvTranspose2d(4, 4, 2, 2), UnsupportedOperatorError, "interpolate"),
    "gelu": (ROW, F.gelu, UnsupportedOperatorError, "ReLU"),
    "log_softmax": (ROW, lambda x: F.log_softmax(x, 1), UnsupportedOperatorError, "return logits"),
    "scaled_dot_product_attention": (
        SIGNAL,
        lambda x: F.scaled_dot_product_attention(x, x, x),
        UnsupportedOperatorError,
        "attention",
    ),
    "matmul": (SIGNAL, lambda x: x @ x.transpose(1, 2), UnsupportedOperatorError, "linear"),
    "bmm": (SIGNAL, lambda x: torch.bmm(x, x.transpose(1, 2)), UnsupportedOperatorError, "attention"),
    "linear": (SIGNAL, nn.Linear(17, 3), UnsupportedOperatorError, "1x1 convolution"),
    "softmax": (IMAGE, lambda x: x.softmax(1), UnsupportedOperatorError, "flatten"),
    "rand_like": (ROW, lambda x: x + torch.rand_like(x), UnsupportedOperatorError, "same answer every time"),
    "randn": (ROW, lambda x: x + torch.randn(12), UnsupportedOperatorError, "same answer every time"),
    "dropout": (ROW, lambda x: F.dropout(x, 0.5, training=True), UnsupportedOperatorError, "self.training"),
    "copy": (ROW, lambda x: torch.zeros_like(x).copy_(x), UnsupportedOperatorError, "new tensor"),
    "pad": (IMAGE, lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), UnsupportedOperatorError, "zeros"),
    "adaptive_avg_pool2d": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, 5), UnsupportedOperatorError, "divides"),
    "upsample_bilinear2d": (
        IMAGE,
        lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"),
        UnsupportedOperatorError,
        "size=",
    ),
    "div": (ROW, lambda x: x / x.mean(), UnsupportedOperatorError, ""),
    "batch_norm": (ROW, nn.BatchNorm1d(12, track_running_stats=False), UnsupportedOperatorError, "track_running_stats"),
    "permute": (SIGNAL, lambda x: x.permute(1, 0, 2).relu().permute(1, 0, 2), UnsupportedOperatorError, "batch"),
    "cat": (ROW, lambda x: torch.cat([x, x], 0)[:2], UnsupportedOperatorError, "batch"),
    "mean": (ROW, lambda x: x - x.mean(0, keepdim=True), UnsupportedOperatorError, "batch"),
    "conv2d": (SIGNAL, nn.Conv2d(2, 2, 3, padding=1), UnsupportedOperatorError, "batch"),
    "max_pool2d": (SIGNAL, lambda x: F.max_pool2d(x, 2), UnsupportedOperatorError, "batch"),
    "mul": (ROW, lambda x: x.view(x.shape[0], 2, 6) * x[:, :6], UnsupportedOperatorError, "axes"),
    "item": (ROW, lambda x: x * x.sum().item(), UnsupportedOperatorError, ""),
}


@pytest.mark.parametrize("operator", REFUSED)
def test_refusals_name_the_operator_the_place_and_a_way_out(operator: str) -> None:
    shape, function, error, hint = REFUSED[operator]
    with pytest.raises(error) as caught:
        trace(nn.Sequential(nn.Tanh(), Call(function)), torch.randn(2, *shape))
    assert hint in caught.value.do
    assert caught.value.where.startswith("1")
    if operator not in ("div", "item"):  # both begin with an operator that reduces the batch
        assert caught.value.what.startswith(operator)
    assert f"{Path(__file__).name}:" in caught.value.where


def _branch(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return x * 2


def test_control_flow_that_depends_on_data_names_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UntraceableError) as caught:
        trace(Call(_branch), torch.randn(2, *ROW))
    line = _branch.__code__.co_firstlineno + 1
    assert caught.value.where == f"{__file__}:{line}"
    assert "chooses its path by the values" in caught.value.what
    assert capfd.readouterr() == ("", "")  # torch's own report stays out of the way


def test_what_torch_cannot_record_names_the_line() -> None:
    with pytest.raises(UntraceableError, match="cannot record") as caught:
        trace(Call(lambda x: torch.from_numpy(x.numpy())), torch.randn(2, *ROW))
    assert caught.value.where.startswith(f"{__file__}:")


def test_broken_weights_are_not_the_business_of_the_trace() -> None:
    network = nn.Linear(12, 3)
    with torch.no_grad():
        network.weight[1] = float("nan")
    assert np.isnan(trace(network, torch.randn(2, *ROW)).params["weight"][1]).all()


def test_state_between_calls_is_refused_and_left_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return x + self.seen

    network = Counting()
    with pytest.raises(UntraceableError, match="'seen'"):
        trace(network, torch.randn(2, *ROW))
    assert float(network.seen) == 0


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_networks_of_another_form_are_refused() -> None:
    x = torch.randn(2, *ROW)
    with pytest.raises(NetworkError, match="missing 1 required positional argument"):
        trace(TwoInputs(), x)
    with pytest.raises(NetworkError, match="returns a tuple"):
        trace(Call(lambda x: (x, x)), x)  # type: ignore[arg-type,return-value]
    with pytest.raises(NetworkError, match="returns a dict"):
        trace(Call(lambda x: {"logits": x}), x)  # type: ignore[arg-type,return-value]
    with pytest.raises(NetworkError, match="int64"):
        trace(Call(lambda x: x.argmax(1)), x)
    with pytest.raises(NetworkError, match="does not depend on its input"):
        trace(Call(lambda x: torch.zeros(x.shape[0], 3)), x)
    with pytest.raises(NetworkError, match=r"fails on an input of shape \(2, 12\)") as caught:
        trace(nn.Linear(5, 3), x)
    assert "mat1 and mat2" in caught.value.what


def test_the_example_is_checked() -> None:
    for example in (
        torch.randn(1, 12),
        torch.randn(12),
        torch.zeros(2, 12, dtype=torch.long),
        torch.randn(2, 12).double(),
    ):
        with pytest.raises(NetworkError, match="the example is"):
            trace(nn.Linear(12, 3), example)


def test_answers_that_depend_on_the_batch_size_or_on_chance_are_refused() -> None:
    x = torch.randn(2, *ROW)
    with pytest.raises(NetworkError, match="change with the batch"):
        trace(Call(lambda x: x * x.shape[0]), x)
    with pytest.raises(NetworkError, match="change with the batch"):
        trace(Call(lambda x: x * random.random()), x)
    with pytest.raises(NetworkError, match=r"fails on an input of shape \(3, 12\)"):
        trace(Call(lambda x: x.view(2, 3, 4)), x)


def test_the_network_is_left_as_it_was() -> None:
    network = NETWORKS["resnet8"]().train()
    network.head.eval()  # type: ignore[union-attr,operator]
    modes = [module.training for module in network.modules()]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    trace(network, torch.randn(2, 3, 32, 32))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    with pytest.raises(NetworkError):
        trace(network, torch.randn(2, 4, 32, 32))
    assert [module.training for module in network.modules()] == modes


def test_the_graph_trains_like_the_network() -> None:
    network = NETWORKS["resnet8"]()
    twin = GraphNetwork(trace(network, torch.randn(2, 3, 32, 32))).train()
    network.train()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    network(x).square().sum().backward()
    twin(x).square().sum().backward()
    for key, parameter in network.named_parameters():
        gradient = twin.tensor(key).grad
        assert gradient is not None and parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, rtol=1e-3, atol=1e-4 * float(parameter.grad.abs().max()))
    for key, buffer in network.named_buffers():
        if "running" in key:
            assert torch.allclose(twin.tensor(key), buffer, rtol=1e-5)
