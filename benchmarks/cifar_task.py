"""The task of the compression benchmarks: ResNet-56 on CIFAR-10 as JPEG files, read from EDGEHONE_DATA.

The teacher was tuned on the first 45,000 training pictures; the other 5,000 validate. It saw these in its pretraining,
so figures on the validation split are optimistic: they choose, the test split reports.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from edgehone.data.augment import compose, flip, shift
from edgehone.data.preprocess import Standardize
from edgehone.task import Task, Training

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = 45_000
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """A residual block for small pictures; a shortcut that changes shape is sliced and padded (He et al. 2016, A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(x + y)


class Net(nn.Module):
    """ResNet-(6n + 2) of He et al. 2016 (arXiv:1512.03385), section 4.2."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(before, after, stride), *(Block(after, after, 1) for _ in range(blocks - 1)))
            for before, after, stride in widths
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) → (N, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.linear(x.mean((2, 3)))
        return scores


def data_folder() -> Path:
    """Where benchmark data lies."""
    return Path(os.environ.get("EDGEHONE_DATA", "data"))


def pictures(split: str, cache: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(N, 3, 32, 32) and (N) of "train" or "test", in the official order; decoded once into the cache folder."""
    kept = cache / f"cifar10-jpeg-{split}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return arrays["x"], arrays["y"]
    folder = data_folder() / "cifar10-jpeg"
    with np.load(folder / "original-order.npz") as order:
        names, labels = order[f"{split}_file"], order[f"{split}_label"].astype(np.int64)
    with zipfile.ZipFile(folder / f"cifar10-jpeg-{split}.zip") as archive:
        known = set(archive.namelist())
        x = np.stack(
            [_picture(archive, _entry(str(n), split, int(y), known)) for n, y in zip(names, labels, strict=True)]
        )
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(kept, x=x, y=labels)
    return x, labels


def _entry(name: str, split: str, label: int, known: set[str]) -> str:
    return next(n for n in (name, f"{split}/{name}", f"{split}/{LABELS[label]}/{name}") if n in known)


def _picture(archive: zipfile.ZipFile, entry: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(archive.read(entry))).convert("RGB")).transpose(2, 0, 1)


def network(name: str = "resnet56-jpeg") -> Net:
    """A published network with its weights: resnet20, resnet56 or resnet56-jpeg."""
    net = Net(3 if name == "resnet20" else 9)
    net.load_state_dict(_tensors(data_folder() / "cifar10-resnet" / f"{name}.safetensors"), strict=False)
    return net.eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    """Float32 tensors of a .safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, Any]] = json.loads(content[8:start])
    found = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            begin, end = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"])
            found[name] = torch.from_numpy(values.copy())
    return found


def task(cache: Path, *, teacher: str = "resnet56-jpeg", recovery: Training | None = None) -> Task:
    """The benchmark's task; `cache` keeps decoded pictures."""
    x, y = pictures("train", cache)
    return Task(
        name="cifar10-jpeg",
        network=network(teacher),
        train=(x[:TRAIN], y[:TRAIN]),
        validation=(x[TRAIN:], y[TRAIN:]),
        test=pictures("test", cache),
        preprocess=Standardize(MEAN, DEVIATION, scale=1 / 255),
        augment=compose(shift(4), flip()),
        labels=LABELS,
        recovery=recovery or Training(epochs=15, batch_size=128, learning_rate=0.05, weight_decay=5e-4),
    )
