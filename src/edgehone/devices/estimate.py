"""Latency, energy and fit of a model on a device that is not here, from the layers' costs and the device's profile.

Latency of an int8 model, one thread, batch 1, in the manner of a roofline (Williams et al. 2009) with a cost per kind
of operation:

    t = Σ over layers of max(compute, bytes / bandwidth) + cycles[operator] / clock
    compute = (MACs * cycles[kind] + outputs * cycles[output]) / clock

The cycles come from the profile, with the factor by which such an estimate may be off. An estimate is an estimate: its
kind says so, and its interval is [t / factor, t * factor].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgehone.budget import Budget
from edgehone.devices.profile import Costs, Device, Quantity
from edgehone.errors import DeviceError, NetworkError
from edgehone.units import format_size
from edgehone_agent.wire.measurement import Measurement

LayerKind = Literal["conv", "conv1x1", "depthwise", "linear", "elementwise"]


@dataclass(frozen=True)
class LayerCost:
    """What one layer asks of any device.

    Attributes:
        kind: "conv" (also grouped and one-dimensional), "conv1x1", "depthwise", "linear"; everything else that writes
            values (add, pool, resize, softmax, …) is "elementwise".
        macs: multiply-accumulates; 0 for elementwise layers.
        outputs: values it writes.
        weight_bytes: its weights and biases, as stored.
        activation_bytes: what it reads and writes besides them.
    """

    kind: LayerKind
    macs: int
    outputs: int
    weight_bytes: int
    activation_bytes: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(LayerKind):
            raise NetworkError(
                f"a layer of kind {self.kind!r} has no price", do=f"one of: {', '.join(get_args(LayerKind))}"
            )
        if min(self.macs, self.outputs, self.weight_bytes, self.activation_bytes) < 0:
            raise NetworkError("a layer cannot cost less than nothing")


def estimate_latency(device: Device, layers: Sequence[LayerCost], *, runtime: str | None = None) -> Measurement:
    """Latency of one int8 inference in microseconds; one thread, batch 1.

    Args:
        device: where the model would run.
        layers: its layers, in any order.
        runtime: one of the device's runtimes that has costs; None takes the first.

    Raises:
        DeviceError: the device's latencies are measured, not estimated; or nothing is known of that runtime.
    """
    costs = _costs(device, runtime)
    clock_mhz = _known(device, "clock_mhz").value
    bandwidth = device.hardware.bandwidth_gb_per_s
    overhead_us = costs.operator.value / clock_mhz if costs.operator else 0.0
    latency_us = 0.0
    for layer in layers:
        compute_us = _cycles(layer, costs) / clock_mhz
        traffic = layer.weight_bytes + layer.activation_bytes
        memory_us = traffic / (bandwidth.value * 1e3) if bandwidth else 0.0  # 1 GB/s = 1e3 bytes per microsecond
        latency_us += max(compute_us, memory_us) + overhead_us
    return Measurement(
        value=latency_us,
        unit="us",
        method=f"estimated, not measured: {costs.method}",
        place=f"{device.title}, {costs.runtime}, one thread",
        n=sum(row.runtime == costs.runtime for row in device.published),
        low=latency_us / costs.factor.value,
        high=latency_us * costs.factor.value,
        kind="estimated",
    )


def estimate_energy(device: Device, latency: Measurement) -> Measurement:
    """Energy of one inference in millijoules: active power times latency; radio, waking up and idling come on top.

    Args:
        device: a device whose active power is known.
        latency: of one inference, in "us", measured or estimated.

    Raises:
        DeviceError: the active power is not known, or the latency is in another unit.
    """
    if latency.unit != "us":
        raise DeviceError(f"a latency in {latency.unit!r} gives no energy", do="give it in microseconds")
    power = _known(device, "active_power_mw")
    shortest = latency.value if latency.low is None else latency.low
    longest = latency.value if latency.high is None else latency.high
    to_mj = 1e-6  # mW * µs = nJ = 1e-6 mJ
    return Measurement(
        value=power.value * latency.value * to_mj,
        unit="mJ",
        method=f"active power ({power.provenance}: {power.source}) x {latency.kind} latency; without radio and idling",
        place=latency.place,
        n=latency.n,
        low=(power.value if power.low is None else power.low) * shortest * to_mj,
        high=(power.value if power.high is None else power.high) * longest * to_mj,
        kind="estimated",
    )


def limits(device: Device) -> Budget:
    """What the device's flash and memory leave to one model, as a budget."""
    return Budget(
        size_bytes=int(device.hardware.flash_budget_bytes.value),
        memory_bytes=int(device.hardware.memory_budget_bytes.value),
    )


def fits(device: Device, size_bytes: int, memory_bytes: int) -> list[str]:
    """Why a model does not fit the device; empty when it does.

    Args:
        device: where the model would run.
        size_bytes: of the model file.
        memory_bytes: peak working memory of one inference.
    """
    room = limits(device)
    reasons = []
    for what, needed, allowed, place in (
        ("file", size_bytes, room.size_bytes, "flash"),
        ("working memory", memory_bytes, room.memory_bytes, "memory"),
    ):
        if allowed is not None and needed > allowed:
            room_text = f"{format_size(allowed)} of {place} for a model"
            reasons.append(f"its {what} takes {format_size(needed)}, but {device.title} has {room_text}")
    return reasons


def _cycles(layer: LayerCost, costs: Costs) -> float:
    if layer.kind == "elementwise":
        return layer.outputs * costs.output.value
    per_mac: Quantity = getattr(costs, layer.kind)
    return layer.macs * per_mac.value + layer.outputs * costs.output.value


def _costs(device: Device, runtime: str | None) -> Costs:
    if device.detected:
        raise DeviceError(f"latencies on {device.name} are measured, not estimated", do="measure the file")
    found = next((costs for costs in device.costs if runtime in (None, costs.runtime)), None)
    if found is None:
        known = ", ".join(costs.runtime for costs in device.costs) or "none"
        what = "any runtime" if runtime is None else f"the runtime {runtime!r}"
        raise DeviceError(f"{device.name} has no costs for {what}", do=f"runtimes with costs: {known}")
    return found


def _known(device: Device, field: str) -> Quantity:
    quantity: Quantity | None = getattr(device.hardware, field)
    if quantity is None:
        raise DeviceError(f"{device.name} states no {field}", do="add it to a profile of your own and give its path")
    return quantity
