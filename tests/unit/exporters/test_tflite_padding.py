"""Windows and their padding: every small combination against torch in LiteRT, and PAD only where nothing else does."""

from itertools import product

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from edgehone.exporters._tflite_layout import to_file
from edgehone.exporters._tflite_padding import Line, plan
from edgehone.exporters.tflite import exporter
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.twin import Twin
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.operators import conv
from edgehone.testing.tflite_files import left_by_xnnpack, run_litert

torch.set_num_threads(1)

KERNELS, STRIDES, DILATIONS, PADS = (1, 2, 3, 5), (1, 2, 3), (1, 2), tuple(product(range(3), repeat=2))


def lines() -> list[tuple[Line, int]]:
    """Every line that torch accepts among small ones, and its padding behind."""
    found = []
    for size, kernel, stride, dilation, (before, after) in product((5, 6, 9), KERNELS, STRIDES, DILATIONS, PADS):
        room = size + before + after - (kernel - 1) * dilation - 1
        if room >= 0:
            found.append((Line(size, room // stride + 1, kernel, stride, dilation, before), after))
    return found


def tensorflow_starts(line: Line, padding: str) -> list[int]:
    """Where TensorFlow's windows start, from the definition of its padding."""
    span = (line.kernel - 1) * line.dilation + 1
    if padding == "VALID":
        return [i * line.stride for i in range(-(-(line.size - span + 1) // line.stride))]
    outputs = -(-line.size // line.stride)
    total = max((outputs - 1) * line.stride + span - line.size, 0)
    return [i * line.stride - total // 2 for i in range(outputs)]


def torch_starts(line: Line) -> list[int]:
    return [i * line.stride - line.before for i in range(line.outputs)]


def test_a_line_is_valid_or_same_exactly_when_tensorflow_windows_start_where_torch_windows_do() -> None:
    seen = set()
    for line, _ in lines():
        inside = line.before == 0 and line.reach <= line.size
        assert line.is_same() == (tensorflow_starts(line, "SAME") == torch_starts(line)), line
        assert line.is_valid() == (inside and tensorflow_starts(line, "VALID") == torch_starts(line)), line
        seen.add((line.is_valid(), line.is_same()))
    assert len(seen) == 4


def test_explicit_padding_reaches_as_far_as_windows_and_no_further() -> None:
    for line, after in lines():
        before, behind = line.pads()
        assert before == line.before
        assert behind <= after
        padded = Line(line.size + before + behind, line.outputs, line.kernel, line.stride, line.dilation, 0)
        assert padded.is_valid()
        if behind:
            assert not Line(padded.size - 1, line.outputs, line.kernel, line.stride, line.dilation, 0).is_valid()


def test_same_is_chosen_only_where_it_may() -> None:
    symmetric = Line(8, 8, 3, 1, 1, 1)
    assert plan((symmetric, symmetric)) == "SAME"
    assert plan((symmetric, symmetric), same=False) == ((1, 1), (1, 1))
    assert plan((symmetric, Line(8, 4, 3, 2, 1, 1))) == ((1, 1), (1, 0))
    assert plan((Line(1, 1, 1, 1, 1, 0), symmetric)) == "SAME"
    assert plan((Line(8, 8, 1, 1, 1, 0), Line(8, 4, 2, 2, 1, 0))) == "VALID"


def operators(data: bytes) -> list[int]:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    return [model.operatorCodes[op.opcodeIndex].builtinCode for op in model.subgraphs[0].operators]


def check(graph: Graph) -> list[int]:
    """Compare a file with torch; returns the file's operators."""
    x = torch.randn(graph.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = to_file(GraphNetwork(graph)(x).numpy())
    data = exporter.export(graph)
    found = run_litert(data, np.ascontiguousarray(to_file(x.numpy()))[None])[0]
    assert np.abs(found - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1)
    return operators(data)


GRID = [
    (kernel, stride, dilation, pad, size)
    for kernel, stride, dilation, pad, size in product(KERNELS, STRIDES, DILATIONS, (0, 1, 2), (5, 8))
    if size + 2 * pad >= (kernel - 1) * dilation + 1 and not (kernel == 1 and dilation == 2)
]


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_convolutions_pad_as_torch(kernel: int, depthwise: bool) -> None:
    with_pad = 0
    for _, stride, dilation, pad, size in (entry for entry in GRID if entry[0] == kernel):
        graph = conv(
            (1, 4, size, size + 1),
            outputs=4,
            kernel=kernel,
            stride=(stride, max(stride - 1, 1)),
            dilation=(dilation, dilation),
            padding=((pad, pad), (pad, max(pad - 1, 0))),
            groups=4 if depthwise else 1,
        )
        with_pad += schema.BuiltinOperator.PAD in check(graph)
    assert with_pad > 0


def pool(op: str, kernel: int, stride: int, pad: int, size: int, relu: bool = False, **attrs: bool) -> Graph:
    build = GraphBuilder((1, 3, size, size + 1))
    x = build.relu(build.input) if relu else build.input
    padding = ((pad, pad), (pad, pad))
    return build.graph(build.node(op, x, kernel=(kernel, kernel), stride=(stride, stride), padding=padding, **attrs))


POOLS = [
    (kernel, stride, pad, size)
    for kernel, stride, pad, size in product((2, 3, 5), (1, 2, 3), (0, 1, 2), (5, 8))
    if pad <= kernel // 2 and size + 2 * pad >= kernel
]


@pytest.mark.parametrize("relu", [False, True])
def test_max_pools_never_let_padding_win(relu: bool) -> None:
    used = set()
    for kernel, stride, pad, size in POOLS:
        used |= set(check(pool("max_pool", kernel, stride, pad, size, relu)))
    assert (schema.BuiltinOperator.PAD in used) == relu
    assert (schema.BuiltinOperator.CONCATENATION in used) == (not relu)
    assert schema.BuiltinOperator.PADV2 not in used


def test_max_pools_never_let_padding_win_in_int8() -> None:
    for relu, (kernel, stride, pad, size) in product((False, True), POOLS):
        graph = pool("max_pool", kernel, stride, pad, size, relu)
        x = torch.randn((4, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0)) - 2  # mostly below 0
        twin = Twin(graph).eval()
        twin.calibrate([x])
        quantized = twin.to_quantized()
        source, target = (quantized.tensors[name] for name in (graph.input, graph.output))
        with torch.no_grad():
            expected = target.quantize(to_file(twin(x).numpy()))
        data = exporter.export(quantized)
        given = np.ascontiguousarray(source.quantize(to_file(x.numpy())))[:, None]
        np.testing.assert_array_equal(run_litert(data, given)[:, 0], expected)


def test_average_pools_count_padding_as_told() -> None:
    for kernel, stride, pad, size in POOLS:
        check(pool("avg_pool", kernel, stride, pad, size, count_include_pad=True))


def test_average_pools_count_padding_as_told_in_int8() -> None:
    for kernel, stride, pad, size in POOLS:
        graph = pool("avg_pool", kernel, stride, pad, size, count_include_pad=True)
        x = torch.randn((4, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0)) + 1
        twin = Twin(graph).eval()
        twin.calibrate([x])
        quantized = twin.to_quantized()
        source, target = (quantized.tensors[name] for name in (graph.input, graph.output))
        with torch.no_grad():
            expected = target.quantize(to_file(twin(x).numpy()))
        data = exporter.export(quantized)
        given = np.ascontiguousarray(source.quantize(to_file(x.numpy())))[:, None]
        for reference in (False, True):
            found = run_litert(data, given, reference=reference)[:, 0]
            assert np.abs(found.astype(int) - expected).max() <= 1
        assert left_by_xnnpack(data) == []


def test_a_padded_tensor_that_two_layers_read_is_padded_once() -> None:
    build = GraphBuilder((1, 4, 8, 8))
    first, second = (build.conv(build.input, 4, stride=2, bias=True) for _ in range(2))
    used = check(build.graph(build.node("add", first, second)))
    assert used.count(schema.BuiltinOperator.PAD) == 1
