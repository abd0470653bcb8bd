"""Random small graphs, written by the exporter: what the importer reads back is the same function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehone.exporters.onnx import exporter
from edgehone.graph.fold import deploy
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.twin import Twin
from edgehone.importers import read_network
from edgehone.testing.graphs import GraphBuilder

_ACTIVATIONS = ("relu", "relu6", "hard_swish", "silu", "sigmoid", "tanh")


def _step(draw: st.DrawFn, build: GraphBuilder, x: str) -> str:
    """One more operator on x."""
    shape = build.shapes[x]
    spatial = shape[2:]
    kind = draw(
        st.sampled_from(["conv", "depthwise", "norm", "act", "leaky", "join", "pool", "move", "number", "residual"])
    )
    match kind:
        case "conv":
            return build.conv(x, draw(st.sampled_from([4, 8])), bias=draw(st.booleans()))
        case "depthwise":
            return build.conv(x, shape[1], groups=shape[1], stride=draw(st.sampled_from([1, 2])))
        case "norm":
            return build.batch_norm(x)
        case "act":
            return build.node(draw(st.sampled_from(_ACTIVATIONS)), x)
        case "leaky":
            return build.node("leaky_relu", x, slope=draw(st.sampled_from([0.1, 0.3])))
        case "join":
            return build.concat(x, build.relu(x)) if shape[1] <= 8 else build.slice(x, 0, 4)
        case "pool" if min(spatial) >= 2:
            kernel = (2, 2) if len(spatial) == 2 else (1, 2)
            attrs = {"kernel": kernel, "stride": kernel, "padding": ((0, 0), (0, 0))}
            if draw(st.booleans()):
                return build.node("max_pool", x, **attrs)
            return build.node("avg_pool", x, **attrs, count_include_pad=False)
        case "move":
            perm = (0, 1, 3, 2) if len(spatial) == 2 else (0, 1, 2)
            return build.node("transpose", x, perm=perm)
        case "number":
            return build.constant(draw(st.sampled_from(["add", "mul"])), x, (1, shape[1], *[1] * len(spatial)))
        case "residual":
            return build.node(draw(st.sampled_from(["add", "sub", "mul"])), x, build.conv(x, shape[1], bias=True))
    return build.relu(x)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    build = GraphBuilder(draw(st.sampled_from([(1, 3, 8, 8), (1, 4, 12), (1, 2, 5, 6)])), seed=draw(st.integers(0, 9)))
    x = build.conv(build.input, 4)
    for _ in range(draw(st.integers(1, 5))):
        x = _step(draw, build, x)
    if draw(st.booleans()):
        x = build.linear(build.mean(x), 3)
    return build.graph(x)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random") / "m.onnx"


def _answers(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return GraphNetwork(graph).eval()(x)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs())
def test_a_float_file_is_the_graph_it_was_written_from(path: Path, graph: Graph) -> None:
    source = deploy(graph)
    path.write_bytes(exporter.export(source))
    found = read_network(path)
    x = torch.randn((3, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0))
    expected = _answers(source, x)
    assert (_answers(found, x) - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-6
    assert sum(g.width for g in channel_groups(found)) == sum(g.width for g in channel_groups(source))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs())
def test_an_int8_file_is_the_graph_but_for_rounding(path: Path, graph: Graph) -> None:
    source = deploy(graph)
    x = torch.randn((16, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(0))
    twin = Twin(source).eval()
    twin.calibrate([x])
    path.write_bytes(exporter.export(twin.to_quantized()))
    expected = _answers(source, x)
    off = (_answers(read_network(path), x) - expected).square().mean().sqrt()
    assert off <= 0.1 * expected.square().mean().sqrt() + 1e-6
