"""Which padding of TensorFlow Lite a window needs: VALID, SAME, or VALID over an explicit PAD. Pure functions.

torch pads as told; TensorFlow Lite knows two ways only. VALID reads inside the input. SAME gives ceil(size / stride)
outputs and pads what that takes, the smaller half in front (`ComputePaddingWithOffset`), which differs from torch's
symmetric padding as soon as stride and size do not match. What neither gives is padded explicitly, and only as far as
a window really reads: a PAD costs time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Pads = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Line:
    """A window that slides along one axis, as torch counts it; `before` is the padding in front."""

    size: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    before: int

    @property
    def reach(self) -> int:
        """Number of places that the windows read, from the first to the last."""
        return (self.outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    def is_valid(self) -> bool:
        """Whether VALID gives these windows."""
        span = (self.kernel - 1) * self.dilation + 1
        return self.before == 0 and self.reach <= self.size and self.outputs == (self.size - span) // self.stride + 1

    def is_same(self) -> bool:
        """Whether SAME gives these windows."""
        return self.outputs == -(-self.size // self.stride) and self.before == max(self.reach - self.size, 0) // 2

    def pads(self) -> tuple[int, int]:
        """The padding before and after that the windows read."""
        return self.before, max(self.reach - self.size - self.before, 0)


def plan(lines: Sequence[Line], same: bool = True) -> Literal["VALID", "SAME"] | Pads:
    """The padding of a two-dimensional window, from its lines along height and width; SAME only where it is allowed.

    Returns:
        The enum, or the explicit padding ((top, bottom), (left, right)) that makes VALID right.
    """
    if all(line.is_valid() for line in lines):
        return "VALID"
    if same and all(line.is_same() for line in lines):
        return "SAME"
    height, width = lines
    return height.pads(), width.pads()
