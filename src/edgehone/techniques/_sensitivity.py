"""What a change of the network costs before any training: the rise of the training loss, its statistics re-estimated.

Without re-estimation the ranking would be noise (EagleEye, Li et al. 2020, arXiv:2007.02491, section 3).
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.techniques import Context
from edgehone.train.losses import task_loss
from edgehone.train.precision import autocast, channels_last, lay_out, training_device
from edgehone.train.statistics import reestimate_statistics

_BATCH = 128
_STATISTICS_BATCHES = 4
_LOSS_BATCHES = 8


class Sensitivity:
    """Measures changes of one network on the same examples.

    Args:
        context: its training split serves; the same seed asks the same examples.
        batches: batches of 128 examples that the loss is taken over.
    """

    def __init__(self, context: Context, batches: int = _LOSS_BATCHES) -> None:
        self._context = context
        task, data = context.prepared.task, context.prepared.train
        self._loss = task_loss(task)
        drop = len(data) >= 2 * _BATCH
        shuffled = islice(data.batches(_BATCH, seed=context.seed, drop_last=drop), batches)
        self._examples: list[tuple[Tensor, Tensor]] = list(shuffled)

    def loss(self, graph: Graph) -> float:
        """Mean loss of a training graph in evaluation mode, after its batch-norm statistics were re-estimated."""
        statistics = (x for x, _ in self._examples[:_STATISTICS_BATCHES] if len(x) > 1)
        device = training_device()
        network = lay_out(GraphNetwork(reestimate_statistics(graph, statistics)), device).eval()
        total, seen = 0.0, 0
        with torch.no_grad(), autocast(self._context.precision, device):
            for x, y in self._examples:
                x = channels_last(x.to(device))
                total += float(self._loss(network(x).float(), y.to(device), x)) * len(y)
                seen += len(y)
        return total / seen
