"""The worked examples of CONTRIBUTING.md: saved where the page says, they are found, keep the contract, and work."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgehone.data.prepare import prepare
from edgehone.errors import RecipeError
from edgehone.graph.cost import macs
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Task
from edgehone.techniques import TECHNIQUES, Context
from edgehone.techniques.criteria import CRITERIA, Probe
from edgehone.techniques.prune import PruneSettings, technique
from edgehone.testing.networks import mlp

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def install(kind: str, stem: str, package: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the page's example of a kind as a file of a package, as its reader would; without touching the checkout."""
    match = re.search(rf"```python {kind}\n(.*?)```", PAGE, re.DOTALL)
    assert match and f"{package.replace('.', '/')}/{stem}.py" in PAGE
    (folder / f"{stem}.py").write_text(match[1])
    module = sys.modules[package]
    places = [*module.__path__, str(folder)]
    monkeypatch.setattr(module, "__path__", places)
    monkeypatch.setattr(module.__spec__, "submodule_search_locations", places)
    monkeypatch.delitem(sys.modules, f"{package}.{stem}", raising=False)
    importlib.invalidate_caches()


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return trace(mlp((6, 32, 3)).eval(), torch.zeros(2, 6))


@pytest.fixture
def context() -> Context:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(60, 6)).astype(np.float32), np.arange(60) % 3
    return Context(prepare(Task("t", mlp((6, 32, 3)), train=data, test=data), 0))


def test_the_criterion_is_found_and_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: Graph, context: Context
) -> None:
    install("criterion", "largest_weight", "edgehone.techniques.criteria", tmp_path, monkeypatch)
    assert "largest-weight" in CRITERIA.names()
    (group,) = channel_groups(graph)
    weight = graph.params[next(graph.weighted()).params["weight"]]
    scores = CRITERIA.get("largest-weight").score(graph, [group], Probe())[group.name]
    assert np.argsort(scores).tolist() == np.argsort(np.abs(weight).max(axis=1)).tolist()
    cut = technique.apply(graph, PruneSettings(0.5, "largest-weight"), context).graph
    assert macs(cut) <= 0.5 * macs(graph)


def test_the_technique_is_found_and_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: Graph, context: Context
) -> None:
    install("technique", "thin", "edgehone.techniques", tmp_path, monkeypatch)
    assert "thin" in TECHNIQUES.names()
    thin = TECHNIQUES.get("thin")
    before = {key: array.copy() for key, array in graph.params.items()}
    assert thin.supports(graph) == ()
    thinned = thin.apply(graph, thin.Settings(0.25), context).graph
    for node in graph.weighted():
        old, new = graph.params[node.params["weight"]], thinned.params[node.params["weight"]]
        gone = new == 0
        assert gone.sum() == old.size // 4
        assert np.abs(old[gone]).max() <= np.abs(old[~gone]).min()
        assert np.array_equal(old[~gone], new[~gone])
    assert all(np.array_equal(graph.params[key], array) for key, array in before.items())
    x = torch.randn(4, 6)
    same = thin.apply(graph, thin.Settings(0.0), context).graph
    assert torch.equal(GraphNetwork(same).eval()(x), GraphNetwork(graph).eval()(x))
    assert thin.step(thin.Settings(0.25)).label == "thin-25"
    with pytest.raises(RecipeError):
        thin.Settings(1.0)


def test_the_page_names_what_exists() -> None:
    root = Path(__file__).parents[2]
    new = ("/largest_weight.py", "/thin.py", "/NAME.py")
    for path in re.findall(r"`((?:src|agent|tests)/[\w/]+\.py)`", PAGE):
        assert (root / path).exists() or (path.endswith(new) and (root / path).parent.is_dir()), path
