"""Every operator in .tflite files, against torch, the quantized twin and three runtimes."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from edgehone.exporters._tflite_layout import to_file
from edgehone.exporters.tflite import exporter
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.twin import Twin
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.operators import OPERATORS
from edgehone.testing.tflite_files import (
    left_by_xnnpack,
    run_litert,
    run_tflite_micro,
)

torch.set_num_threads(1)

# What XNNPACK does not take, so that LiteRT runs it by itself: in both kinds of file, and in int8 alone.
LEFT_IN_BOTH = {
    "slice with a step": ["STRIDED_SLICE"],
    "pad with a value": ["PADV2"],
    "resize nearest": ["RESIZE_NEAREST_NEIGHBOR"],
    "resize nearest half pixel": ["RESIZE_NEAREST_NEIGHBOR"],
}
LEFT_IN_INT8 = {
    **LEFT_IN_BOTH,
    "softmax": ["SOFTMAX"],
    "classifier": ["SOFTMAX"],
    "avg_pool of inside places": ["AVERAGE_POOL_2D"],
}
OFF_NPU = {"resize nearest half pixel", "resize bilinear corners"}


def examples(name: str) -> torch.Tensor:
    shape = OPERATORS[name]().input_shape
    return 1.5 * torch.randn((8, *shape[1:]), generator=torch.Generator().manual_seed(1))


@cache
def calibrated(name: str) -> tuple[Twin, QuantizedGraph]:
    twin = Twin(OPERATORS[name]()).eval()
    twin.calibrate([examples(name)])
    return twin, twin.to_quantized()


def in_file(batch: torch.Tensor) -> np.ndarray:
    """(N, C, H, W) → (N, 1, H, W, C), one example after another as the file takes them."""
    return np.stack([np.ascontiguousarray(to_file(example[None].numpy())) for example in batch])


def levels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Input levels, and the twin's output levels for them."""
    twin, quantized = calibrated(name)
    with torch.no_grad():
        output = twin(examples(name))
    source, target = (quantized.tensors[t] for t in (quantized.graph.input, quantized.graph.output))
    return source.quantize(in_file(examples(name))), target.quantize(in_file(output))


