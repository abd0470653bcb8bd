"""Re-estimate batch-norm statistics after a cut: without it a cut network's score says nothing about its worth."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.train.precision import channels_last


def reestimate_statistics(graph: Graph, batches: Iterable[Tensor]) -> Graph:
    """A graph whose batch_norm means and variances are the averages over the given batches; no weight changes.

    The cumulative average weighs every batch alike (adaptive BN, Li et al. 2016, arXiv:1603.04779; done after every
    cut as in EagleEye, Li et al. 2020, arXiv:2007.02491).

    Args:
        graph: a training graph; one without batch_norm is returned as it is.
        batches: raw readings, (N, ...) each with N > 1.
    """
    if not any(node.op == "batch_norm" for node in graph.nodes):
        return graph
    network = GraphNetwork(graph).train()
    network.set_dropout(0.0)  # inference has none: its statistics are those of all channels, and not of chance
    with torch.no_grad():
        for count, x in enumerate(batches, 1):
            network.set_momentum(1.0 / count)
            network(channels_last(x))
    return graph.with_nodes(graph.nodes, params=network.to_graph().params)
