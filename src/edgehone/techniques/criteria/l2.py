"""Norm of all weights that write or read a channel, over the whole group (DepGraph, Fang et al. 2023, section 3.3).

Use it where channels are coupled through many layers: a channel that is written weakly but read strongly keeps its
score. On plain chains it ranks much like `l1`. Needs no data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.techniques.criteria import Probe, Scores
from edgehone.techniques.criteria._scores import combine, filter_slots, rows


class L2:
    """Root of the mean, over writing and reading layers, of a channel's share of the layer's squared weights."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:  # noqa: ARG002
        """See `Criterion`."""
        return {
            group.name: np.sqrt(
                combine(
                    group,
                    filter_slots(graph, group, reading=True),
                    lambda slots: np.square(rows(graph.params[slots.name], slots.axis)).sum(axis=1),
                )
            )
            for group in groups
        }


criterion = L2()
