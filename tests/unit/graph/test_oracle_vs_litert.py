"""The integer oracle against the LiteRT reference kernels, operator by operator and network by network."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest
import torch

from edgehone.errors import DataError
from edgehone.exporters._tflite_layout import indices, to_file
from edgehone.exporters.tflite import exporter
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.oracle import run, run_all
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone.testing.tflite_files import run_litert, run_tflite_micro

IMAGE = (1, 4, 9, 7)
POOL = {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))}


def fused(graph: Graph, activation: str) -> Graph:
    last = graph.nodes[-1]
    return graph.with_nodes((*graph.nodes[:-1], replace(last, activation=activation)))


def single(op: str, **attrs: object) -> Graph:
    build = GraphBuilder(IMAGE)
    return build.graph(build.node(op, build.input, **attrs))


def conv(activation: str | None = None, **changes: object) -> Graph:
    build = GraphBuilder(IMAGE)
    kernel, groups = changes.pop("kernel", 3), changes.pop("groups", 1)
    graph = build.graph(build.conv(build.input, 8, kernel, groups=groups, bias=True))
    node = graph.nodes[0]
    graph = graph.with_nodes((replace(node, attrs={**node.attrs, **changes}, activation=activation),))
    shape = tuple(Twin(graph)(torch.zeros(IMAGE)).shape)
    return replace(graph, shapes={**graph.shapes, graph.output: shape})


def linear(activation: str | None = None, outputs: int = 64) -> Graph:
    build = GraphBuilder((1, 40))
    graph = build.graph(build.linear(build.input, outputs))
    return fused(graph, activation) if activation else graph


def two_branches(op: str, activation: str | None = None, second_shape: str = "same", **attrs: object) -> Graph:
    build = GraphBuilder(IMAGE)
    a, b = build.conv(build.input, 6, bias=True), build.conv(build.input, 6, 1, bias=True)
    if second_shape == "pooled":
        b = build.mean(b, keepdim=True)
    graph = build.graph(build.node(op, a, b, **attrs))
    return fused(graph, activation) if activation else graph


def constant(op: str, shape: tuple[int, ...]) -> Graph:
    build = GraphBuilder(IMAGE)
    return build.graph(build.constant(op, build.input, shape))


def softmax(classes: int) -> Graph:
    build = GraphBuilder((1, classes))
    return build.graph(build.node("softmax", build.input))


def mixed_concat() -> Graph:
    build = GraphBuilder(IMAGE)
    return build.graph(build.concat(build.conv(build.input, 6, bias=True), build.node("sigmoid", build.input)))


def resize(size: tuple[int, int], mode: str, align_corners: bool = False, half_pixel: bool = False) -> Graph:
    return single("resize", size=size, mode=mode, align_corners=align_corners, half_pixel=half_pixel)


EXACT: dict[str, Callable[[], Graph]] = {
    "conv": conv,
    "conv relu": lambda: conv("relu"),
    "conv relu6": lambda: conv("relu6"),
    "conv strided": lambda: conv(stride=(2, 2)),
    "conv dilated": lambda: conv(dilation=(2, 2)),
    "conv valid 1x1": lambda: conv(kernel=1),
    "conv depthwise": lambda: conv(groups=4),
    "conv grouped": lambda: conv(groups=2),
    "linear": linear,
    "linear relu": lambda: linear("relu"),
    "linear of one output": lambda: linear(outputs=1),
    "add": lambda: two_branches("add"),
    "add relu": lambda: two_branches("add", "relu"),
    "add relu6": lambda: two_branches("add", "relu6"),
    "add broadcast": lambda: two_branches("add", second_shape="pooled"),
    "sub": lambda: two_branches("sub"),
    "mul": lambda: two_branches("mul"),
    "mul relu": lambda: two_branches("mul", "relu"),
    "mul broadcast": lambda: two_branches("mul", second_shape="pooled"),
    "add constant": lambda: constant("add", (1, 4, 1, 1)),
    "mul constant": lambda: constant("mul", (1, 4, 1, 1)),
    "relu": lambda: single("relu"),
    "relu6": lambda: single("relu6"),
    "leaky_relu": lambda: single("leaky_relu", slope=0.1),
    "hard_swish": lambda: single("hard_swish"),
    "softmax 10": lambda: softmax(10),
    "softmax 100": lambda: softmax(100),
    "mean": lambda: single("mean", axes=(2, 3), keepdim=False),
    "mean keepdim": lambda: single("mean", axes=(2, 3), keepdim=True),
    "max_pool": lambda: single("max_pool", **POOL),
    "avg_pool": lambda: single("avg_pool", **POOL, count_include_pad=False),
    "avg_pool counting pads": lambda: single("avg_pool", **POOL, count_include_pad=True),
    "concat": lambda: two_branches("concat", axis=1),
    "slice": lambda: single("slice", axis=1, start=1, stop=4, step=2),
    "pad": lambda: single("pad", pads=((0, 0), (1, 0), (2, 1), (0, 3)), value=0.0),
    "pad with a value": lambda: single("pad", pads=((0, 0), (0, 0), (2, 1), (0, 3)), value=-5.0),
    "reshape": lambda: single("reshape", shape=(1, 4 * 63)),
    "transpose": lambda: single("transpose", perm=(0, 2, 1, 3)),
    "resize nearest": lambda: resize((14, 13), "nearest"),
    "resize nearest half pixel": lambda: resize((4, 13), "nearest", half_pixel=True),
    "resize bilinear": lambda: resize((18, 14), "bilinear", half_pixel=True),
    "resize bilinear odd": lambda: resize((13, 20), "bilinear", half_pixel=True),
    "resize bilinear corners": lambda: resize((17, 5), "bilinear", align_corners=True),
}
ONE_LSB: dict[str, Callable[[], Graph]] = {
    "sigmoid": lambda: single("sigmoid"),
    "tanh": lambda: single("tanh"),
    "concat of a sigmoid": mixed_concat,
}


def through(
    runner: Callable[[bytes, np.ndarray], np.ndarray], quantized: QuantizedGraph, levels: np.ndarray
) -> np.ndarray:
    """Levels (N, ...) in torch layout through a runtime of .tflite files, and back."""
    outputs = runner(exporter.export(quantized), np.stack([to_file(example[None]) for example in levels]))
    flat = outputs.reshape(len(levels), -1)
    return flat[:, np.argsort(indices(quantized.graph.output_shape))].reshape(-1, *quantized.graph.output_shape[1:])


def litert(quantized: QuantizedGraph, levels: np.ndarray) -> np.ndarray:
    return through(partial(run_litert, reference=True), quantized, levels)


def calibrated(graph: Graph, scale: float = 3.0) -> Twin:
    twin = Twin(graph).eval()
    twin.calibrate([torch.randn((16, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0)) * scale])
    return twin


def random_levels(graph: Graph, count: int) -> np.ndarray:
    shape = (count, *graph.input_shape[1:])
    return np.random.default_rng(1).integers(-128, 128, shape, dtype=np.int64).astype(np.int8)


@pytest.mark.parametrize("name", EXACT)
def test_operator_equals_the_reference_kernels(name: str) -> None:
    twin = calibrated(EXACT[name]())
    quantized = twin.to_quantized()
    levels = random_levels(twin.graph, 24)
    np.testing.assert_array_equal(run(quantized, levels), litert(quantized, levels))


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1000.0])
@pytest.mark.parametrize(
    "name", ["conv relu6", "linear", "add", "mul", "hard_swish", "softmax 10", "mean", "leaky_relu"]
)
def test_operator_equals_the_reference_kernels_at_any_scale(name: str, scale: float) -> None:
    twin = calibrated(EXACT[name](), scale)
    quantized = twin.to_quantized()
    levels = random_levels(twin.graph, 8)
    np.testing.assert_array_equal(run(quantized, levels), litert(quantized, levels))


@pytest.mark.parametrize("name", ONE_LSB)
def test_operator_is_within_one_level_of_the_reference_kernels(name: str) -> None:
    twin = calibrated(ONE_LSB[name]())
    quantized = twin.to_quantized()
    levels = random_levels(twin.graph, 24)
    difference = np.abs(run(quantized, levels).astype(int) - litert(quantized, levels))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def test_linear_layers_of_tflite_micro_round_twice() -> None:
    twin = calibrated(linear())
    quantized = twin.to_quantized()
    levels = random_levels(twin.graph, 200)
    found = through(run_tflite_micro, quantized, levels)
    np.testing.assert_array_equal(run(quantized, levels, rounding="double"), found)
    assert (run(quantized, levels) != found).any()


def test_inputs_that_are_no_levels_of_the_network_are_refused() -> None:
    quantized = calibrated(linear()).to_quantized()
    with pytest.raises(DataError, match="int8"):
        run(quantized, np.zeros((2, 40), np.float32))
    with pytest.raises(DataError, match="shape"):
        run_all(quantized, np.zeros((2, 41), np.int8))


def test_chunks_do_not_change_the_answer_and_no_input_gives_no_output() -> None:
    quantized = calibrated(conv("relu")).to_quantized()
    levels = random_levels(quantized.graph, 600)
    np.testing.assert_array_equal(run(quantized, levels), run_all(quantized, levels)[quantized.graph.output])
    assert run(quantized, levels[:0]).shape == (0, *quantized.graph.output_shape[1:])


@lru_cache
def zoo(name: str) -> tuple[Twin, QuantizedGraph, np.ndarray]:
    """A calibrated reference network, its integers, and levels of random inputs."""
    shape = example_shape(name)
    graph = deploy(trace(NETWORKS[name](), torch.zeros((2, *shape[1:]))))
    x = torch.randn((32, *shape[1:]), generator=torch.Generator().manual_seed(0))
    twin = Twin(graph).eval()
    twin.calibrate([x])
    quantized = twin.to_quantized()
    return twin, quantized, quantized.tensors[graph.input].quantize(x.numpy())


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_the_reference_kernels(name: str) -> None:
    _, quantized, levels = zoo(name)
    fixed = {node.op for node in quantized.graph.nodes} & {"sigmoid", "tanh"}
    difference = np.abs(run(quantized, levels[:2]).astype(int) - litert(quantized, levels[:2]))
    assert difference.max() <= (1 if fixed else 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_node_of_the_twin_is_within_one_level_of_the_oracle(name: str) -> None:
    twin, quantized, levels = zoo(name)
    values = run_all(quantized, levels[:8])
    for node in quantized.graph.nodes:
        inputs = [torch.from_numpy(quantized.tensors[name].dequantize(values[name])) for name in node.inputs]
        with torch.no_grad():
            y = twin._compute(node, inputs)
        found = quantized.tensors[node.output].quantize(y.numpy()).astype(int)
        assert np.abs(found - values[node.output]).max() <= 1, node


@pytest.mark.parametrize("name", NETWORKS)
def test_twin_and_oracle_agree_through_a_whole_network(name: str) -> None:
    twin, quantized, levels = zoo(name)
    graph = quantized.graph
    with torch.no_grad():
        y = twin(torch.from_numpy(quantized.tensors[graph.input].dequantize(levels)))
    found = quantized.tensors[graph.output].quantize(y.numpy()).astype(int).reshape(len(levels), -1)
    expected = run(quantized, levels).astype(int).reshape(len(levels), -1)
    # Flips of one level per operator add up through the depth of an untrained network.
    assert np.abs(found - expected).max() <= 8
    assert np.abs(found - expected).mean() < 2
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.9
