"""One import in progress: what every torch value became, and the graph built so far.

A torch value is the name of a tensor of our graph, a constant (a torch tensor that depends on parameters alone), or a
tuple of values (what `split` returns). Importers get a `Call` and return the value of its result.
Every tensor of the graph has the batch as its first axis; a call that would move or mix it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehone.errors import UnsupportedOperatorError
from edgehone.graph.ir import FloatArray, Graph, Node, Shape

Value: TypeAlias = "str | Tensor | tuple[Value, ...] | None"


@dataclass
class Builder:
    """The graph built so far.

    Attributes:
        batch: number of examples in the trace; every shape below has 1 instead.
        names: the user's name of a constant, by `id`.
        trainable: `id` of the constants that are parameters of the network.
    """

    batch: int
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    params: dict[str, FloatArray] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    trainable: set[int] = field(default_factory=set)

    def keep(self, key: str, array: FloatArray) -> str:
        """Store a parameter under `key`, or under `key` with a number when other values have that key."""
        free, number = key, 1
        while free in self.params and not np.array_equal(self.params[free], array, equal_nan=True):
            number += 1
            free = f"{key}_{number}"
        self.params.setdefault(free, array)
        return free

    def graph(self, source: str, output: str) -> Graph:
        """The finished graph, without nodes that do not lead to the output."""
        needed = {output}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node.inputs)
                kept.append(node)
        whole = Graph(source, output, (), self.shapes, self.params)
        return whole.with_nodes(tuple(reversed(kept)))


@dataclass(frozen=True)
class Call:
    """One torch operation to import.

    Attributes:
        operator: its torch name without overload and in-place mark, like "conv2d".
        name: name for its result.
        args: its arguments by the names of the torch schema, torch values replaced by ours.
        shape: of its result, batch 1; empty when it returns several tensors.
        module: dotted path of the user's module.
        source: "file:line" of the user's code, when known.
        builder: where the nodes go.
    """

    operator: str
    name: str
    args: Mapping[str, Any]
    shape: Shape
    module: str
    source: str
    builder: Builder

    def refuse(self, what: str, do: str) -> UnsupportedOperatorError:
        """The error to raise when this use of the operator has no place in the graph."""
        place = f"{self.module or 'network'} ({self.source})" if self.source else self.module or "network"
        return UnsupportedOperatorError(f"{self.operator} {what}", where=place, do=do)

    def tensor(self, role: str) -> str:
        """The argument, which must be a tensor of the graph."""
        value = self.args[role]
        if not isinstance(value, str):
            raise self.refuse(f"needs a tensor as its {role!r}, not a constant", "compute constants outside forward")
        return value

    def shape_of(self, name: str) -> Shape:
        """Shape of a tensor of the graph, batch 1."""
        return self.builder.shapes[name]

    def axis(self, axis: int, rank: int) -> int:
        """The axis counted from the front; the batch axis is refused."""
        axis %= rank
        if axis == 0:
            raise self.refuse(
                "works across the batch", "treat the examples of a batch independently, first axis = batch"
            )
        return axis

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Shape,
        *,
        part: str = "",
        attrs: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> str:
        """Add a node; `part` tells apart the nodes of a call that becomes several, the last one has none."""
        output = f"{self.name}.{part}" if part else self.name
        self.builder.nodes.append(Node(op, tuple(inputs), output, attrs or {}, params or {}, self.module))
        self.builder.shapes[output] = shape
        return output

    def weight(self, role: str, change: Callable[[FloatArray], FloatArray] = lambda array: array) -> str | None:
        """Key of a constant argument stored as a parameter after `change`, None when the argument is None."""
        value = self.args[role]
        if value is None:
            return None
        if not isinstance(value, Tensor):
            raise self.refuse(f"has a {role} that depends on the input", "use a fixed parameter")
        key = self.builder.names.get(id(value), f"{self.name}.{role}")
        return self.builder.keep(key, change(float32(value)))

    def parameters(self, **keys: str | None) -> dict[str, str]:
        """Role → key without the roles that have none."""
        return {role: key for role, key in keys.items() if key is not None}

    def arithmetic(
        self,
        op: str,
        source: str,
        constant: Tensor | float,
        *,
        part: str = "",
        change: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    ) -> str:
        """An add or mul of a constant. `change` computes the operand from the constant (its negative, its inverse)."""
        shape = self.shape_of(source)
        array = np.asarray(constant.detach().cpu().double() if isinstance(constant, Tensor) else constant, np.float64)
        if array.ndim > len(shape):
            raise self.refuse("broadcasts a tensor to more axes", "reshape it first, batch first")
        array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        if array.shape[0] != 1:
            if not (array == array[:1]).all():
                raise self.refuse("has a constant per example of the batch", "use one constant for all examples")
            array = array[:1]
        trains = isinstance(constant, Tensor) and id(constant) in self.builder.trainable
        hint = f"{self.name}.{part}.value" if part else f"{self.name}.value"
        key = self.builder.names.get(id(constant), hint) if isinstance(constant, Tensor) else hint
        if change is not None:
            array, key = change(array), hint
        key = self.builder.keep(key, array.astype(np.float32))
        return self.emit(
            op,
            (source,),
            tuple(np.broadcast_shapes(shape, array.shape)),
            part=part,
            attrs={} if trains else {"fixed": True},
            params={"value": key},
        )


Importer: TypeAlias = Callable[[Call], Value]


def float32(tensor: Tensor) -> FloatArray:
    """A copy as float32 numpy."""
    return np.array(tensor.detach().cpu().to(torch.float32).numpy(), np.float32, order="C")


def pair(value: int | Sequence[int], spatial: int, fill: int) -> tuple[int, int]:
    """A torch size argument as (height, width); one dimension counts as height `fill`."""
    values = [value] if isinstance(value, int) else list(value)
    if spatial == 1:
        return fill, values[0]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])
