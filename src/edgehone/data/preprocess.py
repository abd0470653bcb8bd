"""From a raw reading to what the network eats, as modules that become part of every exported file."""

from __future__ import annotations

import torch
from torch import nn


class Scale(nn.Module):
    """Multiply by a constant, like 1/255 for pictures; it folds exactly into the first convolution."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x * self.factor
