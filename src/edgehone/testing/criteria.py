"""The contract of a criterion, as tests to inherit.

    class TestMyCriterion(CriterionContract):
        @pytest.fixture
        def criterion(self):
            return my_criterion

Asked on networks with every kind of coupling, in training and in deployed form: residual, depthwise, grouped, gated by
squeeze-excite, densely connected, one-dimensional, and linear layers alone. Which channel must come first, on a network
whose right answer is known, is for the criterion's own tests.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgehone.errors import DataError
from edgehone.graph.cut import cut
from edgehone.graph.fold import deploy
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.trace import trace
from edgehone.techniques.criteria import Criterion, Probe
from edgehone.testing.expect import cites_a_source, expect, identical, untouched
from edgehone.testing.networks import NETWORKS, example_shape

KINDS = ("resnet8", "mobilenet", "mobilenet-v3", "shuffle-net", "se-net", "dense-net", "conv1d-net", "mlp")
_BATCHES, _EXAMPLES = 2, 4


@cache
def reference_graph(name: str) -> Graph:
    """A reference network in its training form."""
    shape = example_shape(name)
    return trace(NETWORKS[name](), torch.zeros((2, *shape[1:])))


def reference_probe(graph: Graph, seed: int = 0) -> Probe:
    """Random readings with class labels that fit a graph."""
    draw = torch.Generator().manual_seed(1)
    return Probe(
        [
            (
                torch.randn((_EXAMPLES, *graph.input_shape[1:]), generator=draw),
                torch.randint(0, graph.output_shape[1], (_EXAMPLES,), generator=draw),
            )
            for _ in range(_BATCHES)
        ],
        seed=seed,
    )


class CriterionContract:
    """What every criterion keeps."""

    @pytest.fixture
    def criterion(self) -> Criterion:
        """The criterion under test."""
        raise NotImplementedError("define a fixture called criterion")

    @pytest.fixture(params=KINDS)
    def graph(self, request: pytest.FixtureRequest) -> Graph:
        """A graph to score."""
        return reference_graph(request.param)

    def test_cites_its_source(self, criterion: Criterion) -> None:
        expect(cites_a_source(criterion), "its file's docstring names no paper, like (Li et al. 2017, section 3)")

    def test_every_class_of_every_group_gets_a_score(self, criterion: Criterion, graph: Graph) -> None:
        groups = channel_groups(graph)
        scores = criterion.score(graph, groups, reference_probe(graph))
        expect(scores.keys() == {group.name for group in groups}, "it must score the groups it was asked for, and all")
        for group in groups:
            found = scores[group.name]
            expect(found.shape == (group.width,), f"{group.name}: {found.shape} scores for {group.width} classes")
            expect(found.dtype == np.float64, f"{group.name}: scores are {found.dtype}, not float64")
            expect(bool(np.isfinite(found).all()), f"{group.name}: a score is not finite")
            expect(bool((found >= 0).all()), f"{group.name}: a score is below 0")

    def test_groups_can_be_ranked_against_each_other(self, criterion: Criterion, graph: Graph) -> None:
        scores = criterion.score(graph, channel_groups(graph), reference_probe(graph))
        mean = float(np.concatenate(list(scores.values())).mean())
        expect(0.75 <= mean <= 1.25, f"the mean of all scores is {mean:.3g}; it must be near 1")

    def test_only_the_groups_asked_for_are_scored(self, criterion: Criterion, graph: Graph) -> None:
        first = channel_groups(graph)[:1]
        scores = criterion.score(graph, first, reference_probe(graph))
        expect(scores.keys() == {first[0].name}, f"asked for {first[0].name}, it scored {', '.join(scores)}")

    def test_the_same_seed_gives_the_same_scores(self, criterion: Criterion, graph: Graph) -> None:
        one, two = (_score(criterion, graph, seed=3) for _ in range(2))
        expect(identical(one, two), "two calls with one seed differ: draw from probe.seed, not from global state")

    def test_the_graph_is_left_alone(self, criterion: Criterion, graph: Graph) -> None:
        with untouched(graph):
            _score(criterion, graph)

    def test_deployed_graphs_are_scored_too(self, criterion: Criterion, graph: Graph) -> None:
        deployed = deploy(graph)
        groups = channel_groups(deployed)
        scores = criterion.score(deployed, groups, reference_probe(deployed))
        for group in groups:
            found = scores[group.name]
            expect(found.shape == (group.width,) and bool(np.isfinite(found).all()), f"{group.name}: {found}")

    def test_without_data_it_says_so_or_needs_none(self, criterion: Criterion, graph: Graph) -> None:
        try:
            scores = criterion.score(graph, channel_groups(graph), Probe())
        except DataError as error:
            expect(bool(error.what and error.do), "the message must say what is missing and what to do")
        else:
            expect(identical(dict(scores), _score(criterion, graph)), "it reads data, so it must ask for it")

    def test_the_scores_can_be_cut_by(self, criterion: Criterion, graph: Graph) -> None:
        scores = _score(criterion, graph)
        best = {name: np.argsort(-found)[: max(1, len(found) // 2)] for name, found in scores.items()}
        smaller = cut(graph, {name: sorted(classes.tolist()) for name, classes in best.items()})
        again = _score(criterion, smaller)
        expect(all(bool(np.isfinite(found).all()) for found in again.values()), "a cut graph has no finite scores")


def _score(criterion: Criterion, graph: Graph, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    return dict(criterion.score(graph, channel_groups(graph), reference_probe(graph, seed)))
