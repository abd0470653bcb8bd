"""Importers of operators that move values: joining, cutting, padding, reshaping, resizing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgehone.graph._builder import Call, Importer, Value, pair
from edgehone.graph.ir import Shape


def _identity(call: Call) -> Value:
    source = call.args["self"] if "self" in call.args else call.args["input"]
    dtype = call.args.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise call.refuse(f"converts to {dtype}", "keep tensors in floating point; return logits, not class ids")
    kept: Value = source
    return kept


def _cat(call: Call) -> Value:
    tensors: list[Value] = list(call.args["tensors"])
    sources = [t for t in tensors if isinstance(t, str)]
    axis = call.axis(call.args["dim"], len(call.shape_of(sources[0])))
    first, last = tensors.index(sources[0]), len(tensors) - tensors[::-1].index(sources[-1])
    before, after = _filling(call, tensors[:first], axis), _filling(call, tensors[last:], axis)
    if len(sources) != last - first:
        raise call.refuse("has a constant between tensors", "put constants at the ends, or add them")
    joined = sources[0]
    padded = before[0] + after[0] > 0
    if len(sources) > 1:
        shape = list(call.shape)
        shape[axis] -= before[0] + after[0]
        part = "join" if padded else ""
        joined = call.emit("concat", sources, tuple(shape), part=part, attrs={"axis": axis})
    if not padded:
        return joined
    value = before[1] if before[0] else after[1]
    if before[0] and after[0] and before[1] != after[1]:
        raise call.refuse("has two different constants", "use the same constant at both ends")
    pads = tuple((before[0], after[0]) if i == axis else (0, 0) for i in range(len(call.shape)))
    return call.emit("pad", (joined,), call.shape, attrs={"pads": pads, "value": value})


def _filling(call: Call, tensors: Sequence[Value], axis: int) -> tuple[int, float]:
    """Length along the axis and value of constants that all hold one value."""
    constants = [t for t in tensors if isinstance(t, Tensor)]
    if not constants:
        return 0, 0.0
    value = constants[0].flatten()[0]
    if not all(bool((t == value).all()) for t in constants):
        raise call.refuse("joins a constant that is not one value throughout", "join zeros, or add the constant")
    return sum(t.shape[axis] for t in constants), float(value)


def _stack(call: Call) -> Value:
    axis = call.axis(call.args["dim"], len(call.shape))
    if not all(isinstance(t, str) for t in call.args["tensors"]):
        raise call.refuse("of constants is not supported", "stack tensors")
    shape: Shape = tuple(1 if i == axis else n for i, n in enumerate(call.shape))
    parts = [
        call.emit("reshape", (name,), shape, part=f"part{i}", attrs={"shape": shape})
        for i, name in enumerate(call.args["tensors"])
    ]
    return call.emit("concat", parts, call.shape, attrs={"axis": axis})


def cut(call: Call, source: str, axis: int, start: int, stop: int, step: int = 1, part: str = "") -> str:
    """A slice node."""
    shape = list(call.shape_of(source))
    shape[axis] = len(range(start, stop, step))
    attrs = {"axis": axis, "start": start, "stop": stop, "step": step}
    return call.emit("slice", (source,), tuple(shape), part=part, attrs=attrs)


def _slice(call: Call) -> Value:
    source = call.tensor("self")
    shape = call.shape_of(source)
    size = call.builder.batch if call.args["dim"] % len(shape) == 0 else shape[call.args["dim"]]
    start, stop, step = slice(call.args["start"], call.args["end"], call.args["step"]).indices(size)
    if (start, stop, step) == (0, size, 1):
        return source
    return cut(call, source, call.axis(call.args["dim"], len(shape)), start, stop, step)


def _narrow(call: Call) -> Value:
    source = call.tensor("self")
    axis = call.axis(call.args["dim"], len(call.shape_of(source)))
    start = call.args["start"] % call.shape_of(source)[axis]
    return cut(call, source, axis, start, start + call.args["length"])


def _select(call: Call) -> Value:
    source = call.tensor("self")
    axis = call.axis(call.args["dim"], len(call.shape_of(source)))
    index = call.args["index"] % call.shape_of(source)[axis]
    row = cut(call, source, axis, index, index + 1, part="row")
    return call.emit("reshape", (row,), call.shape, attrs={"shape": call.shape})


def _pieces(call: Call, sizes: Sequence[int]) -> list[str]:
    """Slices of the given sizes along the call's axis."""
    source = call.tensor("self")
    axis = call.axis(call.args["dim"], len(call.shape_of(source)))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [cut(call, source, axis, a, a + n, part=f"{i}") for i, (a, n) in enumerate(zip(starts, sizes, strict=True))]


