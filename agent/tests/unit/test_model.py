"""Real values in torch order to a file's arrays and back, on sessions that are plain arithmetic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone_agent.errors import InputError, ModelFileError
from edgehone_agent.model import Model, example_shape, find_runtime, from_file, open_model, to_file
from edgehone_agent.plugins import PluginError
from edgehone_agent.runtimes import TensorInfo


class Echo:
    """Answers what it was asked, and remembers it."""

    def __init__(
        self, shape: tuple[int, ...], layout: str, dtype: str = "float32", scale: Any = None, zero: Any = None
    ):
        self.input = TensorInfo("x", shape, dtype, scale, zero)
        self.output = TensorInfo("y", shape, dtype, scale, zero)
        self.layout = layout
        self.asked: list[np.ndarray] = []

    def run(self, x: np.ndarray) -> np.ndarray:
        assert x.shape == self.input.shape and x.dtype == self.input.dtype
        self.asked.append(x)
        return x.copy()

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.asked.clear()


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("file_shape", "layout", "example"),
    [
        ((1, 4, 5, 3), "channels_last", (3, 4, 5)),
        ((1, 3, 4, 5), "channels_first", (3, 4, 5)),
        ((1, 6, 2), "channels_last", (2, 6)),
        ((1, 2, 6), "channels_first", (2, 6)),
        ((1, 7), "channels_last", (7,)),
        ((1, 7), "channels_first", (7,)),
        ((1, 2, 3, 4, 5), "channels_last", (2, 3, 4, 5)),
    ],
)
def test_examples_and_batches_come_back_in_torch_order(file_shape: Any, layout: str, example: Any) -> None:
    session = Echo(file_shape, layout)
    assert example_shape(session.input, session.layout) == example
    x = ramp(3, *example)
    np.testing.assert_array_equal(Model(session).predict(x), x)
    np.testing.assert_array_equal(Model(session).predict(x[1]), x[1])
    np.testing.assert_array_equal(Model(session).predict(x[:0]), x[:0])


def test_channels_go_last() -> None:
    x = ramp(2, 3, 4, 5)
    np.testing.assert_array_equal(to_file(Echo((1, 4, 5, 3), "channels_last"), x), x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(to_file(Echo((1, 3, 4, 5), "channels_first"), x), x)


def test_a_sequence_lies_in_a_picture_of_height_one() -> None:
    session = Echo((1, 1, 6, 2), "channels_last")
    x = ramp(4, 2, 6)
    np.testing.assert_array_equal(to_file(session, x), x.transpose(0, 2, 1)[:, None])
    model = Model(session)
    np.testing.assert_array_equal(model.predict(x), x)
    np.testing.assert_array_equal(model.predict(x[0]), x[0])
    np.testing.assert_array_equal(model.predict(x[:, :, None]), x[:, :, None])
    np.testing.assert_array_equal(model.predict(x[0, :, None]), x[0, :, None])


@pytest.mark.parametrize(("dtype", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255)])
def test_quantizing_rounds_to_even_and_saturates(dtype: str, low: int, high: int) -> None:
    session = Echo((1, 6), "channels_last", dtype, 0.5, 3)
    x = np.array([0.0, 0.25, 0.75, 1.0, -1e30, 1e30], np.float32)
    levels = to_file(session, x)
    assert levels.dtype == dtype
    np.testing.assert_array_equal(levels, [[3, 3, 5, 5, low, high]])  # 0.25 / 0.5 = 0.5 → 0, 0.75 / 0.5 = 1.5 → 2
    back = from_file(session, levels)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, [[0, 0, 1, 1, (low - 3) * 0.5, (high - 3) * 0.5]])


def test_a_fixed_batch_is_filled_up_and_cut() -> None:
    session = Echo((4, 3), "channels_first")
    x = ramp(6, 3)
    np.testing.assert_array_equal(Model(session).predict(x), x)
    assert len(session.asked) == 2
    np.testing.assert_array_equal(session.asked[1], x[[4, 5, 5, 5]])


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((3, 4, 6)), r"expected an example of shape \(3, 4, 5\) or a batch of such, got \(3, 4, 6\)"),
        (np.zeros((4, 5, 3)), "channels first"),
        (np.zeros(60), "got"),
        (np.float32(1), "got"),
        (np.full((3, 4, 5), np.nan), "NaN"),
        (np.full((3, 4, 5), np.inf), "infinite"),
        (np.full((3, 4, 5), 1e300), "infinite"),
        (np.zeros((3, 4, 5), complex), "complex128"),
        (np.full((3, 4, 5), "a"), "not numbers"),
        (None, "not numbers"),
        ([[1, 2], [3]], "no array"),
    ],
)
def test_what_does_not_fit_is_an_input_error(x: Any, said: str) -> None:
    session = Echo((1, 4, 5, 3), "channels_last")
    with pytest.raises(InputError) as caught:
        Model(session).predict(x)
    assert re.search(said, str(caught.value)), str(caught.value)
    assert session.asked == []


def test_large_good_values_pass() -> None:
    x = np.full(4, 3e38, np.float32)
    np.testing.assert_array_equal(Model(Echo((1, 4), "channels_first")).predict(x), x)


@pytest.mark.parametrize("x", [[1, 2], np.array([1, 2], np.uint8), np.array([1.0, 2.0]), np.array([True, False])])
def test_numbers_of_any_kind_pass(x: Any) -> None:
    answer = Model(Echo((1, 2), "channels_first")).predict(x)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, np.asarray(x, np.float32))


def test_integers_without_a_scale_are_refused() -> None:
    with pytest.raises(InputError, match="no scale"):
        to_file(Echo((1, 2), "channels_first", "int8"), np.zeros(2))


def test_leaving_a_with_closes() -> None:
    session = Echo((1, 2), "channels_first")
    with Model(session) as model:
        model.predict([1, 2])
    assert session.asked == []


def test_the_suffix_picks_the_runtime() -> None:
    assert find_runtime(Path("a/model.tflite")).name == "litert"
    assert find_runtime(Path("a/MODEL.ONNX")).name == "onnxruntime"
    assert find_runtime(Path("model.bin"), "litert").name == "litert"
    with pytest.raises(ModelFileError, match=r"\.pth") as caught:
        find_runtime(Path("model.pth"))
    assert ".tflite" in caught.value.do
    with pytest.raises(PluginError):
        open_model("model.tflite", runtime="magic")
