"""Translators of ONNX operators that move values: joining, cutting, padding, reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgehone.graph.ir import Shape
from edgehone.importers._onnx_op import Constant, Op, Translated, Translator
from edgehone.importers._onnx_resize import repeat

_SLICES = "use slices; a fixed order of channels suits a 1x1 convolution"


def _concat(op: Op) -> str:
    """Constants of one value at the ends become padding."""
    values = list(op.inputs)
    places = [index for index, value in enumerate(values) if isinstance(value, str)]
    first, last = places[0], places[-1] + 1
    axis = op.axis(int(op.attrs["axis"]), len(op.shape(first)))
    sources = [op.tensor(index) for index in range(first, last)]
    joined = sources[0]
    if len(sources) > 1:
        whole = first == 0 and last == len(values)
        joined = op.emit("concat", *sources, part="" if whole else "join", attrs={"axis": axis})
    for part, ends in (("before", values[:first]), ("after", values[last:])):
        constants = [value for value in ends if isinstance(value, Constant)]
        if constants:
            length, value = _filling(op, constants, axis)
            amounts = (length, 0) if part == "before" else (0, length)
            pads = tuple(amounts if i == axis else (0, 0) for i in range(len(op.shape(first))))
            joined = op.emit("pad", joined, part=part, attrs={"pads": pads, "value": value})
    return joined


def _filling(op: Op, constants: Sequence[Constant], axis: int) -> tuple[int, float]:
    """Length along the axis and value of constants that all hold one value."""
    value = float(op.floats(constants[0]).ravel()[0])
    if not all((op.floats(constant) == value).all() for constant in constants):
        raise op.refuse("joins a constant that is not one value throughout", "join zeros, or add the constant")
    return sum(constant.array.shape[axis] for constant in constants), value


def cut(op: Op, source: str, axis: int, start: int, stop: int, step: int = 1, part: str = "") -> str:
    """A slice node."""
    attrs = {"axis": axis, "start": int(start), "stop": int(stop), "step": int(step)}
    return op.emit("slice", source, part=part, attrs=attrs)


def _slice(op: Op) -> str:
    source, shape = op.tensor(), op.shape()
    starts, ends = op.setting("starts", 1), op.setting("ends", 2)
    axes = op.setting("axes", 3, default=list(range(len(starts))))
    steps = op.setting("steps", 4, default=[1] * len(starts))
    for number, (axis, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True)):
        axis %= len(shape)
        size = op.batch if axis == 0 else shape[axis]
        if step < 1:
            raise op.refuse("goes backwards", "turn the data round before the network")
        picked = range(size)[slice(start, end, step)]
        if picked == range(size):
            continue
        if not picked:
            raise op.refuse("is empty", "slice at least one place")
        source = cut(op, source, op.axis(axis, len(shape)), picked.start, picked.stop, picked.step, part=f"cut{number}")
    return source


def _split(op: Op) -> Translated:
    source, shape = op.tensor(), op.shape()
    axis = op.axis(int(op.attrs.get("axis", 0)), len(shape))
    total, count = shape[axis], len(op.outputs)
    size = -(-total // int(op.attrs.get("num_outputs", count)))
    even = [min(size, total - start) for start in range(0, total, size)]
    sizes = op.setting("split", 1, default=even)
    if len(sizes) != count or sum(sizes) != total:
        raise op.refuse(f"cuts {total} places into {sizes}", "export the file again")
    starts = np.cumsum([0, *sizes])
    return tuple(
        cut(op, source, axis, start, start + n, part=f"{number}")
        for number, (start, n) in enumerate(zip(starts, sizes, strict=False))
    )


def _pad(op: Op) -> str:
    source, shape = op.tensor(), op.shape()
    mode = op.attrs.get("mode", "constant")
    if mode != "constant":
        raise op.refuse(f"in mode {mode!r} is not supported", "pad with zeros")
    amounts = op.setting("pads", 1)
    axes = [axis % len(shape) for axis in op.setting("axes", 3, default=list(range(len(shape))))]
    given = dict(zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True))
    pads = [given.get(axis, (0, 0)) for axis in range(len(shape))]
    if pads[0] != (0, 0):
        op.axis(0, len(shape))  # refuses the batch axis
    for axis, (before, after) in enumerate(pads):
        if before < 0 or after < 0:  # a negative amount crops
            source = cut(op, source, axis, max(0, -before), shape[axis] - max(0, -after), part=f"crop{axis}")
    value = op.setting("value", 2, default=0.0)
    number = float(value[0] if isinstance(value, list) else value)
    attrs = {"pads": tuple((max(0, a), max(0, b)) for a, b in pads), "value": number}
    return op.emit("pad", source, attrs=attrs)


def _reshape(op: Op) -> str:
    shape = (op.batch, *op.shape()[1:])
    target = [int(n) for n in op.setting("shape", 1)]
    if not op.attrs.get("allowzero", 0):
        target = [shape[axis] if n == 0 else n for axis, n in enumerate(target)]
    known = prod(n for n in target if n != -1)
    if -1 in target and known and prod(shape) % known == 0:
        target[target.index(-1)] = prod(shape) // known
    return _behind_batch(op, target)


def _behind_batch(op: Op, target: Sequence[int]) -> str:
    """The tensor in a shape that begins with the batch."""
    # Rows stay rows when the batch is first before and after, whatever happens behind it.
    if len(target) < 2 or target[0] != op.batch:
        raise op.refuse(
            f"turns a batch of {op.batch} into a shape of {tuple(target)}",
            "keep the examples of a batch apart, first axis = batch",
        )
    return op.reshape(op.tensor(), (1, *target[1:]))


def _flatten(op: Op) -> str:
    shape = (op.batch, *op.shape()[1:])
    axis = int(op.attrs.get("axis", 1))
    axis += len(shape) * (axis < 0)
    return _behind_batch(op, (prod(shape[:axis]), prod(shape[axis:])))


def _squeeze(op: Op) -> str:
    shape = op.shape()
    given = op.setting("axes", 1)
    if given is None:
        raise op.refuse("without axes may drop the batch", "name the axes to drop")
    axes = {op.axis(axis, len(shape)) for axis in given}
    return op.reshape(op.tensor(), [n for axis, n in enumerate(shape) if axis not in axes])


def _unsqueeze(op: Op) -> str:
    shape, given = op.shape(), op.setting("axes", 1)
    rank = len(shape) + len(given)
    axes = {op.axis(axis, rank) for axis in given}
    rest = iter(shape)
    return op.reshape(op.tensor(), [1 if axis in axes else next(rest) for axis in range(rank)])


def _transpose(op: Op) -> str:
    rank = len(op.shape())
    perm = [axis % rank for axis in op.attrs.get("perm", range(rank)[::-1])]
    if perm[0] != 0:
        op.axis(0, rank)  # refuses the batch axis
    return op.transpose(op.tensor(), perm)


def _gather(op: Op) -> str:
    """One place of an axis, places at equal distances, or spatial places as a resize repeats them."""
    shape, given = op.shape(), op.constant(1, "indices")
    if given is None:
        raise op.refuse("has no indices", "export the file again")
    axis = op.axis(int(op.attrs.get("axis", 0)), len(shape))
    places = given.array.astype(np.int64).ravel() % shape[axis]
    steps = np.diff(places)
    step = int(steps[0]) if steps.size else 1
    if axis >= 2 and len(shape) in (3, 4) and given.array.ndim == 1 and (steps >= 0).all() and (steps != step).any():
        kept = [places if i == axis else np.arange(n) for i, n in enumerate(shape)][2:]
        repeated = repeat(op, op.tensor(), kept)
        if repeated is not None:
            return repeated
    if not places.size or step < 1 or (steps != step).any():
        raise op.refuse("takes places in an order of its own", _SLICES)
    start = int(places[0])
    part = "" if given.array.ndim == 1 else "row"
    row = cut(op, op.tensor(), axis, start, int(places[-1]) + 1, step, part=part)
    result: Shape = (*shape[:axis], *given.array.shape, *shape[axis + 1 :])
    return row if given.array.ndim == 1 else op.reshape(row, result)


def _depth_to_space(op: Op) -> str:
    n, c, h, w = op.shape()
    b = int(op.attrs["blocksize"])
    depth_first = op.attrs.get("mode", "DCR") == "DCR"
    split = (n, b, b, c // b**2, h, w) if depth_first else (n, c // b**2, b, b, h, w)
    perm = (0, 3, 4, 1, 5, 2) if depth_first else (0, 1, 4, 2, 5, 3)
    return _regroup(op, split, perm, (n, c // b**2, h * b, w * b))


def _space_to_depth(op: Op) -> str:
    n, c, h, w = op.shape()
    b = int(op.attrs["blocksize"])
    return _regroup(op, (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4), (n, c * b**2, h // b, w // b))


def _regroup(op: Op, split: Shape, perm: Sequence[int], result: Shape) -> str:
    """Reshape, transpose, reshape."""
    apart = op.reshape(op.tensor(), split, part="apart")
    return op.reshape(op.transpose(apart, perm, part="turned"), result)


SHAPES: dict[str, Translator] = {
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Gather": _gather,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
