"""The knapsack's cuts: they hold what was asked for, and what is worth nothing goes first."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from edgehone.budget import Budget
from edgehone.data.prepare import prepare
from edgehone.devices import load_device
from edgehone.graph.branches import branches
from edgehone.graph.cost import macs
from edgehone.graph.fold import deploy
from edgehone.graph.groups import Group, channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.search import allocate
from edgehone.search.allocate import NEAR, Allocation, Worth, widths_of
from edgehone.search.prices import EstimatedPrices
from edgehone.search.target import Target
from edgehone.search.widths import rough_integers
from edgehone.task import Task
from edgehone.techniques import Context
from edgehone.testing.networks import ResNet, settle

torch.set_num_threads(1)
PI = load_device("raspberry-pi-4")


@cache
def context() -> Context:
    draw = np.random.default_rng(0)
    x, y = draw.uniform(0, 1, (96, 3, 8, 8)).astype(np.float32), np.arange(96) % 3
    torch.manual_seed(0)
    network = settle(ResNet(2, widths=(16, 32), classes=3), (1, 3, 8, 8))
    return Context(prepare(Task("t", network, train=(x, y), validation=(x, y), test=(x, y))), seed=1)


def network() -> Graph:
    return trace(context().prepared.end_to_end(), torch.zeros(2, 3, 8, 8))


def allocation(graph: Graph) -> Allocation:
    return Allocation(graph, "l2", context(), Target(PI, "a Pi"), EstimatedPrices(PI), lambda _: None)


def latency_us(graph: Graph) -> float:
    return Target(PI, "a Pi").latency(rough_integers(graph, context())).value


@pytest.mark.parametrize("share", [0.8, 0.5, 0.25])
def test_a_cut_takes_as_long_as_was_asked_for(share: float) -> None:
    graph = network()
    goal = share * latency_us(graph)
    found = allocation(graph).reaching(goal)
    assert found is not None
    assert found.latency.value <= NEAR * goal
    assert found.latency.value >= 0.6 * goal  # the most worthy one, not the smallest
    assert macs(found.graph) < macs(graph)
    with torch.no_grad():
        assert torch.isfinite(GraphNetwork(found.graph).eval()(torch.rand(2, 3, 8, 8))).all()


def test_what_is_worth_least_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    idle = branches(graph)[2].name

    def worth(graph: Graph, half: object, context: Context, groups: tuple[Group, ...], progress: object) -> Worth:
        return Worth({b.name: 0.0 if b.name == idle else 1.0 for b in branches(graph)}, {g.name: 1.0 for g in groups})

    monkeypatch.setattr(allocate, "measure_worth", worth)
    found = allocation(graph).reaching(0.85 * latency_us(graph))
    assert found is not None
    assert {branch.name for branch in branches(found.graph)} == {b.name for b in branches(graph)} - {idle}


def test_limits_on_size_and_latency_hold_at_their_bad_end() -> None:
    graph = network()
    full = allocation(graph).reaching(latency_us(graph))
    assert full is not None
    budget = Budget(size_bytes=round(0.8 * full.size_bytes), latency_us=2 * full.latency.value)
    found = allocation(graph).holding(budget)
    assert found is not None and found.holds(budget)


def test_a_limit_on_memory_holds() -> None:
    graph = network()
    full = allocation(graph).reaching(latency_us(graph))
    assert full is not None
    budget = Budget(memory_bytes=round(0.7 * full.memory_bytes))
    found = allocation(graph).holding(budget)
    assert found is not None and found.holds(budget)
    assert macs(found.graph) > 0.2 * macs(graph)


def test_what_no_cut_reaches_is_none() -> None:
    graph = network()
    cuts = allocation(graph)
    floor = cuts.floor()
    assert floor.latency.value < 0.5 * latency_us(graph)
    assert cuts.reaching(0.5 * floor.latency.value) is None


def test_without_a_need_nothing_leaves() -> None:
    graph = network()
    found = allocation(graph).reaching(1.2 * latency_us(graph))
    assert found is not None and macs(found.graph) == macs(graph)


def test_widths_are_few_and_end_with_the_groups_own() -> None:
    for group in channel_groups(network()):
        found = widths_of(group)
        assert found == sorted(found) and found[-1] == group.width and len(found) <= 8
        assert all(width % 8 == 0 for width in found)


def test_names_are_those_of_the_deployed_network() -> None:
    graph = network()
    assert {g.name for g in channel_groups(graph)} == {g.name for g in channel_groups(deploy(graph))}
