"""Repairs of a rounded network that need no training, each kept only where it shows.

    equalize    channels of one tensor brought to similar ranges    Nagel et al. 2019, section 4.1
    bias        the mean error of every channel taken off its bias  Nagel et al. 2019, section 4.2
    round       weights rounded up or down as outputs ask           Nagel et al. 2020, section 3

The judge is the error of the network's output against the float network on examples that no repair learns from. A
repair is kept when it lowers the error by more than chance does: by two standard errors of its mean change over the
examples. The chain ends early where the error is hardly more than what rounding the output alone costs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgehone.graph.adaround import round_adaptively
from edgehone.graph.bias_correction import correct_biases
from edgehone.graph.equalize import equalize
from edgehone.graph.twin import Twin
from edgehone.techniques._bits import NARROW, narrow
from edgehone.techniques._judge import BATCH, Judge, Split

CHAIN = ("equalize", "bias", "round")

_CLEAR = 2.0  # standard errors
_NEAR = 1.5  # times what rounding the output costs: nothing is left to win


def repair(twin: Twin, judge: Judge, data: Split, names: Sequence[str], seed: int) -> Twin:
    """The twin after the repairs that showed; the same twin when none did.

    Args:
        twin: calibrated on `data.all`, its bits chosen, otherwise as it was made.
        judge: of the graph the twin was made of, on `data.judge`.
        data: see `split`.
        names: of `CHAIN`, in that order; equalising starts from the weights the twin was made of.
        seed: of what is drawn.
    """
    least = judge.least(twin)
    errors = judge.errors(twin)
    for name in names:
        if float(errors.mean()) <= _NEAR * least:
            break
        candidate = _REPAIRS[name](twin, data, seed)
        if candidate is None:
            continue
        found = judge.errors(candidate)
        if _shows(errors - found):
            twin, errors = candidate, found
    return twin


def _shows(gain: Tensor) -> bool:
    if len(gain) < 2:
        return bool(gain.mean() > 0)
    return bool(gain.mean() > _CLEAR * gain.std() / len(gain) ** 0.5)


def _equalize(twin: Twin, data: Split, seed: int) -> Twin | None:  # noqa: ARG001  one signature for all
    graph = twin.network.graph
    equal = equalize(graph, data.learn)
    if equal is graph:
        return None
    candidate = Twin(equal, twin.observer)
    candidate.calibrate(torch.split(data.all, BATCH))
    for node in candidate.graph.weighted():
        if twin.bits[node.output] == NARROW:
            narrow(candidate, node)
    return candidate


def _correct(twin: Twin, data: Split, seed: int) -> Twin:  # noqa: ARG001
    candidate = copy.deepcopy(twin)
    correct_biases(candidate, data.learn)
    return candidate


def _round(twin: Twin, data: Split, seed: int) -> Twin:
    candidate = copy.deepcopy(twin)
    round_adaptively(candidate, data.learn, seed=seed)
    return candidate


_REPAIRS: Mapping[str, Callable[[Twin, Split, int], Twin | None]] = {
    "equalize": _equalize,
    "bias": _correct,
    "round": _round,
}
