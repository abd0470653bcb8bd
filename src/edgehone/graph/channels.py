"""Which channels of a graph must leave together: an id for every channel, tied by what the operators demand.

Every tensor carries an array of ids that broadcasts to its shape: two places with one id are kept or removed as one,
and id 0 is frozen. A reshape or a transpose then moves ids exactly as it moves values, which makes flatten, channel
shuffle and pixel shuffle no special cases. Rules, per operator:

    conv, linear      write fresh ids; a depthwise convolution passes its input's on (repeated by its multiplier); other
                      grouped convolutions tie channel i of every group, on both sides, so that groups stay equal
    add, sub, mul     tie what meets; an operand of size 1 on the channel axis meets nothing (a spatial gate)
    concat, slice, pad, reshape, transpose    move ids as they move values; padding on the channel axis brings fresh ids
    softmax, mean over channels, strided slice of channels, spatial operators over transposed channels    freeze
    all others        pass their input's ids on

The graph's input and output are frozen. A parameter read by two nodes ties what both read of it. Along all axes but one
the ids of a tensor are tied, so that removing any id leaves every tensor a dense rectangle.

The idea of one dependency relation over all layers is that of DepGraph (Fang et al. 2023, section 3); ids at the level
of single channels make split, concatenation and zero-padded shortcuts exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehone.graph.ir import Graph, Node

Ids = NDArray[np.int64]
FROZEN = 0


@dataclass(frozen=True)
class Channels:
    """Ids of every tensor and parameter, final: equal ids leave together, 0 never leaves.

    Attributes:
        tensors: name → (axis, ids along that axis); the ids are the same along all other axes.
        params: (key, axis) → ids along that axis; an axis that is absent is never cut.
    """

    tensors: Mapping[str, tuple[int, Ids]]
    params: Mapping[tuple[str, int], Ids]


def channels(graph: Graph) -> Channels:
    """Follow channels from the graph's input to its output. Works on training and on deployed graphs."""
    return _Walk(graph).run()


