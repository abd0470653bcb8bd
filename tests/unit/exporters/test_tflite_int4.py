"""Weights of 4 bits in .tflite files: half the bytes, and what every runtime makes of them equals the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgehone.exporters._tflite_layout import to_file
from edgehone.exporters.tflite import exporter
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.oracle import run
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone.testing.tflite_files import run_litert, run_tflite_micro

torch.set_num_threads(1)


def conv(channels: int, outputs: int, kernel: int = 3, groups: int = 1) -> Graph:
    build = GraphBuilder((1, channels, 9, 7))
    return build.graph(build.conv(build.input, outputs, kernel, groups=groups, bias=True))


def linear(inputs: int, outputs: int) -> Graph:
    build = GraphBuilder((1, inputs))
    return build.graph(build.linear(build.input, outputs))


CONVS = {
    "conv": lambda: conv(4, 8),
    "conv, odd number of weights": lambda: conv(3, 5),
    "pointwise": lambda: conv(16, 8, 1),
    "grouped": lambda: conv(4, 8, groups=2),
    "depthwise": lambda: conv(4, 4, groups=4),
    "depthwise, odd number of weights": lambda: conv(5, 5, groups=5),
}
LAYERS = {**CONVS, "linear": lambda: linear(40, 64), "linear, odd number of weights": lambda: linear(41, 63)}


def calibrated(graph: Graph, bits: int = 4) -> Twin:
    twin = Twin(graph, weight_bits=bits).eval()
    twin.calibrate([torch.randn((16, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0)) * 3])
    return twin


def examples(graph: Graph, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Levels in torch layout, and in the file's."""
    shape = (count, *graph.input_shape[1:])
    levels = np.random.default_rng(1).integers(-128, 128, shape, dtype=np.int64).astype(np.int8)
    return levels, np.stack([to_file(each[None]) for each in levels])


def expected(quantized: QuantizedGraph, levels: np.ndarray) -> np.ndarray:
    return np.stack([to_file(each[None]) for each in run(quantized, levels)])


@pytest.mark.parametrize("name", LAYERS)
def test_litert_equals_the_oracle(name: str) -> None:
    quantized = calibrated(LAYERS[name]()).to_quantized()
    levels, stored = examples(quantized.graph)
    file = exporter.export(quantized)
    np.testing.assert_array_equal(run_litert(file, stored, reference=True), expected(quantized, levels))
    difference = run_litert(file, stored).astype(int) - expected(quantized, levels)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", CONVS)
def test_tflite_micro_equals_the_oracle_in_convolutions(name: str) -> None:
    quantized = calibrated(CONVS[name]()).to_quantized()
    levels, stored = examples(quantized.graph)
    np.testing.assert_array_equal(run_tflite_micro(exporter.export(quantized), stored), expected(quantized, levels))


def test_two_weights_take_one_byte() -> None:
    graph = conv(32, 64)
    eight, four = (len(exporter.export(calibrated(graph, bits).to_quantized())) for bits in (8, 4))
    assert eight - four == 32 * 64 * 9 // 2


@pytest.mark.parametrize("name", ["resnet8", "mobilenet", "conv1d-net"])
def test_a_network_of_both_widths_equals_the_oracle(name: str) -> None:
    twin = calibrated(deploy(trace(NETWORKS[name](), torch.zeros((2, *example_shape(name)[1:])))))
    for number, node in enumerate(twin.graph.weighted()):
        twin.bits[node.output] = 4 if number % 2 and node.op == "conv" else 8
    quantized = twin.to_quantized()
    assert {weights.bits for weights in quantized.weights.values()} == {4, 8}
    levels, stored = examples(quantized.graph, 2)
    tolerance = 1 if {"sigmoid", "tanh"} & {node.op for node in quantized.graph.nodes} else 0
    file = exporter.export(quantized)
    found = run_litert(file, stored, reference=True).astype(int)
    assert np.abs(found - expected(quantized, levels)).max() <= tolerance
    rounding_twice = np.stack([to_file(each[None]) for each in run(quantized, levels, rounding="double")])
    assert np.abs(run_tflite_micro(file, stored).astype(int) - rounding_twice).max() <= 1


def test_widths_that_the_format_does_not_know_take_a_byte() -> None:
    graph = conv(32, 64)
    eight, three = (len(exporter.export(calibrated(graph, bits).to_quantized())) for bits in (8, 3))
    assert eight == three
