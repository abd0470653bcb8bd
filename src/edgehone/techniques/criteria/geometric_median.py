"""Sum of a filter's distances to all others of its layer (He et al. 2019, Filter Pruning via Geometric Median, 3.3).

A filter near the geometric median can be replaced by the others, however large it is. Use it where norms are all alike
or many filters are near duplicates. Do not use it on depthwise or very narrow layers: few filters, nothing to replace
them by.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgehone.graph.groups import Group
from edgehone.graph.ir import FloatArray, Graph
from edgehone.techniques.criteria import Probe, Scores
from edgehone.techniques.criteria._scores import Line, combine, filter_slots, rows


class GeometricMedian:
    """Filters of every layer that writes the group."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:  # noqa: ARG002
        """See `Criterion`."""
        return {
            group.name: combine(
                group, filter_slots(graph, group), lambda slots: _distance_to_all(graph.params[slots.name])
            )
            for group in groups
        }


def _distance_to_all(weight: FloatArray) -> Line:
    filters = rows(weight, 0)
    products = filters @ filters.T  # (O, O)
    squares = np.diag(products)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0))
    total: Line = distances.sum(axis=1)
    return total


criterion = GeometricMedian()
