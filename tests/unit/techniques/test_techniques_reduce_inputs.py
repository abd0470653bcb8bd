"""Fewer inputs: exact at full rank, the best that few can do below it, exported inside the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgehone.data.prepare import prepare
from edgehone.errors import CutError, RecipeError
from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Task
from edgehone.techniques import Context
from edgehone.techniques.reduce_inputs import ReduceInputsSettings, chosen, in_front, principal, technique
from edgehone.testing.networks import mlp, settle
from edgehone_agent.model import open_model


class Scaled(nn.Module):
    """Two linear layers behind a fixed scaling."""

    def __init__(self, inputs: int = 12, classes: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 16), nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first((x - 0.5) * 4.0)))  # type: ignore[no-any-return]


def case(network: nn.Module, x: np.ndarray, y: np.ndarray) -> tuple[Graph, Context]:
    torch.manual_seed(0)
    kind = "classification" if y.dtype == np.int64 else "regression"
    data = (x.astype(np.float32), y)
    task = Task("rows", network.eval(), train=data, validation=data, test=data, kind=kind)
    return trace(network.eval(), torch.from_numpy(data[0][:2])), Context(prepare(task))


def answers(graph: Graph, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = GraphNetwork(graph).eval()(torch.from_numpy(x.astype(np.float32))).numpy()
    return found


def flat_rows() -> np.ndarray:
    """200 rows of 12 numbers that lie in 4 directions."""
    draw = np.random.default_rng(0)
    return draw.normal(size=(200, 4)) @ draw.normal(size=(4, 12)) + draw.normal(size=12)


def test_at_full_rank_the_answers_stay() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 20)) * draw.uniform(0.1, 3, 20) + 1
    graph = trace(settle(mlp(), (1, 20)), torch.zeros(2, 20))
    matrix, mean = principal(x.astype(np.float32), 20)
    full = in_front(graph, graph.input, matrix, mean, x.astype(np.float32))
    np.testing.assert_allclose(answers(full, x), answers(graph, x), atol=1e-5)
    assert len(list(full.weighted())) == len(list(graph.weighted())) + 1


def test_directions_without_variance_cost_nothing_when_they_leave() -> None:
    x, y = flat_rows(), np.arange(200) % 3
    graph, context = case(Scaled(), x, y)
    smaller = technique.apply(graph, ReduceInputsSettings("pca", 4 / 12), context).graph
    np.testing.assert_allclose(answers(smaller, x), answers(graph, x), atol=1e-3)
    first = next(smaller.weighted())
    assert smaller.shapes[first.output] == (1, 4)
    fewer = technique.apply(graph, ReduceInputsSettings("pca", 3 / 12), context).graph
    assert np.abs(answers(fewer, x) - answers(graph, x)).max() > 0.05


def test_elimination_keeps_what_tells_the_classes_apart() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(300, 10)), np.arange(300) % 3
    x[:, 3] += y
    x[:, 7] -= 2 * (y == 1)
    matrix, _ = chosen(x.astype(np.float32), y, 2, "classification")
    assert matrix.argmax(1).tolist() == [3, 7]
    assert matrix.sum() == 2


def test_the_features_that_stay_stand_in_for_the_others() -> None:
    """Six of twelve numbers that lie in four directions tell the rest: the layer behind is fitted to use that."""
    draw = np.random.default_rng(0)
    x = flat_rows()
    y = (x @ draw.normal(size=(12, 2))).astype(np.float32)
    graph, context = case(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)), x, y)
    smaller = technique.apply(graph, ReduceInputsSettings("rfe", 0.5), context).graph
    picked = smaller.params[next(smaller.weighted()).params["weight"]]
    assert picked.shape == (6, 12)
    assert set(np.unique(picked)) == {0.0, 1.0}
    assert picked.sum(1).tolist() == [1.0] * 6
    np.testing.assert_allclose(answers(smaller, x), answers(graph, x), atol=1e-3)


def test_the_file_takes_the_whole_row(tmp_path: Path) -> None:
    x, y = flat_rows(), np.arange(200) % 3
    graph, context = case(Scaled(), x, y)
    smaller = technique.apply(graph, ReduceInputsSettings("pca", 4 / 12), context).graph
    path = tmp_path / "model.onnx"
    path.write_bytes(EXPORTERS.get("onnx").export(deploy(smaller)))
    np.testing.assert_allclose(open_model(path).predict(x[:5].astype(np.float32)), answers(graph, x[:5]), atol=1e-3)


def test_the_notes_tell_the_work_and_warn_of_depth() -> None:
    x, y = flat_rows(), np.arange(200) % 3
    deep = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(12, 12), nn.ReLU())), nn.Linear(12, 3))
    graph, context = case(deep, x, y)
    notes = technique.apply(graph, ReduceInputsSettings(keep=0.25), context).notes
    assert notes[0] == "12 inputs became 3; multiply-accumulates 612 → 540"
    assert "5 weighted layers" in notes[1]
    assert len(notes) == 2
    shallow, context = case(Scaled(), x, y)
    grown = technique.apply(shallow, ReduceInputsSettings(keep=11 / 12), context).notes
    assert "no smaller" in grown[-1]
    assert len(grown) == 2


def test_pictures_and_other_heads_are_refused() -> None:
    graph, context = case(nn.Sequential(nn.ReLU(), nn.Linear(12, 3)), flat_rows(), np.arange(200) % 3)
    with pytest.raises(CutError, match="something else than linear layers"):
        technique.apply(graph, ReduceInputsSettings(), context)
    pictures = trace(nn.Conv2d(1, 4, 3), torch.zeros(2, 1, 8, 8))
    assert technique.supports(pictures) == ("its input is no row of numbers",)


def test_more_directions_than_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match="3 examples span no 5 directions"):
        principal(np.zeros((3, 8), np.float32), 5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ReduceInputsSettings("lda"), "method is 'lda'"),
        (lambda: ReduceInputsSettings(keep=0.0), "keep is 0"),
        (lambda: ReduceInputsSettings(keep=1.1), "keep is 1.1"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], ReduceInputsSettings], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        wrong()
