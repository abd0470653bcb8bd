"""Weights are found where the libraries that read these files see them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper

from edgehone.bundle._tensors import Tensor, align_tensors, find_tensors
from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.testing.networks import NETWORKS, example_shape

SMALL_BYTES = 16


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """MobileNet-v2 in int8 and float32."""
    x = torch.rand(32, *example_shape("mobilenet-v2")[1:], generator=torch.Generator().manual_seed(0))
    graph = deploy(trace(NETWORKS["mobilenet-v2"](), x[:2]))
    sources = {"int8": quantize(graph, x.split(32)), "float32": graph}
    return {
        f"{kind}.{name}": EXPORTERS.get(name).export(sources[kind]) for kind in sources for name in ("tflite", "onnx")
    }


def found(name: str, content: bytes) -> list[tuple[Tensor, bytes]]:
    tensors = find_tensors(name, memoryview(content))
    return [(tensor, content[tensor.offset : tensor.offset + tensor.length]) for tensor in tensors]


@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_tflite(contents: dict[str, bytes], kind: str) -> None:
    content = contents[f"{kind}.tflite"]
    interpreter = Interpreter(model_content=content)  # before allocation only constants have values
    expected = set()
    for detail in interpreter.get_tensor_details():
        try:
            value = interpreter.get_tensor(detail["index"])
        except ValueError:
            continue
        expected.add((detail["name"], tuple(detail["shape"]), value.tobytes()))
        scales = detail["quantization_parameters"]["scales"]
        if len(scales):
            expected.add((f"{detail['name']}/scale", scales.shape, scales.tobytes()))
    ours = {(tensor.name, tensor.shape, body) for tensor, body in found("model.tflite", content)}
    assert ours <= expected
    large = {body for _, _, body in expected if len(body) >= SMALL_BYTES}
    assert large == {body for _, _, body in ours} and len(large) > 20  # equal ones are stored once


@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_onnx(contents: dict[str, bytes], kind: str) -> None:
    content = contents[f"{kind}.onnx"]
    expected = {
        (tensor.name, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        for tensor in onnx.load_model_from_string(content).graph.initializer
        if len(tensor.raw_data) >= SMALL_BYTES
    }
    assert {(t.name, t.shape, body) for t, body in found("model.onnx", content)} == expected
    assert len(expected) > 20


def test_words_are_told_from_bytes(contents: dict[str, bytes]) -> None:
    for name in ("int8.tflite", "int8.onnx"):
        widths = {tensor.dtype: tensor.width for tensor, _ in found(name, contents[name])}
        assert widths["float32"] == widths["int32"] == 4 and 1 in widths.values()


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_damaged_files_end_in_no_more_than_missed_weights(contents: dict[str, bytes], suffix: str) -> None:
    content = contents[f"int8{suffix}"]
    dice = np.random.default_rng(0)
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = dice.integers(0, len(damaged), 20)
        damaged[places[: len(places) // 2] % 200] ^= 255  # the head, where the structure is
        damaged[places] ^= dice.integers(1, 256, 20, np.uint8)
        data = damaged[: dice.integers(1, len(damaged) + 1)].tobytes()
        end = 0
        for tensor, body in found(f"model{suffix}", data):
            assert tensor.offset >= end and len(body) == tensor.length
            end = tensor.offset + tensor.length


def test_other_files_have_no_weights(contents: dict[str, bytes]) -> None:
    assert found("model.bin", contents["int8.tflite"]) == found("model.onnx", b"") == found("model.tflite", b"") == []


def file(*tensors: tuple[str, list[int]]) -> tuple[list[Tensor], memoryview]:
    """Weights of one byte, one tensor behind the other."""
    found, content = [], b""
    for name, values in tensors:
        found.append(Tensor(name, "int8", (len(values),), len(content), len(values)))
        content += bytes(value % 256 for value in values)
    return found, memoryview(content)


def pairs(old: tuple[list[Tensor], memoryview], new: tuple[list[Tensor], memoryview]) -> list[tuple[str, str]]:
    return [(one.name, two.name) for one, two in align_tensors(old[0], new[0], old[1], new[1])]


UP, DOWN, FLAT = list(range(-10, 10)), list(range(9, -11, -1)), [5] * 20


def near(values: list[int]) -> list[int]:
    return [value + (-1) ** index for index, value in enumerate(values)]


def test_the_nearest_belong_together_whatever_their_names() -> None:
    old = file(("1", UP), ("2", DOWN), ("3", FLAT))
    assert pairs(old, file(("1", near(FLAT)), ("2", near(UP)), ("4", near(DOWN)))) == [
        ("3", "1"),
        ("1", "2"),
        ("2", "4"),
    ]


def test_names_and_then_order_decide_among_equals() -> None:
    old = file(("a", FLAT), ("b", FLAT), ("c", FLAT))
    assert pairs(old, file(("c", FLAT), ("a", FLAT), ("x", FLAT))) == [("c", "c"), ("a", "a"), ("b", "x")]


def test_other_shapes_have_no_partner() -> None:
    assert pairs(file(("a", UP)), file(("a", UP[1:]))) == []
    assert pairs(file(("a", UP), ("b", DOWN)), file(("c", near(DOWN)))) == [("b", "c")]
    assert pairs(file(("a", UP)), file(("b", near(UP)), ("c", DOWN))) == [("a", "b")]
