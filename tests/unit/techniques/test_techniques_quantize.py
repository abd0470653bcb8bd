"""Quantization: integers that answer like the network, repaired by training where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgehone.errors import EdgehoneError, RecipeError
from edgehone.graph.equalize import chains
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.oracle import run
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.techniques import Context
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.quantize import QuantizeSettings, inputs, technique
from edgehone.testing.expect import identical
from edgehone.testing.networks import mobilenet, settle
from edgehone.testing.techniques import reference_context, reference_graph
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


def relative_error(quantized: QuantizedGraph | None, graph: Graph, context: Context) -> float:
    """Squared error of the integers' answers on the test split, over the variance of the float ones."""
    assert quantized is not None
    x, _ = context.prepared.test.arrays()
    with torch.no_grad():
        expected = GraphNetwork(graph).eval()(torch.from_numpy(x)).flatten(1).numpy()
    found = answers(quantized, x).reshape(expected.shape)
    return float(np.square(found - expected).sum() / np.square(expected - expected.mean(0)).sum())


@pytest.fixture(scope="module")
def badly_scaled() -> Graph:
    """A depthwise network some channels of which are a thousand times wider than others; the same function in float."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = settle(mobilenet((8, 16, 16), (1, 1), classes=3), (1, 3, 8, 8))
    graph = deploy(trace(network, torch.zeros((2, 3, 8, 8))))
    params = dict(graph.params)
    for chain in chains(graph):
        (reader,) = chain.readers
        depthwise = params[reader.params["weight"]].shape[1] == 1
        weight, bias = (chain.writer.params[role] for role in ("weight", "bias"))
        factor = np.exp(np.linspace(-3.5, 3.5, len(params[bias]))).astype(np.float32)
        params[bias] = params[bias] * factor
        params[weight] = params[weight] * factor.reshape(-1, 1, 1, 1)
        columns = factor.reshape(-1, 1, 1, 1) if depthwise else factor.reshape(1, -1, *[1] * (reader.op == "conv") * 2)
        params[reader.params["weight"]] = params[reader.params["weight"]] / columns
    return replace(graph, params=params)


def test_repairs_give_back_what_bad_scales_took(badly_scaled: Graph) -> None:
    context = reference_context("pictures")
    plain, repaired = (
        technique.apply(badly_scaled, QuantizeSettings(repair=how), context).quantized for how in ("none", "auto")
    )
    assert relative_error(plain, badly_scaled, context) > 0.1
    assert relative_error(repaired, badly_scaled, context) < 0.2 * relative_error(plain, badly_scaled, context)


@pytest.mark.parametrize("kind", ["pictures", "windows", "rows", "anomalies"])
def test_repairs_do_no_harm(kind: str) -> None:
    graph, context = reference_graph(kind), reference_context(kind)
    plain, repaired = (
        technique.apply(graph, QuantizeSettings(repair=how), context).quantized for how in ("none", "auto")
    )
    assert relative_error(repaired, graph, context) <= 1.02 * relative_error(plain, graph, context)


def test_four_bits_are_repaired_too() -> None:
    graph, context = reference_graph("pictures"), reference_context("pictures")
    plain, repaired = (
        technique.apply(graph, QuantizeSettings(repair=how, bits=4), context).quantized for how in ("none", "auto")
    )
    assert relative_error(repaired, graph, context) < 0.2 * relative_error(plain, graph, context)
    assert repaired is not None
    assert sorted(weights.bits for weights in repaired.weights.values()) == [4] * 6 + [8]  # the linear layer stays


def stored_bytes(quantized: QuantizedGraph | None) -> int:
    assert quantized is not None
    return sum(w.values.size * w.bits // 8 + 4 * w.bias.size for w in quantized.weights.values())


def test_mixed_bits_fit_the_budget_and_lose_less_than_four_everywhere() -> None:
    graph, context = reference_graph("pictures"), reference_context("pictures")
    eight, mixed, four = (
        technique.apply(graph, settings, context).quantized
        for settings in (
            QuantizeSettings(),
            QuantizeSettings(bits="mixed", weight_bytes=13000),
            QuantizeSettings(bits=4),
        )
    )
    assert stored_bytes(four) < stored_bytes(mixed) <= 13000 < stored_bytes(eight)
    assert relative_error(mixed, graph, context) < 0.7 * relative_error(four, graph, context)


def test_mixed_bits_stay_within_an_error() -> None:
    graph, context = reference_graph("anomalies"), reference_context("anomalies")
    mixed = technique.apply(graph, QuantizeSettings(bits="mixed", max_error=0.02), context).quantized
    assert mixed is not None
    assert {weights.bits for weights in mixed.weights.values()} == {4, 8}
    assert relative_error(mixed, graph, context) < 1.2 * 0.02


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        (QuantizeSettings(), "int8"),
        (QuantizeSettings(repair="auto"), "int8-repaired"),
        (QuantizeSettings(repair="round", qat_epochs=0.5), "int8-round-qat-0.5"),
        (QuantizeSettings(bits=4, repair="auto"), "int4-repaired"),
        (QuantizeSettings(bits="mixed", weight_bytes=60000), "mixed-60000"),
        (QuantizeSettings(bits="mixed", max_error=0.005, repair="bias"), "mixed-e0.005-bias"),
    ],
)
def test_labels_tell_the_settings(settings: QuantizeSettings, label: str) -> None:
    assert technique.step(settings).label == label
    assert technique.from_label(label) == settings


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: QuantizeSettings(examples=0), RecipeError, "at least 1 example"),
        (lambda: QuantizeSettings(qat_epochs=-1), RecipeError, "epochs of 0 or more"),
        (lambda: QuantizeSettings(qat_epochs=float("nan")), RecipeError, "epochs of 0 or more"),
        (lambda: QuantizeSettings(repair="all"), RecipeError, "repair is 'all'"),
        (lambda: QuantizeSettings(bits=3), RecipeError, "bits is 3"),
        (lambda: QuantizeSettings(max_error=0), RecipeError, "max_error above 0"),
        (lambda: QuantizeSettings(bits="mixed", weight_bytes=10), RecipeError, "not 10"),
        (lambda: QuantizeSettings(observer="best"), RecipeError, "'best' is not known"),
    ],
)
def test_bad_settings_are_refused(
    digits, wrong: Callable[[], QuantizeSettings], error: type[EdgehoneError], said: str
) -> None:
    with pytest.raises(error, match=said):
        technique.apply(digits.graph, wrong(), digits.context)
