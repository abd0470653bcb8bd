"""Low-rank factors: exact at full rank, of the rank that is there, kept only where they pay, and recoverable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgehone.errors import CutError, RecipeError
from edgehone.exporters import EXPORTERS
from edgehone.graph.cost import macs, parameter_bytes
from edgehone.graph.factor import chain, factored
from edgehone.graph.fold import deploy
from edgehone.graph.ir import FloatArray, Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.twin import quantize
from edgehone.task import Training
from edgehone.techniques._low_rank import SPATIAL, TUCKER, energy_rank, full, vbmf_rank
from edgehone.techniques.decompose import DecomposeSettings, technique
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil
from edgehone.techniques.quantize import QuantizeSettings
from edgehone.techniques.quantize import technique as int8
from edgehone.testing.expect import identical, untouched
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.techniques import reference_context


def answer(graph: Graph) -> torch.Tensor:
    x = torch.randn(4, *graph.input_shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return GraphNetwork(graph).eval()(x)


def convolution(
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1)),
    dilation: tuple[int, int] = (1, 1),
) -> Graph:
    build = GraphBuilder((1, 6, 9, 11))
    draw = np.random.default_rng(1)
    params = {"weight": draw.normal(size=(10, 6, *kernel)).astype(np.float32), "bias": np.ones(10, np.float32)}
    x = build.node("conv", build.input, params=params, stride=stride, padding=padding, dilation=dilation, groups=1)
    return build.graph(build.relu(build.batch_norm(x)))


def line() -> Graph:
    build = GraphBuilder((1, 6, 20))
    return build.graph(build.batch_norm(build.conv(build.input, 9, 5, stride=2, bias=True)))


def rows() -> Graph:
    build = GraphBuilder((1, 12))
    return build.graph(build.relu(build.linear(build.input, 7)))


@pytest.mark.parametrize("form", [SPATIAL, TUCKER])
@pytest.mark.parametrize(
    "graph",
    [
        convolution((3, 3)),
        convolution((3, 3), (2, 2), ((0, 1), (1, 2))),
        convolution((3, 5), (2, 1), ((2, 0), (3, 1)), (2, 1)),
        convolution((1, 1), (2, 3)),
        convolution((1, 3)),
        convolution((3, 1), (2, 2)),
        line(),
        rows(),
    ],
    ids=["3x3", "uneven padding", "dilated", "1x1", "1x3", "3x1", "1-D", "linear"],
)
def test_factors_of_full_rank_answer_as_the_layer_did(graph: Graph, form) -> None:
    (node,) = graph.weighted()
    weight = graph.params[key := node.params["weight"]]
    if weight.ndim == 2 and form is TUCKER:
        return
    ranks = full(form.sides(weight))
    factors = form.factors(weight, ranks)
    assert [factor.shape for factor in factors] == form.shapes(weight.shape, ranks)
    with untouched(graph):
        longer = factored(graph, key, factors)
    assert key not in longer.params
    torch.testing.assert_close(answer(longer), answer(graph), rtol=1e-4, atol=1e-4)
    links = chain(graph, node, form.shapes(weight.shape, ranks))
    assert sum(link.macs for link in links) == macs(longer)
    assert [longer.shapes[n.output] for n in longer.weighted()] == [link.shape for link in links]


def test_only_the_last_factor_has_the_bias_and_nothing_stands_between() -> None:
    graph = convolution((3, 3))
    weight = graph.params[key := next(graph.weighted()).params["weight"]]
    longer = factored(graph, key, TUCKER.factors(weight, (4, 4)))
    assert [node.op for node in longer.nodes] == ["conv", "conv", "conv", "batch_norm", "relu"]
    assert ["bias" in node.params for node in longer.weighted()] == [False, False, True]
    assert [node.module for node in longer.weighted()] == ["conv0.factor1", "conv0.factor2", "conv0"]


def test_factors_meet_at_equal_norms() -> None:
    weight = next(iter(convolution((3, 3)).params.values()))
    first, second = SPATIAL.factors(weight, (8,))
    np.testing.assert_allclose(np.sqrt((first**2).sum((1, 2, 3))), np.sqrt((second**2).sum((0, 2, 3))), rtol=1e-5)
    _, core, last = TUCKER.factors(weight, (4, 8))
    np.testing.assert_allclose(np.sqrt((core**2).sum((1, 2, 3))), np.sqrt((last**2).sum((0, 2, 3))), rtol=1e-5)


def test_a_weight_that_two_layers_share_is_factored_in_both() -> None:
    build = GraphBuilder((1, 8, 6, 6))
    x = build.conv(build.input, 8)
    graph = build.graph(build.batch_norm(build.conv(build.relu(x), 8, like=x)))
    weight = graph.params[key := next(graph.weighted()).params["weight"]]
    longer = factored(graph, key, SPATIAL.factors(weight, (24,)))
    assert len(list(longer.weighted())) == 4
    assert len({node.params["weight"] for node in longer.weighted()}) == 2
    torch.testing.assert_close(answer(longer), answer(graph), rtol=1e-4, atol=1e-4)
    twice = factored(longer, (last := list(longer.weighted())[-1]).params["weight"], SPATIAL.factors(
        longer.params[last.params["weight"]], (8,)
    ))  # fmt: skip
    assert len({node.output for node in twice.weighted()}) == 6


def test_weights_that_do_not_fit_are_refused() -> None:
    graph = convolution((3, 3))
    node = next(graph.weighted())
    for shapes in ([(4, 6, 3, 1), (10, 4, 3, 3)], [(4, 6, 3, 1), (10, 5, 1, 3)], [(4, 5, 3, 1), (10, 4, 1, 3)]):
        with pytest.raises(CutError, match="cannot take the place of one of"):
            chain(graph, node, shapes)


def of_rank(rank: int, shape: tuple[int, int], noise: float) -> FloatArray:
    draw = np.random.default_rng(rank)
    product = draw.normal(size=(shape[0], rank)) @ draw.normal(size=(rank, shape[1])) / np.sqrt(rank)
    return (product + noise * draw.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 64), (40, 200), (200, 40)])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_planted_rank_is_found(rank: int, shape: tuple[int, int]) -> None:
    assert vbmf_rank(of_rank(rank, shape, 0.2).astype(np.float64)) == rank
    assert vbmf_rank(1e-6 * of_rank(rank, shape, 0.2).astype(np.float64)) == rank
    assert energy_rank(of_rank(rank, shape, 0.0).astype(np.float64), 0.999999) == rank


def test_noise_has_no_rank_and_zeros_neither() -> None:
    assert vbmf_rank(np.random.default_rng(0).normal(size=(50, 80))) == 1
    assert vbmf_rank(np.zeros((8, 8))) == 1
    assert energy_rank(np.zeros((8, 8)), 0.9) == 1


def test_energy_keeps_its_share_with_the_smallest_rank() -> None:
    rows = np.random.default_rng(2).normal(size=(30, 50))
    energy = np.linalg.svd(rows, compute_uv=False) ** 2
    rank = energy_rank(rows, 0.7)
    assert energy[:rank].sum() >= 0.7 * energy.sum() > energy[: rank - 1].sum()


def planted(graph: Graph, rank: int = 8) -> Graph:
    """The graph with convolutions that are sums of that many products over all four axes: of low rank in every form."""
    params, draw = dict(graph.params), np.random.default_rng(4)
    for key in (n.params["weight"] for n in graph.weighted() if n.op == "conv" and n.attrs["groups"] == 1):
        sides = [draw.normal(size=(rank, size)) for size in params[key].shape]
        sums = np.einsum("ro,ri,rh,rw->oihw", *sides)
        params[key] = (sums * params[key].std() / sums.std()).astype(np.float32)
    return graph.with_nodes(graph.nodes, params=params)


@pytest.fixture(scope="module")
def wide() -> Graph:
    """Two convolutions of rank 8, a grouped one, and a linear layer; takes the pictures of the reference task."""
    build = GraphBuilder((1, 3, 8, 8))
    x = build.relu(build.batch_norm(build.conv(build.input, 32)))
    x = build.relu(build.batch_norm(build.conv(x, 48)))
    x = build.relu(build.conv(x, 48, groups=48))
    return planted(build.graph(build.linear(build.mean(x), 3)))


PICTURES = reference_context("pictures")


def layers(graph: Graph) -> int:
    return len(list(graph.weighted()))


@pytest.mark.parametrize("form", ["spatial", "tucker", "either"])
def test_layers_of_low_rank_become_thin_and_answers_stay(wide: Graph, form: str) -> None:
    settings = DecomposeSettings(form, keep=0.9999)
    (candidate, *_) = technique.candidates(wide, settings)[0]
    key, factors = candidate
    close = answer(factored(wide, key, factors))
    torch.testing.assert_close(close, answer(wide), rtol=0.02, atol=0.02)
    longer = technique.apply(wide, settings, PICTURES).graph
    assert macs(longer) < 0.6 * macs(wide)
    assert {node.attrs.get("groups", 1) for node in longer.weighted()} == {1, 48}
    for node in longer.weighted():
        if "factor" in node.module:
            rank = len(longer.params[node.params["weight"]])
            assert rank % 8 == 0 or rank < 8


@pytest.mark.parametrize("form", ["spatial", "tucker"])
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_by_share_a_layer_has_the_highest_rank_that_holds_it(wide: Graph, form: str, keep: float) -> None:
    settings = DecomposeSettings(form, by="share", keep=keep)
    works = {}
    for ((key, factors),) in technique.candidates(wide, settings):
        node = next(node for node in wide.weighted() if node.params["weight"] == key)
        (before,) = chain(wide, node, [wide.params[key].shape])
        works[key] = sum(link.macs for link in chain(wide, node, [f.shape for f in factors])) / before.macs
    second = list(wide.weighted())[1].params["weight"]
    assert all(share <= keep for share in works.values())
    assert keep - 0.2 < works[second] <= keep


def test_noise_sets_the_rank_by_vbmf(wide: Graph) -> None:
    draw = np.random.default_rng(3)
    noisy = {key: array + np.float32(0.005) * draw.normal(size=array.shape).astype(np.float32)
             for key, array in wide.params.items()}  # fmt: skip
    graph = wide.with_nodes(wide.nodes, params=noisy)
    found = dict(technique.candidates(graph, DecomposeSettings(by="vbmf"))[0])
    second = list(wide.weighted())[1].params["weight"]
    assert [factor.shape for factor in found[second]] == [(8, 32, 3, 1), (48, 8, 1, 3)]


def test_what_is_not_measured_faster_is_not_kept(wide: Graph) -> None:
    def per_layer(graph: Graph) -> float:
        return 10.0 * layers(graph) + 1e-9 * macs(graph)

    slower = technique.apply(wide, DecomposeSettings(), replace(PICTURES, latency_us=per_layer))
    assert identical(slower.graph, wide)
    assert slower.notes == ("0 of 2 layers that could gain stay in factors",)


def test_only_the_layers_that_pay_stay_in_factors(wide: Graph) -> None:
    """A runtime that is slow at the factors of one layer keeps that layer whole, and gets the other."""
    second = list(wide.weighted())[1]

    def latency_us(graph: Graph) -> float:
        return macs(graph) * (4.0 if f"{second.module}.factor1" in [n.module for n in graph.nodes] else 1.0)

    longer = technique.apply(wide, DecomposeSettings(by="share", keep=0.5), replace(PICTURES, latency_us=latency_us))
    modules = [node.module for node in longer.graph.weighted()]
    assert f"{second.module}.factor1" not in modules
    assert f"{next(wide.weighted()).module}.factor1" in modules
    assert longer.notes[0].startswith("1 of 3 layers")


def test_the_margin_is_asked_for(wide: Graph) -> None:
    context = replace(PICTURES, latency_us=lambda graph: 1000.0 - layers(graph))
    for margin, kept in ((0.0, True), (0.01, False)):
        graph = technique.apply(wide, DecomposeSettings(margin=margin), context).graph
        assert (layers(graph) > layers(wide)) is kept


def test_for_size_bytes_decide_and_the_file_is_smaller(wide: Graph) -> None:
    context = replace(PICTURES, latency_us=lambda graph: float(layers(graph)))
    smaller = technique.apply(wide, DecomposeSettings(by="share", keep=0.4, for_size=True), context).graph
    assert layers(smaller) > layers(wide)
    assert parameter_bytes(smaller) < parameter_bytes(wide)
    batches = [torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))]
    before, after = (len(EXPORTERS.get("tflite").export(quantize(deploy(g), batches))) for g in (wide, smaller))
    assert after < before


def test_a_layer_whose_file_would_grow_stays_whole_for_size() -> None:
    build = GraphBuilder((1, 16))
    graph = build.graph(build.linear(build.input, 16))  # half the rank is half the MACs less, and a layer more
    settings = DecomposeSettings(by="share", keep=0.5)
    rows_context = replace(reference_context("rows"), latency_us=None)
    assert layers(technique.apply(graph, settings, rows_context).graph) == 2
    assert identical(technique.apply(graph, replace(settings, for_size=True), rows_context).graph, graph)


def test_statistics_are_re_estimated(digits) -> None:
    settings = DecomposeSettings(by="share", keep=0.5, margin=0.0)
    thin = technique.apply(digits.graph, settings, digits.context).graph
    raw = digits.graph
    for ((key, factors),) in technique.candidates(digits.graph, settings):
        raw = factored(raw, key, factors)
    assert [node.output for node in raw.nodes] == [node.output for node in thin.nodes]
    assert digits.loss(GraphNetwork(thin)) < digits.loss(GraphNetwork(raw))


def test_a_share_that_no_rank_holds_leaves_the_layer_whole() -> None:
    build = GraphBuilder((1, 2, 8, 8))
    graph = build.graph(build.mean(build.conv(build.input, 2)))
    assert technique.candidates(graph, DecomposeSettings(by="share", keep=0.05)) == []


def test_a_decomposed_network_recovers_and_survives_int8(digits) -> None:
    settings = DecomposeSettings("either", by="share", keep=0.4)
    thin = technique.apply(digits.graph, settings, digits.context).graph
    assert macs(thin) < 0.65 * macs(digits.graph)
    training = Training(epochs=2, batch_size=64, learning_rate=0.05)
    recovered = distil.apply(thin, DistilSettings(training), digits.context).graph
    assert digits.accuracy(recovered) > digits.accuracy(digits.graph) - 0.03
    quantized = int8.apply(recovered, QuantizeSettings(), digits.context).quantized
    assert quantized is not None
    assert digits.accuracy(quantized.graph) > digits.accuracy(digits.graph) - 0.03


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: DecomposeSettings("cp"), "form 'cp' is not known"),
        (lambda: DecomposeSettings(by="rank"), "by 'rank' is not known"),
        (lambda: DecomposeSettings(keep=0.0), "keep is 0"),
        (lambda: DecomposeSettings(keep=1.1), "keep is 1.1"),
        (lambda: DecomposeSettings(keep=float("nan")), "keep is nan"),
        (lambda: DecomposeSettings(margin=1.0), "margin is 1"),
        (lambda: DecomposeSettings(margin=-0.1), "margin is -0.1"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], DecomposeSettings], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        wrong()


def test_a_network_without_a_layer_to_factor_is_refused() -> None:
    build = GraphBuilder((1, 8, 6, 6))
    graph = build.graph(build.mean(build.conv(build.input, 8, groups=8)))
    with pytest.raises(CutError, match="no layer of this network can be a product of two"):
        technique.apply(graph, DecomposeSettings(), PICTURES)


def test_labels_say_what_was_done() -> None:
    said = {
        "decompose-spatial-energy-90": DecomposeSettings(),
        "decompose-tucker-vbmf": DecomposeSettings("tucker", "vbmf"),
        "decompose-either-share-37.5-size": DecomposeSettings("either", "share", 0.375, for_size=True),
        "decompose-spatial-energy-99.9": DecomposeSettings(keep=0.999),
    }
    assert {technique.step(settings).label: settings for settings in said.values()} == said
    assert {label: technique.from_label(label) for label in said} == said
    assert technique.from_label("decompose-spatial-rank-90") is None
    assert technique.from_label("prune-l2-global-40") is None
