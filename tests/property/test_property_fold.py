"""Random graphs, made of everything that folding and rewriting look for, compute the same afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph, Shape
from edgehone.graph.network import GraphNetwork
from edgehone.graph.rewrite import simplify
from edgehone.testing.graphs import GraphBuilder

Step = Callable[["Drawn", str], str]


class Drawn:
    """A graph under construction and the choices of hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.build = GraphBuilder(self.draw(st.sampled_from([(1, 4, 6, 5), (1, 4, 7), (1, 6)])))
        self.random = np.random.default_rng(self.draw(st.integers(0, 99)))
        self.convolutions: list[str] = []

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)

    def shape(self, x: str) -> Shape:
        return self.build.shapes[x]


def constant(drawn: Drawn, x: str) -> str:
    shape = drawn.shape(x)
    kept = [1 if i == 0 or not drawn.draw(st.booleans()) else n for i, n in enumerate(shape)]
    value = drawn.random.uniform(0.5, 1.5, kept).astype(np.float32)
    if drawn.draw(st.booleans()):
        value = np.ones_like(value) * drawn.draw(st.sampled_from([0.0, 1.0, 3.0, 1 / 6]))
    op = drawn.draw(st.sampled_from(["add", "mul"]))
    fixed = {"fixed": True} if drawn.draw(st.booleans()) else {}
    return drawn.build.node(op, x, params={"value": value.astype(np.float32)}, **fixed)


def convolution(drawn: Drawn, x: str) -> str:
    shape = drawn.shape(x)
    if len(shape) == 2:
        return drawn.build.linear(x, drawn.draw(st.integers(2, 6)))
    shared = [name for name in drawn.convolutions if drawn.shape(name)[1] == shape[1]]
    if shared and drawn.draw(st.booleans()):
        return drawn.build.conv(x, shape[1], 1, like=drawn.draw(st.sampled_from(shared)))
    if drawn.draw(st.booleans()):
        drawn.convolutions.append(drawn.build.conv(x, shape[1], 1, bias=drawn.draw(st.booleans())))
        return drawn.convolutions[-1]
    groups = drawn.draw(st.sampled_from([g for g in (1, 2, shape[1]) if shape[1] % g == 0]))
    return drawn.build.conv(x, groups * drawn.draw(st.integers(1, 2)), 3, groups=groups)


def padding(drawn: Drawn, x: str) -> str:
    pads = ((0, 0), *((drawn.draw(st.integers(0, 2)), drawn.draw(st.integers(0, 1))) for _ in drawn.shape(x)[1:]))
    return drawn.build.node("pad", x, pads=pads, value=drawn.draw(st.sampled_from([0.0, 0.0, 1.0])))


def slicing(drawn: Drawn, x: str) -> str:
    shape = drawn.shape(x)
    axis = drawn.draw(st.integers(1, len(shape) - 1))
    start = drawn.draw(st.integers(0, min(1, shape[axis] - 1)))
    stop = drawn.draw(st.integers(max(start + 1, shape[axis] - 1), shape[axis]))
    return drawn.build.node("slice", x, axis=axis, start=start, stop=stop, step=drawn.draw(st.integers(1, 2)))


def turning(drawn: Drawn, x: str) -> str:
    perm = (0, *drawn.draw(st.permutations(range(1, len(drawn.shape(x))))))
    return drawn.build.node("transpose", x, perm=perm)


def pooling(drawn: Drawn, x: str) -> str:
    shape = drawn.shape(x)
    if len(shape) == 2:
        return x
    whole = (1, *shape[2:])[-2:]
    kernel = drawn.draw(st.sampled_from([(1, 1), whole]))
    stride = drawn.draw(st.sampled_from([kernel, (1, 1) if len(shape) == 3 else (2, 2)]))
    attrs = {"kernel": kernel, "stride": stride, "padding": ((0, 0), (0, 0))}
    if drawn.draw(st.booleans()):
        return drawn.build.node("max_pool", x, **attrs)
    return drawn.build.node("avg_pool", x, count_include_pad=False, **attrs)


def pointwise(drawn: Drawn, x: str) -> str:
    op = drawn.draw(st.sampled_from(["relu", "relu", "relu6", "silu", "hard_swish"]))
    return drawn.build.node(op, x)


def joining(drawn: Drawn, x: str) -> str:
    others = [name for name, shape in drawn.build.shapes.items() if shape == drawn.shape(x)]
    op = drawn.draw(st.sampled_from(["add", "sub", "mul"]))
    return drawn.build.node(op, x, drawn.draw(st.sampled_from(others)))


def normalising(drawn: Drawn, x: str) -> str:
    return drawn.build.batch_norm(x)


def flattening(drawn: Drawn, x: str) -> str:
    shape = drawn.shape(x)
    if len(shape) == 2:
        return x
    mean = drawn.build.node("mean", x, axes=tuple(range(2, len(shape))), keepdim=True)
    return drawn.build.node("reshape", mean, shape=shape[:2])


STEPS: list[Step] = [
    constant, constant, convolution, convolution, normalising, normalising, padding, slicing, turning, pooling,
    pointwise, pointwise, joining, flattening,
]  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    drawn = Drawn(draw(st.data()))
    x = drawn.build.input
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=10)):
        x = step(drawn, x)
    graph = drawn.build.graph(x)
    return graph.with_nodes(graph.nodes)


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_rewriting_and_folding_keep_every_value(graph: Graph) -> None:
    x = torch.randn(3, *graph.input_shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = GraphNetwork(graph).eval()(x)
        tolerance = {"rtol": 1e-4, "atol": 1e-5 * max(1.0, float(expected.abs().max()))}
        simple = simplify(graph)
        for form in (simple, deploy(graph), deploy(simple)):
            assert torch.allclose(GraphNetwork(form).eval()(x), expected, **tolerance)
            with_shapes = GraphNetwork(form).eval().activations(x)
            assert all((1, *value.shape[1:]) == form.shapes[name] for name, value in with_shapes.items())
