"""Random networks, random legal cuts: the cut graph computes what the whole one computes with those channels masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehone.graph.cut import cut
from edgehone.graph.groups import Group, channel_groups
from edgehone.graph.ir import Graph, Node
from edgehone.graph.network import GraphNetwork
from edgehone.testing.graphs import GraphBuilder

Draw = Callable[[st.SearchStrategy[int]], int]
ACTIVATIONS = ("relu", "relu6", "hard_swish", "silu", "sigmoid", "tanh")  # two of them are not 0 at 0


class Program:
    """Draws one block after the other; every block takes and gives a rank-4 tensor."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.build = GraphBuilder((1, 3, 6, 6), seed=draw(st.integers(0, 99)))
        self.blocks = (
            self.plain, self.residual, self.option_a, self.concat, self.depthwise, self.grouped, self.squeeze_excite,
            self.split, self.shuffle, self.shared, self.constants, self.spatial_gate, self.pixel_shuffle, self.dense,
            self.transposed, self.spatial, self.pointwise_gate, self.channel_mean, self.crossed,
        )  # fmt: skip

    def width(self, x: str) -> int:
        return self.build.shapes[x][1]

    def network(self) -> Graph:
        x = self.plain(self.build.input)
        for _ in range(self.draw(st.integers(1, 4))):
            x = self.blocks[self.draw(st.integers(0, len(self.blocks) - 1))](x)
        return self.build.graph(self.head(x))

    def head(self, x: str) -> str:
        kind, b = self.draw(st.integers(0, 3)), self.build
        if kind == 0:
            return b.linear(b.mean(x), 5)
        if kind == 1:
            return b.node("softmax", b.linear(b.relu(b.batch_norm(b.linear(b.flatten(x), 8))), 5))
        if kind == 2:
            return b.conv(x, 2, 1, bias=True)
        return b.relu(x)

    def activation(self, x: str) -> str:
        return self.build.node(ACTIVATIONS[self.draw(st.integers(0, len(ACTIVATIONS) - 1))], x)

    def plain(self, x: str) -> str:
        b = self.build
        return self.activation(
            b.batch_norm(b.conv(x, 4 * self.draw(st.integers(1, 3)), bias=bool(self.draw(st.integers(0, 1)))))
        )

    def residual(self, x: str) -> str:
        b = self.build
        y = b.batch_norm(b.conv(self.plain(x), self.width(x)))
        return b.relu(b.node("sub" if self.draw(st.integers(0, 1)) else "add", x, y))

    def option_a(self, x: str) -> str:
        b, extra = self.build, 4
        before = self.draw(st.integers(0, extra))
        y = b.batch_norm(b.conv(x, self.width(x) + extra, stride=2))
        short = b.slice(b.slice(x, 0, b.shapes[x][2], step=2, axis=2), 0, b.shapes[x][3], step=2, axis=3)
        pads = ((0, 0), (before, extra - before), (0, 0), (0, 0))
        return b.relu(b.node("add", y, b.node("pad", short, pads=pads, value=0.5)))

    def concat(self, x: str) -> str:
        return self.build.concat(x, self.plain(x), x)

    def dense(self, x: str) -> str:
        return self.build.concat(x, self.build.conv(self.build.relu(self.build.batch_norm(x)), 4))

    def depthwise(self, x: str) -> str:
        width = self.width(x)
        return self.activation(self.build.conv(x, width * self.draw(st.integers(1, 2)), groups=width, bias=True))

    def grouped(self, x: str) -> str:
        groups = 2 if self.width(x) % 2 == 0 else 1  # a split may have left an odd width
        return self.activation(self.build.conv(x, 4 * self.draw(st.integers(1, 3)), groups=groups, bias=True))

    def squeeze_excite(self, x: str) -> str:
        b = self.build
        gate = b.conv(b.relu(b.conv(b.mean(x, keepdim=True), 2, 1, bias=True)), self.width(x), 1, bias=True)
        return b.node("mul", x, b.node("sigmoid", gate)) if self.draw(st.integers(0, 1)) else b.node("mul", gate, x)

    def split(self, x: str) -> str:
        at = self.draw(st.integers(1, self.width(x) - 1))
        left, right = self.build.slice(x, 0, at), self.build.slice(x, at, self.width(x))
        return self.build.concat(right, self.plain(left))

    def shuffle(self, x: str) -> str:
        b, (_, c, h, w) = self.build, self.build.shapes[x]
        groups = 2
        y = b.node("transpose", b.reshape(x, (1, groups, c // groups, h, w)), perm=(0, 2, 1, 3, 4)) if c % 2 == 0 else x
        return b.reshape(y, (1, c, h, w))

    def pixel_shuffle(self, x: str) -> str:
        b, (_, _, h, w) = self.build, self.build.shapes[x]
        y = b.reshape(b.conv(x, 16), (1, 4, 2, 2, h, w))
        return b.node("avg_pool", b.reshape(b.node("transpose", y, perm=(0, 1, 4, 2, 5, 3)), (1, 4, 2 * h, 2 * w)),
                      kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), count_include_pad=True)  # fmt: skip

    def shared(self, x: str) -> str:
        b, width = self.build, self.width(x)
        first = b.conv(x, width)
        return b.conv(b.relu(first), width, like=first)

    def constants(self, x: str) -> str:
        b, (_, c, h, w) = self.build, self.build.shapes[x]
        return b.constant("mul", b.constant("add", b.constant("mul", x, (1, c, 1, 1)), (1, 1, h, w)), (1, 1, 1, 1))

    def spatial_gate(self, x: str) -> str:
        return self.build.node("mul", x, self.build.node("sigmoid", self.build.conv(x, 1)))

    def pointwise_gate(self, x: str) -> str:
        """A map of one channel that a wider tensor is added to: the result has the wider tensor's channels."""
        return self.build.node("add", self.build.conv(x, 1), x)

    def transposed(self, x: str) -> str:
        """Channels on another axis and back; with a pool between them that must not shrink."""
        b = self.build
        y = b.node("transpose", x, perm=(0, 2, 1, 3))
        if self.draw(st.integers(0, 1)):
            y = b.node("max_pool", y, kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)))
        return b.node("transpose", y, perm=(0, 2, 1, 3))

    def channel_mean(self, x: str) -> str:
        """Spatial attention: a mean over channels changes when one of them leaves."""
        return self.build.node("mul", x, self.build.node("mean", x, axes=(1,), keepdim=True))

    def crossed(self, x: str) -> str:
        """Channels of one operand meet rows of the other."""
        b, height = self.build, self.build.shapes[x][2]
        other = b.conv(x, height)
        if self.draw(st.integers(0, 1)):
            other = b.slice(other, 0, 1, axis=2)  # after the transpose it broadcasts over channels
        rows = b.node("transpose", other, perm=(0, 2, 1, 3))
        return b.node("add", b.conv(x, height), rows)

    def spatial(self, x: str) -> str:
        b, (_, _, h, w) = self.build, self.build.shapes[x]
        y = b.node("resize", x, size=(h, w + 1), mode="bilinear", align_corners=False, half_pixel=True)
        return b.node("concat", b.slice(y, 0, 1, axis=3), b.slice(y, 1, w, axis=3), axis=3)


