"""Bias correction: the mean error that rounding makes in each channel, measured on data and taken off the bias.

Rounded weights shift the mean of a layer's output, channel by channel, and such shifts add up through depth (Nagel et
al. 2019, arXiv:1906.04721, section 4.2; measured on data as in its appendix D). Layers are corrected in order, each on
what the corrected ones before it give.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from edgehone.graph.ir import WEIGHTED
from edgehone.graph.kernels import run_node
from edgehone.graph.twin import Twin


@torch.no_grad()
def correct_biases(twin: Twin, x: Tensor) -> None:
    """Change the biases of a calibrated twin so that each layer's channels keep their float mean on x (N, *input).

    Means are those before the activation. A bias that two nodes share is left as it is.

    Raises:
        DataError: the twin is not calibrated.
    """
    uses = Counter(key for node in twin.graph.nodes for key in node.params.values())
    for node, exact, rounded, params in twin.side_by_side(x):
        if node.op not in WEIGHTED or uses[node.params["bias"]] > 1:
            continue
        plain = replace(node, activation=None)
        error = run_node(plain, rounded, twin.rounded_params(node)) - run_node(plain, exact, params)
        axes = (0, *range(2, error.dim()))
        twin.network.tensor(node.params["bias"]).sub_(error.mean(axes))
