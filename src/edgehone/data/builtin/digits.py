"""Handwritten digits of 8x8 pixels that come with scikit-learn: a task that trains in seconds, without any download.

1,797 pictures with 17 levels of grey (UCI "Optical Recognition of Handwritten Digits"); a stratified fifth is the test
split.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from edgehone.data.preprocess import Scale
from edgehone.data.splits import hold_out
from edgehone.task import Task, Training


def task() -> Task:
    """The digits with a small convolutional network that is not trained yet."""
    pictures, ids = load_digits(return_X_y=True)
    x = pictures.reshape(-1, 1, 8, 8).astype(np.uint8)
    kept, held = (part.numpy() for part in hold_out(torch.from_numpy(ids), fraction=0.2, seed=0))
    return Task(
        name="digits",
        network=network,
        train=(x[kept], ids[kept]),
        test=(x[held], ids[held]),
        preprocess=Scale(1 / 16),
        labels=tuple("0123456789"),
        training=Training(epochs=8, batch_size=64, learning_rate=0.1),
    )


def network() -> nn.Module:
    """(N, 1, 8, 8) → logits (N, 10)."""
    return nn.Sequential(
        *_layer(1, 16),
        *_layer(16, 32, stride=2),
        *_layer(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _layer(channels_in: int, channels_out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(channels_out), nn.ReLU()
