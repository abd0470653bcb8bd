"""How much a channel matters. One criterion is one file that defines `criterion`; its docstring cites the paper.

    scores = CRITERIA.get("l1").score(graph, channel_groups(graph), Probe())
    scores["blocks.0.conv1.0"]      (width) float64, higher = more important

Channels that leave together are scored together: a criterion that looks at layers divides every layer by its mean, so
that layers of different scale can be ranked against each other, and takes the mean over the layers of the group (the
idea of group importance in DepGraph, Fang et al. 2023, section 3.3). A group's mean is therefore near 1.
The choice of criterion matters less than the widths and the recovery after the cut: try some on the validation split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgehone.graph.groups import Group
from edgehone.graph.ir import Graph
from edgehone.plugins import Registry

Scores = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Probe:
    """What a criterion may look at besides the graph.

    Attributes:
        batches: a few batches (x, y) of the training split, the network's input and the loss's target; criteria that
            only read parameters need none.
        loss: (output, target) → scalar.
        seed: of every random choice.
    """

    batches: Sequence[tuple[Tensor, Tensor]] = ()
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    seed: int = 0


class Criterion(Protocol):
    """Scores the classes of every group."""

    def score(self, graph: Graph, groups: Sequence[Group], probe: Probe) -> Scores:
        """Group name → (width) scores, higher = more important.

        Args:
            graph: training or deployed.
            groups: of that graph.
            probe: data, loss and seed.

        Raises:
            DataError: the criterion needs data and the probe has none.
        """


CRITERIA: Registry[Criterion] = Registry("criterion", package=__name__, group="edgehone.criteria")

__all__ = ["CRITERIA", "Criterion", "Probe", "Scores"]
