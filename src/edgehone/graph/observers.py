"""What range of values an int8 tensor should span, judged from the values seen. One class per opinion.

- `minmax`: everything that was seen. Nothing saturates.
- `moving-average`: smoothed ends of the batches; a single outlier counts little.
- `percentile`: cuts one value in 10,000 at each end.
- `mse`: the range whose rounding and saturation errors together are the smallest.

Observers are deterministic: the same batches in the same order give the same range. NaN and Inf are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from edgehone.errors import DataError
from edgehone.graph.fake_quant import affine
from edgehone.graph.scheme import Range


class Observer(Protocol):
    """Watches one tensor over several batches."""

    def update(self, values: Tensor) -> None:
        """Take in one batch, any shape. Raises DataError on NaN or Inf, or an empty batch."""

    def range(self) -> Range:
        """The range to span; (0, 0) before anything was seen."""


def _ends(values: Tensor) -> Range:
    if values.numel() == 0:
        raise DataError("a batch is empty", do="leave out batches without examples")
    low, high = torch.aminmax(values.detach())
    ends = float(low), float(high)
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1])):
        raise DataError("the values hold NaN or Inf", do="remove such examples, or scale the input")
    return ends


class MinMax:
    """Spans everything that was seen."""

    def __init__(self) -> None:
        self._range: Range | None = None

    def update(self, values: Tensor) -> None:
        low, high = _ends(values)
        self._range = (low, high) if self._range is None else (min(self._range[0], low), max(self._range[1], high))

    def range(self) -> Range:
        return self._range or (0.0, 0.0)


class MovingAverage:
    """Exponential moving average of the ends of the batches (Jacob et al. 2018, section 3.1)."""

    def __init__(self, momentum: float = 0.1) -> None:
        self._momentum = momentum
        self._range: Range | None = None

    def update(self, values: Tensor) -> None:
        low, high = _ends(values)
        if self._range is None:
            self._range = low, high
        else:
            old_low, old_high = self._range
            self._range = old_low + self._momentum * (low - old_low), old_high + self._momentum * (high - old_high)

    def range(self) -> Range:
        return self._range or (0.0, 0.0)


class _Histogram:
    """Counts of values in 2 * HALF bins around 0, whose common width doubles until the largest value fits.

    Doubling merges neighbours exactly, so counts never have to be guessed into new bins.
    """

    HALF = 2048

    def __init__(self) -> None:
        self._width = 2.0**-100
        self._counts = torch.zeros(2 * self.HALF, dtype=torch.float64)
        self._seen = MinMax()

    def update(self, values: Tensor) -> None:
        low, high = _ends(values)
        self._seen.update(torch.tensor([low, high]))
        while max(-low, high) >= self._width * self.HALF:
            merged = self._counts.view(-1, 2).sum(1)
            self._counts = torch.nn.functional.pad(merged, (self.HALF // 2, self.HALF // 2))
            self._width *= 2
        bins = torch.floor(values.detach().flatten().double() / self._width).long() + self.HALF
        self._counts += torch.bincount(bins.clamp_(0, 2 * self.HALF - 1).cpu(), minlength=2 * self.HALF)

    def _edges(self) -> Tensor:
        """Left edges of the bins, (2 * HALF,)."""
        return (torch.arange(2 * self.HALF, dtype=torch.float64) - self.HALF) * self._width


class Percentile(_Histogram):
    """Leaves out the given share of values at each end."""

    def __init__(self, share: float = 1e-4) -> None:
        super().__init__()
        self._share = share

    def range(self) -> Range:
        low, high = self._seen.range()
        total = float(self._counts.sum())
        if total == 0:
            return low, high
        below = self._counts.cumsum(0)
        first = int(torch.searchsorted(below, self._share * total, right=True))
        last = int(torch.searchsorted(below, (1 - self._share) * total))
        edges = self._edges()
        return max(low, float(edges[first])), min(high, float(edges[last]) + self._width)


class MeanSquaredError(_Histogram):
    """Chooses both ends so that the squared error of int8 rounding and saturation is the smallest."""

    _SHRINK = torch.linspace(1.0, 0.2, 81, dtype=torch.float64)

    def range(self) -> Range:
        low, high = self._seen.range()
        used = self._counts > 0
        centres, counts = (self._edges() + self._width / 2)[used], self._counts[used]
        for _ in (1, 2):  # the ends depend on each other only weakly
            low = self._best(centres, counts, low * self._SHRINK, torch.full_like(self._SHRINK, high))[0]
            high = self._best(centres, counts, torch.full_like(self._SHRINK, low), high * self._SHRINK)[1]
        return low, high

    def _best(self, centres: Tensor, counts: Tensor, lows: Tensor, highs: Tensor) -> Range:
        scale, zero_point = affine(lows[:, None], highs[:, None])
        levels = (torch.round(centres / scale) + zero_point).clamp(-128, 127)  # (candidates, bins)
        errors = ((levels - zero_point) * scale - centres).square() @ counts
        best = int(errors.argmin())
        return float(lows[best]), float(highs[best])


OBSERVERS: Mapping[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "mse": MeanSquaredError,
}
