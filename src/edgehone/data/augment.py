"""Augmentations of a batch while training: functions (batch, generator) → batch of the same shape.

    Task(..., augment=compose(shift(2), flip()))

They see raw readings, before preprocessing, and draw from the generator they are given alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from edgehone.data.examples import Augment
from edgehone.errors import TaskError


def shift(pixels: int) -> Augment:
    """Move each picture (N, C, H, W) or signal (N, C, L) by up to `pixels`, each its own way; zeros come in."""
    if pixels < 1:
        raise TaskError(f"a shift by {pixels} pixels does nothing", where="augment", do="shift by 1 or more")

    def moved(batch: Tensor, generator: Generator) -> Tensor:
        places = 2 * pixels + 1
        spatial = batch.ndim - 2
        windows = F.pad(batch, (pixels, pixels) * spatial)
        for axis in range(2, batch.ndim):
            windows = windows.unfold(axis, batch.shape[axis], 1)  # (N, C, places.., H, W)
        offsets = [torch.randint(places, (len(batch),), generator=generator) for _ in range(spatial)]
        place: tuple[slice | Tensor, ...] = (torch.arange(len(batch)), slice(None), *offsets)
        return windows[place]

    return moved


def flip(probability: float = 0.5) -> Augment:
    """Mirror each example left to right (its last axis) with the given probability."""
    _check_probability(probability)

    def mirrored(batch: Tensor, generator: Generator) -> Tensor:
        chosen = torch.rand(len(batch), generator=generator) < probability
        return torch.where(chosen.view(-1, *[1] * (batch.ndim - 1)), batch.flip(-1), batch)

    return mirrored


def noise(deviation: float) -> Augment:
    """Add Gaussian noise with this standard deviation, in units of the raw reading."""
    if not deviation > 0:
        raise TaskError(f"a noise of deviation {deviation} does nothing", where="augment", do="choose more than 0")

    def noisy(batch: Tensor, generator: Generator) -> Tensor:
        return batch + deviation * torch.randn(batch.shape, generator=generator)

    return noisy


def compose(*steps: Augment) -> Augment:
    """One augmentation after the other."""

    def composed(batch: Tensor, generator: Generator) -> Tensor:
        for step in steps:
            batch = step(batch, generator)
        return batch

    return composed


def _check_probability(probability: float) -> None:
    if not 0 < probability <= 1:
        raise TaskError(f"{probability} is no probability", where="augment", do="choose a number above 0, up to 1")
