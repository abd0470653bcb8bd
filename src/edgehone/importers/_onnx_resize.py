"""Translators of ONNX operators that repeat values: Resize, Upsample, Expand, Tile.

ONNX has many rules for where a resized value is taken from; the graph has torch's. For nearest, the places are worked
out by the file's rule and compared with those of both of torch's; for linear, the two rules that torch has are known by
name. The rules are those of https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edgehone.importers._onnx_op import Op, Translator

Places = NDArray[np.int64]
_TORCH_HAS = "use nearest, or linear with half_pixel or align_corners, by whole factors or to given sizes"
_MOST_REPEATS = 64


def _resize(op: Op) -> str:
    """Resize and Upsample along the spatial axes."""
    source, shape = op.tensor(), op.shape()
    if len(shape) not in (3, 4):
        raise op.refuse(f"works on {len(shape) - 2} spatial axes", "use 1-D or 2-D layers")
    factors, result = _factors(op)
    if result[:2] != (op.batch, shape[1]):
        raise op.refuse("works on other axes than the spatial ones", "resize height and width, or length")
    mode = op.attrs.get("mode", "nearest")
    old = op.kind == "Upsample" or op.version < 11
    rule = "asymmetric" if old else op.attrs.get("coordinate_transformation_mode", "half_pixel")
    if op.attrs.get("antialias", 0) or mode not in ("nearest", "linear"):
        raise op.refuse(f"in mode {mode!r} is not supported", _TORCH_HAS)
    if mode == "nearest":
        rounding = "floor" if old else op.attrs.get("nearest_mode", "round_prefer_floor")
        axes = [
            _places(op, n, m, factor, rule, rounding)
            for n, m, factor in zip(shape[2:], result[2:], factors[2:], strict=True)
        ]
        found = repeat(op, source, axes)
        if found is None:
            raise op.refuse(
                f"nearest by the rule {rule!r}, {rounding!r} takes places that torch never does", _TORCH_HAS
            )
        return found
    if any(abs(n * f - m) > 1e-4 * m for n, m, f in zip(shape[2:], result[2:], factors[2:], strict=True)):
        raise op.refuse(f"from {shape[2:]} by {factors[2:]} does not give whole sizes", _TORCH_HAS)
    if rule not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise op.refuse(f"linear by the rule {rule!r} is not supported", _TORCH_HAS)
    corners = rule == "align_corners"
    size = (1, *result[2:])[-2:]
    attrs = {"size": size, "mode": "bilinear", "align_corners": corners, "half_pixel": not corners}
    return op.emit("resize", source, attrs=attrs)


def _factors(op: Op) -> tuple[list[float], tuple[int, ...]]:
    """Factor of every axis, and the shape of the result with the file's batch."""
    shape = (op.batch, *op.shape()[1:])
    scales_at, sizes_at = (1, None) if op.kind == "Upsample" or op.version < 11 else (2, 3)
    scales = op.setting("scales", scales_at) or None
    sizes = op.setting("sizes", sizes_at) if sizes_at is not None else None
    if op.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise op.refuse("that keeps the aspect ratio is not supported", _TORCH_HAS)
    axes = [axis % len(shape) for axis in op.attrs.get("axes", range(len(shape)))]
    factors, result = [1.0] * len(shape), list(shape)
    for number, axis in enumerate(axes):
        if sizes:
            result[axis], factors[axis] = int(sizes[number]), sizes[number] / shape[axis]
        elif scales:
            factors[axis] = float(np.float32(scales[number]))
            result[axis] = int(np.floor(np.float32(shape[axis]) * np.float32(scales[number])))
    return factors, tuple(result)


def _places(op: Op, before: int, after: int, factor: float, rule: str, rounding: str) -> Places:
    """For every place of an axis after the resize, the place it is a copy of."""
    if not 0 < after <= 1 << 20:
        raise op.refuse(f"to a size of {after}", "export the file again")
    i = np.arange(after, dtype=np.float32)
    scale = np.float32(factor)
    if rule == "align_corners":
        x = i * np.float32((before - 1) / max(1, after - 1))
    elif rule == "asymmetric":
        x = i / scale
    elif rule == "tf_half_pixel_for_nn":
        x = (i + np.float32(0.5)) / scale
    elif rule in ("half_pixel", "pytorch_half_pixel"):
        x = (i + np.float32(0.5)) / scale - np.float32(0.5)
    else:
        raise op.refuse(f"by the rule {rule!r} is not supported", _TORCH_HAS)
    rounded = {
        "floor": np.floor(x),
        "ceil": np.ceil(x),
        "round_prefer_floor": np.ceil(x - np.float32(0.5)),
        "round_prefer_ceil": np.floor(x + np.float32(0.5)),
    }.get(rounding)
    if rounded is None:
        raise op.refuse(f"that rounds by {rounding!r} is not supported", _TORCH_HAS)
    places: Places = np.clip(rounded, 0, before - 1).astype(np.int64)
    return places


def repeat(op: Op, source: str, axes: Sequence[Places]) -> str | None:
    """A resize that takes these places along each spatial axis; None where torch has none."""
    sizes = op.draft.shapes[source][2:]
    for half_pixel in (False, True):
        if all(
            np.array_equal(_torch_places(n, len(places), half_pixel), places)
            for n, places in zip(sizes, axes, strict=True)
        ):
            size = (1, *(len(places) for places in axes))[-2:]
            attrs = {"size": size, "mode": "nearest", "align_corners": False, "half_pixel": half_pixel}
            return op.emit("resize", source, attrs=attrs)
    return None


def _torch_places(before: int, after: int, half_pixel: bool) -> Places:
    numbers = torch.arange(before, dtype=torch.float32).view(1, 1, -1)
    taken = F.interpolate(numbers, size=after, mode="nearest-exact" if half_pixel else "nearest")
    places: Places = taken.view(-1).numpy().astype(np.int64)
    return places


def _expand(op: Op) -> str:
    """One place that is repeated over the picture; arithmetic does so by itself."""
    source, shape = op.tensor(), (op.batch, *op.shape()[1:])
    target = [int(n) for n in op.setting("shape", 1)]
    if len(target) > len(shape) and all(n == 1 for n in target[: len(target) - len(shape)]):
        target = target[len(target) - len(shape) :]
    if len(target) > len(shape):
        raise op.refuse("adds axes", "reshape first, batch first")
    result = tuple(np.broadcast_shapes(shape, target))
    if result == shape:
        return source
    if len(shape) not in (3, 4) or result[:2] != shape[:2]:
        raise op.refuse("repeats other axes than the spatial ones", "let arithmetic broadcast instead")
    axes = [np.zeros(m, np.int64) if n == 1 else np.arange(n) for n, m in zip(shape[2:], result[2:], strict=True)]
    found = repeat(op, source, axes)
    if found is None:
        raise op.refuse("is not supported here", "let arithmetic broadcast instead")
    return found


def _tile(op: Op) -> str:
    source, shape = op.tensor(), op.shape()
    for axis, times in enumerate(op.setting("repeats", 1)):
        if times == 1:
            continue
        if not 1 < times <= _MOST_REPEATS:
            raise op.refuse(f"repeats {times} times", f"repeat at most {_MOST_REPEATS} times")
        source = op.emit("concat", *[source] * int(times), part=f"{axis}", attrs={"axis": op.axis(axis, len(shape))})
    return source


RESIZES: dict[str, Translator] = {"Resize": _resize, "Upsample": _resize, "Expand": _expand, "Tile": _tile}
