"""Regularising: the term prices what it says, and growing empties just the channels that are about to leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgehone.errors import RecipeError
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.task import Training
from edgehone.techniques._allocation import allocate
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.regularise import RegulariseSettings, technique
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.techniques import reference_context

SHORT = Training(epochs=2, batch_size=64, learning_rate=0.05)


def norms(graph: Graph) -> dict[str, np.ndarray]:
    """Group → the norm of all that writes each of its classes."""
    still = {n.params[role] for n in graph.nodes for role in ("mean", "variance") if role in n.params}
    found = {}
    for group in channel_groups(graph):
        squares = np.zeros(group.width)
        for slots in group.params:
            if slots.axis == 0 and slots.name not in still:
                rows = graph.params[slots.name][slots.indices]
                squares += np.square(rows).reshape(group.width, -1).sum(1)
        found[group.name] = np.sqrt(squares)
    return found


def weights(graph: Graph) -> np.ndarray:
    return np.concatenate([graph.params[node.params["weight"]].ravel() for node in graph.weighted()])


@pytest.fixture(scope="module")
def trained(digits) -> dict[str, Graph]:
    """The same training with a growing term, and with none."""
    settings = RegulariseSettings(strength=1.0, keep=0.4, training=SHORT)
    return {
        name: technique.apply(digits.graph, chosen, digits.context).graph
        for name, chosen in {"grown": settings, "plain": replace(settings, strength=0.0)}.items()
    }


def test_growing_empties_what_is_about_to_leave_and_nothing_else(digits, trained: dict[str, Graph]) -> None:
    keep = allocate(channel_groups(digits.graph), prune.scores(digits.graph, "l2", digits.context), 0.4)
    grown, plain = norms(trained["grown"]), norms(trained["plain"])
    left = 0
    for name, kept in keep.items():
        leaving = [c for c in range(len(grown[name])) if c not in kept]
        left += len(leaving)
        if leaving:
            assert grown[name][leaving].mean() < 0.2 * plain[name][leaving].mean()
        assert grown[name][list(kept)].mean() > 0.9 * plain[name][list(kept)].mean()
    assert left > 0
    assert digits.accuracy(trained["grown"]) > 0.9


def test_what_was_emptied_leaves_without_being_missed(digits, trained: dict[str, Graph]) -> None:
    rise = {}
    for name, graph in trained.items():
        cut = prune.apply(graph, PruneSettings(0.4), digits.context).graph
        rise[name] = digits.loss(GraphNetwork(cut)) - digits.loss(GraphNetwork(graph))
    assert rise["grown"] < 0.5 * rise["plain"]


def test_each_term_shrinks_weights_and_l1_brings_them_to_zero(digits, trained: dict[str, Graph]) -> None:
    plain = weights(trained["plain"])
    after = {
        kind: weights(
            technique.apply(digits.graph, RegulariseSettings(kind, strength, training=SHORT), digits.context).graph
        )
        for kind, strength in (("l1", 5e-3), ("l2", 0.05), ("group", 0.05))
    }
    assert all(np.abs(found).sum() < 0.9 * np.abs(plain).sum() for found in after.values())
    small = {kind: np.mean(np.abs(found) < 1e-3) for kind, found in after.items()}
    assert small["l1"] > 3 * max(small["l2"], small["group"])


def test_both_parts_of_the_cost_are_told(digits) -> None:
    settings = RegulariseSettings("l2", 1e-3, training=SHORT)
    result = technique.apply(digits.graph, settings, digits.context)
    assert len(result.notes) == len(result.curve) == 2
    for note, point in zip(result.notes, result.curve, strict=True):
        words = note.replace(",", "").split()
        cost, term = float(words[words.index("cost") + 1]), float(words[words.index("which") + 1])
        assert cost == pytest.approx(point.loss, rel=1e-3)
        assert 0 < term < cost
    squares = np.square(weights(result.graph)).sum() * 1e-3
    assert 0.3 * term < squares < 3 * term


def test_channels_must_be_there_for_terms_over_channels() -> None:
    build = GraphBuilder((1, 3, 8, 8))
    graph = build.graph(build.linear(build.mean(build.input), 3))
    context = reference_context("pictures")
    with pytest.raises(RecipeError, match="no channel of this network can leave"):
        technique.apply(graph, RegulariseSettings(training=SHORT), context)
    assert technique.apply(graph, RegulariseSettings("l1", 1e-4, training=SHORT), context).curve


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: RegulariseSettings("l3"), "kind is 'l3'"),
        (lambda: RegulariseSettings(strength=-1.0), "strength is -1"),
        (lambda: RegulariseSettings(strength=float("nan")), "strength is nan"),
        (lambda: RegulariseSettings(keep=0.0), "keep is 0"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], RegulariseSettings], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        wrong()
