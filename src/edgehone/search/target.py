"""The target of a study: a device, and how latency is obtained there. Measured here or on a node, else estimated.

Candidates are timed for a fraction of a second, during which a machine can slow down by half. So each is timed against
one anchor, the int8 network of full width, round by round, and its latency is that ratio times the anchor's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgehone.devices import Device, estimate_latency
from edgehone.exporters import EXPORTERS
from edgehone.graph.quantized import QuantizedGraph
from edgehone.measure.timer import LocalTimer, Timer
from edgehone.search.layer_costs import layer_costs
from edgehone_agent.measure.latency import ratio
from edgehone_agent.wire.measurement import Measurement

MAIN_FORMAT, MAIN_RUNTIME = "tflite", "litert"
_QUICK_ROUNDS = 21
_ANCHOR_ROUNDS = 60


@dataclass(frozen=True)
class Anchor:
    """A file that candidates are timed against, and its own latency."""

    content: bytes
    latency_us: float


@dataclass(frozen=True)
class Target:
    """A device and one thread of its main runtime.

    Attributes:
        device: the profile.
        place: the machine in words, for measurements taken here.
        anchor: what candidates are timed against; None before `anchored`, and for a device that is not here.
        timer: who times files.
    """

    device: Device
    place: str
    anchor: Anchor | None = None
    timer: Timer = field(default_factory=LocalTimer)

    @property
    def here(self) -> bool:
        """Whether files are timed on this very machine."""
        return self.device.detected and isinstance(self.timer, LocalTimer)

    @property
    def measured(self) -> bool:
        """Whether latency is measured, here or on a node; otherwise the profile estimates it."""
        return self.device.detected or not isinstance(self.timer, LocalTimer)

    def anchored(self, quantized: QuantizedGraph, latency_us: float | None = None) -> Target:
        """The same target, its candidates timed against this network; its latency is measured when it is not known."""
        if not self.measured:
            return self
        content = EXPORTERS.get(MAIN_FORMAT).export(quantized)
        if latency_us is None:
            latency_us = self.timer.time({"anchor": content}, _ANCHOR_ROUNDS)["anchor"].median_us
        return replace(self, anchor=Anchor(content, latency_us))

    def latency(self, quantized: QuantizedGraph) -> Measurement:
        """Latency of one int8 inference, quickly: enough to choose widths by, in microseconds."""
        if not self.measured:
            return estimate_latency(self.device, layer_costs(quantized.graph))
        content = EXPORTERS.get(MAIN_FORMAT).export(quantized)
        if self.anchor is not None:
            both = self.timer.time({"candidate": content, "anchor": self.anchor.content}, _QUICK_ROUNDS)
            part, us = ratio(both["candidate"], both["anchor"]), self.anchor.latency_us
            method = f"ratio to the int8 network of full width, {part.rounds} paired rounds"
            return Measurement(part.value * us, "us", method, self.place, part.rounds, part.low * us, part.high * us)
        found = self.timer.time({"candidate": content}, _ANCHOR_ROUNDS)["candidate"]
        return Measurement(
            found.median_us, "us", f"median of {found.rounds} rounds", self.place, found.rounds, found.low_us,
            found.high_us,
        )  # fmt: skip
