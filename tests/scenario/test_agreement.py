"""One trained network, real pictures, and every form it ships in: the files must answer as the quantized twin does.

The network is trained on the handwritten digits and calibrated on 256 of them; 1,000 others are asked. The files are
opened by the runtimes that nodes use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgehone.data.builtin import digits
from edgehone.data.prepare import prepare
from edgehone.exporters import EXPORTERS
from edgehone.exporters._tflite_layout import to_file
from edgehone.graph import oracle
from edgehone.graph.fold import deploy
from edgehone.graph.network import GraphNetwork
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.tflite_files import run_litert, run_tflite_micro
from edgehone.train.loop import Run, fit
from edgehone.train.losses import task_loss
from edgehone_agent.model import open_model

CALIBRATION, ASKED = 256, 1000


@dataclass(frozen=True)
class Trained:
    """Float answers and the twin's answers (N, 10) for pictures (N, 1, 8, 8) of known digits, and the integers."""

    pictures: NDArray[np.float32]
    digits: NDArray[np.int64]
    in_floats: NDArray[np.float32]
    by_twin: NDArray[np.float32]
    quantized: QuantizedGraph

    def levels(self, answers: NDArray[np.float32]) -> NDArray[np.int64]:
        """Answers in levels of the output."""
        return self.quantized.tensors[self.quantized.graph.output].quantize(answers).astype(np.int64)


@pytest.fixture(scope="module")
def trained() -> Trained:
    prepared = prepare(digits.task())
    network = GraphNetwork(trace(prepared.end_to_end(), torch.from_numpy(prepared.train.arrays()[0][:2])))
    fit(network, Run(prepared.train, replace(prepared.task.training, epochs=4.0), task_loss(prepared.task)))
    graph = deploy(network.to_graph())
    x, y = prepared.train.arrays()
    twin = Twin(graph).eval()
    twin.calibrate([torch.from_numpy(x[:CALIBRATION])])
    asked = slice(CALIBRATION, CALIBRATION + ASKED)
    pictures = torch.from_numpy(x[asked])
    with torch.no_grad():
        floats, levels = GraphNetwork(graph).eval()(pictures).numpy(), twin(pictures).numpy()
    return Trained(x[asked], y[asked].astype(np.int64), floats, levels, twin.to_quantized())


def predict(trained: Trained, name: str, folder: Path) -> NDArray[np.float32]:
    """Answers of the int8 file in a format, through the node's runtime for it."""
    exporter = EXPORTERS.get(name)
    file = folder / f"model{exporter.suffix}"
    file.write_bytes(exporter.export(trained.quantized))
    with open_model(file) as model:
        return model.predict(trained.pictures)


def agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float((a.argmax(1) == b.argmax(1)).mean())


def test_the_network_has_learnt_and_keeps_it_in_integers(trained: Trained) -> None:
    assert len(trained.pictures) == ASKED
    assert (trained.in_floats.argmax(1) == trained.digits).mean() > 0.9
    assert agreement(trained.by_twin, trained.in_floats) >= 0.99


@pytest.mark.parametrize(("name", "least"), [("tflite", 0.999), ("onnx", 0.998)])
def test_files_answer_as_the_twin(trained: Trained, name: str, least: float, tmp_path: Path) -> None:
    answers = predict(trained, name, tmp_path)
    apart = np.abs(trained.levels(answers) - trained.levels(trained.by_twin))
    assert agreement(answers, trained.by_twin) >= least
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.9


def test_both_files_are_as_accurate_as_the_twin(trained: Trained, tmp_path: Path) -> None:
    expected = (trained.by_twin.argmax(1) == trained.digits).mean()
    for name in ("tflite", "onnx"):
        found = (predict(trained, name, tmp_path).argmax(1) == trained.digits).mean()
        assert found == pytest.approx(expected, abs=0.002)


def test_convolutions_are_bit_exact_on_microcontrollers(trained: Trained) -> None:
    """LiteRT's reference kernels, TensorFlow Lite Micro and the integer oracle, up to the classifying layer."""
    graph = trained.quantized.graph
    *body, head = graph.nodes
    assert head.op == "linear"
    convolutions = replace(trained.quantized, graph=graph.with_nodes(tuple(body), output=head.inputs[0]))
    data = EXPORTERS.get("tflite").export(convolutions)
    given = convolutions.tensors[graph.input].quantize(trained.pictures[:100])
    examples = np.stack([np.ascontiguousarray(to_file(example[None])) for example in given])
    reference = run_litert(data, examples, reference=True)
    assert reference.std() > 5
    np.testing.assert_array_equal(run_tflite_micro(data, examples), reference)
    np.testing.assert_array_equal(oracle.run(convolutions, given), reference[:, 0])
