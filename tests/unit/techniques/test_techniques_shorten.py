"""Shorten takes the branches that matter least, and says when there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgehone.errors import CutError, RecipeError
from edgehone.graph.branches import branches
from edgehone.graph.ir import Graph
from edgehone.techniques.shorten import ShortenSettings
from edgehone.techniques.shorten import technique as shorten
from edgehone.testing.techniques import reference_context, reference_graph

torch.set_num_threads(1)


def with_idle(graph: Graph, name: str) -> Graph:
    """The graph with a branch that adds nothing."""
    branch = next(b for b in branches(graph) if b.name == name)
    last = next(n for n in reversed(graph.nodes) if n.output in branch.nodes and n.op == "batch_norm")
    nothing = {last.params[role]: np.zeros_like(graph.params[last.params[role]]) for role in ("weight", "bias")}
    return replace(graph, params={**graph.params, **nothing})


def test_what_adds_nothing_leaves_first() -> None:
    graph = reference_graph("pictures")
    for branch in branches(graph):
        short = shorten.apply(
            with_idle(graph, branch.name), ShortenSettings(keep=0.5), reference_context("pictures")
        ).graph
        left = {b.name for b in branches(short)}
        assert len(left) == round(len(branches(graph)) * 0.5)
        # it changes no loss at all; another one may only go before it where it makes a random network better
        assert branch.name not in left or len(left) == 1


def test_keeping_none_leaves_a_chain() -> None:
    short = shorten.apply(reference_graph("pictures"), ShortenSettings(keep=0.0), reference_context("pictures")).graph
    assert branches(short) == ()
    assert short.output_shape == reference_graph("pictures").output_shape


def test_a_network_without_branches_is_refused() -> None:
    with pytest.raises(CutError, match="no branch of this network can leave"):
        shorten.apply(reference_graph("rows"), ShortenSettings(), reference_context("rows"))


@pytest.mark.parametrize("wrong", [{"keep": -0.1}, {"keep": 1.1}, {"at_once": 0.0}, {"at_once": 2.0}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="give a share"):
        ShortenSettings(**wrong)
