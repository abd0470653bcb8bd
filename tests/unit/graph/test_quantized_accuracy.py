"""A trained network keeps its answers through quantization: float, twin, oracle and file on 1,000 real inputs."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from edgehone.exporters._tflite_layout import to_file
from edgehone.exporters.tflite import exporter
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.observers import OBSERVERS
from edgehone.graph.oracle import run
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.networks import ResNet
from edgehone.testing.tflite_files import run_litert

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    pictures, labels = load_digits(return_X_y=True)
    return torch.from_numpy(np.float32(pictures).reshape(-1, 1, 8, 8) / 8 - 1), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def trained(digits: tuple[Tensor, Tensor]) -> Graph:
    torch.set_num_threads(1)
    x, labels = (part[:797] for part in digits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = ResNet(1, widths=(8, 16, 32), channels=1)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(12):
            for picks in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(x[picks]), labels[picks]).backward()
                optimizer.step()
    return deploy(trace(network.eval(), x[:2]))


@pytest.mark.parametrize("observer", OBSERVERS)
def test_answers_survive_quantization(trained: Graph, digits: tuple[Tensor, Tensor], observer: str) -> None:
    x, labels = (part[797:] for part in digits)
    twin = Twin(trained, observer).eval()
    twin.calibrate(digits[0][:256].split(64))
    quantized = twin.to_quantized()
    given, answer = quantized.tensors[trained.input], quantized.tensors[trained.output]
    levels = given.quantize(x.numpy())
    with torch.no_grad():
        real = GraphNetwork(trained).eval()(x)
        fake = answer.quantize(twin(torch.from_numpy(given.dequantize(levels))).numpy()).astype(int)
    examples = np.stack([to_file(example[None]) for example in levels])
    file = run_litert(exporter.export(quantized), examples).reshape(len(x), -1).astype(int)
    exact = run(quantized, levels).astype(int)
    assert (real.argmax(1) == labels).float().mean() > 0.93
    assert (fake.argmax(1) == real.argmax(1).numpy()).mean() >= 0.99
    assert np.abs(file - fake).max() <= 1
    assert (file.argmax(1) == fake.argmax(1)).mean() >= 0.999
    assert np.abs(exact - fake).max() <= 2  # the reference kernels round twice, which adds up
    assert (exact.argmax(1) == fake.argmax(1)).mean() >= 0.997
