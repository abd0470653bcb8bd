"""Groups of shapes whose answer is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgehone.graph.groups import Group, channel_groups
from edgehone.graph.trace import trace
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape


def by_name(groups: tuple[Group, ...]) -> dict[str, tuple[int, int]]:
    return {group.name: (group.width, group.channels_per_class) for group in groups}


def test_a_chain_has_one_group_per_hidden_layer() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    first = b.conv(b.input, 6, bias=True)
    norm = b.batch_norm(first)
    second = b.conv(b.relu(norm), 5)
    last = b.linear(b.mean(second), 4)
    groups = channel_groups(b.graph(last))
    assert by_name(groups) == {first: (6, 1), second: (5, 1)}
    touched = {(slots.name, slots.axis) for slots in groups[0].params}
    norm_params = {(f"{norm}.{role}", 0) for role in ("weight", "bias", "mean", "variance")}
    assert touched == {(f"{first}.weight", 0), (f"{first}.bias", 0), (f"{second}.weight", 1)} | norm_params
    assert [link.node for link in groups[0].producers] == [first]
    assert [(link.node, link.share) for link in groups[0].consumers] == [(second, 1 / 6)]
    np.testing.assert_array_equal(groups[0].params[0].indices, np.arange(6)[:, None])


def test_a_residual_sum_ties_its_branches() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    stem = b.conv(b.input, 8)
    inner = b.conv(stem, 4)
    y = b.node("add", stem, b.conv(inner, 8))
    groups = channel_groups(b.graph(b.linear(b.mean(y), 2)))
    assert by_name(groups) == {stem: (8, 1), inner: (4, 1)}
    assert len(groups[0].producers) == 2
    assert len(groups[0].consumers) == 2


def test_option_a_splits_the_wider_stage_by_what_the_shortcut_carries() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    stem = b.conv(b.input, 8)
    short = b.node("pad", stem, pads=((0, 0), (2, 2), (0, 0), (0, 0)), value=0.0)
    wide = b.conv(stem, 12)
    groups = channel_groups(b.graph(b.linear(b.mean(b.node("add", wide, short)), 2)))
    assert by_name(groups) == {stem: (8, 1), wide: (4, 1)}
    in_wide = next(slots for slots in groups[1].tensors if slots.name == wide)
    assert in_wide.indices.ravel().tolist() == [0, 1, 10, 11]


def test_flatten_repeats_a_channel_over_its_places() -> None:
    b = GraphBuilder((1, 3, 4, 2))
    conv = b.conv(b.input, 5)
    last = b.linear(b.flatten(conv), 2)
    (group,) = channel_groups(b.graph(last))
    read = next(slots for slots in group.params if slots.name == f"{last}.weight")
    np.testing.assert_array_equal(read.indices, np.arange(40).reshape(5, 8))


def test_unflatten_ties_the_features_of_a_channel() -> None:
    b = GraphBuilder((1, 6))
    features = b.linear(b.input, 4 * 9)
    y = b.conv(b.reshape(features, (1, 4, 3, 3)), 2)
    assert by_name(channel_groups(b.graph(y))) == {features: (4, 9)}


def test_a_grouped_convolution_ties_one_channel_of_every_group() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    stem = b.conv(b.input, 12)
    grouped = b.conv(stem, 8, groups=4)
    groups = channel_groups(b.graph(b.conv(grouped, 2)))
    assert by_name(groups) == {stem: (3, 4), grouped: (2, 4)}
    assert groups[0].tensors[0].indices.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert groups[0].step(8) == 2
    assert groups[0].consumers[0].share == pytest.approx(1 / 3)


def test_a_depthwise_convolution_keeps_its_input_s_channels() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    stem = b.conv(b.input, 4)
    depthwise = b.conv(stem, 8, groups=4)
    (group,) = channel_groups(b.graph(b.conv(depthwise, 2)))
    assert (group.name, group.width) == (stem, 4)
    places = next(slots for slots in group.params if slots.name == f"{depthwise}.weight")
    assert places.indices.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_halves_of_a_split_are_two_groups() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    stem = b.conv(b.input, 8)
    left, right = b.slice(stem, 0, 3), b.slice(stem, 3, 8)
    y = b.node("add", b.conv(left, 4), b.conv(right, 4))
    groups = channel_groups(b.graph(b.conv(y, 2)))
    assert [(group.name, group.width) for group in groups][:2] == [(stem, 3), (f"{stem}#2", 5)]


def test_input_and_output_channels_are_frozen() -> None:
    b = GraphBuilder((1, 4, 8, 8))
    y = b.node("add", b.input, b.conv(b.input, 4))
    assert channel_groups(b.graph(b.conv(b.conv(y, 4, groups=4), 6))) == ()


def test_a_strided_slice_of_channels_and_a_softmax_freeze() -> None:
    b = GraphBuilder((1, 6))
    strided, soft, free = b.linear(b.input, 8), b.linear(b.input, 4), b.linear(b.input, 4)
    parts = (b.slice(strided, 0, 8, step=2), b.node("softmax", soft), b.relu(free))
    assert by_name(channel_groups(b.graph(b.linear(b.concat(*parts), 2)))) == {free: (4, 1)}


def test_a_mean_over_channels_freezes() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    attention = b.node("mean", b.conv(b.input, 8), axes=(1,), keepdim=True)
    after = b.conv(attention, 4)
    assert by_name(channel_groups(b.graph(b.conv(after, 2)))) == {after: (4, 1)}


@pytest.mark.parametrize("broadcasts", [False, True])
def test_channels_that_meet_rows_freeze(broadcasts: bool) -> None:
    b = GraphBuilder((1, 3, 8, 8))
    one, two = b.conv(b.input, 8), b.conv(b.input, 8)
    two = b.slice(two, 0, 1, axis=2) if broadcasts else two
    crossed = b.node("add", one, b.node("transpose", two, perm=(0, 2, 1, 3)))
    after = b.conv(crossed, 4)
    assert by_name(channel_groups(b.graph(b.conv(after, 2)))) == {after: (4, 1)}


def test_a_shared_weight_ties_what_its_readers_read() -> None:
    b = GraphBuilder((1, 3, 8, 8))
    one, two = b.conv(b.input, 4), b.conv(b.input, 4)
    first = b.conv(one, 6)
    second = b.conv(two, 6, like=first)
    groups = channel_groups(b.graph(b.conv(b.concat(first, second), 2)))
    assert by_name(groups) == {one: (4, 1), first: (6, 1)}


EXPECTED = {
    "resnet8": 6,
    "resnet20": 12,
    "mobilenet": 5,
    "mobilenet-v2": 8,
    "se-net": 3,
    "mlp": 2,
    "dense-net": 8,
    "u-net": 5,
    "autoencoder": 3,
    "conv1d-net": 3,
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_reference_networks_have_the_widths_their_authors_chose(name: str) -> None:
    shape = example_shape(name)
    graph = trace(NETWORKS[name](), torch.zeros((2, *shape[1:])))
    assert len(channel_groups(graph)) == EXPECTED[name]
