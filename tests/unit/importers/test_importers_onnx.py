"""Whole .onnx files: our own, those of torch and of ONNX Runtime's quantizer, published ones; and damaged ones."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.utils import Extractor

from edgehone.errors import EdgehoneError, InputError, ModelFileError, NetworkError, UnsupportedOperatorError
from edgehone.exporters.onnx import exporter
from edgehone.graph.cut import cut
from edgehone.graph.fold import deploy
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.importers import IMPORTERS, named, read_network
from edgehone.importers._onnx_check import check_answers
from edgehone.importers._onnx_file import open_file
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape

FLOATS = ("resnet8", "resnet20", "mobilenet", "se-net", "conv1d-net", "mlp", "dense-net", "autoencoder")
INTEGERS = ("resnet8", "mobilenet-v3", "conv1d-net", "mlp", "shuffle-net", "autoencoder")


def examples(shape: Sequence[int], count: int = 16) -> torch.Tensor:
    return torch.randn((count, *shape[1:]), generator=torch.Generator().manual_seed(3))


@cache
def deployed(name: str) -> Graph:
    return deploy(trace(NETWORKS[name](), examples(example_shape(name), 2)))


def run(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return GraphNetwork(graph).eval()(x)


def shares(graph: Graph) -> Counter[str]:
    """How many nodes of each operator the deployed form has, fused activations among them."""
    nodes = deploy(graph).nodes
    return Counter([node.op for node in nodes] + [node.activation for node in nodes if node.activation])


@cache
def written(folder: Path, name: str, int8: bool) -> Path:
    path = folder / f"{name}-{int8}.onnx"
    source = deployed(name)
    if int8:
        twin = Twin(source).eval()
        twin.calibrate([examples(example_shape(name), 32)])
        path.write_bytes(exporter.export(twin.to_quantized()))
    else:
        path.write_bytes(exporter.export(source))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.mark.parametrize("name", FLOATS)
def test_a_float_file_of_ours_comes_back_as_the_network_it_was(folder: Path, name: str) -> None:
    graph, source = read_network(written(folder, name, int8=False)), deployed(name)
    x = examples(example_shape(name), 5)
    expected = run(source, x)
    assert (run(graph, x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert [group.width for group in channel_groups(graph)] == [group.width for group in channel_groups(source)]
    assert shares(graph) == shares(source)


@pytest.mark.parametrize("name", INTEGERS)
def test_an_int8_file_of_ours_comes_back_in_floats(folder: Path, name: str) -> None:
    graph, source = read_network(written(folder, name, int8=True)), deployed(name)
    x = examples(example_shape(name), 32)
    expected, found = run(source, x), run(graph, x)
    # Weights were rounded to 8 bits; activations were not.
    assert (found - expected).square().mean().sqrt() <= 0.1 * expected.square().mean().sqrt()
    assert [group.width for group in channel_groups(graph)] == [group.width for group in channel_groups(source)]
    weighted = {op: count for op, count in shares(graph).items() if op in ("conv", "linear", "hard_swish", "tanh")}
    assert weighted == {op: count for op, count in shares(source).items() if op in weighted}


def test_a_read_network_can_be_cut_and_trained(folder: Path) -> None:
    graph = read_network(written(folder, "resnet8", int8=False))
    group = channel_groups(graph)[0]
    smaller = cut(graph, {group.name: range(group.width // 2)})
    assert smaller.parameter_count() < graph.parameter_count()
    network = GraphNetwork(smaller).train()
    x, y = examples(graph.input_shape), torch.arange(16) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_second_output_that_is_the_embedding_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    path.write_bytes(exporter.export(deployed("mlp"), embedding=True))
    assert read_network(path).output_shape == deployed("mlp").output_shape


def test_zeros_that_a_file_stores_once_do_not_tie_layers(tmp_path: Path) -> None:
    build = GraphBuilder((1, 3, 8, 8))
    x = build.conv(build.relu(build.conv(build.input, 8)), 8)
    source = deploy(build.graph(build.linear(build.mean(build.relu(x)), 4)))
    path = tmp_path / "zeros.onnx"
    path.write_bytes(exporter.export(source))
    assert len(onnx.load(path).graph.initializer) < len(source.params)
    graph = read_network(path)
    assert [group.width for group in channel_groups(graph)] == [8, 8]
    assert len({key for node in graph.nodes for key in node.params.values()}) == 6


def test_a_layer_that_is_called_twice_keeps_one_weight(tmp_path: Path) -> None:
    build = GraphBuilder((1, 16, 10, 12))
    first = build.conv(build.input, 16, bias=True)
    path = tmp_path / "twice.onnx"
    path.write_bytes(exporter.export(build.graph(build.conv(build.relu(first), 16, like=first))))
    graph = read_network(path)
    assert len(graph.params) == 2


class Mixed(torch.nn.Module):
    """Layers that the reference networks lack, as torch writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.up = torch.nn.ConvTranspose2d(8, 6, 2, 2)
        self.slope = torch.nn.PReLU(6)
        self.head = torch.nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slope(self.up(torch.nn.functional.hardswish(self.stem(x))))
        x = torch.cat([x, torch.nn.functional.silu(x)], 1)
        return self.head(x.mean((2, 3)).view(x.shape[0], -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "opset"), [("mixed", 11), ("mixed", 18), ("mobilenet-v3", 11), ("shuffle-net", 17)])
