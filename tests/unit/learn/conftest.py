"""A real digits classifier with an embedding, as a bundle, and readings that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from edgehone.bundle.build import Wishes, build
from edgehone.testing import studies
from edgehone_agent import Node

TASK = "digits-like"
_TRAINED_ON = 900


@dataclass(frozen=True)
class World:
    """Two versions of a bundle, and pictures (N, 1, 8, 8) of 0 to 16 with their digits."""

    one: Path
    two: Path
    x: np.ndarray
    digit: np.ndarray


def _train(x: np.ndarray, digit: np.ndarray) -> nn.Module:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    second = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    net = nn.Sequential(*first, *second, nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(digit)
    for _ in range(10):
        for start in range(0, len(x), 50):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs[start : start + 50]), targets[start : start + 50])
            loss.backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("learn")
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x, digit = found.images.astype(np.float32)[order][:, None], found.target.astype(np.int64)[order]
    net = _train(x[:_TRAINED_ON], digit[:_TRAINED_ON])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "CLASSES", 10)
        patch.setattr(studies, "network", lambda *_: net)
        patch.setattr(studies, "readings", lambda _, count, seed=1: x[:count])
        study = studies.write_study(folder, shape=(1, 8, 8), embedding=True)
    files = []
    for version in (1, 2):
        content = build(study, "int8", folder, Wishes(version, latency_us=float("inf")), x[:_TRAINED_ON])
        files.append(folder / f"{version}.bundle")
        files[-1].write_bytes(content)
    return World(*files, x[_TRAINED_ON:], digit[_TRAINED_ON:])


@pytest.fixture
def settle() -> Callable[[Node], dict[str, object]]:
    """What the node's own thread does now and then, done now; what the node says of learning."""

    def work(node: Node) -> dict[str, object]:
        task = node._tasks[TASK]
        assert task.live is not None and task.live.feed is not None
        task.live.feed.drain()
        if task.learner is not None:
            task.learner.work(is_loud=task.live.feed.is_loud(), now_s=1e12)
        found: dict[str, object] = node.status()["tasks"][TASK]["learn"]
        return found

    return work
