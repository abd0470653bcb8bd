"""Reads an exported torch program node by node: binds arguments, folds constants, follows writes in place.

Operators whose inputs are all constants are computed at once. A write in place (`relu_`, `+=`) is read as a new value
under the old name; a write into a part of a tensor that is still read elsewhere is refused.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from edgehone.errors import NetworkError, UnsupportedOperatorError, UntraceableError
from edgehone.graph._builder import Builder, Call, Importer, Value
from edgehone.graph._hints import GENERAL, HINTS
from edgehone.graph._import_layers import LAYERS
from edgehone.graph._import_pointwise import POINTWISE
from edgehone.graph._import_shape import SHAPES
from edgehone.graph.ir import Graph, Shape

IMPORTERS: dict[str, Importer] = {**LAYERS, **POINTWISE, **SHAPES}
TORCH_FOLDER = str(Path(torch.__file__).parent)

_FILLED = {"zeros_like": 0.0, "new_zeros": 0.0, "ones_like": 1.0, "new_ones": 1.0, "full_like": None, "new_full": None}
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def read_program(program: ExportedProgram, batch: int) -> Graph:
    """The graph of a program that was exported with `batch` examples, not yet simplified.

    Raises:
        UnsupportedOperatorError: an operator, or a use of it, that the graph does not hold.
        UntraceableError: forward writes into the network's own parameters or buffers.
        NetworkError: the answer does not depend on the input.
    """
    reader = _Reader(Builder(batch))
    source = reader.read_inputs(program)
    for node in program.graph.nodes:
        if node.op == "call_function":
            reader.read_call(node)
        elif node.op == "output":
            answer = reader.values[node.args[0][0]]
    if not isinstance(answer, str):
        raise NetworkError("the network's answer does not depend on its input", where="trace", do="check its forward")
    return reader.builder.graph(source, answer)


@dataclass
class _Reader:
    """Values of the nodes read so far.

    Attributes:
        memory: node → the node whose memory it shows (a view has its base, a write in place what it wrote).
        whole: node → the node it is all of; a view is all of itself only.
        state: placeholders of parameters and buffers, by the user's names.
    """

    builder: Builder
    values: dict[fx.Node, Value] = field(default_factory=dict)
    memory: dict[fx.Node, fx.Node] = field(default_factory=dict)
    whole: dict[fx.Node, fx.Node] = field(default_factory=dict)
    state: dict[fx.Node, str] = field(default_factory=dict)

    def read_inputs(self, program: ExportedProgram) -> str:
        """Values of the program's inputs; returns the name of the one real input."""
        tensors = {**program.constants, **program.state_dict}
        placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        clones: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
        source = ""
        for spec in program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            self.memory[node] = self.whole[node] = node
            if spec.kind == InputKind.USER_INPUT:
                source = node.name
                self.values[node] = source
                self.builder.shapes[source] = (1, *node.meta["val"].shape[1:])
                continue
            tensor = tensors[str(spec.target)]
            # Tied parameters share their memory: one clone, one key.
            clone = clones.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), tensor.detach().clone())
            self.values[node] = clone
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.state[node] = str(spec.target)
                self.builder.names.setdefault(id(clone), str(spec.target))
            if spec.kind == InputKind.PARAMETER:
                self.builder.trainable.add(id(clone))
        return source

    def read_call(self, node: fx.Node) -> None:
        """Import one operation and remember what memory it shows."""
        if node.target is operator.getitem:
            pieces, index = node.args
            self.values[node] = self.values[pieces][index]  # type: ignore[index]  # a split and a number
            self.memory[node], self.whole[node] = self.memory[pieces], node  # type: ignore[index]
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            raise UnsupportedOperatorError(
                f"{node.target} is not an operator of the graph",
                where=_place(node),
                do="use plain torch operators, without control-flow operators or compiled regions",
            )
        seen, written = _aliased(node, node.target)
        if written is not None and self.memory[written] in self.state:
            raise UntraceableError(
                f"forward changes the network's own {self.state[self.memory[written]]!r}",
                where=_place(node),
                do="keep no state between calls; pass it as part of the input",
            )
        self.values[node] = self._value(node, node.target)
        self.memory[node] = self.memory[seen] if seen is not None else node
        self.whole[node] = self.whole[written] if written is not None else node
        if written is not None:
            self._write(node)

    def _value(self, node: fx.Node, target: torch._ops.OpOverload) -> Value:
        name = target._schema.name.removeprefix("aten::").rstrip("_")
        if name == "_assert_tensor_metadata":
            return None
        chance = torch.Tag.nondeterministic_seeded in target.tags and "dropout" not in name
        if not chance and not any(isinstance(self.values[each], str) for each in node.all_input_nodes):
            args, kwargs = self._substitute(node.args), self._substitute(dict(node.kwargs))
            computed: Value = target(*args, **kwargs)
            return computed
        bound = {role: self._substitute(argument) for role, argument in _bind(node, target).items()}
        if name in _FILLED:
            value = _FILLED[name]
            return torch.full(tuple(node.meta["val"].shape), float(bound["fill_value"] if value is None else value))
        module = _module(node)
        call = Call(name, node.name, bound, (), module, _source(node), self.builder)
        if chance or name not in IMPORTERS:
            raise call.refuse("is not an operator of the graph", HINTS.get(name, GENERAL))
        shape = _shape(node, call)
        return IMPORTERS[name](Call(name, node.name, bound, shape, module, call.source, self.builder))

    def _write(self, node: fx.Node) -> None:
        """Later readers of what was written in place get the new value."""
        for other, base in self.memory.items():
            if base is not self.memory[node] or other is node:
                continue
            if self.whole[other] is self.whole[node]:
                self.values[other] = self.values[node]
            elif any(user not in self.values for user in other.users) and isinstance(self.values[node], str):
                raise UnsupportedOperatorError(
                    f"{node.target} writes into a tensor that shares its memory with another one read later",
                    where=_place(node),
                    do="use the form that returns a new tensor (relu instead of relu_, x = x + y instead of x += y)",
                )

    def _substitute(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.values[value]
        if isinstance(value, list | tuple):
            return [self._substitute(each) for each in value]
        if isinstance(value, dict):
            return {key: self._substitute(each) for key, each in value.items()}
        return value


def _bind(node: fx.Node, target: torch._ops.OpOverload) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(target._schema.arguments):
        given = not argument.kwarg_only and position < len(node.args)
        bound[argument.name] = node.args[position] if given else node.kwargs.get(argument.name, argument.default_value)
    return bound


def _aliased(node: fx.Node, target: torch._ops.OpOverload) -> tuple[fx.Node | None, fx.Node | None]:
    """The argument whose memory the result shows, and the argument that is written in place."""
    seen = written = None
    bound = _bind(node, target)
    for argument in target._schema.arguments:
        if argument.alias_info is not None and isinstance(bound[argument.name], fx.Node):
            seen = bound[argument.name]
            written = seen if argument.alias_info.is_write else written
    return seen, written


def _shape(node: fx.Node, call: Call) -> Shape:
    """Shape of the one result with a batch of 1; empty for several results."""
    result = node.meta["val"]
    if not isinstance(result, Tensor):
        return ()
    if result.dim() == 0 or result.shape[0] != call.builder.batch:
        raise call.refuse(
            f"gives {tuple(result.shape)} for {call.builder.batch} examples: the batch is no longer the first axis",
            "keep the examples of a batch apart, first axis = batch",
        )
    return (1, *result.shape[1:])


def _module(node: fx.Node) -> str:
    """Dotted path of the innermost module of the user's network; a second call of a module has no own name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).split("@")[0] if stack else ""


def _source(node: fx.Node) -> str:
    """ "file:line" of the innermost frame outside torch, when torch recorded it."""
    frames: list[tuple[str, str]] = _FRAME.findall(node.meta.get("stack_trace") or "")
    outside = [frame for frame in frames if not frame[0].startswith(TORCH_FOLDER)]
    return ":".join(outside[-1]) if outside else ""


def _place(node: fx.Node) -> str:
    return f"{_module(node) or 'network'} ({_source(node)})" if _source(node) else _module(node) or "network"
