"""The reference networks in .tflite files, against torch, the quantized twin and three runtimes."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from edgehone.exporters._tflite_layout import to_file
from edgehone.exporters.tflite import exporter
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.kernels import run_node
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone.testing.tflite_files import (
    left_by_xnnpack,
    operators_off_npu,
    run_litert,
    run_tflite_micro,
)

torch.set_num_threads(1)

LEFT = {"autoencoder": ["RESIZE_NEAREST_NEIGHBOR"] * 2}
LEFT_IN_INT8 = {**LEFT, "mlp": ["SOFTMAX"]}


class Case(NamedTuple):
    """A reference network with everything its files are compared with."""

    graph: Graph
    quantized: QuantizedGraph
    examples: torch.Tensor
    expected: np.ndarray  # of the network in torch, (N, ...)
    twin: dict[str, np.ndarray]  # levels of every tensor of the quantized graph, (N, ...)


@cache
def case(name: str) -> Case:
    network = NETWORKS[name]()
    shape = example_shape(name)
    examples = torch.randn((32, *shape[1:]), generator=torch.Generator().manual_seed(1))
    graph = deploy(trace(network, examples[:2]))
    twin = Twin(graph).eval()
    twin.calibrate([examples])
    quantized = twin.to_quantized()
    with torch.no_grad():
        expected = network(examples).numpy()
        values = every_tensor(twin, examples)
    return Case(graph, quantized, examples, expected, values)


def every_tensor(twin: Twin, x: torch.Tensor) -> dict[str, np.ndarray]:
    """The twin's levels of every tensor: its forward pass with nothing thrown away."""
    values = {twin.graph.input: twin._activation(twin.graph.input, x, moving=False)}
    for node in twin.graph.nodes:
        y = run_node(node, [values[name] for name in node.inputs], twin._params(node))
        values[node.output] = twin._activation(node.output, y, moving=False)
    assert torch.equal(values[twin.graph.output], twin(x))
    quantized = twin.to_quantized()
    return {name: quantized.tensors[name].quantize(value.numpy()) for name, value in values.items()}


def in_file(batch: np.ndarray) -> np.ndarray:
    """(N, C, H, W) → (N, 1, H, W, C)."""
    return np.stack([np.ascontiguousarray(to_file(example[None])) for example in batch])


def best(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1).argmax(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_float_file_computes_what_torch_does(name: str) -> None:
    graph, _, examples, expected, _ = case(name)
    data = exporter.export(graph)
    found = run_litert(data, in_file(examples.numpy()))
    assert np.abs(found - in_file(expected)).max() <= 1e-5 * np.abs(expected).max()
    assert left_by_xnnpack(data) == LEFT.get(name, [])


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_file_computes_what_the_twin_does(name: str) -> None:
    _, quantized, _, _, twin = case(name)
    data = exporter.export(quantized)
    given, expected = in_file(twin[quantized.graph.input]), in_file(twin[quantized.graph.output])
    assert left_by_xnnpack(data) == LEFT_IN_INT8.get(name, [])
    xnnpack, reference = run_litert(data, given), run_litert(data, given, reference=True)
    for found in (xnnpack, reference):  # one level per layer adds up; random weights pass it on undamped
        assert np.abs(found.astype(int) - expected).mean() <= 2.5
    assert (best(xnnpack) == best(expected)).mean() >= 0.9
    micro = run_tflite_micro(data, given[:4]).astype(int)
    rounds_twice = any(node.op == "linear" for node in quantized.graph.nodes)
    assert np.abs(micro - reference[:4]).max() <= (1 if rounds_twice else 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_within_one_level_of_the_twin(name: str) -> None:
    _, quantized, _, _, twin = case(name)
    layers = [node for node in quantized.graph.nodes if len(node.inputs) == 1]
    assert layers
    for node in layers:
        shapes = {name: quantized.graph.shapes[name] for name in (node.inputs[0], node.output)}
        graph = Graph(node.inputs[0], node.output, (node,), shapes, quantized.graph.params).check()
        found = run_litert(exporter.export(replace(quantized, graph=graph)), in_file(twin[graph.input]))
        difference = np.abs(found.astype(int) - in_file(twin[node.output]))
        assert difference.max() <= 1, node


@pytest.mark.parametrize("name", NETWORKS)
def test_float_ends_change_nothing_inside(name: str) -> None:
    _, quantized, _, _, twin = case(name)
    source, target = (quantized.tensors[t] for t in (quantized.graph.input, quantized.graph.output))
    given = in_file(twin[quantized.graph.input])[:8]
    data = exporter.export(quantized, io="float32")
    inner = run_litert(exporter.export(quantized), given)
    np.testing.assert_array_equal(run_litert(data, source.dequantize(given)), target.dequantize(inner))
    assert left_by_xnnpack(data) == LEFT_IN_INT8.get(name, [])


@pytest.mark.parametrize("name", ["resnet8", "mobilenet-v3", "shuffle-net"])
def test_the_same_network_gives_the_same_bytes(name: str) -> None:
    examples = case(name).examples
    digests = set()
    for _ in range(2):
        graph = deploy(trace(NETWORKS[name](), examples[:2]))
        twin = Twin(graph).eval()
        twin.calibrate([examples])
        files = (exporter.export(graph), exporter.export(twin.to_quantized()))
        digests.add(tuple(hashlib.sha256(data).hexdigest() for data in files))
    assert len(digests) == 1


def test_the_file_is_small() -> None:
    """Weights, and little else: names and quantization parameters are an eighth of ResNet-20 at most."""
    graph, quantized, *_ = case("resnet20")
    weights = sum(graph.params[node.params["weight"]].size for node in graph.weighted())
    assert len(exporter.export(quantized)) <= 1.08 * weights
    assert len(exporter.export(graph)) <= 4 * 1.02 * weights


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_npu_takes_everything(name: str, tmp_path: Path) -> None:
    assert operators_off_npu(exporter.export(case(name).quantized), tmp_path) == 0
