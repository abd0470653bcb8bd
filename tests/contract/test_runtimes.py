"""Every runtime keeps the contract, and what each format may hold beyond it is refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgehone.exporters import EXPORTERS
from edgehone.testing.runtimes import RuntimeContract, reference_answer, reference_graph
from edgehone_agent.errors import MissingExtraError, ModelFileError
from edgehone_agent.model import Model, open_model
from edgehone_agent.runtimes import RUNTIMES, Runtime
from edgehone_agent.runtimes.litert import load_reference

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def onnx_bytes(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[object]]], outputs: list[str], **weights: np.ndarray
) -> bytes:
    """An .onnx file from nodes; inputs are name → (type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def reference_onnx(batch: object = 1) -> bytes:
    """The reference network written with onnx's own helper."""
    graph = reference_graph()
    conv, linear = graph.weighted()
    nodes = [
        helper.make_node("Conv", ["x", "cw", "cb"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "lw", "lb"], ["y"], transB=1),
    ]
    roles = {"cw": (conv, "weight"), "cb": (conv, "bias"), "lw": (linear, "weight"), "lb": (linear, "bias")}
    weights = {name: graph.param(node, role) for name, (node, role) in roles.items()}
    return onnx_bytes(nodes, {"x": (FLOAT, [batch, 3, 9, 7])}, ["y"], **weights)


class TestRuntimes(RuntimeContract):
    @pytest.fixture(params=RUNTIMES.names())
    def runtime(self, request: pytest.FixtureRequest) -> Runtime:
        return RUNTIMES.get(request.param)

    @pytest.fixture
    def model_file(self, runtime: Runtime, tmp_path: Path) -> Path:
        path = tmp_path / f"reference{runtime.suffixes[0]}"
        is_onnx = ".onnx" in runtime.suffixes
        path.write_bytes(reference_onnx() if is_onnx else EXPORTERS.get("tflite").export(reference_graph()))
        return path


def test_the_two_runtimes_are_there() -> None:
    assert set(RUNTIMES.names()) >= {"litert", "onnxruntime"}


@pytest.mark.parametrize("batch", ["batch", "anything", None, 1, 3])
def test_onnx_batches(batch: object, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(reference_onnx(batch))
    x = np.random.default_rng(0).standard_normal((5, 3, 9, 7), np.float32)
    with open_model(path) as model:
        assert model.session.input.shape[0] == (3 if batch == 3 else 1)
        np.testing.assert_allclose(model.predict(x), reference_answer(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.predict(x[2]), reference_answer(x)[2], rtol=1e-4, atol=1e-5)
        assert model.predict(x[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            onnx_bytes([helper.make_node("Add", ["a", "b"], ["y"])], {"a": (FLOAT, [1]), "b": (FLOAT, [1])}, ["y"]),
            "2 inputs and 1 outputs",
        ),
        (
            onnx_bytes([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], {"x": (INT64, [1, 2])}, ["y"]),
            "tensor(int64)",
        ),
        (onnx_bytes([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, [1, 3, "h", 4])}, ["y"]), "free sizes"),
        (onnx_bytes([helper.make_node("Mystery", ["x"], ["y"])], {"x": (FLOAT, [1, 3])}, ["y"]), "does not know"),
    ],
)
def test_onnx_files_that_do_not_fit_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        open_model(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load_from_string(reference_onnx())
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    with pytest.raises(ModelFileError):
        open_model(path)


def test_reference_kernels_agree(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(EXPORTERS.get("tflite").export(reference_graph()))
    x = np.random.default_rng(0).standard_normal((3, 3, 9, 7), np.float32)
    with Model(load_reference(path)) as model:
        assert model.session.describe()["accelerator"] == "reference kernels"
        np.testing.assert_allclose(model.predict(x), reference_answer(x), rtol=1e-4, atol=1e-5)


def test_a_file_of_another_format_is_refused_before_the_library_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(reference_onnx())
    with pytest.raises(ModelFileError, match="TFL3"):
        open_model(path)


@pytest.mark.parametrize(("name", "library"), [("litert", "ai_edge_litert"), ("onnxruntime", "onnxruntime")])
def test_a_missing_library_names_the_extra(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"(?s).*{name}") as caught:
        RUNTIMES.get(name).load(Path("m"))
    assert caught.value.do == f'pip install "edgehone-agent[{name}]"'
