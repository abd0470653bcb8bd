"""Small deployed graphs that together hold every operator and every setting of it that an exporter must write.

    OPERATORS["conv strided"]()      a graph; the same one every time

Most hold the one operator they are named after. What is expected of a file is told by the float network, the quantized
twin and the integer oracle; which settings a format cannot hold is for its own tests to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgehone.graph.ir import Graph, Shape
from edgehone.testing.graphs import GraphBuilder

PICTURE: Shape = (1, 8, 10, 12)
SERIES: Shape = (1, 6, 20)
ROW: Shape = (1, 24)
NONE = ((0, 0), (0, 0))
ONE = ((1, 1), (1, 1))


def with_activation(graph: Graph, activation: str) -> Graph:
    """The graph with an activation fused into its last node."""
    return graph.with_nodes((*graph.nodes[:-1], replace(graph.nodes[-1], activation=activation)))


def single(shape: Shape, op: str, **attrs: Any) -> Graph:
    """One operator on the input."""
    build = GraphBuilder(shape)
    return build.graph(build.node(op, build.input, **attrs))


def conv(shape: Shape = PICTURE, outputs: int = 16, kernel: int = 3, activation: str = "", **changes: Any) -> Graph:
    """One convolution; `changes` are attributes, padding is that of an odd kernel unless told."""
    build = GraphBuilder(shape)
    size = (1, kernel) if len(shape) == 3 else (kernel, kernel)
    half = [((k - 1) // 2, (k - 1) // 2) for k in size]
    attrs: dict[str, Any] = {"stride": (1, 1), "dilation": (1, 1), "padding": tuple(half), "groups": 1, **changes}
    inputs = shape[1] // attrs["groups"]
    draw = np.random.default_rng(0)
    params = {
        "weight": draw.normal(0, (inputs * size[0] * size[1]) ** -0.5, (outputs, inputs, *size)).astype(np.float32),
        "bias": draw.normal(0, 0.3, outputs).astype(np.float32),
    }
    graph = build.graph(build.node("conv", build.input, params=params, **attrs))
    return with_activation(graph, activation) if activation else graph


def linear(activation: str = "") -> Graph:
    """One linear layer."""
    build = GraphBuilder(ROW)
    graph = build.graph(build.linear(build.input, 10))
    return with_activation(graph, activation) if activation else graph


def pair(op: str, activation: str = "", pooled: bool = False, shape: Shape = PICTURE, **attrs: Any) -> Graph:
    """An operator on the input and a second tensor: the input's convolution, or its mean, which broadcasts."""
    build = GraphBuilder(shape)
    second = build.mean(build.input, keepdim=True) if pooled else build.conv(build.input, shape[1], bias=True)
    graph = build.graph(build.node(op, build.input, second, **attrs))
    return with_activation(graph, activation) if activation else graph


def constant(op: str, shape: Shape, value: Shape) -> Graph:
    """An add or mul with a constant of a shape."""
    build = GraphBuilder(shape)
    return build.graph(build.constant(op, build.input, value))


def pool(op: str, kernel: int, stride: int, padding: object = NONE, signed: bool = True, **attrs: Any) -> Graph:
    """A pool over the input, or over its ReLU."""
    build = GraphBuilder(PICTURE)
    x = build.input if signed else build.relu(build.input)
    size, strides = (kernel, kernel), (stride, stride)
    return build.graph(build.node(op, x, kernel=size, stride=strides, padding=padding, **attrs))


def moves(*steps: tuple[int, ...] | list[int], shape: Shape = PICTURE, head: int = 0) -> Graph:
    """Reshapes (tuples) and transposes (lists) one after another, then a linear layer when `head` is given."""
    build = GraphBuilder(shape)
    x = build.input
    for step in steps:
        x = build.reshape(x, step) if isinstance(step, tuple) else build.node("transpose", x, perm=tuple(step))
    return build.graph(build.linear(x, head) if head else x)


def resize(size: tuple[int, int], mode: str, align_corners: bool = False, half_pixel: bool = False) -> Graph:
    """The input in another size."""
    return single(PICTURE, "resize", size=size, mode=mode, align_corners=align_corners, half_pixel=half_pixel)


