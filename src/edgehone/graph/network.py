"""The trainable float network that a graph describes. Its parameters are the graph's; nothing else is stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgehone.graph.ir import Graph, Node
from edgehone.graph.kernels import run_node

_STATISTICS = frozenset({"mean", "variance"})  # roles that training updates without a gradient


class GraphNetwork(nn.Module):
    """A torch module that runs a graph, in training or evaluation mode, for any batch size.

    The module owns copies of the graph's arrays: training it leaves the graph as it was, and `to_graph` returns a new
    one. A parameter that two nodes use is one `nn.Parameter`.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self._index = {key: position for position, key in enumerate(graph.params)}
        statistics = {n.params[r] for n in graph.nodes for r in _STATISTICS if r in n.params}
        fixed = {n.params["value"] for n in graph.nodes if n.attrs.get("fixed")}
        for key, array in graph.params.items():
            tensor = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
            if key in statistics | fixed:
                self.register_buffer(self._attribute(key), tensor)
            else:
                self.register_parameter(self._attribute(key), nn.Parameter(tensor))
        last_read = {name: position for position, node in enumerate(graph.nodes) for name in node.inputs}
        self._done_after = [
            tuple(n for n in dict.fromkeys(node.inputs) if last_read[n] == position and n != graph.output)
            for position, node in enumerate(graph.nodes)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input) → (N, *output), float."""
        values = {self.graph.input: x}
        for node, done in zip(self.graph.nodes, self._done_after, strict=True):
            values[node.output] = self._run(node, values)
            for name in done:
                del values[name]
        return values[self.graph.output]

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """Every tensor of the graph by name, the input included."""
        values = {self.graph.input: x}
        for node in self.graph.nodes:
            values[node.output] = self._run(node, values)
        return values

    def tensor(self, key: str) -> Tensor:
        """The parameter or statistic stored under a key of `Graph.params`."""
        found: Tensor = getattr(self, self._attribute(key))
        return found

    def to_graph(self) -> Graph:
        """The graph with the module's present parameters."""
        params = {key: self.tensor(key).detach().cpu().numpy().astype(np.float32).copy() for key in self._index}
        return self.graph.with_nodes(self.graph.nodes, params=params)

    def set_momentum(self, momentum: float) -> None:
        """Share of the newest batch in every batch_norm statistic while training."""
        self._change("batch_norm", momentum=momentum)

    def set_dropout(self, rate: float) -> None:
        """Rate of every dropout layer while training."""
        self._change("dropout", rate=rate)

    def _change(self, op: str, **attrs: float) -> None:
        nodes = (replace(n, attrs={**n.attrs, **attrs}) if n.op == op else n for n in self.graph.nodes)
        self.graph = replace(self.graph, nodes=tuple(nodes))

    def _run(self, node: Node, values: dict[str, Tensor]) -> Tensor:
        params = {role: self.tensor(key) for role, key in node.params.items()}
        return run_node(node, [values[name] for name in node.inputs], params, training=self.training)

    def _attribute(self, key: str) -> str:
        return f"p{self._index[key]}"
