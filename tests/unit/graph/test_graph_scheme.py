"""Shared and fixed quantization parameters."""

import torch

from edgehone.graph.network import GraphNetwork
from edgehone.graph.quantized import QuantParams
from edgehone.graph.scheme import fixed_params, insert_requantize, representatives
from edgehone.testing.graphs import GraphBuilder

SHAPE = (1, 3, 8, 8)


def operators(graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_moving_operators_and_all_inputs_of_a_concat_share_parameters() -> None:
    build = GraphBuilder(SHAPE)
    a, b = build.conv(build.input, 4, bias=True), build.conv(build.input, 4, bias=True)
    pooled = build.node("max_pool", a, kernel=(2, 2), stride=(1, 1), padding=((0, 1), (0, 1)))
    padded = build.node("pad", b, pads=((0, 0), (1, 1), (0, 0), (0, 0)), value=0.0)
    joined = build.concat(pooled, padded)
    part = build.slice(joined, 0, 4)
    flat = build.flatten(part)
    answer = build.linear(flat, 5)
    roots = representatives(build.graph(answer))
    group = {name for name, root in roots.items() if root == roots[a]}
    assert group == {a, b, pooled, padded, joined, part, flat}
    assert roots[build.input] == build.input
    assert roots[answer] == answer


def test_fixed_parameters_follow_through_moving_operators() -> None:
    build = GraphBuilder(SHAPE)
    gate = build.node("tanh", build.conv(build.input, 4, bias=True))
    graph = build.graph(build.flatten(gate))
    roots = representatives(graph)
    assert fixed_params(graph) == {roots[graph.output]: QuantParams(1 / 128, 0)}
    assert insert_requantize(graph) is graph


def test_a_fixed_input_of_a_concat_is_requantized_and_the_network_stays_the_same() -> None:
    build = GraphBuilder(SHAPE)
    free = build.conv(build.input, 4, bias=True)
    gate = build.node("sigmoid", free)
    graph = build.graph(build.concat(free, gate, gate))
    prepared = insert_requantize(graph)
    assert operators(prepared) == ["conv", "sigmoid", "requantize", "concat"]
    assert prepared.nodes[-1].inputs == (free, "sigmoid1_requantized", "sigmoid1_requantized")
    roots = representatives(prepared)
    assert roots[free] == roots["sigmoid1_requantized"] != roots[gate]
    x = torch.randn(2, *SHAPE[1:])
    assert torch.equal(GraphNetwork(graph)(x), GraphNetwork(prepared)(x))


def test_equal_fixed_inputs_need_no_requantize_but_different_ones_do() -> None:
    build = GraphBuilder(SHAPE)
    one, two = build.node("sigmoid", build.input), build.node("sigmoid", build.conv(build.input, 3, bias=True))
    assert operators(insert_requantize(build.graph(build.concat(one, two)))).count("requantize") == 0
    build = GraphBuilder(SHAPE)
    one, two = build.node("sigmoid", build.input), build.node("tanh", build.input)
    prepared = insert_requantize(build.graph(build.concat(one, two)))
    assert operators(prepared) == ["sigmoid", "tanh", "requantize", "requantize", "concat"]
    assert not fixed_params(prepared).keys() & {representatives(prepared)[prepared.output]}


def test_a_later_concat_sees_what_an_earlier_one_fixed() -> None:
    build = GraphBuilder(SHAPE)
    both = build.concat(build.node("sigmoid", build.input), build.node("sigmoid", build.input))
    graph = build.graph(build.concat(both, build.conv(build.input, 2, bias=True)))
    prepared = insert_requantize(graph)
    assert prepared.nodes[-1].inputs[0] == f"{both}_requantized"


def test_padding_that_fixed_parameters_cannot_hold_is_requantized() -> None:
    pads = ((0, 0), (0, 0), (1, 1), (1, 1))
    for value, expected in ((0.5, 0), (0.0, 0), (5.0, 1), (-0.1, 1)):
        build = GraphBuilder(SHAPE)
        graph = build.graph(build.node("pad", build.node("sigmoid", build.input), pads=pads, value=value))
        assert operators(insert_requantize(graph)).count("requantize") == expected


def test_a_concat_does_not_coarsen_what_others_read() -> None:
    build = GraphBuilder(SHAPE)
    small, large = build.conv(build.input, 4, bias=True), build.conv(build.input, 4, bias=True)
    joined = build.concat(small, large)
    graph = build.graph(build.concat(build.conv(joined, 4, bias=True), build.conv(small, 4, bias=True)))
    names = graph.shapes
    ranges = dict.fromkeys(names, (-1.0, 1.0)) | {small: (-1.0, 1.0), large: (0.0, 100.0), joined: (-1.0, 100.0)}
    prepared = insert_requantize(graph, ranges)
    assert [node.inputs for node in prepared.nodes if node.op == "requantize"] == [(small,)]
    close = ranges | {large: (-1.5, 2.0), joined: (-1.5, 2.0)}
    assert insert_requantize(graph, close) is graph


def test_a_concat_may_coarsen_what_nobody_else_reads() -> None:
    build = GraphBuilder(SHAPE)
    small, large = build.conv(build.input, 4, bias=True), build.conv(build.input, 4, bias=True)
    graph = build.graph(build.conv(build.concat(small, large), 4, bias=True))
    ranges = dict.fromkeys(graph.shapes, (-1.0, 1.0)) | {large: (0.0, 100.0)}
    assert insert_requantize(graph, ranges) is graph
