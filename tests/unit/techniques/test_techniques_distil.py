"""Recovery: it brings back what a cut took, it listens to its teacher, and its settings arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgehone.errors import EdgehoneError, RecipeError, TaskError
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Training
from edgehone.techniques.distil import DistilSettings, matched_stages, technique
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.testing.expect import identical
from edgehone.train.loop import Teacher
from edgehone.train.losses import attention_loss

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


def test_attention_brings_the_maps_of_student_and_teacher_together(digits, cut: Graph) -> None:
    context = replace(digits.context, teacher=teacher_of(digits))
    x = torch.from_numpy(digits.arrays()[0][:100])
    stages = matched_stages(cut, digits.graph)
    assert {digits.graph.shapes[theirs][2:] for _, theirs in stages} == {(8, 8), (4, 4)}

    def distance(graph: Graph) -> float:
        with torch.no_grad():
            mine, theirs = (GraphNetwork(g).eval().activations(x) for g in (graph, digits.graph))
            return float(attention_loss([mine[a] for a, _ in stages], [theirs[b] for _, b in stages]))

    assert distance(digits.graph) == pytest.approx(0, abs=1e-6)
    found = {w: technique.apply(cut, DistilSettings(SHORT, attention=w), context) for w in (0.0, 100.0)}
    assert distance(found[100.0].graph) < 0.7 * distance(found[0.0].graph)
    assert digits.accuracy(found[100.0].graph) > 0.9
    assert found[100.0].graph.params.keys() == cut.params.keys()


def test_an_attention_map_has_no_channels_and_no_size() -> None:
    """Twice as strong everywhere, or more channels that look alike: the same map; another place: another map."""
    one = torch.rand(2, 3, 4, 5)
    assert float(attention_loss([one], [2 * torch.cat([one, one], 1)])) == pytest.approx(0, abs=1e-6)
    left, right = torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4)
    left[..., 0], right[..., 3] = 1, 1
    assert float(attention_loss([left, left], [right, left])) == pytest.approx(1.0)


def test_attention_goes_on_where_it_stopped(digits, cut: Graph, tmp_path: Path) -> None:
    settings = DistilSettings(SHORT, attention=10.0)
    context = replace(digits.context, teacher=teacher_of(digits))
    whole = technique.apply(cut, settings, context).graph

    def stop(done: int, total: int, loss: float) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    kept = replace(context, checkpoint=tmp_path / "training.npz")
    with pytest.raises(KeyboardInterrupt):
        technique.apply(cut, settings, replace(kept, report=stop))
    resumed = technique.apply(cut, settings, kept).graph
    for key, array in whole.params.items():
        np.testing.assert_allclose(resumed.params[key], array, rtol=1e-4, atol=1e-5)


def test_attention_needs_a_teacher_that_can_be_seen(digits, cut: Graph) -> None:
    settings = DistilSettings(SHORT, attention=1.0)
    for teacher in (None, Teacher(nn.Flatten(), "classification")):
        with pytest.raises(RecipeError, match="a teacher whose layers can be seen"):
            technique.apply(cut, settings, replace(digits.context, teacher=teacher))
    flat = trace(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), torch.zeros(2, 1, 8, 8))
    with pytest.raises(RecipeError, match="no tensor of one size in space"):
        technique.apply(flat, settings, replace(digits.context, teacher=teacher_of(digits)))
    with pytest.raises(RecipeError, match="attention is -1"):
        DistilSettings(attention=-1.0)
