"""Quantization: integers that answer like the network, repaired by training where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgehone.errors import EdgehoneError, RecipeError
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.oracle import run
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.twin import quantize
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.quantize import QuantizeSettings, inputs, technique
from edgehone.testing.expect import identical
from edgehone.train.loop import Teacher


@pytest.fixture(scope="module")
def cut(digits) -> Graph:
    """Not recovered: there is something to gain by training."""
    return prune.apply(digits.graph, PruneSettings(0.4), digits.context).graph


def answers(quantized: QuantizedGraph, x: np.ndarray) -> np.ndarray:
    """Of the integers alone, as floats (N, 10)."""
    source, target = (quantized.tensors[name] for name in (quantized.graph.input, quantized.graph.output))
    return target.dequantize(run(quantized, source.quantize(x)))


def loss(quantized: QuantizedGraph | None, digits) -> float:
    assert quantized is not None
    x, y = digits.arrays()
    return float(F.cross_entropy(torch.from_numpy(answers(quantized, x)), torch.from_numpy(y)))


def test_it_is_plain_calibration_on_a_seeded_sample(digits) -> None:
    result = technique.apply(digits.graph, QuantizeSettings(examples=100), digits.context)
    sample = digits.context.prepared.train.sample(100, digits.context.seed)
    assert identical(result.quantized, quantize(deploy(digits.graph), inputs(sample)))
    assert identical(result.graph, digits.graph)
    assert result.curve == ()


def test_the_integers_answer_like_the_network(digits) -> None:
    quantized = technique.apply(digits.graph, QuantizeSettings(), digits.context).quantized
    x, _ = digits.arrays()
    with torch.no_grad():
        expected = GraphNetwork(digits.graph).eval()(torch.from_numpy(x)).numpy()
    assert (answers(quantized, x).argmax(1) == expected.argmax(1)).mean() >= 0.98


def test_training_repairs_what_rounding_and_cutting_broke(digits, cut: Graph) -> None:
    context = replace(digits.context, teacher=Teacher(GraphNetwork(digits.graph).eval(), "classification"))
    calibrated = technique.apply(cut, QuantizeSettings(), context)
    trained = technique.apply(cut, QuantizeSettings(qat_epochs=2), context)
    assert loss(trained.quantized, digits) < 0.9 * loss(calibrated.quantized, digits)
    assert [point.epoch for point in trained.curve] == [pytest.approx(1, abs=0.1), pytest.approx(2, abs=0.1)]
    assert trained.curve[1].loss < trained.curve[0].loss
    assert identical(trained.graph, cut)  # the floats stay as they were: only the integers are trained


def test_training_does_no_harm_where_nothing_is_broken(digits) -> None:
    calibrated = technique.apply(digits.graph, QuantizeSettings(), digits.context)
    trained = technique.apply(digits.graph, QuantizeSettings(qat_epochs=1), digits.context)
    assert loss(trained.quantized, digits) <= 1.02 * loss(calibrated.quantized, digits)


def test_training_follows_its_seed(digits, cut: Graph) -> None:
    settings = QuantizeSettings(qat_epochs=1)
    one, same, other = (
        technique.apply(cut, settings, replace(digits.context, seed=seed)).quantized for seed in (1, 1, 2)
    )
    assert identical(one, same)
    assert not identical(one, other)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: QuantizeSettings(examples=0), RecipeError, "at least 1 example"),
        (lambda: QuantizeSettings(qat_epochs=-1), RecipeError, "epochs of 0 or more"),
        (lambda: QuantizeSettings(qat_epochs=float("nan")), RecipeError, "epochs of 0 or more"),
        (lambda: QuantizeSettings(observer="best"), RecipeError, "'best' is not known"),
    ],
)
def test_bad_settings_are_refused(
    digits, wrong: Callable[[], QuantizeSettings], error: type[EdgehoneError], said: str
) -> None:
    with pytest.raises(error, match=said):
        technique.apply(digits.graph, wrong(), digits.context)
