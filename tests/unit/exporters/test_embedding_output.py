"""Files with an embedding: what other programs make of them, and that no operator leaves its integer kernel."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgehone.exporters._tflite_layout import to_file
from edgehone.exporters.onnx import exporter as onnx_exporter
from edgehone.exporters.tflite import exporter as tflite_exporter
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone.testing.onnx_files import left_in_floats, run_onnx
from edgehone.testing.tflite_files import left_by_xnnpack, operators_off_npu, run_litert, run_tflite_micro
from edgehone_agent.runtimes import RUNTIMES

torch.set_num_threads(1)


def large_head() -> Graph:
    """conv, flatten of 4608 values, linear: its embedding is averaged."""
    build = GraphBuilder((1, 3, 24, 24), seed=1)
    x = build.node("relu", build.conv(build.input, 8, bias=True))
    return build.graph(build.linear(build.node("reshape", x, shape=(1, 8 * 24 * 24)), 5))


@cache
def case(name: str) -> tuple[Graph, QuantizedGraph, np.ndarray]:
    """Deployed, quantized, and readings (N, ...)."""
    shape = (3, 24, 24) if name == "large-head" else example_shape(name)[1:]
    x = torch.randn((8, *shape), generator=torch.Generator().manual_seed(1))
    graph = deploy(large_head() if name == "large-head" else trace(NETWORKS[name](), x[:2]))
    twin = Twin(graph).eval()
    twin.calibrate([x])
    return graph, twin.to_quantized(), x.numpy()


ALL = (*NETWORKS, "large-head")


@pytest.mark.parametrize("name", ALL)
def test_xnnpack_takes_as_much_as_before_and_says_the_same(name: str) -> None:
    graph, quantized, x = case(name)
    given = quantized.tensors[quantized.graph.input].quantize(np.stack([to_file(row[None]) for row in x]))
    for source in (graph, quantized):
        data, wider = tflite_exporter.export(source), tflite_exporter.export(source, embedding=True)
        assert left_by_xnnpack(wider) == left_by_xnnpack(data)
    for reference in (False, True):
        np.testing.assert_array_equal(
            run_litert(wider, given, reference=reference), run_litert(data, given, reference=reference)
        )


@pytest.mark.parametrize("name", ALL)
def test_onnx_runtime_keeps_its_integer_kernels(name: str) -> None:
    _, quantized, x = case(name)
    data, wider = onnx_exporter.export(quantized), onnx_exporter.export(quantized, embedding=True)
    onnx.checker.check_model(wider, full_check=True)
    assert left_in_floats(wider) == left_in_floats(data)
    np.testing.assert_array_equal(run_onnx(wider, x), run_onnx(data, x))


@pytest.mark.parametrize("name", ["resnet8", "mobilenet", "conv1d-net", "large-head"])
def test_micro_takes_it(name: str) -> None:
    _, quantized, x = case(name)
    given = quantized.tensors[quantized.graph.input].quantize(np.stack([to_file(row[None]) for row in x[:3]]))
    data, wider = tflite_exporter.export(quantized), tflite_exporter.export(quantized, embedding=True)
    np.testing.assert_array_equal(run_tflite_micro(wider, given), run_tflite_micro(data, given))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "mobilenet", "mlp", "large-head"])
def test_the_npu_takes_everything(name: str, tmp_path: Path) -> None:
    assert operators_off_npu(tflite_exporter.export(case(name)[1], embedding=True), tmp_path) == 0


@pytest.mark.parametrize("io", ["int8", "float32"])
def test_a_tflite_embedding_is_int8_with_a_scale_of_its_own(io: str, tmp_path: Path) -> None:
    _, quantized, _ = case("resnet8")
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_exporter.export(quantized, io=io, embedding=True))
    info = RUNTIMES.get("litert").load(path).embedding
    assert (info.name, info.dtype) == ("embedding", "int8")
    assert info.scale > 0
    assert info.scale != quantized.tensors[quantized.graph.output].scale


def test_a_second_output_costs_next_to_nothing_on_disk() -> None:
    _, quantized, _ = case("resnet8")
    for exporter in (tflite_exporter, onnx_exporter):
        assert len(exporter.export(quantized, embedding=True)) - len(exporter.export(quantized)) < 400