class _Walk:
    """One pass over the nodes; `_parents` is a union-find forest over ids in which the smaller id is the root."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parents = [FROZEN]
        self._tensors: dict[str, Ids] = {graph.input: np.full([1] * len(graph.input_shape), FROZEN, np.int64)}
        self._params: dict[tuple[str, int], Ids] = {}

    def run(self) -> Channels:
        for node in self._graph.nodes:
            inputs = [self._tensors[name] for name in node.inputs]
            if node.op in _RULES and node.op not in _MOVES:
                inputs = [self._settle(ids, channel_axis=1) for ids in inputs]
            self._tensors[node.output] = _RULES.get(node.op, _Walk._pass_on)(self, node, inputs)
        self._freeze(self._tensors[self._graph.output])
        for ids in self._tensors.values():
            self._settle(ids, channel_axis=None)
        return Channels(
            tensors={name: self._along_its_axis(name, ids) for name, ids in self._tensors.items()},
            params={place: self._find(ids) for place, ids in self._params.items()},
        )

    def _along_its_axis(self, name: str, ids: Ids) -> tuple[int, Ids]:
        ids = _compact(self._find(ids))
        axis = _varying(ids)
        return axis, _line(ids, self._graph.shapes[name][axis])

    # The forest.

    def _fresh(self, count: int) -> Ids:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def _find(self, ids: Ids) -> Ids:
        distinct, places = np.unique(ids, return_inverse=True)
        roots = np.array([self._root(int(label)) for label in distinct], np.int64)
        return roots[places].reshape(ids.shape)

    def _tie(self, a: Ids, b: Ids) -> None:
        pairs = np.stack([side.ravel() for side in np.broadcast_arrays(a, b)], axis=1)
        for one, other in np.unique(pairs, axis=0).tolist():
            low, high = sorted((self._root(one), self._root(other)))
            self._parents[high] = low

    def _freeze(self, ids: Ids) -> Ids:
        self._tie(ids, np.array(FROZEN))
        return np.full([1] * ids.ndim, FROZEN, np.int64)

    def _settle(self, ids: Ids, channel_axis: int | None) -> Ids:
        """Tie ids until they vary along one axis only: the channel axis, or the longest where that is not known.

        The longest is right between the two reshapes of a channel shuffle: (groups, channels of a group).
        """
        ids = _compact(self._find(ids))
        varying = [axis for axis, size in enumerate(ids.shape) if size > 1]
        if len(varying) <= 1:
            return ids
        main = channel_axis if channel_axis in varying else max(varying, key=lambda axis: (ids.shape[axis], axis))
        line = ids
        for axis in varying:
            if axis != main:
                line = line.take([0], axis)
        self._tie(ids, line)
        return _compact(self._find(line))

    def _touch(self, node: Node, role: str, axis: int, ids: Ids) -> None:
        """Record whose channels a parameter's axis belongs to; a second reader ties its own to them."""
        key = node.params.get(role)
        if key is None:
            return
        if (key, axis) in self._params:
            self._tie(self._params[key, axis], ids)
        else:
            self._params[key, axis] = ids

    # The rules: node, ids of its inputs → ids of its output.

    def _channel_line(self, node: Node, ids: Ids) -> Ids:
        """Ids along axis 1 of the first input; frozen where channels lie on another axis."""
        if _varying(ids) != 1:
            ids = self._freeze(ids)
        return _line(ids, self._graph.shapes[node.inputs[0]][1])

    def _pass_on(self, node: Node, inputs: Sequence[Ids]) -> Ids:  # noqa: ARG002  every rule has one signature
        return inputs[0]

    def _per_channel(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        """Pools, resize and batch norm: they must find the channels on axis 1."""
        line = self._channel_line(node, inputs[0])
        for role in node.params:
            self._touch(node, role, 0, line)
        return _on_axis(line, 1, inputs[0].ndim)

    def _mix(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        """Conv and linear."""
        read = self._channel_line(node, inputs[0])
        outputs, inputs_per_group = self._graph.params[node.params["weight"]].shape[:2]
        groups = int(node.attrs.get("groups", 1))
        if groups > 1 and inputs_per_group == 1:
            written = np.repeat(read, outputs // groups)
        else:
            written = self._fresh(outputs)
            by_group = read.reshape(groups, inputs_per_group)
            self._tie(by_group, by_group[:1])
            self._tie(written.reshape(groups, -1), written[: outputs // groups])
            self._touch(node, "weight", 1, by_group[0])
        self._touch(node, "weight", 0, written)
        self._touch(node, "bias", 0, written)
        return _on_axis(written, 1, inputs[0].ndim)

    def _meet(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        """Add, sub and mul, of two tensors or of one and the constant `value`."""
        shape = self._graph.shapes[node.inputs[0]]
        if len(inputs) == 1:
            other_shape = self._graph.params[node.params["value"]].shape
            axis = _varying(inputs[0])
            line = np.full(1, FROZEN, np.int64)
            if len(other_shape) == len(shape) and other_shape[axis] > 1:
                line = self._fresh(other_shape[axis])
                self._touch(node, "value", axis, line)
            inputs = [inputs[0], _on_axis(line, axis, len(shape))]
        else:
            other_shape = self._graph.shapes[node.inputs[1]]
        a, b = inputs
        axes = {_varying(ids) for ids in inputs if ids.size > 1} or {1}
        if len(axes) > 1 or a.ndim != b.ndim:
            self._freeze(b)
            self._freeze(a)
            return np.full([1] * len(self._graph.shapes[node.output]), FROZEN, np.int64)
        axis = axes.pop()
        if shape[axis] == other_shape[axis]:
            self._tie(a, b)
        return b if shape[axis] == 1 else a

    def _concat(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        axis = node.attrs["axis"]
        sizes = [self._graph.shapes[name][axis] for name in node.inputs]
        common = np.broadcast_shapes(*(ids.take([0], axis).shape for ids in inputs))
        parts = [
            np.broadcast_to(ids, (*common[:axis], size, *common[axis + 1 :]))
            for ids, size in zip(inputs, sizes, strict=True)
        ]
        return np.concatenate(parts, axis)

    def _slice(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        axis, (ids,) = node.attrs["axis"], inputs
        if ids.shape[axis] == 1:
            return ids
        if node.attrs["step"] != 1:  # what is left of a strided slice has no common stride
            return self._freeze(ids)
        return ids.take(np.arange(node.attrs["start"], node.attrs["stop"]), axis)

    def _pad(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        axis = _varying(inputs[0])
        before, after = node.attrs["pads"][axis]
        if not before and not after:
            return inputs[0]
        line = _line(inputs[0], self._graph.shapes[node.inputs[0]][axis])
        return _on_axis(np.concatenate([self._fresh(before), line, self._fresh(after)]), axis, inputs[0].ndim)

    def _mean(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        axes, (ids,) = tuple(node.attrs["axes"]), inputs
        if any(ids.shape[axis] > 1 for axis in axes):  # a mean over channels counts them
            ids = self._freeze(ids)
        return ids if node.attrs["keepdim"] else np.squeeze(ids, axes)

    def _reshape(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        full = np.broadcast_to(inputs[0], self._graph.shapes[node.inputs[0]])
        return full.reshape(self._graph.shapes[node.output])

    def _transpose(self, node: Node, inputs: Sequence[Ids]) -> Ids:
        return inputs[0].transpose(node.attrs["perm"])

    def _softmax(self, node: Node, inputs: Sequence[Ids]) -> Ids:  # noqa: ARG002
        return self._freeze(inputs[0])


_RULES: dict[str, Callable[[_Walk, Node, Sequence[Ids]], Ids]] = {
    "conv": _Walk._mix,
    "linear": _Walk._mix,
    "batch_norm": _Walk._per_channel,
    "max_pool": _Walk._per_channel,
    "avg_pool": _Walk._per_channel,
    "resize": _Walk._per_channel,
    "add": _Walk._meet,
    "sub": _Walk._meet,
    "mul": _Walk._meet,
    "concat": _Walk._concat,
    "slice": _Walk._slice,
    "pad": _Walk._pad,
    "mean": _Walk._mean,
    "reshape": _Walk._reshape,
    "transpose": _Walk._transpose,
    "softmax": _Walk._softmax,
}

_MOVES = frozenset({"reshape", "transpose"})  # they may spread channels over several axes for a while


def _varying(ids: Ids) -> int:
    """The one axis along which settled ids vary; axis 1 when there is none."""
    return next((axis for axis, size in enumerate(ids.shape) if size > 1), 1)


def _compact(ids: Ids) -> Ids:
    """Size 1 along every axis on which the ids do not change."""
    for axis in range(ids.ndim):
        first = ids.take([0], axis)
        if (ids == first).all():
            ids = first
    return ids


def _line(ids: Ids, size: int) -> Ids:
    """(size) ids along the one axis on which settled ids may vary."""
    return np.broadcast_to(ids.reshape(-1), (size,))


def _on_axis(line: Ids, axis: int, rank: int) -> Ids:
    """(size) ids as an array of that rank, along that axis."""
    return line.reshape([-1 if position == axis else 1 for position in range(rank)])
