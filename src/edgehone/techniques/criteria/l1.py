"""Sum of a filter's absolute weights (Li et al. 2017, Pruning Filters for Efficient ConvNets, section 3.1).

Use it first: needs no data and is hard to beat once the network is trained again after the cut. Do not use it where a
batch norm with very uneven scales follows (a small filter may be scaled up again): prefer `bn-scale` or `taylor`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.techniques.criteria import Probe, Scores
from edgehone.techniques.criteria._scores import combine, filter_slots, rows


class L1:
    """Filters of every layer that writes the group."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:  # noqa: ARG002
        """See `Criterion`."""
        return {
            group.name: combine(
                group,
                filter_slots(graph, group),
                lambda slots: np.abs(rows(graph.params[slots.name], 0)).sum(axis=1),
            )
            for group in groups
        }


criterion = L1()
