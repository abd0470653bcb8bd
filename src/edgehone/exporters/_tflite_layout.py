"""Where the elements of a tensor stand in a .tflite file, and how to move them. Pure functions over shapes.

    torch (1, C, H, W)  →  file (1, H, W, C)
    torch (1, C, L)     →  file (1, 1, L, C)      a picture of height 1
    other ranks         →  as they are

A *position* counts elements in the order of the file, an *index* in the order of torch (both row-major).
"""

from __future__ import annotations

from itertools import permutations
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgehone.graph.ir import Shape

Positions = NDArray[np.intp]
Scalar = TypeVar("Scalar", bound=np.generic)


class Transpose(NamedTuple):
    """Read the elements in `shape`, then permute the axes."""

    shape: Shape
    perm: tuple[int, ...]

    @property
    def result(self) -> Shape:
        """The shape after it."""
        return tuple(self.shape[axis] for axis in self.perm)

    def keeps_order(self) -> bool:
        """Whether no element moves."""
        long = [axis for axis in self.perm if self.shape[axis] > 1]
        return long == sorted(long)


MAX_RANK = 4  # of tensors that are computed with; only moves may pass through more axes


def to_file(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """A tensor in torch layout as the file has it."""
    if array.ndim == 3:
        array = array[:, :, None, :]  # (1, C, L) → (1, C, 1, L)
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array  # (1, C, H, W) → (1, H, W, C)


def file_shape(shape: Shape) -> Shape:
    """The file's shape of a tensor with this torch shape."""
    return to_file(np.broadcast_to(np.int8(0), shape)).shape


def file_axis(axis: int, rank: int) -> int:
    """The file's axis of a torch axis."""
    return {3: (0, 3, 2), 4: (0, 3, 1, 2)}.get(rank, tuple(range(rank)))[axis]


def indices(shape: Shape) -> Positions:
    """The torch index at every position."""
    return to_file(np.arange(prod(shape)).reshape(shape)).reshape(-1)


def positions(shape: Shape) -> Positions:
    """The position of every torch index."""
    return np.argsort(indices(shape))


def as_transpose(source: Positions, shape: Shape) -> Transpose | None:
    """The transpose that brings source position `source[p]` to every position p, or None when a single one cannot.

    Args:
        source: a permutation of 0..n-1.
        shape: the source's present shape; it is kept when it will do, else the axes are as few as possible.
    """
    here = np.arange(source.size)
    if len(shape) <= MAX_RANK:
        for perm in permutations(range(len(shape))):
            if np.array_equal(here.reshape(shape).transpose(perm).reshape(-1), source):
                return Transpose(shape, perm)
    sizes: list[int] = []  # of the axes of the result, outermost first, and the step along each within the source
    strides: list[int] = []
    done = 1
    while done < source.size:
        starts = source[::done]
        stride = int(starts[1] - starts[0])
        breaks = np.flatnonzero(starts != starts[0] + stride * here[: starts.size])
        size = int(breaks[0]) if breaks.size else starts.size
        sizes.insert(0, size)
        strides.insert(0, stride)
        done *= size
        if source.size % done:
            return None
    order = sorted(range(len(sizes)), key=lambda axis: -strides[axis])
    found = Transpose(tuple(sizes[axis] for axis in order), tuple(order.index(axis) for axis in range(len(sizes))))
    moved = here.reshape(found.shape).transpose(found.perm).reshape(-1)
    return found if np.array_equal(moved, source) else None


def columns_to_file(matrix: NDArray[Any], columns: Positions) -> NDArray[Any]:
    """(O, F) with column j moved to `columns[j]`."""
    moved = np.empty_like(matrix)
    moved[:, columns] = matrix
    return moved
