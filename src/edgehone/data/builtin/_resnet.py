"""The CIFAR-style residual network of He et al. 2016 (arXiv:1512.03385, section 4.2), for small pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from edgehone.errors import TaskError


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) → (N, C_out, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, three stages of `(depth - 2) / 6` blocks at full, half and quarter resolution, global mean, linear.

    Args:
        depth: number of weighted layers on the longest path, 6 n + 2.
        widths: channels of the three stages.
        channels_in: channels of the picture.
        classes: number of outputs.

    Raises:
        TaskError: a depth that is not 6 n + 2.
    """

    def __init__(
        self, depth: int = 20, widths: Sequence[int] = (16, 32, 64), *, channels_in: int = 3, classes: int = 10
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise TaskError(f"a residual network of depth {depth} does not exist", do="choose 8, 14, 20, 26, ...")
        self.stem = nn.Conv2d(channels_in, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for index in range((depth - 2) // 6):
                blocks.append(Block(channels, width, stride=2 if stage and not index else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) → logits (N, classes)."""
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits
