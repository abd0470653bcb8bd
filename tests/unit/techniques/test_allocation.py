"""Allocation: steps, minima, shares of MACs against real cuts, and that less is always a part of more."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone.errors import RecipeError
from edgehone.graph.cost import macs
from edgehone.graph.cut import cut
from edgehone.graph.groups import Group, channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.trace import trace
from edgehone.techniques._allocation import How, allocate
from edgehone.techniques.criteria import CRITERIA, Probe, Scores
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS

HOWS: tuple[How, ...] = ("global", "uniform")


@cache
def network(name: str) -> tuple[Graph, tuple[Group, ...], Scores]:
    graph = trace(NETWORKS[name](), torch.zeros(2, 3, 32, 32))
    groups = channel_groups(graph)
    return graph, groups, CRITERIA.get("l1").score(graph, groups, Probe())


@pytest.mark.parametrize("how", HOWS)
def test_a_ratio_of_one_keeps_everything(how: How) -> None:
    _, groups, scores = network("resnet20")
    assert allocate(groups, scores, 1.0, how) == {group.name: tuple(range(group.width)) for group in groups}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2", "shuffle-net", "dense-net"])
def test_widths_are_whole_steps_and_the_share_is_that_of_a_real_cut(name: str, how: How) -> None:
    graph, groups, scores = network(name)
    for ratio in (0.8, 0.5, 0.3):
        keep = allocate(groups, scores, ratio, how)
        for group in groups:
            channels, full = (n * group.channels_per_class for n in (len(keep[group.name]), group.width))
            assert channels == full or (channels % 8 == 0 and 8 <= channels < full)
        share = macs(cut(graph, keep)) / macs(graph)
        smallest = macs(cut(graph, allocate(groups, scores, 1e-9, how))) / macs(graph)
        assert share <= max(ratio, smallest) + 1e-9


@pytest.mark.parametrize("how", HOWS)
def test_it_stops_as_soon_as_the_share_is_reached(how: How) -> None:
    graph, groups, scores = network("resnet20")
    assert 0.4 < macs(cut(graph, allocate(groups, scores, 0.5, how))) / macs(graph) <= 0.5


@settings(deadline=None, max_examples=60)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.sampled_from(HOWS), st.integers(0, 99), st.integers(1, 9))
def test_a_smaller_share_keeps_a_part_of_a_larger(a: float, b: float, how: How, seed: int, step: int) -> None:
    _, groups, _ = network("resnet20")
    scores = CRITERIA.get("random").score(network("resnet20")[0], groups, Probe(seed=seed))
    less, more = (allocate(groups, scores, ratio, how, step=step, minimum=step) for ratio in sorted((a, b)))
    assert all(set(less[name]) <= set(more[name]) for name in more)


@pytest.mark.parametrize("how", HOWS)
def test_the_best_classes_of_a_group_stay(how: How) -> None:
    _, groups, scores = network("resnet20")
    for name, kept in allocate(groups, scores, 0.4, how).items():
        gone = np.setdiff1d(np.arange(len(scores[name])), kept)
        assert list(kept) == sorted(kept)
        assert gone.size == 0 or scores[name][gone].max() <= scores[name][list(kept)].min()


def test_global_takes_from_the_group_that_matters_least() -> None:
    _, groups, scores = network("resnet20")
    victim = groups[-1].name
    keep = allocate(groups, {n: s * (1e-3 if n == victim else 1) for n, s in scores.items()}, 0.91, "global")
    assert len(keep[victim]) == 8
    assert all(len(keep[group.name]) == group.width for group in groups[:-1])


def test_uniform_takes_the_same_part_of_every_group() -> None:
    _, groups, scores = network("resnet20")
    keep = allocate(groups, scores, 0.2528, "uniform")
    assert {len(keep[group.name]) / group.width for group in groups} == {0.5}


def test_narrow_groups_stay_whole() -> None:
    b = GraphBuilder((1, 3, 6, 6))
    narrow, odd = b.conv(b.input, 6), b.conv(b.input, 20)
    groups = channel_groups(b.graph(b.conv(b.concat(narrow, odd), 2)))
    scores = {group.name: np.ones(group.width) for group in groups}
    assert {n: len(k) for n, k in allocate(groups, scores, 1e-9).items()} == {narrow: 6, odd: 8}
    assert len(allocate(groups, scores, 1e-9, minimum=9)[odd]) == 16


def test_groups_of_a_grouped_convolution_shrink_by_whole_steps() -> None:
    b = GraphBuilder((1, 3, 6, 6))
    stem = b.conv(b.input, 24)
    groups = channel_groups(b.graph(b.linear(b.mean(b.conv(stem, 24, groups=4)), 2)))
    scores = {group.name: np.ones(group.width) for group in groups}
    assert all(len(kept) * 4 == 8 for kept in allocate(groups, scores, 1e-9).values())


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"keep_ratio": 0.0}, "keep ratio"),
        ({"keep_ratio": 1.5}, "keep ratio"),
        ({"keep_ratio": float("nan")}, "keep ratio"),
        ({"keep_ratio": 0.5, "how": "fair"}, "not known"),
        ({"keep_ratio": 0.5, "step": 0}, "step"),
        ({"keep_ratio": 0.5, "scores": {}}, "finite scores"),
    ],
)
def test_bad_settings_are_refused(settings_: dict[str, object], message: str) -> None:
    _, groups, scores = network("resnet20")
    with pytest.raises(RecipeError, match=message):
        allocate(groups, **{"scores": scores, **settings_})


def test_scores_that_are_not_finite_are_refused() -> None:
    _, groups, scores = network("resnet20")
    name = groups[0].name
    with pytest.raises(RecipeError, match="finite scores"):
        allocate(groups, {**scores, name: scores[name] * np.nan}, 0.5)
