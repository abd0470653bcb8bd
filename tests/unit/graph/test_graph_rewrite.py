"""Rewrites of the training graph: what they find, what they must leave, and that the values stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgehone.graph.ir import Graph, Node
from edgehone.graph.network import GraphNetwork
from edgehone.graph.rewrite import simplify
from edgehone.graph.trace import trace
from edgehone.testing.networks import NETWORKS

SHAPE = (4, 9, 8)


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(function: Callable[[Tensor], Tensor], shape: tuple[int, ...] = SHAPE) -> Graph:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    graph = trace(Call(function), x[:2])
    with torch.no_grad():
        assert torch.allclose(GraphNetwork(graph)(x), function(x), rtol=1e-6, atol=1e-6)
    return graph


def sides(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 2, 3))


SHORTCUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor], tuple[int, int]]] = {
    "slice then pad": (SHAPE, lambda x: sides(x[:, :, ::2, ::2]), (2, 2)),
    "pad then slice": (SHAPE, lambda x: sides(x)[:, :, ::2, ::2], (2, 2)),
    "one axis, step 3": (SHAPE, lambda x: sides(x[:, :, ::3]), (3, 1)),
    "in two steps": (SHAPE, lambda x: sides(x[:, :, ::2][:, :, ::2, ::3]), (4, 3)),
    "max pooling of single places": (SHAPE, lambda x: sides(F.max_pool2d(x, 1, 2)), (2, 2)),
    "average pooling of single places": (SHAPE, lambda x: sides(F.avg_pool2d(x, 1, 2)), (2, 2)),
    "concatenated zeros": (
        SHAPE,
        lambda x: torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], 1),
        (2, 2),
    ),
    "one dimension": ((4, 9), lambda x: F.pad(x[:, :, ::2], (0, 0, 1, 1)), (1, 2)),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_the_shortcut_becomes_one_convolution(name: str) -> None:
    shape, function, stride = SHORTCUTS[name]
    (node,) = traced(function, shape).nodes
    assert (node.op, node.attrs["stride"], node.attrs["groups"]) == ("conv", stride, 1)
    assert node.attrs["padding"] == ((0, 0), (0, 0))


NO_SHORTCUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "starts at the second row": lambda x: sides(x[:, :, 1::2]),
    "stops early": lambda x: sides(x[:, :, :5:2]),
    "other value": lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 2, 3), value=1.0),
    "places padded too": lambda x: F.pad(x[:, :, ::2], (1, 0, 0, 0, 2, 3)),
    "no stride": sides,
    "slice read twice": lambda x: sides(x[:, :, ::2]) + torch.cat([x, x, x[:, :1]], 1)[:, :, ::2],
}


@pytest.mark.parametrize("name", NO_SHORTCUTS)
def test_no_convolution_where_it_would_not_be_the_same(name: str) -> None:
    graph = traced(NO_SHORTCUTS[name])
    if name != "slice read twice":
        assert "conv" not in {node.op for node in graph.nodes}


def test_resnet_with_parameter_free_shortcuts_has_no_slices_and_pads() -> None:
    graph = trace(NETWORKS["resnet20-option-a"](), torch.randn(2, 3, 32, 32))
    assert {node.op for node in graph.nodes} == {"conv", "batch_norm", "relu", "add", "mean", "reshape", "linear"}
    new = [node for node in graph.weighted() if node.params["weight"].startswith("pad")]
    assert [node.attrs["stride"] for node in new] == [(2, 2), (2, 2)]
    assert [graph.param(node, "weight").shape for node in new] == [(32, 16, 1, 1), (64, 32, 1, 1)]  # type: ignore[union-attr]


def test_new_keys_do_not_clash_with_the_users() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad = nn.Conv2d(9, 9, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.pad(sides(x[:, :, ::2, ::2]))  # type: ignore[no-any-return]

    network = Named()
    graph = trace(network, torch.randn(2, *SHAPE))
    assert len(graph.params) == 2
    assert np.array_equal(graph.params["pad.weight"], network.pad.weight.detach().numpy())


def graph_of(*nodes: Node, shapes: dict[str, tuple[int, ...]], **params: np.ndarray) -> Graph:
    arrays = {key: np.asarray(value, np.float32) for key, value in params.items()}
    return Graph("x", nodes[-1].output, nodes, shapes, arrays).check()


def test_constants_that_train_stay() -> None:
    shapes = {"x": (1, 3), "y": (1, 3)}
    node = Node("mul", ("x",), "y", {}, {"value": "scale"})
    assert simplify(graph_of(node, shapes=shapes, scale=np.ones((1, 3)))).nodes == (node,)
    fixed = Node("mul", ("x",), "y", {"fixed": True}, {"value": "scale"})
    assert simplify(graph_of(fixed, shapes=shapes, scale=np.ones((1, 3)))).nodes == ()


def test_a_graph_that_does_nothing_gives_its_input() -> None:
    node = Node("reshape", ("x",), "y", {"shape": (1, 3)})
    graph = simplify(graph_of(node, shapes={"x": (1, 3), "y": (1, 3)}))
    assert (graph.nodes, graph.output, dict(graph.shapes)) == ((), "x", {"x": (1, 3)})


def test_simplify_leaves_the_given_graph_alone_and_settles() -> None:
    graph = traced(lambda x: F.relu(x.transpose(1, 2)).transpose(1, 2) + 1)
    again = simplify(graph)
    assert again.nodes == graph.nodes
    assert again is not graph


def test_nodes_in_a_row_become_one() -> None:
    assert [node.op for node in traced(lambda x: x.permute(0, 2, 3, 1).permute(0, 1, 3, 2)).nodes] == ["transpose"]
    assert [node.op for node in traced(lambda x: F.pad(sides(x), (1, 2))).nodes] == ["pad"]
    assert [node.op for node in traced(lambda x: F.pad(sides(x), (1, 2), value=1.0)).nodes] == ["pad", "pad"]


def test_padding_that_others_read_stays() -> None:
    conv = nn.Conv2d(4, 4, 3)

    def function(x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1))
        return conv(padded) + padded[:, :, 1:-1, 1:-1]  # type: ignore[no-any-return]

    (node,) = [node for node in traced(function).nodes if node.op == "conv"]
    assert (node.inputs, node.attrs["padding"]) == (("x",), ((1, 1), (1, 1)))

    def halves(x: Tensor) -> Tensor:
        padded = sides(x)
        return padded[:, :, ::2] * padded[:, :, :5]

    assert [node.op for node in traced(halves).nodes] == ["pad", "slice", "slice", "mul"]
