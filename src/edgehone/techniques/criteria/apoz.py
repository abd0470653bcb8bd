"""Share of activations that are not zero: 1 - APoZ (Hu et al. 2016, Network Trimming, section 3.1).

Use it on ReLU networks, to find channels that hardly ever fire. Without ReLU nothing is exactly zero and every channel
scores the same: choose another criterion there.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.techniques.criteria import Probe, Scores
from edgehone.techniques.criteria._scores import activation_means, activation_slots, combine


class APoZ:
    """After the ReLUs of a group; a channel that never fires scores 0."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:
        """See `Criterion`."""
        places = {group.name: activation_slots(graph, group, rectified=True) for group in groups}
        every = [slots for chosen in places.values() for slots in chosen]
        fired = activation_means(graph, probe, every, lambda value: (value != 0).float())
        return {group.name: combine(group, places[group.name], lambda slots: fired[slots.name]) for group in groups}


criterion = APoZ()
