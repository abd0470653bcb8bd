"""Pruning: what leaves, what the statistics are afterwards, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from edgehone.data.prepare import prepare
from edgehone.errors import CutError, PluginError, RecipeError
from edgehone.graph.cost import macs
from edgehone.graph.groups import channel_groups
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Task
from edgehone.techniques import Context
from edgehone.techniques.prune import PruneSettings, technique
from edgehone.testing.expect import identical


def test_keeping_everything_is_the_identity(digits) -> None:
    result = technique.apply(digits.graph, PruneSettings(keep=1.0), digits.context)
    assert identical(result.graph, digits.graph)


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_the_cut_holds_its_share_in_steps(digits, allocation: str) -> None:
    smaller = technique.apply(digits.graph, PruneSettings(0.4, "l1", allocation, step=4, minimum=4), digits.context)
    assert 0.2 < macs(smaller.graph) / macs(digits.graph) <= 0.4
    widths = {node.output: smaller.graph.params[node.params["weight"]].shape[0] for node in smaller.graph.weighted()}
    *hidden, classes = widths.values()
    assert classes == 10
    assert all(width % 4 == 0 for width in hidden)
    assert len(digits.graph.params) == len(smaller.graph.params)


def test_the_least_important_channels_leave(digits) -> None:
    settings = PruneSettings(0.5, "l1", "uniform")
    scores = technique.scores(digits.graph, "l1", digits.context)
    smaller = technique.apply(digits.graph, settings, digits.context).graph
    first = next(digits.graph.weighted())
    group = next(g for g in channel_groups(digits.graph) if any(link.node == first.output for link in g.producers))
    before, after = (next(graph.weighted()) for graph in (digits.graph, smaller))
    old, new = digits.graph.params[before.params["weight"]], smaller.params[after.params["weight"]]
    assert len(new) < len(old)
    best = np.sort(np.argsort(-scores[group.name])[: len(new)])
    np.testing.assert_array_equal(new, old[best])


def test_statistics_are_those_of_the_training_data_after_the_cut(digits) -> None:
    """The first batch norm sees only a convolution: its mean is that convolution's mean over the same batches."""
    settings = PruneSettings(0.5)
    smaller = technique.apply(digits.graph, settings, digits.context).graph
    norm = next(node for node in smaller.nodes if node.op == "batch_norm")
    batches = digits.context.prepared.train.batches(128, seed=digits.context.seed, drop_last=True)
    with torch.no_grad():
        network = GraphNetwork(smaller).eval()
        values = [network.activations(x)[norm.inputs[0]] for x, _ in islice(batches, 20)]
    mean = torch.stack([value.mean((0, 2, 3)) for value in values]).mean(0)
    variance = torch.stack([value.var((0, 2, 3)) for value in values]).mean(0)
    np.testing.assert_allclose(smaller.param(norm, "mean"), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(smaller.param(norm, "variance"), variance, rtol=1e-3, atol=1e-5)


def test_new_statistics_are_worth_it(digits) -> None:
    settings = PruneSettings(0.5)
    scores = technique.scores(digits.graph, settings.criterion, digits.context)
    raw = technique.plan(digits.graph, scores, settings)
    assert identical(
        technique.recalibrate(raw, digits.context).graph,
        technique.apply(digits.graph, settings, digits.context).graph,
    )
    assert digits.accuracy(technique.recalibrate(raw, digits.context).graph) > digits.accuracy(raw) + 0.05


def test_a_network_that_cannot_be_cut_is_refused() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 3
    network = nn.Linear(6, 3).eval()
    graph, context = trace(network, torch.zeros(2, 6)), Context(prepare(Task("flat", network, train=data, test=data)))
    assert technique.supports(graph)
    with pytest.raises(CutError, match="no channel of this network can leave"):
        technique.apply(graph, PruneSettings(0.5), context)
    assert identical(technique.apply(graph, PruneSettings(1.0), context).graph, graph)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: PruneSettings(0.0), RecipeError, "keep is 0"),
        (lambda: PruneSettings(1.01), RecipeError, "keep is 1.01"),
        (lambda: PruneSettings(float("nan")), RecipeError, "keep is nan"),
        (lambda: PruneSettings(0.5, criterion="l3"), PluginError, "no criterion called 'l3'"),
        (lambda: PruneSettings(0.5, allocation="fair"), RecipeError, "'fair' is not known"),
        (lambda: PruneSettings(0.5, step=0), RecipeError, "step 0"),
        (lambda: PruneSettings(0.5, minimum=0), RecipeError, "minimum 0"),
    ],
)
def test_bad_settings_are_refused(digits, wrong: Callable[[], PruneSettings], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        technique.apply(digits.graph, wrong(), digits.context)


def test_another_seed_looks_at_other_examples(digits) -> None:
    one, two = (technique.scores(digits.graph, "taylor", replace(digits.context, seed=seed)) for seed in (1, 2))
    assert not identical(dict(one), dict(two))