def mixed_concat() -> Graph:
    """A sigmoid beside a convolution: two scales that cannot be one."""
    build = GraphBuilder(PICTURE)
    return build.graph(build.concat(build.conv(build.input, 8, bias=True), build.node("sigmoid", build.input)))


def classifier() -> Graph:
    """Convolution, padded pool, flatten with more than one place, linear, softmax."""
    build = GraphBuilder((1, 3, 12, 12))
    x = build.relu(build.conv(build.input, 8, stride=2, bias=True))
    x = build.node("max_pool", x, kernel=(3, 3), stride=(2, 2), padding=ONE)
    return build.graph(build.node("softmax", build.linear(build.flatten(x), 10)))


OPERATORS: dict[str, Callable[[], Graph]] = {
    "conv": conv,
    "conv relu": lambda: conv(activation="relu"),
    "conv relu6": lambda: conv(activation="relu6"),
    "conv 1x1": lambda: conv(kernel=1),
    "conv 1x1 strided": lambda: conv(kernel=1, stride=(2, 2)),
    "conv strided": lambda: conv(stride=(2, 2)),
    "conv one-sided padding": lambda: conv(stride=(2, 2), padding=((0, 1), (1, 0))),
    "conv dilated": lambda: conv(dilation=(2, 2), padding=((2, 2), (2, 2))),
    "conv even kernel": lambda: conv(kernel=4),
    "conv grouped": lambda: conv(groups=4),
    "conv of a series": lambda: conv(SERIES, 8, 5, stride=(1, 2)),
    "conv of a series dilated": lambda: conv(SERIES, 8, dilation=(1, 2), padding=((0, 0), (2, 2))),
    "depthwise": lambda: conv(outputs=8, groups=8),
    "depthwise relu6 strided": lambda: conv(outputs=8, groups=8, stride=(2, 2), activation="relu6"),
    "depthwise multiplied": lambda: conv(outputs=16, groups=8),
    "depthwise dilated": lambda: conv(outputs=8, groups=8, dilation=(2, 2), padding=((2, 2), (2, 2))),
    "depthwise of a series": lambda: conv(SERIES, 6, groups=6),
    "linear": linear,
    "linear relu": lambda: linear("relu"),
    "add": lambda: pair("add"),
    "add relu": lambda: pair("add", "relu"),
    "add relu6": lambda: pair("add", "relu6"),
    "add broadcast": lambda: pair("add", pooled=True),
    "sub": lambda: pair("sub"),
    "sub broadcast": lambda: pair("sub", pooled=True),
    "mul": lambda: pair("mul"),
    "mul relu": lambda: pair("mul", "relu"),
    "mul broadcast": lambda: pair("mul", pooled=True),
    "mul of a series": lambda: pair("mul", shape=SERIES, pooled=True),
    "add constant": lambda: constant("add", PICTURE, (1, 8, 1, 1)),
    "add constant map": lambda: constant("add", PICTURE, PICTURE),
    "mul constant": lambda: constant("mul", PICTURE, (1, 8, 1, 1)),
    "mul constant number": lambda: constant("mul", PICTURE, (1, 1, 1, 1)),
    "mul constant of a series": lambda: constant("mul", SERIES, (1, 6, 1)),
    "add constant of a row": lambda: constant("add", ROW, ROW),
    "relu": lambda: single(PICTURE, "relu"),
    "relu6": lambda: single(PICTURE, "relu6"),
    "hard_swish": lambda: single(PICTURE, "hard_swish"),
    "hard_swish of a row": lambda: single(ROW, "hard_swish"),
    "sigmoid": lambda: single(PICTURE, "sigmoid"),
    "tanh": lambda: single(PICTURE, "tanh"),
    "leaky_relu": lambda: single(PICTURE, "leaky_relu", slope=0.1),
    "softmax": lambda: single(ROW, "softmax"),
    "concat": lambda: pair("concat", axis=1),
    "concat along the width": lambda: pair("concat", axis=3),
    "concat of a series": lambda: pair("concat", shape=SERIES, axis=2),
    "concat of two scales": mixed_concat,
    "slice": lambda: single(PICTURE, "slice", axis=1, start=2, stop=6, step=1),
    "slice of the height": lambda: single(PICTURE, "slice", axis=2, start=1, stop=9, step=1),
    "slice of a series": lambda: single(SERIES, "slice", axis=2, start=3, stop=15, step=1),
    "slice of a row": lambda: single(ROW, "slice", axis=1, start=3, stop=15, step=1),
    "slice with a step": lambda: single(PICTURE, "slice", axis=3, start=1, stop=12, step=2),
    "pad": lambda: single(PICTURE, "pad", pads=((0, 0), (0, 0), (1, 2), (3, 0)), value=0.0),
    "pad channels": lambda: single(PICTURE, "pad", pads=((0, 0), (2, 2), (0, 0), (0, 0)), value=0.0),
    "pad a series": lambda: single(SERIES, "pad", pads=((0, 0), (0, 0), (1, 2)), value=0.0),
    "pad with a value": lambda: single(PICTURE, "pad", pads=((0, 0), (0, 0), (1, 2), (3, 0)), value=1.0),
    "max_pool": lambda: pool("max_pool", 2, 2),
    "max_pool same": lambda: pool("max_pool", 3, 1, ONE),
    "max_pool padded": lambda: pool("max_pool", 3, 2, ONE),
    "max_pool padded twice": lambda: pool("max_pool", 5, 2, ((2, 2), (2, 2))),
    "max_pool padded after relu": lambda: pool("max_pool", 3, 2, ONE, signed=False),
    "avg_pool": lambda: pool("avg_pool", 2, 2, count_include_pad=True),
    "avg_pool same": lambda: pool("avg_pool", 3, 1, ONE, count_include_pad=True),
    "avg_pool padded": lambda: pool("avg_pool", 3, 2, ONE, count_include_pad=True),
    "avg_pool of inside places": lambda: pool("avg_pool", 3, 1, ONE, count_include_pad=False),
    "mean": lambda: single(PICTURE, "mean", axes=(2, 3), keepdim=False),
    "mean keepdim": lambda: single(PICTURE, "mean", axes=(2, 3), keepdim=True),
    "mean of a series": lambda: single(SERIES, "mean", axes=(2,), keepdim=False),
    "mean of a series keepdim": lambda: single(SERIES, "mean", axes=(2,), keepdim=True),
    "flatten": lambda: moves((1, 960)),
    "flatten one place": lambda: moves((1, 24), shape=(1, 24, 1, 1)),
    "flatten one channel": lambda: moves((1, 120), shape=(1, 1, 10, 12)),
    "flatten into linear": lambda: moves((1, 960), head=10),
    "flatten a series into linear": lambda: moves((1, 120), shape=SERIES, head=10),
    "reshape": lambda: moves((1, 4, 24, 10)),
    "reshape places": lambda: moves((1, 8, 120)),
    "reshape to the same": lambda: moves(PICTURE),
    "transpose": lambda: moves([0, 2, 3, 1]),
    "transpose places": lambda: moves([0, 1, 3, 2]),
    "transpose a series": lambda: moves([0, 2, 1], shape=SERIES),
    "transpose into linear": lambda: moves([0, 3, 1, 2], (1, 960), head=10),
    "channel shuffle": lambda: moves((1, 2, 4, 10, 12), [0, 2, 1, 3, 4], PICTURE),
    "pixel shuffle": lambda: moves((1, 2, 2, 2, 10, 12), [0, 1, 4, 2, 5, 3], (1, 2, 20, 24)),
    "moves that no one transpose makes": lambda: moves((1, 24, 40), [0, 2, 1], (1, 32, 30), [0, 2, 1], (1, 960)),
    "resize nearest": lambda: resize((20, 24), "nearest"),
    "resize nearest half pixel": lambda: resize((15, 7), "nearest", half_pixel=True),
    "resize bilinear": lambda: resize((20, 24), "bilinear", half_pixel=True),
    "resize bilinear corners": lambda: resize((20, 24), "bilinear", align_corners=True),
    "classifier": classifier,
}