@st.composite
def networks(draw: Draw) -> Graph:
    return Program(draw).network()


def random_keep(groups: tuple[Group, ...], seed: int) -> dict[str, list[int]]:
    generator = np.random.default_rng(seed)
    keep = {}
    for group in groups:
        count = int(generator.integers(1, group.width + 1))
        keep[group.name] = sorted(generator.choice(group.width, count, replace=False).tolist())
    return keep


def masked(graph: Graph, keep: dict[str, list[int]]) -> Graph:
    """The same sizes, with a multiplication by 0 or 1 after every node that writes a channel that leaves."""
    masks: dict[str, np.ndarray] = {}
    for group in channel_groups(graph):
        gone = np.setdiff1d(np.arange(group.width), keep[group.name])
        for slots in group.tensors:
            rank = len(graph.shapes[slots.name])
            mask = masks.setdefault(
                slots.name,
                np.ones([graph.shapes[slots.name][a] if a == slots.axis else 1 for a in range(rank)], np.float32),
            )
            mask.reshape(-1)[slots.indices[gone]] = 0
    nodes: list[Node] = []
    shapes, params = dict(graph.shapes), dict(graph.params)
    for node in graph.nodes:
        if node.output not in masks:
            nodes.append(node)
            continue
        raw, key = f"{node.output}.raw", f"{node.output}.mask"
        shapes[raw], params[key] = shapes[node.output], masks[node.output]
        nodes += [replace(node, output=raw), Node("mul", (raw,), node.output, {}, {"value": key})]
    return graph.with_nodes(tuple(nodes), shapes=shapes, params=params)


def run(graph: Graph, x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return GraphNetwork(graph).eval().activations(x)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.integers(0, 10**6))
def test_a_legal_cut_computes_what_the_masked_network_computes(graph: Graph, seed: int) -> None:
    keep = random_keep(channel_groups(graph), seed)
    smaller = cut(graph, keep)
    x = torch.randn((3, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(seed))
    values = run(smaller, x)
    assert {name: (1, *value.shape[1:]) for name, value in values.items()} == dict(smaller.shapes)
    assert smaller.input_shape == graph.input_shape
    assert smaller.output_shape == graph.output_shape
    expected = run(masked(graph, keep), x)[graph.output]
    torch.testing.assert_close(values[smaller.output], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_keeping_everything_is_the_identity(graph: Graph) -> None:
    same = cut(graph, {group.name: range(group.width) for group in channel_groups(graph)})
    assert same.nodes == graph.nodes
    assert same.shapes == graph.shapes
    assert same.params.keys() == graph.params.keys()
    assert all(np.array_equal(same.params[key], graph.params[key]) for key in graph.params)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.integers(0, 10**6))
def test_groups_survive_a_cut_with_the_width_that_was_kept(graph: Graph, seed: int) -> None:
    groups = channel_groups(graph)
    keep = random_keep(groups, seed)
    keep = {g.name: keep[g.name] if len(keep[g.name]) > 1 else list(range(g.width)) for g in groups}
    again = channel_groups(cut(graph, keep))
    assert {group.name: group.width for group in again} == {name: len(kept) for name, kept in keep.items()}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_every_place_belongs_to_at_most_one_class(graph: Graph) -> None:
    seen: set[tuple[str, int, int]] = set()
    for group in channel_groups(graph):
        for slots in (*group.tensors, *group.params):
            places = {(slots.name, slots.axis, int(i)) for i in slots.indices.ravel()}
            assert len(places) == slots.indices.size
            assert not places & seen
            seen |= places