def test_a_file_of_torch_is_the_network_it_came_from(tmp_path: Path, name: str, opset: int) -> None:
    network = Mixed().eval() if name == "mixed" else NETWORKS[name]()
    x = examples((1, 3, 16, 16) if name == "mixed" else example_shape(name), 4)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this exporter old; the new one needs a package of its own
        axes = {"x": {0: "n"}, "y": {0: "n"}}
        torch.onnx.export(
            network,
            (x,),
            buffer,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    (tmp_path / "torch.onnx").write_bytes(buffer.getvalue())
    graph = read_network(tmp_path / "torch.onnx")
    with torch.no_grad():
        expected = network(x)
    assert (run(graph, x) - expected).abs().max() <= 1e-4 * expected.abs().max()
    traced = [group.width for group in channel_groups(trace(network, x))] if name != "mixed" else [8, 6]
    assert [group.width for group in channel_groups(graph)] == traced
    assert any(key.endswith(".weight") for key in graph.params)


def test_a_file_of_another_quantizer_comes_back_in_floats(folder: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    source = written(folder, "conv1d-net", int8=False)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        rows = iter([{"input": row[None]} for row in examples(example_shape("conv1d-net")).numpy()])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    target = folder / "theirs.onnx"
    quantization.quantize_static(source, target, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True)
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(target).graph.node)
    graph = read_network(target)
    assert shares(graph) == shares(deployed("conv1d-net"))


def published(package: str, file: str) -> Path:
    """A model file in a package that is installed; the package itself is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]) / file


def part(source: Path, target: Path, inputs: str, output: str, shape: Sequence[int]) -> Path:
    """The nodes between two values, for an input of fixed shape."""
    model = Extractor(onnx.shape_inference.infer_shapes(onnx.load(source))).extract_model([inputs], [output])
    for size, dim in zip(shape, model.graph.input[0].type.tensor_type.shape.dim, strict=True):
        dim.Clear()
        dim.dim_value = size
    del model.graph.value_info[:]
    onnx.save(model, target)
    return target


def test_a_published_classifier_is_read_with_its_batch_norms(tmp_path: Path) -> None:
    source = published("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    output = onnx.load(source).graph.output[0].name
    graph = read_network(part(source, tmp_path / "m.onnx", "x", output, (1, 3, 48, 192)))
    found = Counter(node.op for node in graph.nodes)
    assert (found["conv"], found["batch_norm"], found["hard_swish"]) == (53, 35, 18)
    assert len(channel_groups(graph)) > 20


def test_a_published_text_detector_is_read(tmp_path: Path) -> None:
    source = published("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx")
    graph = read_network(part(source, tmp_path / "m.onnx", "x", "sigmoid_0.tmp_0", (1, 3, 96, 96)))
    assert Counter(node.op for node in graph.nodes)["hard_swish"] == 24
    assert graph.output_shape == (1, 1, 96, 96)


def test_the_convolutions_of_a_published_pitch_detector_are_read(tmp_path: Path) -> None:
    source = published("basic_pitch", "saved_models/icassp_2022/nmp.onnx")
    with pytest.raises(NetworkError, match="3 outputs"):
        read_network(source)
    names = [node.output[0] for node in onnx.load(source).graph.node]
    spectrum = next(name for name in names if name.endswith("tf.expand_dims_1/ExpandDims"))
    graph = read_network(part(source, tmp_path / "m.onnx", spectrum, "StatefulPartitionedCall:1", (1, 172, 309, 1)))
    assert [group.width for group in channel_groups(graph)] == [8, 32]


def test_the_encoder_of_a_published_voice_detector_is_read(tmp_path: Path) -> None:
    source = published("silero_vad", "data/silero_vad_16k_sequence.onnx")
    with pytest.raises(NetworkError, match="3 inputs"):
        read_network(source)
    graph = read_network(part(source, tmp_path / "m.onnx", "/stft/Sqrt_output_0", "/Relu_3_output_0", (1, 129, 4)))
    assert [(group.name, group.width) for group in channel_groups(graph)] == [
        ("encoder.0", 128),
        ("encoder.1", 64),
        ("encoder.2", 64),
    ]


def test_a_graph_that_answers_otherwise_is_refused(folder: Path) -> None:
    path = written(folder, "mlp", int8=False)
    graph, file = read_network(path), open_file(path)
    key = next(node.params["bias"] for node in graph.nodes if node.op == "linear")
    wrong = replace(graph, params={**graph.params, key: graph.params[key] + np.float32(0.01)})
    check_answers(graph, file, file)
    with pytest.raises(NetworkError, match="answers otherwise than the file"):
        check_answers(wrong, file, file)


def test_the_registry_and_the_names() -> None:
    assert IMPORTERS.get("onnx").suffixes == (".onnx",)
    assert named("a/b.onnx") and named(Path("B.ONNX"))
    assert not named("task.py") and not named("onnx") and not named("")


def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"files that end in '\.caffe'") as caught:
        read_network(tmp_path / "m.caffe")
    assert ".onnx" in caught.value.do


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("this is no model, it is a text\n" * 20)
    (tmp_path / "folder.onnx").mkdir()
    for name in ("missing", "empty", "text", "folder"):
        with pytest.raises(ModelFileError) as caught:
            read_network(tmp_path / f"{name}.onnx")
        assert caught.value.where.endswith(f"{name}.onnx")
        assert caught.value.do


def changed(folder: Path, name: str, change: object) -> Path:
    model = onnx.load(written(folder, "mlp", int8=False))
    change(model)  # type: ignore[operator]
    onnx.save(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def test_an_old_or_unknown_operator_set_is_refused(folder: Path) -> None:
    for version, message in ((6, "older than 7"), (999, "this onnx knows 7 to")):
        path = changed(folder, "opset", lambda model, v=version: setattr(model.opset_import[0], "version", v))
        with pytest.raises(ModelFileError, match=message):
            read_network(path)


def test_a_free_axis_is_refused_with_the_command_that_fixes_it(folder: Path) -> None:
    def free(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"

    with pytest.raises(NetworkError, match=r"axis 1 \('features'\) of the input 'input' has no fixed size") as caught:
        read_network(changed(folder, "free", free))
    assert "make_dynamic_shape_fixed --input_name 'input' --input_shape 1,SIZE" in caught.value.do


def test_an_input_of_great_size_is_refused_before_it_is_made(folder: Path) -> None:
    def vast(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 40

    with pytest.raises(NetworkError, match="is too large"):
        read_network(changed(folder, "vast", vast))


def test_other_ends_are_refused(folder: Path) -> None:
    def two_inputs(model: onnx.ModelProto) -> None:
        model.graph.input.append(onnx.helper.make_tensor_value_info("state", 1, [1, 4]))

    def two_outputs(model: onnx.ModelProto) -> None:
        model.graph.output.append(onnx.helper.make_tensor_value_info("other", 1, [1, 4]))

    def bytes_in(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8

    for change, message in (
        (two_inputs, "2 inputs"),
        (two_outputs, "2 outputs"),
        (bytes_in, "'input' is uint8, and float32 is supported"),
    ):
        with pytest.raises(NetworkError, match=message):
            read_network(changed(folder, "ends", change))


def test_weights_in_another_file_are_read_or_missed_by_name(tmp_path: Path, folder: Path) -> None:
    model = onnx.load(written(folder, "mlp", int8=False))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert read_network(tmp_path / "m.onnx").parameter_count() == deployed("mlp").parameter_count()
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match=r"weights"):
        read_network(tmp_path / "m.onnx")


def test_functions_of_the_file_are_written_out(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,6] x) => (float[N,6] y) { y = own.twice (x) }
        <domain: "own", opset_import: ["" : 17]>
        twice (a) => (b) { c = Relu(a) b = Add(c, c) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "f.onnx")
    assert [node.op for node in read_network(tmp_path / "f.onnx").nodes] == ["relu", "add"]


def test_levels_without_a_relu_before_them_bring_it_back(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,6] x) => (float[N,6] y)
        <float s = {0.02}, float t = {0.0235294}, uint8 z = {0}, uint8 m = {128}> {
            a = Tanh(x) q = QuantizeLinear(a, s, z) b = DequantizeLinear(q, s, z)
            c = HardSwish(b) r = QuantizeLinear(c, t, z) d = DequantizeLinear(r, t, z)
            e = QuantizeLinear(d, s, m) y = DequantizeLinear(e, s, m) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "q.onnx")
    assert [node.op for node in read_network(tmp_path / "q.onnx").nodes] == ["tanh", "relu", "hard_swish", "relu6"]


def test_a_network_of_integer_operators_is_refused_by_name(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,6] x) => (float[N,2] y)
        <float s = {0.02}, uint8 z = {3}, uint8[6,2] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {
            q = QuantizeLinear(x, s, z) a = QLinearMatMul(q, s, z, w, s, z, s, z) y = DequantizeLinear(a, s, z) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "q.onnx")
    with pytest.raises(UnsupportedOperatorError, match="QLinearMatMul computes with levels") as caught:
        read_network(tmp_path / "q.onnx")
    assert "QDQ" in caught.value.do


def test_damaged_files_are_refused_or_read(folder: Path) -> None:
    content = written(folder, "conv1d-net", int8=True).read_bytes()
    draw, target, refused = np.random.default_rng(0), folder / "damaged.onnx", 0
    for _ in range(40):
        data = bytearray(content)
        for place in draw.integers(0, len(data), 3):
            data[place] = draw.integers(0, 256)
        target.write_bytes(data[: len(data) if draw.random() < 0.7 else int(draw.integers(1, len(data)))])
        try:
            read_network(target)
        except EdgehoneError as error:
            refused += bool(str(error))
    assert refused > 10
