"""How far a rounded network is from its float one, asked on examples that nothing learns from. No labels are needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from edgehone.graph.fake_quant import fake_quantize
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.twin import Twin

BATCH = 64

_JUDGED = 4  # every fourth example judges
_ROOM_VALUES = 2**24  # of one tensor over all examples that are learned from: 64 MB


class Judge:
    """The error of rounded networks on inputs x (N, *input), against the float network of a graph."""

    def __init__(self, graph: Graph, x: Tensor) -> None:
        network = GraphNetwork(graph).eval()
        with torch.no_grad():
            self._x = x
            self._wanted = torch.cat([network(part) for part in torch.split(x, BATCH)]).flatten(1)
        spread = (self._wanted - self._wanted.mean(0)).square().sum(1).mean()
        self._unit = max(float(spread), torch.finfo(torch.float32).tiny)

    @torch.no_grad()
    def errors(self, twin: Twin) -> Tensor:
        """Squared error (N) of each example's output, over the variance of the outputs: 1 is as bad as their mean."""
        was_training = twin.training
        twin.eval()
        found = torch.cat([twin(part) for part in torch.split(self._x, BATCH)]).flatten(1)
        twin.train(was_training)
        return (found - self._wanted).square().sum(1).double() / self._unit

    def error(self, twin: Twin) -> float:
        """Relative mean squared error of a twin's output."""
        return float(self.errors(twin).mean())

    def least(self, twin: Twin) -> float:
        """The error that rounding a perfect output to the twin's output levels costs."""
        params = twin.to_quantized().tensors[twin.graph.output]
        rounded = fake_quantize(self._wanted, params.scale, params.zero_point)
        return float((rounded - self._wanted).square().sum(1).mean()) / self._unit


class Split(NamedTuple):
    """Calibration inputs: all of them, those repairs learn from, and those that judge."""

    all: Tensor
    learn: Tensor
    judge: Tensor


def split(graph: Graph, batches: Iterable[Tensor]) -> Split:
    """Part calibration inputs, no more of them than the working memory of the repairs allows."""
    x = torch.cat(list(batches))
    largest = max(torch.Size(shape).numel() for shape in graph.shapes.values())
    judging = torch.arange(len(x)) % _JUDGED == _JUDGED - 1
    learn = x[~judging] if len(x) >= _JUDGED else x
    judge = x[judging] if len(x) >= _JUDGED else x
    return Split(x, learn[: max(_ROOM_VALUES // largest, 8)], judge)