def _equal_sizes(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _split(call: Call) -> Value:
    total = call.shape_of(call.tensor("self"))[call.args["dim"]]
    given = call.args["split_sizes"] if "split_sizes" in call.args else call.args["split_size"]
    return tuple(_pieces(call, _equal_sizes(total, given) if isinstance(given, int) else list(given)))


def _chunk(call: Call) -> Value:
    total = call.shape_of(call.tensor("self"))[call.args["dim"]]
    return tuple(_pieces(call, _equal_sizes(total, -(-total // call.args["chunks"]))))


def _unbind(call: Call) -> Value:
    shape = list(call.shape_of(call.tensor("self")))
    axis = call.axis(call.args["dim"], len(shape))
    pieces = _pieces(call, [1] * shape[axis])
    del shape[axis]
    return tuple(
        call.emit("reshape", (piece,), tuple(shape), part=f"row{i}", attrs={"shape": tuple(shape)})
        for i, piece in enumerate(pieces)
    )


def _pad(call: Call) -> Value:
    source = call.tensor("self")
    if call.args.get("mode", "constant") != "constant":
        raise call.refuse(f"in mode {call.args['mode']!r} is not supported", "pad with zeros")
    rank = len(call.shape_of(source))
    amounts = list(call.args["pad"])
    given = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)][::-1]  # torch starts at the last axis
    pads = [(0, 0)] * (rank - len(given)) + given
    if pads[0] != (0, 0):
        call.axis(0, rank)  # refuses the batch axis
    for axis, (before, after) in enumerate(pads):
        if before < 0 or after < 0:  # a negative amount crops
            size = call.shape_of(source)[axis]
            source = cut(call, source, axis, max(0, -before), size - max(0, -after), part=f"crop{axis}")
    attrs = {"pads": tuple((max(0, a), max(0, b)) for a, b in pads), "value": float(call.args.get("value") or 0.0)}
    return call.emit("pad", (source,), call.shape, attrs=attrs)


def _reshape(call: Call) -> Value:
    # Rows stay rows when the batch is first before and after, whatever happens behind it.
    return call.emit("reshape", (call.tensor("self"),), call.shape, attrs={"shape": call.shape})


def _permuted(call: Call, perm: Sequence[int]) -> Value:
    if perm[0] != 0:
        call.axis(0, len(perm))  # refuses the batch axis
    return call.emit("transpose", (call.tensor("self"),), call.shape, attrs={"perm": tuple(perm)})


def _permute(call: Call) -> Value:
    rank = len(call.shape_of(call.tensor("self")))
    return _permuted(call, [axis % rank for axis in call.args["dims"]])


def _transpose(call: Call) -> Value:
    rank = len(call.shape_of(call.tensor("self")))
    a, b = (call.args[first] % rank for first in (("dim0", "dim1") if "dim0" in call.args else ("axis0", "axis1")))
    perm = list(range(rank))
    perm[a], perm[b] = b, a
    return _permuted(call, perm)


def _regroup(call: Call, split: Shape, perm: Sequence[int]) -> Value:
    """Reshape, transpose, reshape: what every shuffle is."""
    apart = call.emit("reshape", (call.tensor("self"),), split, part="apart", attrs={"shape": split})
    moved: Shape = tuple(split[axis] for axis in perm)
    turned = call.emit("transpose", (apart,), moved, part="turned", attrs={"perm": tuple(perm)})
    return call.emit("reshape", (turned,), call.shape, attrs={"shape": call.shape})


def _channel_shuffle(call: Call) -> Value:
    n, c, *rest = call.shape_of(call.tensor("self"))
    groups = call.args["groups"]
    return _regroup(call, (n, groups, c // groups, *rest), [0, 2, 1, *range(3, 3 + len(rest))])


def _pixel_shuffle(call: Call) -> Value:
    n, c, h, w = call.shape_of(call.tensor("self"))
    r = call.args["upscale_factor"]
    return _regroup(call, (n, c // r**2, r, r, h, w), [0, 1, 4, 2, 5, 3])


def _pixel_unshuffle(call: Call) -> Value:
    n, c, h, w = call.shape_of(call.tensor("self"))
    r = call.args["downscale_factor"]
    return _regroup(call, (n, c, h // r, r, w // r, r), [0, 1, 3, 5, 2, 4])


def _expand(call: Call) -> Value:
    source = call.tensor("self")
    shape = call.shape_of(source)
    if shape == call.shape:
        return source
    if len(shape) not in (3, 4) or len(call.shape) != len(shape) or shape[:2] != call.shape[:2]:
        raise call.refuse("repeats other axes than the spatial ones", "let arithmetic broadcast instead of expand")
    size = pair(call.shape[2:], len(shape) - 2, 1)
    return _resized(call, source, "nearest", size, align_corners=False, half_pixel=False)


def _resized(
    call: Call, source: str, mode: str, size: tuple[int, int], *, align_corners: bool, half_pixel: bool
) -> str:
    attrs = {"size": size, "mode": mode, "align_corners": align_corners, "half_pixel": half_pixel}
    return call.emit("resize", (source,), call.shape, attrs=attrs)


def _interpolate(call: Call) -> Value:
    source = call.args["self"] if "self" in call.args else call.args["input"]
    spatial = 1 if call.operator.endswith("1d") else 2
    sizes, results = call.shape_of(source)[2:], call.shape[2:]
    factors = call.args.get("scale_factors") or []
    if any(n * factor != m for n, m, factor in zip(sizes, results, factors, strict=False)):
        raise call.refuse(
            f"from {sizes} by {list(factors)} does not give whole sizes, and torch then samples at other places",
            "pass size= instead of scale_factor=",
        )
    linear = "linear" in call.operator
    corners = bool(call.args.get("align_corners", False))
    exact = "exact" in call.operator
    return _resized(
        call,
        source,
        "bilinear" if linear else "nearest",
        pair(results, spatial, 1),
        align_corners=corners,
        half_pixel=exact or (linear and not corners),
    )


_RESHAPES = [
    "flatten",
    "view",
    "reshape",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "_unsafe_view",
    "view_as",
    "reshape_as",
    "_reshape_alias",
]
_IDENTITIES = [
    "contiguous",
    "clone",
    "detach",
    "alias",
    "to",
    "_to_copy",
    "type_as",
    "lift_fresh",
    "lift_fresh_copy",
    "float",
    "identity",
]
_RESIZES = [
    "upsample_nearest1d",
    "upsample_nearest2d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "upsample_linear1d",
    "upsample_bilinear2d",
]

SHAPES: dict[str, Importer] = {
    **dict.fromkeys(_IDENTITIES, _identity),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_RESIZES, _interpolate),
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _chunk,
    "unbind": _unbind,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "permute": _permute,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "channel_shuffle": _channel_shuffle,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "expand": _expand,
    "expand_as": _expand,
}
