"""Every criterion keeps the contract; one that breaks a rule is caught by that rule."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.techniques.criteria import CRITERIA, Criterion, Probe, Scores
from edgehone.testing.criteria import CriterionContract, reference_graph

torch.set_num_threads(1)


class TestCriteria(CriterionContract):
    @pytest.fixture(params=CRITERIA.names())
    def criterion(self, request: pytest.FixtureRequest) -> Criterion:
        return CRITERIA.get(request.param)


class Broken:
    """Even scores, spoilt in one way."""

    def __init__(self, spoil: Callable[[Graph, Group, Probe], object]) -> None:
        self.spoil = spoil

    def score(self, graph: Graph, groups: tuple[Group, ...], probe: Probe) -> Scores:
        return {group.name: self.spoil(graph, group, probe) for group in groups}


def _change(graph: Graph, group: Group, probe: Probe) -> np.ndarray:
    graph.params[group.params[0].name].flat[0] += 1e-3
    return np.ones(group.width)


def _peek(graph: Graph, group: Group, probe: Probe) -> np.ndarray:
    return np.ones(group.width) + sum(float(x.abs().sum()) for x, _ in probe.batches)


DRAW = np.random.default_rng(0)
RULES = [
    (lambda g, group, p: np.ones(group.width + 1), "test_every_class_of_every_group_gets_a_score", "classes"),
    (lambda g, group, p: np.full(group.width, np.nan), "test_every_class_of_every_group_gets_a_score", "not finite"),
    (lambda g, group, p: np.ones(group.width, np.float32), "test_every_class_of_every_group_gets_a_score", "float32"),
    (lambda g, group, p: np.full(group.width, 9.0), "test_groups_can_be_ranked_against_each_other", "near 1"),
    (lambda g, group, p: DRAW.uniform(size=group.width), "test_the_same_seed_gives_the_same_scores", "global state"),
    (_change, "test_the_graph_is_left_alone", "has changed"),
    (_peek, "test_without_data_it_says_so_or_needs_none", "must ask for it"),
]


@pytest.mark.parametrize(("spoil", "rule", "said"), RULES)
def test_a_broken_criterion_is_caught(spoil: Callable[..., object], rule: str, said: str) -> None:
    graph = copy.deepcopy(reference_graph("mlp"))  # one of the broken ones changes it
    with pytest.raises(pytest.fail.Exception, match=said):
        getattr(CriterionContract(), rule)(Broken(spoil), graph)


def test_a_criterion_without_a_source_is_caught() -> None:
    with pytest.raises(pytest.fail.Exception, match="no paper"):
        CriterionContract().test_cites_its_source(Broken(_peek))
