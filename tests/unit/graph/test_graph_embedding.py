"""Which tensor is a network's embedding, and that asking for it leaves the graph alone."""

import pytest
import torch

from edgehone.graph.embedding import LARGEST_EMBEDDING, find_embedding, with_embedding
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.expect import untouched
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape

WITHOUT = {"autoencoder", "u-net"}  # pictures in, pictures out


def with_head(height: int, channels: int) -> Graph:
    """conv, ReLU, flatten, linear."""
    build = GraphBuilder((1, 3, height, height), seed=1)
    x = build.node("relu", build.conv(build.input, channels, bias=True))
    flat = build.node("reshape", x, shape=(1, channels * height * height))
    return build.graph(build.linear(flat, 5))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_classifier_has_an_embedding(name: str) -> None:
    graph = deploy(trace(NETWORKS[name](), torch.randn(2, *example_shape(name)[1:])))
    found = find_embedding(graph)
    assert (found is None) == (name in WITHOUT)
    if found is not None:
        assert found in graph.producers()
        assert graph.producers()[found].op not in ("reshape", "transpose")


def test_the_embedding_is_taken_before_the_flatten() -> None:
    graph = with_head(4, 8)
    assert graph.shapes[find_embedding(graph)] == (1, 8, 4, 4)
    assert with_embedding(graph) == (graph, find_embedding(graph))


def test_a_single_layer_has_none() -> None:
    build = GraphBuilder((1, 6))
    assert find_embedding(build.graph(build.linear(build.node("relu", build.input), 3))) is None


def test_a_network_without_weights_has_none() -> None:
    build = GraphBuilder((1, 6))
    assert find_embedding(build.graph(build.node("relu", build.input))) is None


def test_a_large_picture_is_averaged_behind_everything_else() -> None:
    graph = with_head(24, 8)
    assert LARGEST_EMBEDDING < 8 * 24 * 24
    with untouched(graph):
        wider, name = with_embedding(graph)
    assert wider.check().shapes[name] == (1, 8)
    assert wider.nodes[:-1] == graph.nodes
    assert wider.output == graph.output


def test_the_average_keeps_the_scale_of_what_it_is_of() -> None:
    twin = Twin(deploy(with_head(24, 8))).eval()
    twin.calibrate([torch.randn(8, 3, 24, 24)])
    source = twin.to_quantized()
    with untouched(source):
        wider, name = with_embedding(source)
    assert wider.tensors[name] == source.tensors[find_embedding(source.graph)]
