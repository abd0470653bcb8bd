"""Estimates against formulas worked out by hand, and the limits a device sets."""

from __future__ import annotations

import pytest

from edgehone.budget import Budget
from edgehone.devices import (
    Device,
    LayerCost,
    estimate_energy,
    estimate_latency,
    fits,
    limits,
    load_device,
    parse_device,
)
from edgehone.errors import DeviceError, NetworkError
from edgehone.testing.layer_costs import MLPERF_TINY, MOBILENETS
from edgehone_agent.wire.measurement import Measurement

PROFILE = """
title = "Test board"
class = "mcu"
isa = "test"
runtimes = ["tflite-micro", "x-cube-ai"]
[sources]
s = "made up for this test"
[hardware]
cores = { value = 1, provenance = "measured", source = "s" }
clock_mhz = { value = 100, provenance = "measured", source = "s" }
memory_bytes = { value = 65536, provenance = "measured", source = "s" }
memory_budget_bytes = { value = 50000, provenance = "measured", source = "s" }
flash_bytes = { value = 200000, provenance = "measured", source = "s" }
flash_budget_bytes = { value = 100000, provenance = "measured", source = "s" }
bandwidth_gb_per_s = { value = 0.001, provenance = "measured", source = "s" }
active_power_mw = { value = 20, low = 10, high = 40, provenance = "measured", source = "s" }
[cost.tflite-micro]
method = "made up"
conv = { value = 2, provenance = "measured", source = "s" }
conv1x1 = { value = 3, provenance = "measured", source = "s" }
depthwise = { value = 5, provenance = "measured", source = "s" }
linear = { value = 7, provenance = "measured", source = "s" }
output = { value = 11, provenance = "measured", source = "s" }
operator = { value = 50, provenance = "measured", source = "s" }
factor = { value = 2, provenance = "measured", source = "s" }
"""


@pytest.fixture
def board() -> Device:
    return parse_device(PROFILE, name="test-board", where="test.toml")


@pytest.mark.parametrize(
    ("kind", "cycles"),
    [("conv", 2_000), ("conv1x1", 3_000), ("depthwise", 5_000), ("linear", 7_000), ("elementwise", 0)],
)
def test_latency_is_cycles_over_the_clock(board: Device, kind: str, cycles: int) -> None:
    layer = LayerCost(kind, macs=1_000, outputs=100, weight_bytes=0, activation_bytes=1)  # type: ignore[arg-type]
    latency = estimate_latency(board, [layer])
    assert latency.value == pytest.approx((cycles + 100 * 11 + 50) / 100)
    assert (latency.low, latency.high) == (pytest.approx(latency.value / 2), pytest.approx(latency.value * 2))
    assert (latency.unit, latency.kind) == ("us", "estimated")
    assert "not measured" in latency.method and "made up" in latency.method
    assert latency.place == "Test board, tflite-micro, one thread"


def test_a_layer_that_moves_much_waits_for_memory(board: Device) -> None:
    layer = LayerCost("linear", macs=10, outputs=1, weight_bytes=900, activation_bytes=100)
    assert estimate_latency(board, [layer]).value == pytest.approx(1_000 / 1.0 + 50 / 100)  # 0.001 GB/s is 1 byte/µs


def test_layers_add_up(board: Device) -> None:
    layers = MLPERF_TINY["kws"]
    whole = estimate_latency(board, layers).value
    assert whole == pytest.approx(sum(estimate_latency(board, [layer]).value for layer in layers))


def test_energy_is_power_times_latency_with_the_widest_interval(board: Device) -> None:
    latency = Measurement(1_000.0, "us", "test", "here", 1, low=500.0, high=2_000.0)
    energy = estimate_energy(board, latency)
    assert (energy.value, energy.low, energy.high) == (
        pytest.approx(0.02),  # 20 mW for 1 ms is 20 µJ
        pytest.approx(0.005),
        pytest.approx(0.08),
    )
    assert (energy.unit, energy.kind) == ("mJ", "estimated")


def test_energy_of_a_published_run_is_what_was_measured_beside_it() -> None:
    """MLPerf Tiny v1.3, NUCLEO_L4R5ZI-P, ic: 165.67 ms and 5.496 mJ."""
    energy = estimate_energy(load_device("stm32l4"), Measurement(165_672.6, "us", "published", "there", 1))
    assert energy.value == pytest.approx(5.496, rel=0.01)


def test_energy_needs_microseconds_and_a_known_power(board: Device) -> None:
    with pytest.raises(DeviceError, match="'ms' gives no energy"):
        estimate_energy(board, Measurement(1.0, "ms", "test", "here", 1))
    with pytest.raises(DeviceError, match="states no active_power_mw"):
        estimate_energy(load_device("this-machine"), Measurement(1.0, "us", "test", "here", 1))


def test_what_cannot_be_estimated_is_refused(board: Device) -> None:
    with pytest.raises(DeviceError, match="measured, not estimated"):
        estimate_latency(load_device("this-machine"), MLPERF_TINY["ic"])
    with pytest.raises(DeviceError, match="no costs for the runtime 'x-cube-ai'"):
        estimate_latency(board, MLPERF_TINY["ic"], runtime="x-cube-ai")


@pytest.mark.parametrize("wrong", [{"kind": "convolution"}, {"macs": -1}, {"activation_bytes": -1}])
def test_an_impossible_layer_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(NetworkError):
        LayerCost(**{"kind": "conv", "macs": 1, "outputs": 1, "weight_bytes": 1, "activation_bytes": 1} | wrong)  # type: ignore[arg-type]


def test_limits_are_the_stated_budgets(board: Device) -> None:
    assert limits(board) == Budget(size_bytes=100_000, memory_bytes=50_000)


def test_fits_names_each_reason(board: Device) -> None:
    assert fits(board, 100_000, 50_000) == []
    assert fits(board, 100_001, 50_000) == ["its file takes 100 kB, but Test board has 100 kB of flash for a model"]
    file, memory = fits(board, 200_000, 60_000)
    assert "file takes 200 kB" in file and "100 kB of flash" in file
    assert "working memory takes 60 kB" in memory and "50 kB of memory" in memory


def test_faster_boards_are_estimated_faster() -> None:
    order = ["nrf52840", "stm32l4", "stm32h7", "raspberry-pi-zero-2", "raspberry-pi-4", "raspberry-pi-5"]
    latencies = [estimate_latency(load_device(name), MLPERF_TINY["ic"]).value for name in order]
    assert latencies == sorted(latencies, reverse=True)


def test_reference_layers_have_the_published_sizes() -> None:
    """MACs of the four MLPerf Tiny models (their .tflite files), and of MobileNet v1 and v2 (their papers)."""
    macs = {name: sum(layer.macs for layer in layers) for name, layers in (MLPERF_TINY | MOBILENETS).items()}
    assert macs == {
        "kws": 2_656_768, "vww": 7_489_664, "ic": 12_501_632, "ad": 264_192, "v1": 568_740_352, "v2": 300_774_272,
    }  # fmt: skip
