"""A study whose latency a node measures, with residual blocks and widths weighed against each other there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgehone
from edgehone.data.prepare import prepare
from edgehone.measure.remote import MeasuringNode
from edgehone.task import Task, Training
from edgehone.testing.measuring import measuring
from edgehone.testing.networks import ResNet, settle

pytestmark = pytest.mark.slow


def striped(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures whose class is which colour is bright."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, n)
    x = draw.uniform(0, 0.5, (n, 3, 16, 16)).astype(np.float32)
    x[np.arange(n), y] += 0.25
    return x, y


def test_its_figures_are_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHONE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    network = settle(ResNet(1, widths=(16, 16), classes=3), (1, 3, 16, 16))
    task = Task(
        "stripes", network, train=striped(384, 0), validation=striped(128, 1), test=striped(128, 2),
        training=Training(epochs=1, batch_size=32),
    )  # fmt: skip
    assert len(prepare(task).train) == 384
    with measuring(None) as url, MeasuringNode(f"http://{url}") as node:
        study = edgehone.optimize(task, members=2, allocation="knapsack", output=tmp_path / "family", node=node)
    record = study.record
    assert record.device["latency"].startswith("measured on a node: litert")
    assert not record.device["here"]
    assert len(record.members) == 2
    for member in record.members:
        assert {latency.runtime for latency in member.latency} == {"litert", "onnxruntime"}
        for latency in member.latency:
            assert latency.latency.kind == "measured" and "litert" in latency.latency.place
            assert latency.speedup is not None and latency.cold_start_ms is None
    assert record.members[1].latency[0].latency.value < record.members[0].latency[0].latency.value
    recipe = [step["technique"] for step in record.members[1].recipe]
    assert recipe[0] == "prune" and recipe[-1] == "quantize"
    assert record.members[1].recipe[0]["allocation"] == "knapsack"
    assert list((tmp_path / "cache" / "prices").glob("*.json"))
    assert not (tmp_path / "family" / ".work" / "answers").exists()
    assert study.report.exists()
