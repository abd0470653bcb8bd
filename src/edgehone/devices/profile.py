"""A device profile: what one kind of hardware has, and where each of its numbers comes from.

One profile is one TOML file; the file's stem is the device's name ("raspberry_pi_4.toml" → "raspberry-pi-4").

    title = "…"   class = "linux" | "mcu"   isa = "…"   runtimes = ["…"]
    [sources]                     short name → public document or address
    [hardware]                    fields of `Hardware`, each a number with its provenance
    clock_mhz = { value = 1800, provenance = "datasheet", source = "rpi" }
    [cost.RUNTIME]                fields of `Costs`: int8 cycles per operation, and `method` in words
    [[published]]                 runtime, model, latency_us: latencies of reference models that others measured

`detected = true` replaces [hardware] by what this machine reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Provenance = Literal["measured", "datasheet", "derived", "approximate"]
DeviceClass = Literal["linux", "mcu"]


@dataclass(frozen=True)
class Quantity:
    """One number of a profile.

    Attributes:
        value: in the unit that the field's name carries.
        provenance: "measured" on the hardware, from a "datasheet", "derived" by arithmetic from such numbers, or
            "approximate": an informed guess.
        source: public document or address, in words.
        low, high: bounds, where the number varies or is uncertain.
    """

    value: float
    provenance: Provenance
    source: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Hardware:
    """What a device has. Bandwidth in GB/s; peaks count a multiply and an add as two operations."""

    cores: Quantity
    memory_bytes: Quantity
    memory_budget_bytes: Quantity
    flash_bytes: Quantity
    flash_budget_bytes: Quantity
    clock_mhz: Quantity | None = None
    peak_int8_gops: Quantity | None = None
    peak_float32_gflops: Quantity | None = None
    bandwidth_gb_per_s: Quantity | None = None
    idle_power_mw: Quantity | None = None
    active_power_mw: Quantity | None = None


@dataclass(frozen=True)
class Costs:
    """What one int8 operation costs under one runtime, one thread.

    Attributes:
        runtime: name of the runtime.
        method: how the costs were obtained, in words.
        conv, conv1x1, depthwise, linear: cycles per multiply-accumulate.
        output: cycles per value that a layer writes.
        operator: cycles per operator, whatever its size.
        factor: an estimate is held to be right within this factor, up or down, in 95 % of the cases.
    """

    runtime: str
    method: str
    conv: Quantity
    conv1x1: Quantity
    depthwise: Quantity
    linear: Quantity
    output: Quantity
    factor: Quantity
    operator: Quantity | None = None


@dataclass(frozen=True)
class Published:
    """The latency of a reference model (a key of `edgehone.testing.layer_costs.MLPERF_TINY`) on this device."""

    runtime: str
    model: str
    latency_us: Quantity


@dataclass(frozen=True)
class Device:
    """A profile.

    Attributes:
        name: the file's stem, with hyphens.
        title: full name of the hardware.
        kind: "linux" for boards that run an operating system, "mcu" for microcontrollers.
        isa: instruction set, in words.
        runtimes: names of runtimes that run on it, best first.
        hardware: its numbers.
        costs: one entry per runtime whose latency can be estimated; the first is the default.
        published: reference latencies.
        detected: this very machine: its numbers were read just now and its latencies are measured.
    """

    name: str
    title: str
    kind: DeviceClass
    isa: str
    runtimes: tuple[str, ...]
    hardware: Hardware
    costs: tuple[Costs, ...] = ()
    published: tuple[Published, ...] = ()
    detected: bool = False

    @property
    def latency(self) -> Literal["measured", "estimated", "unknown"]:
        """How the latency of a model on this device comes about."""
        if self.detected:
            return "measured"
        return "estimated" if self.costs else "unknown"
