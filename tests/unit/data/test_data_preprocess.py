"""Preprocessing modules compute what they say and go into the graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgehone.data.preprocess import Standardize
from edgehone.errors import TaskError
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 5), (2, 3)])
def test_standardize_is_mean_and_deviation_per_channel(shape: tuple[int, ...]) -> None:
    mean, deviation = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    x = torch.rand(shape) * 255
    wide = (1, 3, *[1] * (len(shape) - 2))
    expected = (x / 255 - mean.view(wide)) / deviation.view(wide)
    found = Standardize(mean.tolist(), deviation.tolist(), scale=1 / 255)(x)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_it_becomes_part_of_the_graph() -> None:
    module = nn.Sequential(Standardize([0.5] * 3, [0.25] * 3), nn.Conv2d(3, 4, 3, padding=1)).eval()
    x = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(GraphNetwork(trace(module, x)).eval()(x), module(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mean", "deviation", "scale"), [([0.1], [0.1, 0.2], 1), ([0.1], [0.0], 1), ([0.1], [1.0], 0)])
def test_what_is_no_scale_is_refused(mean: list[float], deviation: list[float], scale: float) -> None:
    with pytest.raises(TaskError, match="do not fit"):
        Standardize(mean, deviation, scale)
