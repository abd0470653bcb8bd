"""Absolute batch-norm scale of a channel (Liu et al. 2017, Learning Efficient CNNs through Network Slimming, 3).

Use it when the network was trained with an L1 penalty on these scales, or at least with weight decay on them. Channels
without a batch norm fall back to the L2 norm of their filters, into which a folded scale has gone; where scales were
left at 1 all channels look alike: choose another criterion there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.techniques.criteria import Probe, Scores
from edgehone.techniques.criteria._scores import combine, filter_slots, rows


class BnScale:
    """Every batch norm that a group passes."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:  # noqa: ARG002
        """See `Criterion`."""
        keys = {node.params["weight"] for node in graph.nodes if node.op == "batch_norm" and "weight" in node.params}
        scores = {}
        for group in groups:
            scales = [slots for slots in group.params if slots.name in keys]
            scores[group.name] = combine(
                group,
                scales or filter_slots(graph, group),
                lambda slots: np.linalg.norm(rows(graph.params[slots.name], 0), axis=1),  # |scale| of a 1-d array
            )
        return scores


criterion = BnScale()
