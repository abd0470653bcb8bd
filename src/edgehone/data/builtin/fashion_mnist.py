"""Fashion-MNIST: 70,000 grey pictures of clothes, 28x28, ten classes (Xiao et al. 2017, arXiv:1708.07747).

Of the 60,000 training pictures a fixed, stratified 5,000 are the validation split and 55,000 are trained on; the 10,000
test pictures are the official ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgehone.data.augment import flip
from edgehone.data.builtin._fashion_mnist_files import read_files
from edgehone.data.builtin._idx import parse_idx
from edgehone.data.builtin._resnet import ResNet
from edgehone.data.preprocess import Scale
from edgehone.data.splits import hold_out
from edgehone.task import Task, Training

LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_VALIDATION_FRACTION = 5_000 / 60_000


def task() -> Task:
    """The pictures with a ResNet-14 that is not trained yet. Raises DataError when the pictures cannot be had."""
    arrays = {name: parse_idx(content, name) for name, content in read_files().items()}
    x, y = arrays["train-images-idx3-ubyte"][:, None], arrays["train-labels-idx1-ubyte"].astype(np.int64)
    kept, held = (part.numpy() for part in hold_out(torch.from_numpy(y), _VALIDATION_FRACTION, seed=0))
    return Task(
        name="fashion-mnist",
        network=network,
        train=(x[kept], y[kept]),
        validation=(x[held], y[held]),
        test=(arrays["t10k-images-idx3-ubyte"][:, None], arrays["t10k-labels-idx1-ubyte"]),
        preprocess=Scale(1 / 255),
        augment=flip(),
        labels=LABELS,
        training=Training(epochs=3, batch_size=128, learning_rate=0.2, label_smoothing=0.1),
    )


def network(depth: int = 14, widths: tuple[int, int, int] = (16, 48, 96)) -> nn.Module:
    """A residual network (N, 1, 28, 28) → logits (N, 10); `depth` is 6 n + 2, `widths` are the channels by stage."""
    return ResNet(depth, widths, channels_in=1, classes=len(LABELS))
