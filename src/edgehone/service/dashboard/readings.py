"""Captured readings as something to look at: pictures for (C, H, W), line plots for rows and sequences.

Rules:
- A blob is bytes of a node: its header is read with a bound, objects in it are refused, values that are no numbers
  are drawn as nothing. What cannot be shown says why, and costs no page its life.
- A picture has at most `MOST_PIXELS` pixels on a side and a plot at most `MOST_POINTS` per line; more is thinned out.
"""

from __future__ import annotations

import io
import math
import tokenize
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehone.report import svg
from edgehone.report.scales import fit
from edgehone.report.theme import member_class
from edgehone.service.dashboard.png import png

MOST_BYTES = 4 << 20
MOST_PIXELS = 512
MOST_POINTS = 400
MOST_LINES = 8
_HEADER_BYTES = 4096
_PLOT = (480, 260)


@dataclass(frozen=True)
class Look:
    """How a reading is shown.

    Attributes:
        kind: "picture", "plot" or "nothing".
        width, height: of a picture, in pixels.
        plot: of a plot, SVG.
        why: nothing can be shown.
        shape: in words.
    """

    kind: str
    width: int = 0
    height: int = 0
    plot: str = ""
    why: str = ""
    shape: str = ""


def read_array(content: bytes) -> NDArray[np.float64]:
    """The numbers of a .npy file.

    Raises:
        ValueError: it is none of version 1.0, holds something else than numbers, or is too long.
    """
    if len(content) > MOST_BYTES:
        raise ValueError("the reading is too long to be shown")
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError("the reading is no .npy file") from error
    size = math.prod(shape)
    if dtype.kind not in "biuf" or not 0 < size * dtype.itemsize == len(content) - file.tell():
        raise ValueError("the reading holds no numbers")
    flat = np.frombuffer(content, dtype, size, file.tell())
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    with np.errstate(all="ignore"):  # a signalling NaN, a long double beyond the doubles
        return array.astype(np.float64)


def look(content: bytes) -> Look:
    """How to show a reading."""
    try:
        array = read_array(content)
    except ValueError as error:
        return Look("nothing", why=str(error))
    said = " × ".join(map(str, array.shape)) or "1"
    plane = _plane(array)
    if plane is not None:
        pixels = _thin(plane)
        return Look("picture", pixels.shape[1], pixels.shape[0], shape=said)
    rows = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(1, -1)
    return Look("plot", plot=_lines(rows), shape=said)


def picture(content: bytes) -> bytes:
    """A reading as PNG.

    Raises:
        ValueError: it is no picture.
    """
    found = as_picture(read_array(content))
    if found is None:
        raise ValueError("the reading is no picture")
    return found


def as_picture(x: NDArray[np.floating]) -> bytes | None:
    """A reading in memory as PNG; None for what is no picture."""
    plane = _plane(x.astype(np.float64))
    return None if plane is None else png(_bytes(_thin(plane)))


def _plane(array: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(H, W) or (H, W, 3) of a reading in torch order; None for what is no picture."""
    if array.ndim == 3 and array.shape[0] in (1, 3) and min(array.shape[1:]) >= 4:
        return array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, 2)
    if array.ndim == 2 and min(array.shape) >= 8 and max(array.shape) <= 8 * min(array.shape):
        return array
    return None


def _thin(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    down, across = (max(1, math.ceil(side / MOST_PIXELS)) for side in plane.shape[:2])
    return plane[::down, ::across]


def _bytes(plane: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values stretched to 0..255. A range of [0, 1] or [0, 255] is kept, so that a dark picture looks dark."""
    known = plane[np.isfinite(plane)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    with np.errstate(all="ignore"):  # a span beyond the doubles
        scaled = (plane - low) / (high - low if high > low else 1.0) * 255
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0, 255).astype(np.uint8)


def _lines(rows: NDArray[np.float64]) -> str:
    """A line per row over its columns, or a bar per value where there are few."""
    width, height = _PLOT
    rows = np.clip(rows[:MOST_LINES], -1e30, 1e30)
    step = max(1, math.ceil(rows.shape[1] / MOST_POINTS))
    rows = rows[:, ::step]
    known = [float(value) for value in rows[np.isfinite(rows)]]
    y = fit([0.0, *known], height - 26, 12)
    x = fit([0.0, float(max(1, (rows.shape[1] - 1) * step))], 56, width - 10, margin=0.0)
    parts = [svg.line(x.start, y(value), x.end, y(value), "grid") for value in y.ticks(5)]
    parts += [svg.text(f"{value:.4g}", x.start - 7, y(value) + 4, anchor="end", class_="tick") for value in y.ticks(5)]
    parts += [svg.text(f"{value:g}", x(value), height - 8, anchor="middle", class_="tick") for value in x.ticks(6)]
    for index, row in enumerate(rows):
        places = [(x(float(at * step)), y(float(value))) for at, value in enumerate(row) if np.isfinite(value)]
        mark = (
            svg.path(places, "curve")
            if len(places) > 1
            else "".join(svg.marker("circle", *p, 3, "mark") for p in places)
        )
        parts.append(svg.group(mark, class_=member_class(index + 1)))
    label = f"{len(rows)} × {rows.shape[1]} values from {min(known, default=0):.4g} to {max(known, default=0):.4g}"
    return svg.picture(label, width, height, *parts)
