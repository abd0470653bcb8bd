"""What every layer costs on the target: a table of measured latencies, and the latency of a network from it.

A price belongs to an `Op`: an operator with the sizes that set its time. It is measured once, as a .tflite file of
that one layer in int8, against a yardstick layer in the same run, and kept as the ratio to the yardstick: a machine
that slows down slows both. What starting a network costs (the price of a network that does almost nothing) is taken
off every price and added once to a network.

    prices = Prices(timer, path)            path: the table, a JSON file that can be handed on
    prices.fill(ops(graph))                 measure what is not in it
    prices.network_us(graph)                sum over layers, plus the start

A sum is not a network: neighbours share caches, and the runtime fuses a little more. The sum orders candidates of one
network well; what a candidate takes is measured before anything is trained (see `allocate.py`). Latency tables as in
NetAdapt (Yang et al. 2018, arXiv:1804.03230, section 3.3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from edgehone.devices import Device, estimate_latency
from edgehone.errors import ModelFileError
from edgehone.exporters import EXPORTERS
from edgehone.graph.ir import Graph, Node, Shape
from edgehone.graph.twin import quantize
from edgehone.search.layer_costs import layer_costs
from edgehone.search.target import Target
from edgehone.search.workspace import write_text
from edgehone_agent.measure.latency import LatencyResult, ratio

VERSION = 1
FREE = frozenset({"reshape", "requantize"})
_CHUNK = 12  # files in one run besides the yardstick: they share caches and disturbances
_ROUNDS = 15

Time = Callable[[Mapping[str, bytes], int], dict[str, LatencyResult]]
"""(name → .tflite file, rounds) → latency of each, interleaved in one run."""


@dataclass(frozen=True)
class Op:
    """One layer of a deployed network as int8, with everything that sets its time.

    Attributes:
        op: operator of the graph.
        inputs: shapes of its operands, batch 1.
        output: shape of its answer.
        weight: shape of its weight; None where it has none.
        attrs: the operator's attributes.
        activation: what is fused into it.
    """

    op: str
    inputs: tuple[Shape, ...]
    output: Shape
    weight: Shape | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    activation: str | None = None

    @property
    def key(self) -> str:
        """Its name in the table."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def __hash__(self) -> int:
        return hash(self.key)

    def graph(self) -> Graph:
        """A network of this layer alone, with random weights; a second operand of its own is a constant."""
        rng = np.random.default_rng(0)
        params: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
        roles: dict[str, str] = {}
        inputs, attrs = ("x",) * len(self.inputs), dict(self.attrs)
        if self.weight is not None:
            params["weight"] = rng.standard_normal(self.weight).astype(np.float32) / prod(self.weight[1:]) ** 0.5
            params["bias"] = np.zeros(self.weight[0], np.float32)
            roles = {"weight": "weight", "bias": "bias"}
        elif self.op in ("add", "mul", "sub") and (len(self.inputs) == 1 or self.inputs[0] != self.inputs[1]):
            small = min(self.inputs, key=prod) if len(self.inputs) == 2 else (1, self.output[1], *self.output[2:])
            params["value"], roles = rng.standard_normal(small).astype(np.float32) + 2, {"value": "value"}
            inputs, op = ("x",), "add" if self.op == "sub" else self.op
            return self._alone(op, inputs, max(self.inputs, key=prod), attrs, roles, params)
        shape = self.inputs[0]
        if self.op == "concat":  # of equal parts: what is copied counts, not from where
            axis = self.attrs["axis"]
            part = max(1, self.output[axis] // len(self.inputs))
            shape = tuple(part if i == axis else n for i, n in enumerate(self.output))
            output = tuple(part * len(self.inputs) if i == axis else n for i, n in enumerate(self.output))
            return self._alone(self.op, inputs, shape, attrs, roles, params, output)
        return self._alone(self.op, inputs, shape, attrs, roles, params)

    def _alone(
        self, op: str, inputs: tuple[str, ...], shape: Shape, attrs: Mapping[str, Any], roles: Mapping[str, str],
        params: Mapping[str, Any], output: Shape | None = None,
    ) -> Graph:  # fmt: skip
        node = Node(op, inputs, "y", attrs, roles, activation=self.activation)
        return Graph("x", "y", (node,), {"x": shape, "y": output or self.output}, params).check()


YARDSTICK = Op(
    "conv", ((1, 16, 32, 32),), (1, 16, 32, 32), (16, 16, 3, 3),
    {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}, "relu",
)  # fmt: skip
NOTHING = Op("add", ((1, 8), (1, 8)), (1, 8))


def op_of(graph: Graph, node: Node, shapes: Mapping[str, Shape] | None = None, weight: Shape | None = None) -> Op:
    """The layer that a node of a deployed graph is; with other shapes, the layer it would be."""
    shapes = shapes or graph.shapes
    own = graph.param(node, "weight")
    attrs = {name: value for name, value in node.attrs.items() if name not in ("fixed", "shape")}
    before, after = shapes[node.inputs[0]], shapes[node.output]
    if node.op == "slice":  # where it begins costs nothing
        axis = attrs["axis"]
        attrs |= {"start": 0, "stop": min(before[axis], (after[axis] - 1) * attrs["step"] + 1)}
    elif node.op == "pad":
        attrs["pads"] = tuple((0, b - a) for a, b in zip(before, after, strict=True))
    return Op(
        node.op,
        tuple(tuple(shapes[name]) for name in node.inputs),
        tuple(shapes[node.output]),
        weight if weight is not None else (None if own is None else tuple(own.shape)),
        attrs,
        node.activation,
    )


def ops(graph: Graph) -> list[Op]:
    """The layers of a deployed graph that take time, in order."""
    return [op_of(graph, node) for node in graph.nodes if node.op not in FREE]


class PriceList(Protocol):
    """What layers cost on a target, in microseconds."""

    def fill(self, wanted: Iterable[Op], progress: Callable[[float], None] | None = None) -> int:
        """Find out what is not known yet, and return how many layers that were."""

    def us(self, op: Op) -> float:
        """What a layer adds to a network."""

    @property
    def start_us(self) -> float:
        """What every network takes before its first layer."""

    def network_us(self, graph: Graph) -> float:
        """The sum over a deployed graph."""


class Prices:
    """The table of one target, as measured.

    Args:
        time: measures files on the target.
        target: what the prices belong to, such as "litert 2.3.0 on AMD EPYC"; a table of another target is left alone.
        path: where the table is kept; None keeps it in memory.

    Raises:
        ModelFileError: the file is no table, or of a newer version.
    """

    def __init__(self, time: Time, target: str, path: Path | None = None) -> None:
        self._time, self._target, self._path = time, target, path
        self._ratios: dict[str, float] = {}
        self._yardstick_us: float | None = None
        if path is not None and path.exists():
            self._read(path)

    def __len__(self) -> int:
        return len(self._ratios)

    def fill(self, wanted: Iterable[Op], progress: Callable[[float], None] | None = None) -> int:
        """Measure the layers that are not in the table yet, and return how many those were."""
        missing = list({op.key: op for op in (NOTHING, *wanted) if op.key not in self._ratios}.values())
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            found = self._time({str(i): _file(op) for i, op in enumerate([YARDSTICK, *chunk])}, _ROUNDS)
            self._yardstick_us = min(self._yardstick_us or float("inf"), found["0"].median_us)
            for i, op in enumerate(chunk, 1):
                self._ratios[op.key] = ratio(found[str(i)], found["0"]).value
            self._write()
            if progress is not None:
                progress(min(1.0, (start + len(chunk)) / len(missing)))
        return len(missing)

    def us(self, op: Op) -> float:
        """What a layer adds to a network, in microseconds; `fill` has measured it before."""
        return max(0.0, self._ratios[op.key] - self._ratios[NOTHING.key]) * self._reference_us

    @property
    def start_us(self) -> float:
        """What every network takes before its first layer, in microseconds."""
        return self._ratios[NOTHING.key] * self._reference_us

    def network_us(self, graph: Graph) -> float:
        """The sum over the layers of a deployed graph and the start, in microseconds."""
        return self.start_us + sum(self.us(op) for op in ops(graph))

    @property
    def _reference_us(self) -> float:
        return self._yardstick_us or 0.0

    def _read(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text())
            if found["format"] != "edgehone-prices" or found["version"] > VERSION:
                raise ValueError(f"its format is {found['format']!r}, version {found['version']}")
            if found["target"] != self._target:
                return
            self._ratios = {str(key): float(value) for key, value in found["ratios"].items()}
            self._yardstick_us = float(found["yardstick_us"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFileError(
                f"is no table of latencies or is damaged: {error}", where=str(path), do="remove it: it is measured anew"
            ) from error

    def _write(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": "edgehone-prices", "version": VERSION, "target": self._target,
            "yardstick_us": self._yardstick_us, "ratios": dict(sorted(self._ratios.items())),
        }  # fmt: skip
        write_text(self._path, json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True)
class EstimatedPrices:
    """Prices on a device that is not here, from its profile."""

    device: Device

    def fill(self, wanted: Iterable[Op], progress: Callable[[float], None] | None = None) -> int:  # noqa: ARG002
        """Nothing is measured."""
        return 0

    def us(self, op: Op) -> float:
        """Estimated microseconds of a layer."""
        return estimate_latency(self.device, layer_costs(op.graph())).value

    @property
    def start_us(self) -> float:
        """A profile's operators bring their own overhead."""
        return 0.0

    def network_us(self, graph: Graph) -> float:
        """Estimated microseconds of a network."""
        return estimate_latency(self.device, layer_costs(graph)).value


def prices_of(target: Target, folder: Path) -> PriceList:
    """The price list of a target: measured where files can be timed, estimated elsewhere.

    Args:
        target: the device, and who times files.
        folder: where tables are kept, one file for each runtime and machine.
    """
    if not target.measured:
        return EstimatedPrices(target.device)
    fingerprint = target.timer.fingerprint()
    name = hashlib.sha256(fingerprint.encode()).hexdigest()[:12]
    return Prices(target.timer.time, fingerprint, folder / "prices" / f"{name}.json")


def _file(op: Op) -> bytes:
    graph = op.graph()
    generator = torch.Generator().manual_seed(0)
    return EXPORTERS.get("tflite").export(quantize(graph, [torch.randn(graph.input_shape, generator=generator)]))