def apart(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.int8
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("name", OPERATORS)
def test_float_file_computes_what_torch_does(name: str) -> None:
    graph = OPERATORS[name]()
    with torch.no_grad():
        expected = in_file(GraphNetwork(graph).eval()(examples(name)))
    data = exporter.export(graph)
    for reference in (False, True):
        found = run_litert(data, in_file(examples(name)), reference=reference)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert left_by_xnnpack(data) == LEFT_IN_BOTH.get(name, [])


@pytest.mark.parametrize("name", OPERATORS)
def test_int8_file_computes_what_the_twin_does(name: str) -> None:
    data = exporter.export(calibrated(name)[1])
    given, expected = levels(name)
    assert left_by_xnnpack(data) == LEFT_IN_INT8.get(name, [])
    xnnpack, reference = run_litert(data, given), run_litert(data, given, reference=True)
    assert apart(xnnpack, expected) <= 1
    assert (xnnpack == expected).mean() > 0.85  # averages of four have a tie in four, rounded either way
    assert apart(xnnpack, reference) <= min(len(calibrated(name)[1].graph.nodes), 2)  # one passes on what one gave it
    assert apart(run_tflite_micro(data, given), reference) <= (1 if "linear" in name or name == "classifier" else 0)


@pytest.mark.parametrize("name", OPERATORS)
def test_float_ends_change_nothing_inside(name: str) -> None:
    _, quantized = calibrated(name)
    source, target = (quantized.tensors[t] for t in (quantized.graph.input, quantized.graph.output))
    given, _ = levels(name)
    inner = run_litert(exporter.export(quantized), given)
    data = exporter.export(quantized, io="float32")
    outer = run_litert(data, source.dequantize(given))
    assert outer.dtype == np.float32
    np.testing.assert_array_equal(target.quantize(outer), inner)
    np.testing.assert_array_equal(target.dequantize(inner), outer)
    assert left_by_xnnpack(data) == LEFT_IN_INT8.get(name, [])


@pytest.mark.parametrize("name", OPERATORS)
def test_the_same_graph_gives_the_same_bytes(name: str) -> None:
    for io in ("int8", "float32"):
        assert exporter.export(calibrated(name)[1], io=io) == exporter.export(calibrated(name)[1], io=io)
    again = Twin(OPERATORS[name]()).eval()
    again.calibrate([examples(name)])
    assert exporter.export(again.to_quantized()) == exporter.export(calibrated(name)[1])
    assert exporter.export(OPERATORS[name]()) == exporter.export(OPERATORS[name]())


COMPILE_ALL = """
import os, sys
from ethosu.vela.vela import main
for number, file in enumerate(sys.argv[1:]):
    if os.fork() == 0:  # nothing of one is left for the next
        os.dup2(os.open(file + ".log", os.O_WRONLY | os.O_CREAT), 1)
        sys.exit(main([file, "--output-dir", f"{file}.out"]))
    if os.wait()[1] != 0:
        sys.exit(f"vela fails: {file}")
"""


@pytest.mark.slow
def test_the_npu_takes_everything(tmp_path: Path) -> None:
    """The compiler is loaded once for all of them; that takes longer than what it does with each."""
    files = {name: tmp_path / f"{number}.tflite" for number, name in enumerate(OPERATORS)}
    for name, file in files.items():
        file.write_bytes(exporter.export(calibrated(name)[1]))
    command = [sys.executable, "-c", COMPILE_ALL, *map(str, files.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    left = {}
    for name, file in files.items():
        found = re.search(r"CPU operators = (\d+)", Path(f"{file}.log").read_text())
        assert found is not None, name
        left[name] = int(found[1])
    assert {name for name, count in left.items() if count} == OFF_NPU, left


def test_what_xnnpack_leaves_is_seen() -> None:
    """The proof of full delegation must be able to fail, also when a delegate takes the rest."""
    assert left_by_xnnpack(exporter.export(calibrated("classifier")[1])) == ["SOFTMAX"]
    assert left_by_xnnpack(exporter.export(OPERATORS["pad with a value"]())) == ["PADV2"]


def scaled(graph: Graph, factor: float, *, dead: int = 0) -> Graph:
    """The graph with all parameters multiplied, and no input weights at all for the first `dead` channels."""
    params = {key: array * np.float32(factor) for key, array in graph.params.items()}
    for key, array in params.items():
        if key.endswith("weight"):
            array[:dead] = 0
    return replace(graph, params=params)


def compared(graph: Graph, x: torch.Tensor) -> tuple[int, int, list[str]]:
    """Largest distance of XNNPACK's and the reference kernels' output from the twin's, and what XNNPACK leaves."""
    twin = Twin(graph).eval()
    twin.calibrate([x])
    quantized = twin.to_quantized()
    source, target = (quantized.tensors[name] for name in (quantized.graph.input, quantized.graph.output))
    with torch.no_grad():
        expected = target.quantize(in_file(twin(x)))
    data, given = exporter.export(quantized), source.quantize(in_file(x))
    found, reference = run_litert(data, given), run_litert(data, given, reference=True)
    return apart(found, expected), apart(reference, expected), left_by_xnnpack(data)


@pytest.mark.parametrize("name", ["conv", "depthwise", "linear"])
@pytest.mark.parametrize("bias", [0.0, 1e-8, 1e-3, 1.0])
def test_channels_without_weights_keep_their_bias(name: str, bias: float) -> None:
    graph = scaled(OPERATORS[name](), 1.0, dead=3)
    for key, array in graph.params.items():
        if key.endswith("bias"):
            array[:3] = bias
    found, reference, left = compared(graph, examples(name))
    assert (max(found, reference) <= 1, left) == (True, [])


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1.0, 30.0, 1e3])
def test_hard_swish_of_any_size_is_right(factor: float) -> None:
    """A kernel of LiteRT overflows in an ADD of 3 to values in the thousands, which must not be written then."""
    build = GraphBuilder((1, 8, 10, 12))
    graph = build.graph(build.node("hard_swish", build.conv(build.input, 8, 1, bias=True)))
    found, reference, left = compared(scaled(graph, factor), examples("conv"))
    assert found <= 1
    assert reference <= 3  # the convolution's one level, through a slope of 1.5, and the rounding of two products
    assert left == ([] if 1e-3 <= factor <= 30 else ["HARD_SWISH"])


def test_a_module_that_is_used_twice_is_stored_once() -> None:
    build = GraphBuilder((1, 8, 6, 6))
    first = build.conv(build.input, 8, bias=True)
    graph = build.graph(build.conv(first, 8, like=first))
    alone = graph.with_nodes(graph.nodes[:1], output=first)
    weights = 8 * 8 * 9 * 4
    assert len(exporter.export(graph)) - len(exporter.export(alone)) < weights // 4
    assert compared(graph, examples("conv")[:, :, :6, :6])[0] <= 1
