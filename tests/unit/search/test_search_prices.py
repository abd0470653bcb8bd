"""Prices of layers: what is asked for is measured once, kept, and adds up to a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

from edgehone.devices import load_device
from edgehone.errors import ModelFileError
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.trace import trace
from edgehone.measure.timer import LocalTimer
from edgehone.search.prices import NOTHING, YARDSTICK, EstimatedPrices, Op, Prices, ops, prices_of
from edgehone.search.target import Target
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone_agent.measure.latency import LatencyResult
from edgehone_agent.measure.noise import noise_of

torch.set_num_threads(1)


class Clockwork:
    """A machine on which a file takes as long as it is large: 1 µs and 1 ns per byte, slower and slower."""

    def __init__(self) -> None:
        self.files, self.slowness = 0, 1.0

    def time(self, files: Mapping[str, bytes], rounds: int) -> dict[str, LatencyResult]:
        self.files += len(files)
        self.slowness *= 1.5
        found = {}
        for name, content in files.items():
            us = self.slowness * (1 + len(content) / 1e3)
            found[name] = LatencyResult(us, us, us, us, us, rounds, 1, noise_of(np.full(rounds, us)), (us,) * rounds)
        return found


def deployed(name: str) -> Graph:
    torch.manual_seed(0)
    return deploy(trace(NETWORKS[name]().eval(), torch.rand(2, *example_shape(name)[1:])))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_layer_of_a_network_is_one_alone(name: str) -> None:
    for op in ops(deployed(name)):
        graph = op.graph()
        assert len(graph.nodes) == 1
        assert prod(graph.output_shape) >= prod(op.output) * 0.9


def test_each_is_measured_once_and_kept(tmp_path: Path) -> None:
    machine, path = Clockwork(), tmp_path / "prices.json"
    prices = Prices(machine.time, "here", path)
    layers = ops(deployed("resnet8"))
    assert prices.fill(layers) == len({op.key for op in layers}) + 1  # the network that does nothing
    asked = machine.files
    assert prices.fill(layers) == 0
    again = Prices(machine.time, "here", path)
    assert again.fill(layers) == 0 and machine.files == asked
    assert [again.us(op) for op in layers] == [prices.us(op) for op in layers]
    assert Prices(machine.time, "elsewhere", path).fill(layers[:1]) == 2


def test_a_machine_that_slows_down_changes_no_price() -> None:
    layers, slow = ops(deployed("resnet8")), Clockwork()
    quick, late = Prices(Clockwork().time, "here"), Prices(slow.time, "here")
    quick.fill(layers)
    late.fill(layers[:3])
    first = [late.us(op) for op in layers[:3]]
    slow.slowness *= 100
    late.fill(layers)
    assert [late.us(op) for op in layers[:3]] == first
    np.testing.assert_allclose([late.us(op) for op in layers], [quick.us(op) for op in layers])


def test_a_network_is_the_sum_of_its_layers_and_the_start() -> None:
    prices = Prices(Clockwork().time, "here")
    graph = deployed("mlp")
    prices.fill(ops(graph))
    assert prices.network_us(graph) == pytest.approx(prices.start_us + sum(prices.us(op) for op in ops(graph)))
    assert prices.us(NOTHING) == 0


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"format": "edgehone-prices", "version": 99})])
def test_a_damaged_table_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content)
    with pytest.raises(ModelFileError, match="no table of latencies"):
        Prices(Clockwork().time, "here", path)


def test_elsewhere_prices_are_estimates() -> None:
    target = Target(load_device("raspberry-pi-4"), "Raspberry Pi 4")
    prices = prices_of(target, Path("/nowhere"))
    assert isinstance(prices, EstimatedPrices)
    graph = deployed("resnet8")
    assert prices.fill(ops(graph)) == 0
    total = sum(prices.us(op) for op in ops(graph))
    assert prices.network_us(graph) == pytest.approx(total, rel=0.02)


def test_real_files_are_timed_here(tmp_path: Path) -> None:
    prices = Prices(LocalTimer().time, LocalTimer().fingerprint(), tmp_path / "p.json")
    wide = Op(**{**YARDSTICK.__dict__, "output": (1, 64, 32, 32), "weight": (64, 16, 3, 3)})
    prices.fill([YARDSTICK, wide])
    assert prices.us(wide) > 1.5 * prices.us(YARDSTICK) > 0
