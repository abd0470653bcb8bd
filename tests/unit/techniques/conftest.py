"""The handwritten digits with a network trained for a second."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgehone.data.builtin.digits import task
from edgehone.data.prepare import prepare
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.techniques import Context
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil

torch.set_num_threads(1)


@dataclass(frozen=True)
class Digits:
    """A trained graph, what to train it with, and its test split."""

    graph: Graph
    context: Context

    def rate(self, network: torch.nn.Module) -> float:
        """Share of the test pictures that a network names rightly."""
        x, y = self.arrays()
        with torch.no_grad():
            return float((network.eval()(torch.from_numpy(x)).argmax(1).numpy() == y).mean())

    def loss(self, network: torch.nn.Module) -> float:
        """Mean cross-entropy on the test pictures."""
        x, y = self.arrays()
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(network.eval()(torch.from_numpy(x)), torch.from_numpy(y)))

    def accuracy(self, graph: Graph) -> float:
        """`rate` of a graph."""
        return self.rate(GraphNetwork(graph))

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Pictures (N, 1, 8, 8) and labels (N)."""
        x, y = self.context.prepared.test.arrays()
        return x, y.astype(np.int64)


@pytest.fixture(scope="session")
def digits() -> Digits:
    """Trained for four epochs."""
    prepared = prepare(task())
    graph = trace(prepared.end_to_end(), torch.from_numpy(prepared.train.arrays()[0][:2]))
    training = replace(prepared.task.training, epochs=4.0)
    context = Context(prepared, seed=1)
    return Digits(distil.apply(graph, DistilSettings(training), context).graph, context)
