"""The quantized twin: the torch network that computes what the int8 file will, for calibration, evaluation and QAT.

    twin = Twin(graph)                  graph: deployed (batch norms folded, activations fused)
    twin.calibrate(batches)             float passes that fix the ranges; the twin is then in "quantized" mode
    twin(x)                             outputs of the int8 network, as floats
    train twin(x) as any module         QAT: ranges follow the batches in training mode until freeze_ranges()
    twin.side_by_side(x)                float and rounded inputs of every node in turn, for repairs
    twin.to_quantized()                 the integers, for the exporters and the oracle

Rules:
- Mode "float" computes the untouched network at any time. "quantized" is refused before `calibrate`.
- Ranges move only in training mode, and only for the observers that watch the ends ("minmax", "moving-average");
  ranges chosen by "percentile" or "mse" stay as calibrated.
- What `to_quantized` returns is what the last forward pass used; a moved range counts from the next pass on.
- Weights are quantized where they are used: one parameter used by two nodes gets two sets of integers, one gradient.
- `load_state_dict` needs a twin calibrated before, since calibration decides where scales change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgehone.errors import DataError, NetworkError, RecipeError
from edgehone.graph.fake_quant import (
    affine,
    fake_quantize,
    fake_quantize_bias,
    fake_quantize_constant,
    fake_quantize_weight,
    weight_scale,
)
from edgehone.graph.ir import WEIGHTED, Graph, Node
from edgehone.graph.kernels import run_node
from edgehone.graph.network import GraphNetwork
from edgehone.graph.observers import OBSERVERS, Observer
from edgehone.graph.quantized import QuantizedConstant, QuantizedGraph, QuantizedWeights, QuantParams
from edgehone.graph.scheme import FIXED_PARAMS, SHARED_SCALE, Range, fixed_params, insert_requantize, representatives

Mode = Literal["float", "observe", "quantized"]

RANGE_MOMENTUM = 0.05  # of the ranges in QAT: a batch in twenty
_TRAINING_OPS = frozenset({"batch_norm", "dropout", "silu"})
_FOLLOWED_BY_TRAINING = frozenset({"minmax", "moving-average"})


class Pair(NamedTuple):
    """One node about to run: its inputs in float and rounded, and its float parameters by role."""

    node: Node
    exact: list[Tensor]
    rounded: list[Tensor]
    params: dict[str, Tensor]


class Twin(nn.Module):
    """A deployed graph that rounds like int8.

    Args:
        graph: the deployed graph; its arrays are copied.
        observer: a name of `OBSERVERS`, used by `calibrate`.
        weight_bits: 2 to 8.

    Attributes:
        bits: width of the weights of each conv and linear node, by output name; it may be changed at any time.

    Raises:
        NetworkError: the graph still holds training operators.
        RecipeError: an unknown observer, or bits out of range.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor
    _slot_group: Tensor
    _free: Tensor

    def __init__(self, graph: Graph, observer: str = "minmax", weight_bits: int = 8) -> None:
        super().__init__()
        for node in graph.nodes:
            if node.op in _TRAINING_OPS:
                raise NetworkError(f"{node.op} cannot be quantized", where=node.module, do="deploy the graph first")
        if observer not in OBSERVERS:
            raise RecipeError(f"observer {observer!r} is not known", do=f"choose one of: {', '.join(OBSERVERS)}")
        if not 2 <= weight_bits <= 8:
            raise RecipeError(f"weights of {weight_bits} bits are not possible", do="choose 2 to 8")
        self.network = GraphNetwork(graph)
        self.observer = observer
        self.bits = {node.output: weight_bits for node in graph.weighted()}
        self.mode: Mode = "float"
        self._watching: dict[str, Observer] = {}
        self._following = False
        self._grid: list[tuple[float, int]] = []
        self._adopt(insert_requantize(graph), {})

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Fix the ranges from inputs (N, *input), in float arithmetic, and enter "quantized" mode.

        Calling it again starts afresh.

        Raises:
            DataError: no batch, an empty one, or a NaN or Inf in an input or inside the network.
        """
        was_training = self.training
        self.eval()
        self._adopt(insert_requantize(self.network.graph), {})
        self.mode = "observe"
        self._watching = {name: OBSERVERS[self.observer]() for name in self.graph.shapes}
        seen = False
        try:
            with torch.no_grad():
                for batch in batches:
                    self(batch)
                    seen = True
        finally:
            self.mode = "float"
            self.train(was_training)
        if not seen:
            raise DataError("there is no data to calibrate with", do="pass at least one batch")
        ranges = {name: observer.range() for name, observer in self._watching.items()}
        self._watching = {}
        self._adopt(insert_requantize(self.graph, ranges), ranges)
        self._following = self.observer in _FOLLOWED_BY_TRAINING
        self.mode = "quantized"

    def freeze_ranges(self) -> None:
        """Keep all ranges as they are from now on, also in training."""
        self._following = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input) → (N, *output), float; quantized values stand as the floats they mean.

        Raises:
            DataError: "quantized" mode before `calibrate`; NaN or Inf while observing.
        """
        moving = self._following and self.training and self.mode == "quantized"
        if moving:
            self._settle()
        self._read_grid()
        values = {self.graph.input: self._activation(self.graph.input, x, moving)}
        for node, done in zip(self.graph.nodes, self._done_after, strict=True):
            values[node.output] = self._compute(node, [values[name] for name in node.inputs], moving)
            for name in done:
                del values[name]
        return values[self.graph.output]

    @torch.no_grad()
    def to_quantized(self) -> QuantizedGraph:
        """Every integer of the int8 network. Raises DataError before `calibrate`."""
        self._require_ranges()
        self._read_grid()
        tensors = {name: QuantParams(*self._grid[group]) for name, group in self._group.items()}
        weights = {node.output: self._integers(node) for node in self.graph.weighted()}
        constants = {n.output: self._constant(n) for n in self.graph.nodes if n.op in ("add", "mul") and n.params}
        graph = replace(self.graph, params=self.network.to_graph().params)
        return QuantizedGraph(graph, tensors, weights, constants)

    @torch.no_grad()
    def side_by_side(self, x: Tensor) -> Iterator[Pair]:
        """Both networks at once on inputs (N, *input), node by node in order.

        The float network has the weights the twin was made of. A parameter of the node that is changed before the
        next one is asked for counts for all nodes behind it. Raises DataError before `calibrate`.
        """
        self._require_ranges()
        self._read_grid()
        original = {key: torch.from_numpy(array) for key, array in self.network.graph.params.items()}
        exact = {self.graph.input: x}
        rounded = {self.graph.input: self._activation(self.graph.input, x, False)}
        for node, done in zip(self.graph.nodes, self._done_after, strict=True):
            params = {role: original[key] for role, key in node.params.items()}
            pair = Pair(node, [exact[name] for name in node.inputs], [rounded[name] for name in node.inputs], params)
            yield pair
            exact[node.output] = run_node(node, pair.exact, params)
            rounded[node.output] = self._compute(node, pair.rounded)
            for name in done:
                del exact[name], rounded[name]

    def rounded_params(self, node: Node) -> dict[str, Tensor]:
        """What a node computes with in the present mode: role → tensor."""
        return self._params(node)

    def weight_scales(self, node: Node) -> Tensor:
        """Scale (O) of the weights of a conv or linear node. Raises DataError before `calibrate`."""
        self._require_ranges()
        weight, bias = (self.network.tensor(node.params[role]) for role in ("weight", "bias"))
        input_scale = float(self.scale[self._group[node.inputs[0]]])
        return weight_scale(weight, bias, input_scale, self.bits[node.output])

    def to_graph(self) -> Graph:
        """The deployed graph the twin was made of, with the present weights."""
        return self.network.to_graph()

    def _compute(self, node: Node, inputs: Sequence[Tensor], moving: bool = False) -> Tensor:
        return self._activation(node.output, run_node(node, inputs, self._params(node)), moving)

    def _activation(self, name: str, x: Tensor, moving: bool) -> Tensor:
        if self.mode == "float":
            return x
        if self.mode == "observe":
            try:
                self._watching[name].update(x)
            except DataError as error:
                place = "the input" if name == self.graph.input else f"tensor {name!r} of the network"
                raise DataError(error.what, where=place, do=error.do) from error
            return x
        self._require_ranges()
        if moving and name in self._slot:
            self._follow(self._slot[name], x)
        if name in self._copies:
            return x
        return fake_quantize(x, *self._grid[self._group[name]])

    def _params(self, node: Node) -> dict[str, Tensor]:
        params = {role: self.network.tensor(key) for role, key in node.params.items()}
        if self.mode != "quantized" or not params:
            return params
        if node.op not in WEIGHTED:
            return {role: fake_quantize_constant(value) for role, value in params.items()}
        bits = self.bits[node.output]
        input_scale, _ = self._grid[self._group[node.inputs[0]]]
        scale = weight_scale(params["weight"], params["bias"], input_scale, bits)
        return {
            "weight": fake_quantize_weight(params["weight"], scale, bits),
            "bias": fake_quantize_bias(params["bias"], scale * input_scale),
        }

    def _integers(self, node: Node) -> QuantizedWeights:
        bits = self.bits[node.output]
        weight, bias = (self.network.tensor(node.params[role]) for role in ("weight", "bias"))
        input_scale, _ = self._grid[self._group[node.inputs[0]]]
        scale = weight_scale(weight, bias, input_scale, bits)
        per_channel = scale.view(-1, *[1] * (weight.dim() - 1))
        levels = torch.round(fake_quantize_weight(weight, scale, bits) / per_channel)
        steps = torch.round(bias.double() / (scale.double() * input_scale))
        return QuantizedWeights(
            levels.to(torch.int8).cpu().numpy(), scale.cpu().numpy(), steps.to(torch.int32).cpu().numpy(), bits
        )

    def _constant(self, node: Node) -> QuantizedConstant:
        value = self.network.tensor(node.params["value"])
        scale, zero_point = affine(value.amin(), value.amax())
        params = QuantParams(float(scale), int(zero_point))
        levels = torch.round(fake_quantize_constant(value) / scale) + zero_point
        return QuantizedConstant(levels.to(torch.int8).cpu().numpy(), params)

    def _read_grid(self) -> None:
        """Scale and zero point of every group as numbers: one wait for the device, and far faster kernels after it."""
        self._grid = list(zip(self.scale.tolist(), self.zero_point.tolist(), strict=True))

    def _require_ranges(self) -> None:
        if self.low.numel() == 0:
            raise DataError("the quantized twin has no ranges yet", do="call calibrate(batches) first")

    @torch.no_grad()
    def _follow(self, slot: int, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low[slot].lerp_(low, RANGE_MOMENTUM)
        self.high[slot].lerp_(high, RANGE_MOMENTUM)

    def _adopt(self, graph: Graph, ranges: Mapping[str, Range]) -> None:
        """Take the graph to run; without ranges it can run in float only."""
        self.graph = graph
        producers = graph.producers()
        last_read = {name: position for position, node in enumerate(graph.nodes) for name in node.inputs}
        self._done_after = [
            tuple(n for n in dict.fromkeys(node.inputs) if last_read[n] == position and n != graph.output)
            for position, node in enumerate(graph.nodes)
        ]
        self._copies = frozenset(name for name, node in producers.items() if _copies(node))
        watched = [name for name in graph.shapes if name not in producers or _widens(producers[name])]
        self._slot = {name: slot for slot, name in enumerate(watched)}
        known = {n: ranges[n if n in ranges else producers[n].inputs[0]] for n in watched} if ranges else {}
        self._lay_out(list(known), list(known.values()))

    def _lay_out(self, watched: list[str], ranges: list[Range]) -> None:
        """Buffers: one slot per watched tensor for its range, one group per set of parameters."""
        roots = representatives(self.graph)
        order = {root: number for number, root in enumerate(dict.fromkeys(roots.values()))}
        self._group = {name: order[root] for name, root in roots.items()}
        free = torch.ones(len(order), dtype=torch.bool)
        scale, zero_point = torch.ones(len(order)), torch.zeros(len(order), dtype=torch.int32)
        for root, params in fixed_params(self.graph).items():
            free[order[root]], scale[order[root]], zero_point[order[root]] = False, params.scale, params.zero_point
        buffers = {
            "low": torch.tensor([low for low, _ in ranges]),
            "high": torch.tensor([high for _, high in ranges]),
            "scale": scale,
            "zero_point": zero_point,
            "_slot_group": torch.tensor([self._group[name] for name in watched], dtype=torch.int64),
            "_free": free,
        }
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.to(device))
        self._settle()

    @torch.no_grad()
    def _settle(self) -> None:
        """Bring the scales up to date with the ranges; a group spans all its members."""
        zeros = torch.zeros_like(self.scale)
        low = zeros.scatter_reduce(0, self._slot_group, self.low, "amin")
        high = zeros.scatter_reduce(0, self._slot_group, self.high, "amax")
        scale, zero_point = affine(low, high)
        self.scale = torch.where(self._free, scale, self.scale)
        self.zero_point = torch.where(self._free, zero_point, self.zero_point)


def quantize(graph: Graph, batches: Iterable[Tensor], observer: str = "minmax", weight_bits: int = 8) -> QuantizedGraph:
    """Post-training quantization of a deployed graph: calibrate on inputs (N, *input), return the integers.

    Raises:
        NetworkError, RecipeError: as `Twin`. DataError: as `Twin.calibrate`.
    """
    twin = Twin(graph, observer, weight_bits)
    twin.calibrate(batches)
    return twin.to_quantized()


def _widens(node: Node) -> bool:
    """Whether a node's output has a range of its own: neither fixed nor inside the range of its inputs."""
    return node.op not in SHARED_SCALE | FIXED_PARAMS.keys() or (node.op == "pad" and node.attrs["value"] != 0)


def _copies(node: Node) -> bool:
    """Whether a node's output holds only values of its inputs and 0, which are on the grid already."""
    averages = node.op == "avg_pool" or (node.op == "resize" and node.attrs["mode"] == "bilinear")
    return node.op in SHARED_SCALE and not averages and not _widens(node)


__all__ = ["RANGE_MOMENTUM", "Mode", "Pair", "Twin", "quantize"]
