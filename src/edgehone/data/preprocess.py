"""From a raw reading to what the network eats, as modules that become part of every exported file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgehone.errors import TaskError


class Scale(nn.Module):
    """Multiply by a constant, like 1/255 for pictures; it folds exactly into the first convolution."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x * self.factor


class Standardize(nn.Module):
    """Subtract a mean and divide by a deviation, channel by channel, as pictures are prepared for published networks.

    Args:
        mean, deviation: one number per channel, in units of the raw reading times `scale`.
        scale: what raw readings are multiplied with first, like 1/255.
    """

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], scale: float = 1.0) -> None:
        super().__init__()
        if len(mean) != len(deviation) or not all(d > 0 for d in deviation) or not scale > 0:
            raise TaskError(
                f"{len(mean)} means and {len(deviation)} deviations do not fit, or one is not above 0",
                where="Standardize",
                do="give one mean and one deviation above 0 per channel",
            )
        factor = torch.tensor([scale / d for d in deviation])
        self.register_buffer("factor", factor)
        self.register_buffer("offset", torch.tensor([-m / d for m, d in zip(mean, deviation, strict=True)]))
        self.factor: torch.Tensor
        self.offset: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...)."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * self.factor.view(shape) + self.offset.view(shape)
