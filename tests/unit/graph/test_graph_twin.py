"""The quantized twin: float, calibrated, trained, and its integers."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgehone.errors import DataError, NetworkError, RecipeError
from edgehone.graph.fake_quant import fake_quantize
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.observers import OBSERVERS
from edgehone.graph.oracle import run
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin, quantize
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import NETWORKS, example_shape

ZOO = ("resnet8", "mobilenet-v3", "se-net", "conv1d-net", "mlp", "u-net", "autoencoder")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def data(graph: Graph, count: int = 32, seed: int = 0) -> Tensor:
    return torch.randn((count, *graph.input_shape[1:]), generator=torch.Generator().manual_seed(seed))


def zoo(name: str) -> Graph:
    return deploy(trace(NETWORKS[name](), torch.zeros((2, *example_shape(name)[1:]))))


def small() -> Graph:
    build = GraphBuilder((1, 3, 8, 8))
    x = build.relu(build.conv(build.input, 8, bias=True))
    x = build.relu(build.node("add", x, build.conv(x, 8, bias=True)))
    return deploy(build.graph(build.linear(build.mean(x), 5)))


def same(a: QuantizedGraph, b: QuantizedGraph) -> bool:
    weights = all(
        np.array_equal(a.weights[k].values, b.weights[k].values)
        and np.array_equal(a.weights[k].bias, b.weights[k].bias)
        for k in a.weights
    )
    return a.tensors == b.tensors and weights


@pytest.mark.parametrize("name", ZOO)
def test_float_mode_is_the_float_network(name: str) -> None:
    graph = zoo(name)
    x = data(graph, 4)
    twin = Twin(graph).eval()
    expected = GraphNetwork(graph).eval()(x)
    assert torch.equal(twin(x), expected)
    twin.calibrate([x])
    twin.mode = "float"
    assert torch.equal(twin(x), expected)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("observer", OBSERVERS)
def test_quantized_outputs_stay_close_to_the_float_network(name: str, observer: str) -> None:
    graph = zoo(name)
    x = data(graph)
    twin = Twin(graph, observer).eval()
    twin.calibrate(x.split(8))
    with torch.no_grad():
        expected, found = GraphNetwork(graph).eval()(x), twin(x)
    noise = (found - expected).square().mean() / expected.var()
    assert noise < 0.01  # 20 dB on random weights


def test_any_batch_size_gives_the_same_answer() -> None:
    graph = small()
    twin = Twin(graph).eval()
    x = data(graph)
    twin.calibrate([x])
    one_by_one = torch.cat([twin(example[None]) for example in x])
    step = twin.to_quantized().tensors[graph.output].scale
    assert (twin(x) - one_by_one).abs().max() <= step * 1.001


def test_outputs_lie_on_the_grid_that_to_quantized_states() -> None:
    graph = small()
    twin = Twin(graph).eval()
    x = data(graph)
    twin.calibrate([x])
    params = twin.to_quantized().tensors[graph.output]
    y = twin(x).detach().numpy()
    np.testing.assert_allclose(params.dequantize(params.quantize(y)), y, rtol=0, atol=params.scale * 1e-4)


def test_integers_are_those_of_the_specification() -> None:
    graph = small()
    quantized = quantize(graph, [data(graph)])
    node = next(graph.weighted())
    weight, bias = graph.param(node, "weight"), graph.param(node, "bias")
    found = quantized.weights[node.output]
    scale = np.abs(weight).reshape(len(weight), -1).max(1) / np.float32(127)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-6)
    np.testing.assert_array_equal(found.values, np.rint(weight / found.scale[:, None, None, None]).astype(np.int8))
    steps = found.scale.astype(np.float64) * quantized.tensors[graph.input].scale
    np.testing.assert_array_equal(found.bias, np.rint(bias / steps).astype(np.int32))
    for params in quantized.tensors.values():
        assert np.float32(params.scale) == params.scale > 0
        assert -128 <= params.zero_point <= 127
        assert params.dequantize(np.array([params.zero_point], np.int8))[0] == 0.0


def test_a_range_after_a_fused_relu_starts_at_zero() -> None:
    graph = small()
    quantized = quantize(graph, [data(graph)])
    fused = [node.output for node in graph.nodes if node.activation]
    assert fused
    assert all(quantized.tensors[name].zero_point == -128 for name in fused)


def test_four_bit_weights_use_seven_levels_each_way() -> None:
    graph = small()
    twin = Twin(graph, weight_bits=4)
    twin.calibrate([data(graph)])
    for weights in twin.to_quantized().weights.values():
        assert np.abs(weights.values).max() == 7


def test_dead_channels_keep_the_bias_inside_int32() -> None:
    build = GraphBuilder((1, 3, 6, 6))
    graph = build.graph(build.conv(build.input, 4, bias=True))
    weight, bias = (graph.params[f"{graph.output}.{role}"] for role in ("weight", "bias"))
    weight[:2] = 0
    bias[:] = (0.0, 3.0, -2.0, 0.5)
    twin = Twin(graph).eval()
    x = data(graph) * 0.01
    twin.calibrate([x])
    quantized = twin.to_quantized()
    found = quantized.weights[graph.output]
    assert (found.values[:2] == 0).all()
    assert np.abs(found.bias.astype(np.int64)).max() <= 2**30 + 64
    real = quantized.tensors[graph.output].dequantize(run(quantized, quantized.tensors["x"].quantize(x.numpy())))
    step = quantized.tensors[graph.output].scale
    np.testing.assert_allclose(real[:, 1], 3.0, atol=step)
    np.testing.assert_allclose(real[:, 0], 0.0, atol=step)


def test_a_network_of_zeros_is_quantized_without_trouble() -> None:
    graph = small()
    dead = graph.with_nodes(graph.nodes, params={key: np.zeros_like(value) for key, value in graph.params.items()})
    quantized = quantize(dead, [data(graph)])
    levels = run(quantized, quantized.tensors["x"].quantize(data(graph).numpy()))
    assert (levels == quantized.tensors[graph.output].zero_point).all()


def test_a_shared_weight_is_quantized_where_it_is_used_and_trained_once() -> None:
    build = GraphBuilder((1, 4, 6, 6))
    first = build.conv(build.input, 4, bias=True)
    second = build.conv(build.relu(first), 4, like=first)
    graph = deploy(build.graph(second))
    assert graph.params.keys() == {f"{first}.weight", f"{first}.bias"}
    twin = Twin(graph)
    twin.calibrate([data(graph)])
    assert len(list(twin.parameters())) == 2
    quantized = twin.to_quantized()
    uses = [quantized.weights[node.output] for node in graph.weighted()]
    np.testing.assert_array_equal(uses[0].values, uses[1].values)
    assert not np.array_equal(uses[0].bias, uses[1].bias)
    twin.train()(data(graph)).sum().backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_constants_are_quantized() -> None:
    build = GraphBuilder((1, 3, 6, 6))
    graph = build.graph(build.constant("add", build.constant("mul", build.input, (1, 3, 1, 1)), (1, 3, 1, 1)))
    twin = Twin(graph).eval()
    x = data(graph)
    twin.calibrate([x])
    quantized = twin.to_quantized()
    assert quantized.constants.keys() == {node.output for node in graph.nodes}
    for node in graph.nodes:
        constant = quantized.constants[node.output]
        np.testing.assert_allclose(
            constant.params.dequantize(constant.values), graph.param(node, "value"), atol=constant.params.scale * 0.51
        )


def test_a_coarse_concat_gets_a_requantize_after_calibration() -> None:
    build = GraphBuilder((1, 3, 6, 6))
    small_, large = build.conv(build.input, 4, bias=True), build.conv(build.input, 4, bias=True)
    graph = build.graph(build.concat(build.concat(small_, large), build.conv(small_, 4, bias=True)))
    graph.params[f"{large}.weight"][:] *= 50
    twin = Twin(graph).eval()
    x = data(graph)
    twin.calibrate([x])
    quantized = twin.to_quantized()
    requantized = [node.inputs[0] for node in quantized.graph.nodes if node.op == "requantize"]
    assert requantized == [small_]
    assert quantized.tensors[small_].scale * 4 < quantized.tensors[graph.output].scale
    assert twin.to_graph().nodes == graph.nodes
    levels = quantized.tensors["x"].quantize(x.numpy())
    found = quantized.tensors[graph.output].quantize(
        twin(torch.from_numpy(quantized.tensors["x"].dequantize(levels))).detach().numpy()
    )
    assert np.abs(found.astype(int) - run(quantized, levels)).max() <= 1


@pytest.mark.parametrize("observer", OBSERVERS)
def test_calibration_is_deterministic_and_starts_afresh(observer: str) -> None:
    graph = zoo("u-net")
    batches = data(graph, 16).split(4)
    first = Twin(graph, observer)
    first.calibrate([batch * 100 for batch in batches])
    first.calibrate(batches)
    assert same(first.to_quantized(), quantize(graph, batches, observer))


def test_calibration_refuses_bad_data() -> None:
    twin = Twin(small())
    with pytest.raises(DataError, match="no data"):
        twin.calibrate([])
    with pytest.raises(DataError, match="input"):
        twin.calibrate([torch.full((1, 3, 8, 8), float("nan"))])
    with pytest.raises(DataError, match="tensor 'conv"):
        twin.calibrate([torch.full((1, 3, 8, 8), 3e38)])
    assert twin.mode == "float"


def test_use_before_calibration_is_refused() -> None:
    twin = Twin(small())
    with pytest.raises(DataError, match="no ranges"):
        twin.to_quantized()
    twin.mode = "quantized"
    with pytest.raises(DataError, match="calibrate"):
        twin(torch.zeros(1, 3, 8, 8))


def test_wrong_settings_and_training_graphs_are_refused() -> None:
    with pytest.raises(RecipeError, match="observer"):
        Twin(small(), "median")
    with pytest.raises(RecipeError, match="bits"):
        Twin(small(), weight_bits=9)
    build = GraphBuilder((1, 3, 8, 8))
    with pytest.raises(NetworkError, match="batch_norm"):
        Twin(build.graph(build.batch_norm(build.input)))


def test_calibrate_keeps_the_training_flag() -> None:
    twin = Twin(small()).train()
    twin.calibrate([torch.randn(4, 3, 8, 8)])
    assert twin.training


def train(twin: Twin, x: Tensor, labels: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(twin.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_quantization_aware_training_lowers_the_loss_and_the_file_agrees() -> None:
    graph = small()
    x = data(graph, 64)
    labels = (x.mean((1, 2, 3)) > 0).long()
    twin = Twin(graph).train()
    twin.calibrate([x])
    losses = train(twin, x, labels, 40)
    twin.freeze_ranges()
    frozen = twin.scale.clone()
    losses += train(twin, x, labels, 10)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(twin.scale, frozen)
    twin.eval()
    quantized = twin.to_quantized()
    levels = quantized.tensors["x"].quantize(x.numpy())
    real = torch.from_numpy(quantized.tensors["x"].dequantize(levels))
    found = quantized.tensors[graph.output].quantize(twin(real).detach().numpy()).astype(int)
    assert np.abs(found - run(quantized, levels)).max() <= 1
    trained = twin.to_graph()
    assert trained.nodes == graph.nodes
    assert not np.array_equal(trained.params[f"{graph.output}.weight"], graph.params[f"{graph.output}.weight"])
    twin.mode = "float"
    torch.testing.assert_close(GraphNetwork(trained)(x), twin(x))


def test_ranges_follow_only_in_training_and_only_the_ends() -> None:
    graph = small()
    x = data(graph)
    for observer, moves in (("minmax", True), ("mse", False)):
        twin = Twin(graph, observer).eval()
        twin.calibrate([x])
        before = twin.scale.clone()
        twin(x * 10)
        twin(x * 10)
        assert torch.equal(twin.scale, before)
        twin.train()
        twin(x * 10)
        twin(x * 10)
        assert torch.equal(twin.scale, before) is not moves


def test_ranges_move_by_the_momentum() -> None:
    graph = small()
    x = data(graph)
    twin = Twin(graph).train()
    twin.calibrate([x])
    twin(x * 2)
    twin(x * 2)
    expected = float((x.max() - x.min()) / 255) * (1 + 0.05)
    assert twin.to_quantized().tensors[graph.input].scale == pytest.approx(expected, rel=1e-4)


def test_state_moves_to_another_calibrated_twin() -> None:
    graph = small()
    x = data(graph)
    twin = Twin(graph).train()
    twin.calibrate([x])
    train(twin, x * 1.5, torch.zeros(32, dtype=torch.long), 3)
    other = Twin(graph)
    other.calibrate([x])
    other.load_state_dict(twin.state_dict())
    assert same(other.to_quantized(), twin.to_quantized())
    assert same(copy.deepcopy(twin).to_quantized(), twin.to_quantized())


def test_rounding_passes_the_gradient_of_what_does_not_saturate() -> None:
    x = torch.tensor([-20.0, -12.8, -1.0, 0.0, 0.3, 12.7, 20.0], requires_grad=True)
    y = fake_quantize(x, 0.1, 0)
    assert y.detach().tolist() == pytest.approx([-12.8, -12.8, -1.0, 0.0, 0.3, 12.7, 12.7])
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_rounding_equals_the_one_of_torch() -> None:
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mine = fake_quantize(x, 0.0137, -31)
    theirs = torch.fake_quantize_per_tensor_affine(x, 0.0137, -31, -128, 127)
    torch.testing.assert_close(mine, theirs)
    weights = torch.arange(2000.0)
    (mine_gradient,) = torch.autograd.grad(mine, x, weights)
    (their_gradient,) = torch.autograd.grad(theirs, x, weights)
    assert torch.equal(mine_gradient, their_gradient)
