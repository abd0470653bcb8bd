"""The contract of a device profile, as a function from a device to what is wrong with it.

    complaints(load_device("boards/my_board.toml"))      # [] when it may be trusted as far as it claims

The schema (units in names, provenance and a listed source for every number) is enforced on reading; this asks what
no schema can: that the numbers agree with each other, and that the estimates keep their own promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from edgehone.devices import (
    Device,
    Hardware,
    LayerCost,
    Quantity,
    estimate_energy,
    estimate_latency,
    fits,
    limits,
)
from edgehone.testing.layer_costs import MLPERF_TINY
from edgehone_agent.runtimes import RUNTIMES

MCU_RUNTIMES = ("tflite-micro", "x-cube-ai")
RESNET8_FILE_BYTES, RESNET8_MEMORY_BYTES = (
    98_496,
    56_000,
)  # the reference int8 file and its arena in TensorFlow Lite Micro


def complaints(device: Device) -> list[str]:
    """Every rule the device breaks, in words; empty when it keeps them all."""
    rules = (_numbers, _capacities, _runtimes, _power, _verdict, _published_rows, _monotone)
    return [complaint for rule in rules for complaint in rule(device)]


def _numbers(device: Device) -> Iterator[str]:
    """Every number is positive, says where it comes from, and lies within its bounds."""
    for name, quantity in quantities(device):
        if not quantity.value > 0:
            yield f"{name} is {quantity.value}"
        if not quantity.source.strip():
            yield f"{name} names no source"
        if not (quantity.low or quantity.value) <= quantity.value <= (quantity.high or quantity.value):
            yield f"{name} lies outside its bounds"


def _capacities(device: Device) -> Iterator[str]:
    hardware = device.hardware
    if hardware.memory_budget_bytes.value > hardware.memory_bytes.value:
        yield "the memory budget is larger than the memory"
    if hardware.flash_budget_bytes.value > hardware.flash_bytes.value:
        yield "the flash budget is larger than the flash"
    if hardware.cores.value != int(hardware.cores.value):
        yield f"{hardware.cores.value} is no number of cores"
    if device.kind == "mcu" and hardware.memory_bytes.value > 64e6:
        yield "no microcontroller has that much memory"


def _runtimes(device: Device) -> Iterator[str]:
    known = MCU_RUNTIMES if device.kind == "mcu" else RUNTIMES.names()
    if not set(device.runtimes) & set(known):
        yield f"none of its runtimes is known for {device.kind}: {', '.join(known)}"
    if device.latency == "unknown":
        yield "its latency can be neither measured nor estimated"


def _power(device: Device) -> Iterator[str]:
    """Active power varies with what runs, so it comes with bounds; idling takes less."""
    active, idle = device.hardware.active_power_mw, device.hardware.idle_power_mw
    if active is not None and (active.low is None or active.high is None):
        yield "active_power_mw has no bounds"
    if active is not None and idle is not None and idle.value >= active.value:
        yield "idling takes more power than working"


def _verdict(device: Device) -> Iterator[str]:
    """The MLPerf Tiny ResNet-8 gets a latency, an energy and a verdict, or a clear reason."""
    reasons = fits(device, RESNET8_FILE_BYTES, RESNET8_MEMORY_BYTES)
    room = limits(device)
    too_big = (room.size_bytes or 0) < RESNET8_FILE_BYTES or (room.memory_bytes or 0) < RESNET8_MEMORY_BYTES
    if bool(reasons) != too_big:
        yield f"fits() says {reasons or 'yes'} against limits {room}"
    for costs in device.costs:
        latency = estimate_latency(device, MLPERF_TINY["ic"], runtime=costs.runtime)
        measurements = [latency]
        if device.hardware.active_power_mw is not None:
            measurements.append(estimate_energy(device, latency))
        for measurement in measurements:
            low, high = measurement.low, measurement.high
            if measurement.kind != "estimated" or low is None or high is None or not 0 < low < measurement.value < high:
                yield f"{measurement} is no honest estimate"


def _published_rows(device: Device) -> Iterator[str]:
    """The estimates lie within their interval of the published latencies they were fitted to."""
    for row in device.published:
        if row.model not in MLPERF_TINY:
            yield f"{row.model!r} is no reference model"
        elif any(costs.runtime == row.runtime for costs in device.costs):
            latency = estimate_latency(device, MLPERF_TINY[row.model], runtime=row.runtime)
            if not (latency.low or 0) <= row.latency_us.value <= (latency.high or 0):
                yield f"{row.model} is published as {row.latency_us.value} µs but estimated as {latency.value:.0f} µs"


def _monotone(device: Device) -> Iterator[str]:
    """More work never takes less time, and no time is free."""
    layer = LayerCost("conv", macs=100_000, outputs=1_000, weight_bytes=1_000, activation_bytes=2_000)
    for costs in device.costs:
        for kind in ("conv", "conv1x1", "depthwise", "linear"):
            small, large = replace(layer, kind=kind), replace(layer, kind=kind, macs=200_000)
            one, two = (estimate_latency(device, [work], runtime=costs.runtime).value for work in (small, large))
            if not 0 < one < two:
                yield f"doubling the MACs of a {kind} layer takes {two} µs after {one} µs ({costs.runtime})"


def quantities(device: Device) -> Iterator[tuple[str, Quantity]]:
    """Every number of a profile with its dotted name."""
    for item in fields(Hardware):
        quantity = getattr(device.hardware, item.name)
        if quantity is not None:
            yield f"hardware.{item.name}", quantity
    for costs in device.costs:
        for item in fields(costs):
            quantity = getattr(costs, item.name)
            if isinstance(quantity, Quantity):
                yield f"cost.{costs.runtime}.{item.name}", quantity
    for row in device.published:
        yield f"published.{row.runtime}.{row.model}", row.latency_us
