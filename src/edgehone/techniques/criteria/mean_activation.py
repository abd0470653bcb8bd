"""Mean absolute activation of a channel (Molchanov et al. 2017, Pruning CNNs for Resource Efficient Inference, 2.2).

Use it when data is at hand and gradients are too dear. Do not use it across layers whose activations carry an offset
(after sigmoid gates): a large constant is not information.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.techniques.criteria import Probe, Scores
from edgehone.techniques.criteria._scores import activation_means, activation_slots, combine


class MeanActivation:
    """After the non-linearities of a group."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:
        """See `Criterion`."""
        places = {group.name: activation_slots(graph, group) for group in groups}
        means = activation_means(graph, probe, [slots for chosen in places.values() for slots in chosen], torch.abs)
        return {group.name: combine(group, places[group.name], lambda slots: means[slots.name]) for group in groups}


criterion = MeanActivation()
