"""The target of a study: a device, and how latency is obtained there. Measured where we are, estimated elsewhere.

Candidates are timed for a fraction of a second, during which a machine can slow down by half. So each is timed against
one anchor, the int8 network of full width, round by round, and its latency is that ratio times the anchor's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from edgehone.devices import Device, LayerCost, LayerKind, estimate_latency
from edgehone.exporters import EXPORTERS
from edgehone.graph.cost import node_macs
from edgehone.graph.ir import Graph, Node
from edgehone.graph.quantized import QuantizedGraph
from edgehone_agent.measure.latency import LatencyResult, measure_latency, ratio
from edgehone_agent.runtimes import RUNTIMES
from edgehone_agent.wire.measurement import Measurement

MAIN_FORMAT, MAIN_RUNTIME = "tflite", "litert"
_QUICK_ROUNDS = 21
_ANCHOR_ROUNDS = 60
_FREE = frozenset({"reshape", "requantize"})


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
    """

    device: Device
    place: str
    anchor: Anchor | None = None

    @property
    def here(self) -> bool:
        """Whether latency is measured on this machine; otherwise the profile estimates it."""
        return self.device.detected

    def anchored(self, quantized: QuantizedGraph, latency_us: float | None = None) -> Target:
        """The same target, its candidates timed against this network; its latency is measured when it is not known."""
        if not self.here:
            return self
        content = EXPORTERS.get(MAIN_FORMAT).export(quantized)
        if latency_us is None:
            latency_us = _time({"anchor": content}, _ANCHOR_ROUNDS)["anchor"].median_us
        return replace(self, anchor=Anchor(content, latency_us))

    def latency(self, quantized: QuantizedGraph) -> Measurement:
        """Latency of one int8 inference, quickly: enough to choose widths by, in microseconds."""
        if not self.here:
            return estimate_latency(self.device, layer_costs(quantized.graph))
        content = EXPORTERS.get(MAIN_FORMAT).export(quantized)
        if self.anchor is not None:
            both = _time({"candidate": content, "anchor": self.anchor.content}, _QUICK_ROUNDS)
            part, us = ratio(both["candidate"], both["anchor"]), self.anchor.latency_us
            method = f"ratio to the int8 network of full width, {part.rounds} paired rounds"
            return Measurement(part.value * us, "us", method, self.place, part.rounds, part.low * us, part.high * us)
        found = _time({"candidate": content}, _ANCHOR_ROUNDS)["candidate"]
        return Measurement(
            found.median_us, "us", f"median of {found.rounds} rounds", self.place, found.rounds, found.low_us,
            found.high_us,
        )  # fmt: skip


def _time(contents: Mapping[str, bytes], rounds: int) -> dict[str, LatencyResult]:
    """Latency of files that are not kept, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, content in contents.items():
            path = Path(folder) / f"{name}.tflite"
            path.write_bytes(content)
            sessions[name] = RUNTIMES.get(MAIN_RUNTIME).load(path)
        found = measure_latency(sessions, rounds=rounds)
        for session in sessions.values():
            session.close()
    return found


def layer_costs(graph: Graph) -> list[LayerCost]:
    """What every node of a deployed graph costs as int8, for the estimates of `edgehone.devices`."""
    return [_cost(graph, node) for node in graph.nodes if node.op not in _FREE]


def _cost(graph: Graph, node: Node) -> LayerCost:
    outputs = prod(graph.shapes[node.output])
    weight, bias = graph.param(node, "weight"), graph.param(node, "bias")
    stored = (weight.size if weight is not None else 0) + (4 * bias.size if bias is not None else 0)
    moved = outputs + sum(prod(graph.shapes[name]) for name in node.inputs)
    return LayerCost(_kind(graph, node), node_macs(graph, node), outputs, int(stored), moved)


def _kind(graph: Graph, node: Node) -> LayerKind:
    if node.op == "linear":
        return "linear"
    if node.op != "conv":
        return "elementwise"
    weight = graph.params[node.params["weight"]]
    if node.attrs["groups"] > 1 and weight.shape[1] == 1:
        return "depthwise"
    return "conv1x1" if weight.shape[2:] == (1, 1) and node.attrs["groups"] == 1 else "conv"
