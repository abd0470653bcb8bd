"""Cross-layer equalisation: channels of one tensor brought to similar ranges, by scales that cancel in float.

A rectified channel may be multiplied by s > 0 where it is written and divided by s where it is read (Nagel et al. 2019,
arXiv:1906.04721, section 4.1). The int8 scheme has one scale for all channels of a tensor; a channel whose values are
far smaller than those of the widest one is left with few levels, and gets more of them here.

With s channel by channel, the paper makes the ranges of both weights equal, since its weights have one scale per
tensor. Ours have one per output channel, so the range of the layer that writes costs nothing: its place is taken by
the observed range of the activation. A depthwise layer that reads has a scale of its own for every channel as well:
then the activation is made equal outright.

Chains: a conv or linear layer with no activation or ReLU, then operators that keep channels apart and commute with a
positive factor (ReLU, leaky ReLU, pools, mean, resize, padding with 0, flatten), then conv and linear layers only.
ReLU6 does not commute, and a tensor that is added, gated or returned is left alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehone.graph.ir import WEIGHTED, Graph, Node
from edgehone.graph.network import GraphNetwork

DoubleArray: TypeAlias = NDArray[np.float64]

_COMMUTES = frozenset({"relu", "leaky_relu", "max_pool", "avg_pool", "mean", "resize"})
_LARGEST = 1e4  # of the scales, either way: no value comes near the ends of float32


class Chain(NamedTuple):
    """A layer that writes channels, and those that alone read them.

    `columns` is how many columns of each reader's weight belong to one channel: more than 1 behind a flatten.
    """

    writer: Node
    readers: tuple[Node, ...]
    columns: tuple[int, ...]


def chains(graph: Graph) -> list[Chain]:
    """The places of a deployed graph where scales cancel, in order."""
    uses = Counter(key for node in graph.nodes for key in node.params.values())
    consumers = graph.consumers()
    found = []
    for writer in graph.weighted():
        if writer.activation not in (None, "relu"):
            continue
        read = _readers(graph, consumers, writer.output, 1)
        if read and all(uses[key] == 1 for node in (writer, *(r for r, _ in read)) for key in node.params.values()):
            readers, columns = zip(*read, strict=True)
            found.append(Chain(writer, readers, columns))
    return found


def equalize(graph: Graph, x: Tensor) -> Graph:
    """The same function, to float32 rounding, with channels of similar ranges.

    Args:
        graph: a deployed graph.
        x: (N, *input), what activations are observed on.

    Returns:
        A graph that differs in the values of weights and biases alone; the same graph where no chain is.
    """
    places = chains(graph)
    if not places:
        return graph
    widths = _channel_widths(graph, x, {chain.writer.output for chain in places})
    params: dict[str, DoubleArray] = {key: array.astype(np.float64) for key, array in graph.params.items()}
    for chain in places:
        factor = _factor(widths[chain.writer.output], chain, params)
        for key in (chain.writer.params["weight"], chain.writer.params["bias"]):
            params[key] = params[key] * factor.reshape(-1, *[1] * (params[key].ndim - 1))
        for reader, columns in zip(chain.readers, chain.columns, strict=True):
            key = reader.params["weight"]
            grouped = _by_input(params[key], reader, columns)  # (g, O/g, I/g, places)
            params[key] = (grouped / _of_inputs(factor, grouped)).reshape(params[key].shape)
    return replace(graph, params={key: array.astype(np.float32) for key, array in params.items()}).check()


def _readers(graph: Graph, consumers: dict[str, list[Node]], name: str, columns: int) -> list[tuple[Node, int]]:
    """The weighted layers that alone read a tensor's channels; none where something else does."""
    found: list[tuple[Node, int]] = []
    for node in consumers[name]:
        if node.op in WEIGHTED:
            found.append((node, columns))
            continue
        wider = _passes(graph, node)
        deeper = _readers(graph, consumers, node.output, columns * wider) if wider else []
        if not deeper:
            return []
        found += deeper
    return [] if name == graph.output else found


def _passes(graph: Graph, node: Node) -> int:
    """Places of the output that one channel of the input becomes along axis 1; 0 where scales do not pass."""
    shape, result = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    if node.op == "reshape":
        return int(np.prod(shape[2:])) if len(result) == 2 and len(shape) > 2 else 0
    keeps = node.op in _COMMUTES or (node.op == "pad" and node.attrs["value"] == 0 and node.attrs["pads"][1] == (0, 0))
    return int(keeps and len(node.inputs) == 1 and shape[1] == result[1])


@torch.no_grad()
def _channel_widths(graph: Graph, x: Tensor, names: set[str]) -> dict[str, DoubleArray]:
    """Observed range (C) of the channels of tensors, widened to hold 0."""
    network = GraphNetwork(graph).eval()
    widths: dict[str, DoubleArray] = {}
    for part in torch.split(x, 64):
        values = network.activations(part)
        for name in names:
            rows = values[name].transpose(0, 1).flatten(1)  # (N, C, ...) → (C, N * ...)
            width = (rows.amax(1).clamp_min(0) - rows.amin(1).clamp_max(0)).double().numpy()
            widths[name] = np.maximum(widths.get(name, 0.0), width)
    return widths


def _factor(width: DoubleArray, chain: Chain, params: dict[str, DoubleArray]) -> DoubleArray:
    """What to multiply each channel by; 1 for one that is always 0 or that nobody reads."""
    share = np.zeros_like(width)  # of a reader's scale that a channel's columns use: the largest over all rows
    alone = True
    for reader, columns in zip(chain.readers, chain.columns, strict=True):
        grouped = np.abs(_by_input(params[reader.params["weight"]], reader, columns))
        peak = grouped.max((2, 3), keepdims=True)
        share = np.maximum(share, (grouped / np.where(peak > 0, peak, 1.0)).max((1, 3)).reshape(-1))
        alone = alone and grouped.shape[2] == 1
    live = (width > 0) & (share > 0)
    if not live.any():
        return np.ones_like(width)
    wanted = np.log(np.where(live, 1.0 if alone else share, 1.0)) - np.log(np.where(live, width, 1.0))
    wanted = wanted if alone else wanted / 2
    centred = np.where(live, wanted - wanted[live].mean(), 0.0)
    factor: DoubleArray = np.exp(np.clip(centred, -np.log(_LARGEST), np.log(_LARGEST)))
    return factor


def _by_input(weight: DoubleArray, reader: Node, columns: int) -> DoubleArray:
    """A weight as (groups, O / groups, channels read per group, places per channel)."""
    groups = reader.attrs["groups"] if reader.op == "conv" else 1
    grouped: DoubleArray = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1] // columns, -1)
    return grouped


def _of_inputs(factor: DoubleArray, grouped: DoubleArray) -> DoubleArray:
    """(C) → (groups, 1, C / groups, 1)"""
    return factor.reshape(grouped.shape[0], 1, grouped.shape[2], 1)
