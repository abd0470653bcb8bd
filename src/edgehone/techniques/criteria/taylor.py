"""First-order estimate of what the loss does when a channel leaves (Molchanov et al. 2019, Importance Estimation for
Neural Network Pruning, section 3.1, the gate formulation).

A channel leaves its group only through the conv and linear layers that read it. Scaling all their weights on that
channel by (1 - e) is a gate; the slope of the loss at e = 0 is minus the sum of weight x gradient, exactly, however
many layers are coupled. The score is its mean square over the batches.

Use it when the network is trained and labels are at hand: scores of all layers are in one unit (squared loss) and can
be ranked against each other as they are. Do not use it before training, or with one huge batch: the slopes of a trained
network cancel out, many small batches are better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.techniques.criteria import Probe, Scores
from edgehone.techniques.criteria._scores import batches, filter_slots


class Taylor:
    """Scaled once so that the mean over all groups is 1; layers keep their proportions."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:
        """See `Criterion`. The slopes are those of evaluation mode."""
        network = GraphNetwork(graph).eval()
        keys = sorted({node.params["weight"] for node in graph.weighted()})
        places = {group.name: [s for s in filter_slots(graph, group, reading=True) if s.axis == 1] for group in groups}
        totals = {group.name: np.zeros(group.width) for group in groups}
        for x, y in batches(probe):
            slopes = _slopes(network, keys, probe.loss(network(x), y))
            for group in groups:
                change = np.zeros(group.width)
                for slots in places[group.name]:
                    change += slopes[slots.name][slots.indices].sum(axis=1)
                totals[group.name] += np.square(change)
        mean = float(np.mean(np.concatenate(list(totals.values())))) if totals else 0.0
        return {name: total / mean if mean > 0 else total for name, total in totals.items()}


def _slopes(network: GraphNetwork, keys: Sequence[str], loss: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    """Weight key → (input channels of a group) sum of weight x gradient over all else."""
    weights = [network.tensor(key) for key in keys]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    slopes = {}
    for key, weight, gradient in zip(keys, weights, gradients, strict=True):
        product = (weight.detach() * gradient).double()
        slopes[key] = product.movedim(1, 0).flatten(1).sum(dim=1).numpy()
    return slopes


criterion = Taylor()
