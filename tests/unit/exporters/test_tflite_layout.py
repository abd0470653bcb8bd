"""Where elements stand in a file and how moves become transposes, against numpy; what cannot be written is refused."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone.errors import NetworkError, UnsupportedOperatorError
from edgehone.exporters import EXPORTERS
from edgehone.exporters._tflite_layout import as_transpose, file_axis, file_shape, indices, positions, to_file
from edgehone.exporters.tflite import exporter
from edgehone.graph.ir import Graph, Shape
from edgehone.graph.network import GraphNetwork
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.operators import moves, pool, single
from edgehone.testing.tflite_files import left_by_xnnpack, run_litert

torch.set_num_threads(1)


def operators(data: bytes) -> list[str]:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return [names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]


@pytest.mark.parametrize("shape", [(1, 7), (1, 3, 5), (1, 3, 4, 5), (1, 2, 3, 4, 5)])
def test_layout(shape: Shape) -> None:
    array = np.arange(prod(shape)).reshape(shape)
    assert to_file(array).shape == file_shape(shape)
    np.testing.assert_array_equal(to_file(array).reshape(-1), indices(shape))
    np.testing.assert_array_equal(indices(shape)[positions(shape)], np.arange(prod(shape)))
    for axis, size in enumerate(shape):
        assert file_shape(shape)[file_axis(axis, len(shape))] == size


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), st.permutations(range(len(shape))))))
@settings(max_examples=200, deadline=None)
def test_every_permutation_of_axes_is_found(case: tuple[Shape, list[int]]) -> None:
    shape, perm = case
    source = np.arange(prod(shape)).reshape(shape).transpose(perm).reshape(-1)
    found = as_transpose(source, (prod(shape),))
    assert found is not None
    moved = np.arange(source.size).reshape(found.shape).transpose(found.perm).reshape(-1)
    np.testing.assert_array_equal(moved, source)
    assert len(found.shape) <= max(len(shape), 1)
    assert found.keeps_order() == np.array_equal(source, np.arange(source.size))


def test_what_no_permutation_of_axes_does_is_not_found() -> None:
    assert as_transpose(np.array([1, 0, 2, 3]), (4,)) is None
    assert as_transpose(np.array([0, 3, 1, 2, 4, 5]), (6,)) is None


@st.composite
def move_graphs(draw: st.DrawFn) -> Graph:
    """Reshapes and transposes in a row, sometimes a linear layer behind."""
    build = GraphBuilder((1, 4, 6, 10))
    x = build.input
    for _ in range(draw(st.integers(1, 4))):
        shape = build.shapes[x]
        if draw(st.booleans()) and len(shape) > 2:
            x = build.node("transpose", x, perm=(0, *draw(st.permutations(range(1, len(shape))))))
        else:
            choices = [(1, 240), (1, 8, 30), (1, 12, 20), (1, 15, 4, 4), (1, 2, 12, 10), (1, 2, 2, 6, 10)]
            x = build.reshape(x, draw(st.sampled_from(choices)))
    if len(build.shapes[x]) == 2 and draw(st.booleans()):
        x = build.linear(x, 5)
    return build.graph(x)


@given(move_graphs())
@settings(max_examples=60, deadline=None)
def test_any_row_of_moves_is_right(graph: Graph) -> None:
    x = torch.randn(graph.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = to_file(GraphNetwork(graph)(x).numpy())
    data = exporter.export(graph)
    found = run_litert(data, np.ascontiguousarray(to_file(x.numpy()))[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert left_by_xnnpack(data) == []


def test_moves_are_written_only_where_they_must() -> None:
    def written(*steps: object, shape: Shape = (1, 8, 10, 12), head: int = 0) -> list[str]:
        return operators(exporter.export(moves(*steps, shape=shape, head=head)))

    assert written((1, 960), head=10) == ["FULLY_CONNECTED"]
    assert written([0, 3, 1, 2], (1, 960), head=10) == ["FULLY_CONNECTED"]
    assert written((1, 24), shape=(1, 24, 1, 1)) == ["RESHAPE"]
    assert written((1, 120), shape=(1, 1, 10, 12)) == ["RESHAPE"]
    assert written((1, 8, 120)) == ["RESHAPE"]
    assert written([0, 2, 3, 1], [0, 3, 1, 2]) == ["RESHAPE"]
    assert written((1, 960)) == ["TRANSPOSE", "RESHAPE"]
    assert written([0, 1, 3, 2]) == ["TRANSPOSE"]
    assert written((1, 2, 4, 10, 12), [0, 2, 1, 3, 4], (1, 8, 10, 12)) == ["RESHAPE", "TRANSPOSE", "RESHAPE"]


def test_names_and_shapes_at_the_ends() -> None:
    for shape, ends in (((1, 8, 10, 12), (1, 10, 12, 8)), ((1, 6, 20), (1, 1, 20, 6)), ((1, 24), (1, 24))):
        model = schema.ModelT.InitFromPackedBuf(exporter.export(single(shape, "tanh")), 0)
        tensors = model.subgraphs[0].tensors
        assert [(t.name, tuple(t.shape)) for t in tensors] == [(b"input", ends), (b"output", ends)]


def test_the_exporter_is_found_by_name() -> None:
    found = EXPORTERS.get("tflite")
    assert (found.name, found.suffix) == ("tflite", ".tflite")


def refusal(graph: Graph) -> UnsupportedOperatorError:
    node = graph.nodes[-1]
    graph = replace(graph, nodes=(*graph.nodes[:-1], replace(node, module="body.block")))
    with pytest.raises(UnsupportedOperatorError) as caught:
        exporter.export(graph)
    assert node.op in caught.value.what
    assert caught.value.where == "body.block"
    return caught.value


def test_training_operators_are_refused() -> None:
    build = GraphBuilder((1, 4, 6, 6))
    assert "deploy" in refusal(build.graph(build.batch_norm(build.input))).do
    refusal(single((1, 24), "silu"))
    refusal(single((1, 24), "dropout", rate=0.1))


def test_computing_with_five_axes_is_refused() -> None:
    build = GraphBuilder((1, 4, 6, 10))
    x = build.reshape(build.input, (1, 2, 2, 6, 10))
    assert "5 axes" in refusal(build.graph(build.slice(x, 0, 1))).what


def test_softmax_of_a_picture_is_refused() -> None:
    refusal(single((1, 4, 6, 10), "softmax"))


def test_averages_without_padding_that_stands_elsewhere_are_refused() -> None:
    refusal(pool("avg_pool", 3, 2, ((1, 1), (1, 1)), count_include_pad=False))


def test_pools_with_windows_in_the_padding_alone_are_refused() -> None:
    refusal(pool("max_pool", 2, 1, ((2, 2), (0, 0))))


def test_tensors_with_different_numbers_of_axes_are_refused() -> None:
    build = GraphBuilder((1, 4, 6, 10))
    line = build.slice(build.reshape(build.input, (1, 24, 10)), 0, 1)
    refusal(build.graph(build.node("add", build.input, line)))


def test_a_network_that_does_nothing_is_refused() -> None:
    with pytest.raises(NetworkError):
        exporter.export(Graph("x", "x", (), {"x": (1, 4)}, {}))
