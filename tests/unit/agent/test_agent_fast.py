"""The short way gives the very answer of the long one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone.exporters import EXPORTERS
from edgehone.graph.ir import Graph
from edgehone.graph.twin import quantize
from edgehone.testing.graphs import GraphBuilder
from edgehone_agent.errors import InputError
from edgehone_agent.fast import FastModel
from edgehone_agent.model import Model, open_model, to_file
from edgehone_agent.runtimes import Layout, TensorInfo


def picture_network() -> Graph:
    """(3, 9, 7) → (5,): every axis differs."""
    build = GraphBuilder((1, 3, 9, 7), seed=2)
    x = build.node("relu", build.conv(build.input, 4, bias=True))
    return build.graph(build.linear(build.node("mean", x, axes=(2, 3), keepdim=False), 5))


def map_network() -> Graph:
    """(3, 9, 7) → (4, 9, 7): an answer that is no vector."""
    build = GraphBuilder((1, 3, 9, 7), seed=2)
    return build.graph(build.conv(build.input, 4, bias=True))


def vector_network() -> Graph:
    """(20,) → (4,)."""
    build = GraphBuilder((1, 20), seed=1)
    return build.graph(build.linear(build.input, 4))


KINDS = [
    (network, name, is_quantized)
    for network in (picture_network, map_network, vector_network)
    for name in ("tflite", "onnx")
    for is_quantized in (False, True)
]


@pytest.fixture(
    scope="module", params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1]}-{'int8' if kind[2] else 'float'}"
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, FastModel]:
    """One file, opened both ways."""
    network, name, is_quantized = request.param
    graph = network()
    example = (20,) if network is vector_network else (3, 9, 7)
    if is_quantized:
        graph = quantize(graph, [torch.randn(32, *example, generator=torch.Generator().manual_seed(0))])
    exporter = EXPORTERS.get(name)
    path: Path = tmp_path_factory.mktemp("fast") / f"m{exporter.suffix}"
    path.write_bytes(exporter.export(graph))
    return open_model(path), FastModel(open_model(path).session)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_answer_is_the_same(pair: tuple[Model, FastModel], data: st.DataObject) -> None:
    slow, fast = pair
    seed, scale = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from([0.0, 1e-6, 1.0, 50.0, 1e30]))
    x = (np.random.default_rng(seed).standard_normal(fast.example) * scale).astype(np.float32)
    form = data.draw(st.sampled_from(["plain", "batch", "three", "fortran", "double", "list", "strided"]))
    given_x = {
        "plain": x,
        "batch": x[None],
        "three": np.stack([x, -x, x / 2]),
        "fortran": np.asfortranarray(x),
        "double": x.astype(np.float64),
        "list": x.tolist(),
        "strided": np.repeat(x, 2, axis=-1)[..., ::2],
    }[form]
    before = np.array(given_x)
    expected, found = slow.predict(given_x), fast.predict(given_x)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_array_equal(np.array(given_x), before)


def test_what_is_wrong_is_refused_alike_and_spoils_nothing(pair: tuple[Model, FastModel]) -> None:
    slow, fast = pair
    good = np.ones(fast.example, np.float32)
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad.flat[3] = value
        with pytest.raises(InputError, match="NaN or infinite"):
            fast.predict(bad)
    with pytest.raises(InputError, match="expected an example"):
        fast.predict(good[..., 1:])
    np.testing.assert_array_equal(fast.predict(good), slow.predict(good))


def test_an_answer_is_the_callers_to_keep(pair: tuple[Model, FastModel]) -> None:
    _, fast = pair
    first = fast.predict(np.ones(fast.example, np.float32))
    kept = first.copy()
    fast.predict(np.zeros(fast.example, np.float32))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", ["tflite", "onnx"])
def test_the_tap_keeps_embeddings_row_by_row(name: str, tmp_path: Path) -> None:
    exporter = EXPORTERS.get(name)
    path = tmp_path / f"m{exporter.suffix}"
    path.write_bytes(exporter.export(picture_network(), embedding=True))
    x = np.random.default_rng(0).standard_normal((3, 3, 9, 7), np.float32)
    tapped, plain = FastModel(open_model(path).session, tap=True), open_model(path)
    assert tapped.take_embedding() is None
    np.testing.assert_array_equal(tapped.predict(x[0]), plain.predict(x[0]))
    one = tapped.take_embedding()
    np.testing.assert_array_equal(tapped.predict(x), plain.predict(x))
    all_three = tapped.take_embedding()
    assert one is not None and all_three is not None and tapped.take_embedding() is None
    assert one.shape == (1, 4) and all_three.shape == (3, 4)
    np.testing.assert_allclose(all_three[:1], one, rtol=1e-6)
    bare = tmp_path / f"bare{exporter.suffix}"
    bare.write_bytes(exporter.export(picture_network()))
    with pytest.raises(InputError, match="no embedding"):
        FastModel(open_model(bare).session, tap=True)


KINDS_OF_BYTES = [
    *(("int8", zero_point) for zero_point in (-128, -3, 0, 7, 127)),
    *(("uint8", zero_point) for zero_point in (0, 1, 128, 255)),
]


class Echo:
    """A session of one tensor of bytes that answers what it is fed: no real file has every scale and zero point."""

    embedding = None

    def __init__(self, shape: tuple[int, ...], layout: Layout, dtype: str, scale: float, zero_point: int) -> None:
        self.input = self.output = TensorInfo("t", shape, dtype, scale, zero_point)
        self.layout: Layout = layout
        self.fed = np.empty(0)

    def run(self, x: np.ndarray) -> np.ndarray:
        self.fed = x.copy()
        return self.fed

    def run_with_embedding(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 6, 2), (1, 4, 5, 1), (1, 3, 4, 20), (1, 40)], ids=str)
@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS_OF_BYTES),
    scale=st.sampled_from([0.5, 0.0235, 3.0, 1e-20, 1e20]),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1.0, 100.0, 1e10, 1e18]),
)
def test_a_file_of_bytes_is_fed_the_same_bytes(
    shape: tuple[int, ...], layout: Layout, kind: tuple[str, int], scale: float, seed: int, size: float
) -> None:
    session = Echo(shape, layout, kind[0], float(np.float32(scale)), kind[1])
    fast, rng = FastModel(session), np.random.default_rng(seed)
    x = (rng.standard_normal(fast.example) * size).astype(np.float32)
    ties = rng.random(fast.example) < 0.5  # halves of a level, and whole ones, within the range and at its ends
    halves = (rng.integers(-520, 520, fast.example) / 2).astype(np.float32) * np.float32(scale)
    x = np.where(ties, halves, x).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast.predict(x)
    assert session.fed.dtype == kind[0]
    np.testing.assert_array_equal(session.fed, to_file(session, x))
