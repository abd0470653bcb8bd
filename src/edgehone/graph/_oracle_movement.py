"""The oracle's operators that move, select or interpolate values: input and output have the same parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgehone.graph._oracle_call import Call, Levels
from edgehone.graph.fixed_point import Integers, round_half_away


def _max_pool(call: Call) -> Levels:
    return np.asarray(pool_windows(call.inputs[0], call.node.attrs, -128).max((-2, -1)), np.int8)


def pool_windows(x: Levels, attrs: Mapping[str, Any], fill: int) -> Levels:
    """A pool's windows over padded levels: (N, C, H, W) → (N, C, oh, ow, kh, kw), (N, C, L) → (N, C, ol, 1, k)."""
    planar = x if x.ndim == 4 else x[:, :, None, :]
    padded = np.pad(planar, ((0, 0), (0, 0), *attrs["padding"]), constant_values=fill)
    windows = sliding_window_view(padded, attrs["kernel"], axis=(2, 3))
    windows = windows[:, :, :: attrs["stride"][0], :: attrs["stride"][1]]
    return windows if x.ndim == 4 else windows[:, :, 0]


def _concat(call: Call) -> Levels:
    return np.concatenate(call.inputs, call.node.attrs["axis"])


def _slice(call: Call) -> Levels:
    attrs = call.node.attrs
    index = [slice(None)] * call.inputs[0].ndim
    index[attrs["axis"]] = slice(attrs["start"], attrs["stop"], attrs["step"])
    return call.inputs[0][tuple(index)]


def _pad(call: Call) -> Levels:
    fill = call.output.quantize(np.array(call.node.attrs["value"], np.float32))
    return np.pad(call.inputs[0], tuple(map(tuple, call.node.attrs["pads"])), constant_values=fill)


def _reshape(call: Call) -> Levels:
    return call.inputs[0].reshape(len(call.inputs[0]), *call.node.attrs["shape"][1:])


def _transpose(call: Call) -> Levels:
    return call.inputs[0].transpose(call.node.attrs["perm"])


def _resize(call: Call) -> Levels:
    x, attrs = call.inputs[0], call.node.attrs
    planar = x if x.ndim == 4 else x[:, :, None, :]
    pick = _nearest if attrs["mode"] == "nearest" else _bilinear
    y = pick(planar, attrs["size"], attrs["align_corners"], attrs["half_pixel"])
    return y if x.ndim == 4 else y[:, :, 0]


def _nearest(x: Levels, size: Sequence[int], align_corners: bool, half_pixel: bool) -> Levels:
    def source(length: int, target: int) -> Integers:
        places = np.arange(target, dtype=np.float32) + np.float32(0.5 if half_pixel else 0)
        if align_corners and target > 1:
            found = round_half_away(places * np.float32((length - 1) / (target - 1)))
        else:
            found = np.floor(places * (np.float32(length) / np.float32(target))).astype(np.int64)
        return np.clip(found, 0, length - 1)

    return x[:, :, source(x.shape[2], size[0])[:, None], source(x.shape[3], size[1])]


def _bilinear(x: Levels, size: Sequence[int], align_corners: bool, half_pixel: bool) -> Levels:
    """Weights with 10 fractional bits per axis; the sum of four is rounded once, halves away from zero."""

    def source(length: int, target: int) -> tuple[Integers, Integers, Integers]:
        if align_corners and target > 1:
            scale = (1024 * (length - 1) + (target - 1) // 2) // (target - 1)
        else:
            scale = (1024 * length + target // 2) // target
        place = np.arange(target) * scale + (scale // 2 - 512 if half_pixel else 0)
        below = np.maximum(place >> 10, 0)
        above = np.minimum((place + 1023) >> 10, length - 1)
        return below, above, place - (below << 10)

    top, bottom, down = source(x.shape[2], size[0])
    left, right, across = source(x.shape[3], size[1])
    wide = x.astype(np.int64)
    upper = wide[:, :, top][..., left] * (1024 - across) + wide[:, :, top][..., right] * across
    lower = wide[:, :, bottom][..., left] * (1024 - across) + wide[:, :, bottom][..., right] * across
    total = upper * (1024 - down)[:, None] + lower * down[:, None]
    return np.asarray(np.sign(total) * ((np.abs(total) + 2**19) >> 20), np.int8)


MOVING: Mapping[str, Callable[[Call], Levels]] = {
    "max_pool": _max_pool,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _transpose,
    "resize": _resize,
}
