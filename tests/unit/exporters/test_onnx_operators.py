"""Every operator in .onnx files, against torch and the quantized twin, in ONNX Runtime."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch

from edgehone.exporters.onnx import exporter
from edgehone.graph.network import GraphNetwork
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.twin import Twin
from edgehone.testing.onnx_files import left_in_floats, run_onnx
from edgehone.testing.operators import OPERATORS

LEFT = {name: ["Resize", "QuantizeLinear"] for name in ("resize bilinear", "resize bilinear corners")}
# Ties of averages are rounded to even here, away from level 0 in TensorFlow Lite; hard-swish has a gate of 255 levels.
EQUAL = {"avg_pool": 0.75, "avg_pool of inside places": 0.9, "hard_swish": 0.95, "hard_swish of a row": 0.9}


def examples(name: str, count: int = 5) -> torch.Tensor:
    shape = OPERATORS[name]().input_shape
    return 1.5 * torch.randn((count, *shape[1:]), generator=torch.Generator().manual_seed(1))


@cache
def calibrated(name: str) -> tuple[Twin, QuantizedGraph]:
    twin = Twin(OPERATORS[name]()).eval()
    twin.calibrate([examples(name)])
    return twin, twin.to_quantized()


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", OPERATORS)
def test_float_file_computes_what_torch_does(name: str, count: int) -> None:
    graph, x = OPERATORS[name](), examples(name, count)
    with torch.no_grad():
        expected = GraphNetwork(graph).eval()(x).numpy()
    data = exporter.export(graph)
    onnx.checker.check_model(data, full_check=True)
    for optimized in (True, False):
        found = run_onnx(data, x.numpy(), optimized=optimized)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", OPERATORS)
def test_int8_file_computes_what_the_twin_does(name: str, count: int) -> None:
    twin, quantized = calibrated(name)
    x = examples(name, count)
    with torch.no_grad():
        expected = twin(x).numpy()
    grid = quantized.tensors[quantized.graph.output]
    data = exporter.export(quantized)
    onnx.checker.check_model(data, full_check=True)
    for optimized in (True, False):
        found = run_onnx(data, x.numpy(), optimized=optimized)
        assert found.shape == expected.shape
        off = np.abs(grid.quantize(found).astype(int) - grid.quantize(expected))
        assert off.max() <= 1
        assert (off == 0).mean() >= EQUAL.get(name, 0.95 if name in LEFT else 0.999)
        np.testing.assert_allclose(found, grid.dequantize(grid.quantize(found)), rtol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_integers_reach_from_end_to_end(name: str) -> None:
    assert left_in_floats(exporter.export(calibrated(name)[1])) == LEFT.get(name, [])


@pytest.mark.parametrize("name", OPERATORS)
def test_the_same_graph_gives_the_same_bytes(name: str) -> None:
    again = Twin(OPERATORS[name]()).eval()
    again.calibrate([examples(name)])
    assert exporter.export(again.to_quantized()) == exporter.export(calibrated(name)[1])
    assert exporter.export(OPERATORS[name]()) == exporter.export(OPERATORS[name]())
    assert exporter.export(calibrated(name)[1], io="float32") == exporter.export(calibrated(name)[1])
