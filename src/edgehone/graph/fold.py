"""From the training form of a graph to the deployed one: what inference does not need is folded into what it does.

1. Dropout goes; silu becomes sigmoid and mul.
2. Every batch norm and every constant mul and add is an affine map y = scale * x + shift. Maps in a row become one; a
   map folds into the conv or linear before it when nothing else reads that one's output, else into those behind it
   when none of them pads a shifted value. What is left becomes a mul, an add, or a depthwise 1x1 convolution.
3. ReLU and ReLU6 join the node before them; a flatten joins the global mean before it; every bias exists.

Arithmetic is float64 inside and float32 outside. Batch norm as in Ioffe & Szegedy 2015, algorithm 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgehone.graph._edit import Edit
from edgehone.graph.ir import FUSED_ACTIVATIONS, WEIGHTED, Graph, Node

DoubleArray: TypeAlias = NDArray[np.float64]

_TAKES_ACTIVATION = WEIGHTED | {"add", "sub", "mul"}


def deploy(graph: Graph) -> Graph:
    """The deployed form of a training graph: the same function in evaluation mode, to float32 rounding.

    Tensors keep their names as far as they still exist. A folded weight keeps its key unless another node uses the
    key too; then it gets one that starts with the name of its node's output.

    Args:
        graph: a training graph; a deployed one comes back with the same nodes and values.

    Raises:
        NetworkError: the graph is not well formed.
    """
    edit = Edit(graph)
    _split_training_nodes(edit)
    _Folding(edit).run()
    for name in list(edit.nodes):
        _fuse_activation(edit, edit.nodes[name])
    for name in list(edit.nodes):
        _join_flatten(edit, edit.nodes[name])
    return edit.graph()


def _split_training_nodes(edit: Edit) -> None:
    for node in list(edit.nodes.values()):
        node = edit.nodes[node.output]  # its inputs may have changed since the list was made
        if node.op == "dropout":
            edit.bypass(node)
        elif node.op == "silu":
            gate = f"{node.output}.sigmoid"
            shape = edit.shapes[node.output]
            edit.insert(Node("sigmoid", node.inputs, gate, module=node.module), shape, before=node.output)
            edit.put(replace(node, op="mul", inputs=(node.inputs[0], gate)))


def _fuse_activation(edit: Edit, node: Node) -> None:
    if node.op not in FUSED_ACTIVATIONS:
        return
    before = edit.producer(node.inputs[0])
    if before is None or before.op not in _TAKES_ACTIVATION or before.activation is not None:
        return
    if edit.only_reader(before.output) is node:
        edit.put(replace(before, activation=node.op))
        edit.bypass(node)


def _join_flatten(edit: Edit, node: Node) -> None:
    """(1, C, H, W) → mean (1, C, 1, 1) → reshape (1, C) is a mean that drops its axes."""
    mean = edit.producer(node.inputs[0], "mean")
    if node.op != "reshape" or mean is None or edit.only_reader(mean.output) is not node:
        return
    shape = edit.shapes[node.output]
    if shape == edit.shapes[mean.output][:2]:
        edit.put(replace(mean, attrs={**mean.attrs, "keepdim": False}), shape)
        edit.bypass(node)


class _Affine(NamedTuple):
    """y = scale * x + shift; both have the rank of x and a batch of 1. `fixed`: made of constants that do not train."""

    scale: DoubleArray
    shift: DoubleArray
    fixed: bool

    def after(self, first: _Affine) -> _Affine:
        """This map applied to the result of the first."""
        shift = self.scale * first.shift + self.shift
        return _Affine(self.scale * first.scale, shift, self.fixed and first.fixed)

    def per_channel(self, channels: int) -> tuple[DoubleArray, DoubleArray] | None:
        """Scale (C) and shift (C) when they differ along the channel axis alone."""
        for array in self[:2]:
            if array.size not in (1, array.shape[1]):
                return None
        return np.broadcast_to(self.scale.ravel(), (channels,)), np.broadcast_to(self.shift.ravel(), (channels,))


class _Folding:
    """Affine maps on their way into weights.

    Attributes:
        maps: by output of the batch_norm, mul or add node that is one.
        merged: outputs of those maps that took in another one.
        weights, biases: float64, by output of the conv and linear nodes that took in a map.
    """

    def __init__(self, edit: Edit) -> None:
        self.edit = edit
        self.maps: dict[str, _Affine] = {}
        self.merged: set[str] = set()
        self.weights: dict[str, DoubleArray] = {}
        self.biases: dict[str, DoubleArray] = {}
        for node in edit.nodes.values():
            affine = self._read(node)
            if affine is not None:
                self.maps[node.output] = affine

    def run(self) -> None:
        for name in list(self.maps):
            self._fold_back(self.edit.nodes[name])
        for name in list(self.maps):
            self._fold_forward(self.edit.nodes[name])
        for name, affine in self.maps.items():
            self._write_map(self.edit.nodes[name], affine)
        self._write_weights()

    def _read(self, node: Node) -> _Affine | None:
        """The affine map that a node is, if it is one."""
        shape = self.edit.shapes[node.inputs[0]]
        if node.op == "batch_norm":
            axes = (1, shape[1], *[1] * (len(shape) - 2))
            mean, variance = self._array(node, "mean", 0.0), self._array(node, "variance", 1.0)
            scale = self._array(node, "weight", 1.0) / np.sqrt(variance + node.attrs["eps"])
            shift = self._array(node, "bias", 0.0) - mean * scale
            return _Affine(scale.reshape(axes), shift.reshape(axes), fixed=False)
        if node.op not in ("add", "mul") or len(node.inputs) == 2 or node.activation is not None:
            return None
        if self.edit.shapes[node.output] != shape:  # the constant repeats the tensor: more than a map of places
            return None
        value = self._array(node, "value", 0.0)
        fixed = bool(node.attrs.get("fixed"))
        if node.op == "add":
            return _Affine(np.ones_like(value), value, fixed)
        return _Affine(value, np.zeros_like(value), fixed)

    def _array(self, node: Node, role: str, absent: float) -> DoubleArray:
        key = node.params.get(role)
        return np.array(absent) if key is None else self.edit.params[key].astype(np.float64)

    def _fold_back(self, node: Node) -> None:
        """Into the map, conv or linear before it, when this node alone reads that one."""
        edit, before = self.edit, self.edit.producer(node.inputs[0])
        if before is None or edit.only_reader(before.output) is not node:
            return
        affine = self.maps[node.output]
        if before.output in self.maps:
            self.maps[node.output] = affine.after(self.maps.pop(before.output))
            self.merged.add(node.output)
            edit.bypass(before)
            return
        channels = affine.per_channel(edit.shapes[node.output][1]) if before.op in WEIGHTED else None
        if channels is None or before.activation is not None:
            return
        scale, shift = channels
        weight, bias = self._weights(before)
        self.weights[before.output] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        self.biases[before.output] = bias * scale + shift
        del self.maps[node.output]
        edit.bypass(node)

    def _fold_forward(self, node: Node) -> None:
        """Into every conv or linear behind it, when nothing else reads it and no padding would need the shift."""
        edit, readers = self.edit, self.edit.readers(node.output)
        channels = self.maps[node.output].per_channel(edit.shapes[node.output][1])
        if channels is None or not readers or node.output == edit.output:
            return
        scale, shift = channels
        if not all(reader.op in WEIGHTED and (not shift.any() or not _pads(reader)) for reader in readers):
            return
        for reader in readers:
            weight, bias = self._weights(reader)
            groups = reader.attrs.get("groups", 1)
            # (O, I/g, ...) → (g, O/g, I/g, places): the inputs of a group meet the outputs of that group alone
            grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
            by_input = (groups, 1, weight.shape[1], 1)
            self.biases[reader.output] = bias + (grouped * shift.reshape(by_input)).sum((2, 3)).ravel()
            self.weights[reader.output] = (grouped * scale.reshape(by_input)).reshape(weight.shape)
        del self.maps[node.output]
        edit.bypass(node)

    def _weights(self, node: Node) -> tuple[DoubleArray, DoubleArray]:
        """Weight and bias of a conv or linear node as folded so far."""
        if node.output in self.weights:
            return self.weights[node.output], self.biases[node.output]
        weight = self._array(node, "weight", 0.0)
        return weight, np.broadcast_to(self._array(node, "bias", 0.0), weight.shape[:1])

    def _write_map(self, node: Node, affine: _Affine) -> None:
        """The nodes for a map that found no weights to join."""
        edit, shape = self.edit, self.edit.shapes[node.output]
        if node.op != "batch_norm" and node.output not in self.merged:
            return  # a single mul or add stays as it is
        channels = affine.per_channel(shape[1])
        scales, shifts = bool((affine.scale != 1).any()), bool(affine.shift.any())
        if not scales and not shifts:
            edit.bypass(node)
        elif scales and shifts and channels is not None and len(shape) in (3, 4):
            attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": shape[1]}
            edit.put(Node("conv", node.inputs, node.output, attrs, {}, node.module))
            self.weights[node.output] = channels[0].reshape(-1, 1, 1, 1)
            self.biases[node.output] = channels[1]
        else:
            source = node.inputs
            if scales and shifts:
                scaled = f"{node.output}.scaled"
                edit.insert(self._constant("mul", source, scaled, node, affine.scale, affine.fixed), shape, node.output)
                source = (scaled,)
            op, value = ("add", affine.shift) if shifts else ("mul", affine.scale)
            edit.put(self._constant(op, source, node.output, node, value, affine.fixed))

    def _constant(
        self, op: str, source: tuple[str, ...], output: str, node: Node, value: DoubleArray, fixed: bool
    ) -> Node:
        key = self.edit.keep(f"{output}.value", value.astype(np.float32))
        return Node(op, source, output, {"fixed": True} if fixed else {}, {"value": key}, node.module)

    def _write_weights(self) -> None:
        """Store what was folded, and zeros where a bias is missing."""
        users = [key for node in self.edit.nodes.values() for key in node.params.values()]
        keys: dict[tuple[str, str, bytes], str] = {}  # one module called twice and folded alike stays one parameter
        for node in self.edit.nodes.values():
            if node.op not in WEIGHTED or ("bias" in node.params and node.output not in self.weights):
                continue
            params = dict(node.params)
            old = params.get("weight", node.output)
            shared = users.count(old) > 1
            stem = node.output if shared or "weight" not in params else old.removesuffix(".weight")
            weight, bias = (array.astype(np.float32) for array in self._weights(node))
            folded = {"weight": weight} if node.output in self.weights else {}
            for role, array in (folded | {"bias": bias}).items():
                if role in params and users.count(params[role]) == 1:
                    self.edit.params[params[role]] = array
                    continue
                same = (old, role, array.tobytes())
                if same not in keys:
                    keys[same] = self.edit.keep(f"{stem}.{role}", array)
                params[role] = keys[same]
            self.edit.put(replace(node, params=params))


def _pads(node: Node) -> bool:
    return node.op == "conv" and node.attrs["padding"] != ((0, 0), (0, 0))
