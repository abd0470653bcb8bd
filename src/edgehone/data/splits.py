"""Draws from a split that keep the share of every class."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(classes: Tensor, n: int, seed: int) -> Tensor:
    """Draw `n` places without replacement so that each class keeps its share.

    Shares are rounded by the largest remainder, so they add up to exactly `n`; of equal remainders, the smaller class
    id wins.

    Args:
        classes: (N) int64, the class of each example, 0 or more.
        n: how many to draw; more than N draws all.
        seed: decides which examples of a class are drawn.

    Returns:
        (n) int64, increasing places.
    """
    n = min(max(n, 0), len(classes))
    if n == 0:
        return torch.empty(0, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    counts = classes.bincount()
    quotas = counts * n // len(classes)
    remainders = counts * n % len(classes)
    favoured = remainders.argsort(descending=True, stable=True)[: n - int(quotas.sum())]
    quotas[favoured] += 1
    drawn = []
    for identity, quota in enumerate(quotas.tolist()):
        members = (classes == identity).nonzero().squeeze(1)
        drawn.append(members[torch.randperm(len(members), generator=generator)[:quota]])
    return torch.cat(drawn).sort().values


def hold_out(classes: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split places into (kept, held out) so that each class keeps its share; at least one place is held out.

    Args:
        classes: (N) int64, the class of each example, N ≥ 2.
        fraction: share to hold out, between 0 and 1.
        seed: decides which examples are held out.

    Returns:
        Two increasing int64 tensors that partition 0..N-1, neither of them empty.
    """
    n = min(max(round(fraction * len(classes)), 1), len(classes) - 1)
    held = draw(classes, n, seed)
    kept = torch.ones(len(classes), dtype=torch.bool)
    kept[held] = False
    return kept.nonzero().squeeze(1), held
