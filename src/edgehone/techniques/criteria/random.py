"""Uniform random scores: the baseline every criterion has to beat.

Use it to see how much of an accuracy comes from training after the cut alone (Liu et al. 2019, Rethinking the Value of
Network Pruning). Never use it to ship.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.techniques.criteria import Probe, Scores


class Random:
    """The same seed gives the same scores."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:  # noqa: ARG002
        """See `Criterion`."""
        generator = np.random.default_rng(probe.seed)
        return {group.name: generator.uniform(0.0, 2.0, group.width) for group in groups}


criterion = Random()
