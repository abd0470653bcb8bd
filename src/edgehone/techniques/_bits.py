"""Which convolutions may have weights of 4 bits: two in a byte, for devices whose flash is short.

Each layer is asked alone: what its 4 bits add to the error of the network's output, for every byte they save (as in
HAWQ, Dong et al. 2019, section 3, with the error measured instead of estimated). Layers are narrowed in that order.
Linear layers stay: TensorFlow Lite Micro has no 4-bit kernel for them with a scale per channel. So does a weight that
two nodes share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from edgehone.errors import RecipeError
from edgehone.graph.fake_quant import clip_to_levels
from edgehone.graph.ir import Node
from edgehone.graph.twin import Twin
from edgehone.techniques._judge import Judge

NARROW = 4
_BIAS_BYTES = 4


def weight_bytes(twin: Twin) -> int:
    """Bytes of all weights and biases as a file stores them; a parameter that two nodes share counts once."""
    stored: dict[str, int] = {}
    for node in twin.graph.weighted():
        bits = NARROW if twin.bits[node.output] == NARROW else 8
        stored[node.params["weight"]] = -(-twin.network.tensor(node.params["weight"]).numel() * bits // 8)
        stored[node.params["bias"]] = _BIAS_BYTES * twin.network.tensor(node.params["bias"]).numel()
    return sum(stored.values())


def narrow_all(twin: Twin) -> None:
    """4 bits for every convolution of a calibrated twin."""
    for node in _candidates(twin):
        narrow(twin, node)


def narrow_to_fit(twin: Twin, judge: Judge, budget_bytes: int) -> None:
    """4 bits for as many convolutions as it takes, those first that lose least for a byte.

    Raises:
        RecipeError: the weights do not fit even so.
    """
    if weight_bytes(twin) <= budget_bytes:
        return
    for node in _by_loss(twin, judge):
        narrow(twin, node)
        if weight_bytes(twin) <= budget_bytes:
            return
    raise RecipeError(
        f"the weights take {weight_bytes(twin)} bytes with 4 bits wherever that is possible, not {budget_bytes}",
        where="quantize",
        do="prune the network first, or raise weight_bytes",
    )


def narrow_within(twin: Twin, judge: Judge, max_error: float) -> None:
    """4 bits for as many convolutions as leave the relative error of the output at `max_error` or less."""
    order = _by_loss(twin, judge)
    low, high = 0, len(order)  # the most layers that are known to be allowed, and that may be
    while low < high:
        middle = (low + high + 1) // 2
        with _narrowed(twin, order[:middle]):
            allowed = judge.error(twin) <= max_error
        low, high = (middle, high) if allowed else (low, middle - 1)
    for node in order[:low]:
        narrow(twin, node)


def _candidates(twin: Twin) -> list[Node]:
    uses = Counter(key for node in twin.graph.nodes for key in node.params.values())
    return [node for node in twin.graph.weighted() if node.op == "conv" and uses[node.params["weight"]] == 1]


def _by_loss(twin: Twin, judge: Judge) -> list[Node]:
    before = judge.error(twin)
    prices: dict[str, float] = {}
    nodes = _candidates(twin)
    for node in nodes:
        with _narrowed(twin, [node]):
            saved = twin.network.tensor(node.params["weight"]).numel() // 2
            prices[node.output] = max(judge.error(twin) - before, 0.0) / max(saved, 1)
    return sorted(nodes, key=lambda node: prices[node.output])


@contextmanager
def _narrowed(twin: Twin, nodes: Sequence[Node]) -> Iterator[None]:
    """4 bits for some nodes, for as long as it lasts."""
    kept = {node.params["weight"]: twin.network.tensor(node.params["weight"]).detach().clone() for node in nodes}
    bits = dict(twin.bits)
    for node in nodes:
        narrow(twin, node)
    try:
        yield
    finally:
        twin.bits = bits
        with torch.no_grad():
            for key, weight in kept.items():
                twin.network.tensor(key).copy_(weight)


@torch.no_grad()
def narrow(twin: Twin, node: Node) -> None:
    """4 bits for one node; its weights are cut to the range that suits them."""
    weight = twin.network.tensor(node.params["weight"])
    weight.copy_(clip_to_levels(weight, NARROW))
    twin.bits[node.output] = NARROW
