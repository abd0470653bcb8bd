"""Dropout: where it is put, which rate is kept, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgehone.errors import RecipeError
from edgehone.graph.fold import deploy
from edgehone.graph.network import GraphNetwork
from edgehone.task import Training
from edgehone.techniques.dropout import DropoutSettings, technique, with_dropout
from edgehone.testing.expect import identical
from edgehone.testing.techniques import reference_context, reference_graph
from edgehone.train.losses import split_loss

FAST = Training(epochs=1, batch_size=32, learning_rate=0.01)


def rates(graph) -> list[float]:
    return [node.attrs["rate"] for node in graph.nodes if node.op == "dropout"]


@pytest.mark.parametrize(("layers", "expected"), [(1, [0.2, 0.4]), (2, [0.4, 0.4]), (9, [0.4, 0.4, 0.4])])
def test_it_stands_before_the_last_linear_layers(layers: int, expected: list[float]) -> None:
    """The reference network of rows has two dropouts of 0.2 before its second and third of three linear layers."""
    graph = with_dropout(reference_graph("rows"), 0.4, layers)
    linear = [node for node in graph.nodes if node.op == "linear"]
    for node in linear[-layers:]:
        assert graph.producers()[node.inputs[0]].attrs == {"rate": 0.4}
    assert sorted(rates(graph)) == expected


def test_it_drops_in_training_and_is_gone_on_the_device() -> None:
    graph = with_dropout(reference_graph("pictures"), 0.5)
    x, _ = next(reference_context("pictures").prepared.validation.batches(8))
    network, before = GraphNetwork(graph), GraphNetwork(reference_graph("pictures")).eval()
    with torch.no_grad():
        assert torch.equal(network.eval()(x), before(x))
        network.set_momentum(0.0)
        one, two = network.train()(x), network.train()(x)
    assert not torch.equal(one, two)
    assert rates(deploy(graph)) == []


def test_the_rate_with_the_lowest_validation_loss_is_kept(digits) -> None:
    settings = DropoutSettings((0.9, 0.25), training=FAST)
    result = technique.apply(digits.graph, settings, digits.context)
    losses = {float(n.split()[1][:-1]): float(n.split()[-1]) for n in result.notes[:-1]}
    assert sorted(losses) == [0.0, 0.25, 0.9]
    best = min(losses, key=lambda rate: losses[rate])
    assert result.notes[-1] == f"dropout {best:g} was kept"
    assert rates(result.graph) == ([best] if best else [])
    prepared = digits.context.prepared
    found = split_loss(GraphNetwork(result.graph), prepared.validation, prepared.task)
    assert found == pytest.approx(losses[best], rel=1e-3)
    assert losses[0.9] > losses[best]
    assert result.curve


def test_a_rate_of_zero_is_plain_training(digits) -> None:
    result = technique.apply(digits.graph, DropoutSettings((0.0,), training=FAST), digits.context)
    assert rates(result.graph) == []
    assert result.notes[-1] == "dropout 0 was kept"
    before, after = (
        np.concatenate([array.ravel() for array in graph.params.values()]) for graph in (digits.graph, result.graph)
    )
    assert not np.array_equal(before, after)


def test_without_a_linear_layer_it_is_refused_in_words() -> None:
    graph, context = reference_graph("anomalies"), reference_context("anomalies")
    with pytest.raises(RecipeError, match="there is no linear layer that dropout could stand before"):
        technique.apply(graph, DropoutSettings(), context)
    assert identical(technique.apply(graph, DropoutSettings(()), context).graph, graph)


def test_the_loss_of_an_anomaly_task_is_over_what_is_normal() -> None:
    context = reference_context("anomalies")
    prepared, network = context.prepared, GraphNetwork(reference_graph("anomalies")).eval()
    x, y = prepared.validation.arrays()
    with torch.no_grad():
        errors = (network(torch.from_numpy(x)).numpy() - x).reshape(len(x), -1)
    expected = np.square(errors[y == 0]).mean()
    assert split_loss(network, prepared.validation, prepared.task, 7) == pytest.approx(expected, rel=1e-4)
    assert np.square(errors).mean() != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: DropoutSettings((1.0,)), "rates has 1"),
        (lambda: DropoutSettings((-0.1,)), "rates has -0.1"),
        (lambda: DropoutSettings(layers=0), "layers is 0"),
        (lambda: replace(DropoutSettings(), rates=(float("nan"),)), "rates has nan"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], DropoutSettings], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        wrong()
