"""Recovery: it brings back what a cut took, it listens to its teacher, and its settings arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgehone.errors import EdgehoneError, RecipeError, TaskError
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Training
from edgehone.techniques.distil import DistilSettings, technique
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.testing.expect import identical
from edgehone.train.loop import Teacher

SHORT = Training(epochs=2, batch_size=64, learning_rate=0.05)


@pytest.fixture(scope="module")
def cut(digits) -> Graph:
    return prune.apply(digits.graph, PruneSettings(0.2, step=4, minimum=4), digits.context).graph


def teacher_of(digits) -> Teacher:
    return Teacher(GraphNetwork(digits.graph).eval(), "classification")


def test_a_cut_network_recovers(digits, cut: Graph) -> None:
    context = replace(digits.context, teacher=teacher_of(digits))
    recovered = technique.apply(cut, DistilSettings(SHORT), context)
    assert digits.accuracy(cut) < digits.accuracy(digits.graph) - 0.1
    assert digits.accuracy(recovered.graph) > digits.accuracy(cut) + 0.1
    assert digits.accuracy(recovered.graph) > 0.9
    assert [point.epoch for point in recovered.curve] == [1.0, 2.0]
    assert recovered.curve[1].loss < recovered.curve[0].loss


def test_the_student_follows_its_teacher_and_not_the_labels(digits, cut: Graph) -> None:
    """A teacher that calls every digit the next one: the weight decides whom the student believes."""

    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 8 * torch.roll(nn.functional.one_hot(right(x).argmax(1), 10).float(), 1, 1)

    right = GraphNetwork(digits.graph).eval()
    context = replace(digits.context, teacher=Teacher(Wrong(), "classification"))
    rates = {}
    for weight in (0.0, 1.0):
        graph = technique.apply(cut, DistilSettings(SHORT, weight=weight), context).graph
        rates[weight] = digits.accuracy(graph)
    assert rates[0.0] > 0.9
    assert rates[1.0] < 0.1


def test_without_weight_the_teacher_changes_nothing(digits, cut: Graph) -> None:
    alone = technique.apply(cut, DistilSettings(SHORT, weight=0.0), digits.context)
    taught = technique.apply(
        cut, DistilSettings(SHORT, weight=0.0), replace(digits.context, teacher=teacher_of(digits))
    )
    for key, array in alone.graph.params.items():
        np.testing.assert_allclose(taught.graph.params[key], array, rtol=1e-4, atol=1e-5)


def test_the_seed_decides(digits, cut: Graph) -> None:
    one, same, other = (
        technique.apply(cut, DistilSettings(SHORT), replace(digits.context, seed=seed)).graph for seed in (1, 1, 2)
    )
    assert identical(one, same)
    assert not identical(one, other)


def test_the_dropout_rate_is_passed_on(digits) -> None:
    """Rate 0 trains as if the layer were not there; without a rate the layer keeps its own."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10)]
    graph, plain = (
        trace(nn.Sequential(*some).eval(), torch.zeros(2, 1, 8, 8)) for some in (layers, layers[:2] + layers[3:])
    )
    training = Training(epochs=1, batch_size=64, learning_rate=0.01)

    def weights(start: Graph, rate: float | None) -> list[np.ndarray]:
        after = technique.apply(start, DistilSettings(replace(training, dropout=rate)), digits.context).graph
        assert [n.attrs for n in after.nodes] == [n.attrs for n in start.nodes]
        return [after.params[node.params["weight"]] for node in after.weighted()]

    assert identical(weights(graph, 0.0), weights(plain, None))
    assert identical(weights(graph, None), weights(graph, 0.5))
    assert not identical(weights(graph, 0.9), weights(graph, 0.5))


def test_the_validation_metric_is_on_the_curve(digits, cut: Graph) -> None:
    context = replace(digits.context, validate=digits.rate)
    result = technique.apply(cut, DistilSettings(SHORT), context)
    assert result.curve[-1].metric == pytest.approx(digits.accuracy(result.graph))


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: DistilSettings(weight=-0.1), RecipeError, "weight is -0.1"),
        (lambda: DistilSettings(weight=1.1), RecipeError, "weight is 1.1"),
        (lambda: DistilSettings(weight=float("nan")), RecipeError, "weight is nan"),
        (lambda: DistilSettings(temperature=0.0), RecipeError, "temperature is 0"),
        (lambda: DistilSettings(temperature=float("inf")), RecipeError, "temperature is inf"),
        (lambda: DistilSettings(Training(epochs=0)), TaskError, "epochs is 0"),
        (lambda: DistilSettings(Training(dropout=1.0)), TaskError, "dropout is 1"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], DistilSettings], error: type[EdgehoneError], said: str) -> None:
    with pytest.raises(error, match=said):
        wrong()
