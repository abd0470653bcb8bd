"""One ONNX node on its way into the graph: its inputs, its settings, and how it is refused.

A value is the name of a tensor of our graph or a `Constant`. A setting that was an attribute in old operator sets and
is an input in newer ones is read by `Op.setting`, which takes either, so that translators need not know versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import UnsupportedOperatorError
from edgehone.graph.ir import FloatArray, Shape
from edgehone.importers._draft import Draft


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that does not depend on the input.

    Attributes:
        array: its values.
        name: of the initializer, or of the node's output that computed it.
        stored: whether the file holds it, as a parameter of the network would be.
    """

    array: NDArray[Any]
    name: str
    stored: bool


Value: TypeAlias = "str | Constant | None"
Translated: TypeAlias = "Value | tuple[Value, ...]"


@dataclass(frozen=True)
class Op:
    """A node to translate.

    Attributes:
        kind: its operator, like "Conv".
        version: of the operator set.
        place: its name, or its output's.
        inputs: their values; None where an optional one is left out.
        outputs: names of its results; "" where one is left out.
        attrs: its attributes as Python values.
        batch: examples of one call of the file.
        draft: where the nodes go.
    """

    kind: str
    version: int
    place: str
    inputs: Sequence[Value]
    outputs: Sequence[str]
    attrs: Mapping[str, Any]
    batch: int
    draft: Draft

    def refuse(self, what: str, do: str) -> UnsupportedOperatorError:
        """The error to raise when this use of the operator has no place in the graph."""
        return UnsupportedOperatorError(f"{self.kind} {what}", where=self.place, do=do)

    def tensor(self, index: int = 0) -> str:
        """The input, which must depend on the network's input."""
        value = self.inputs[index]
        if not isinstance(value, str):
            raise self.refuse(f"has a constant as its input {index}", "let it work on what the network computes")
        return value

    def shape(self, index: int = 0) -> Shape:
        """Shape of an input that is a tensor, batch 1."""
        return self.draft.shapes[self.tensor(index)]

    def constant(self, index: int, what: str) -> Constant | None:
        """The input, which must be a constant; None where it is left out."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(value, str):
            raise self.refuse(f"has {what} that depend on the input", "use fixed ones")
        return value

    def setting(self, name: str, index: int | None = None, default: Any = None) -> Any:
        """A setting by attribute or by input, as Python numbers or lists; the default where neither is there."""
        given = self.constant(index, f"{name!r}") if index is not None else None
        if given is not None:
            return given.array.tolist()
        return self.attrs.get(name, default)

    def axis(self, axis: int, rank: int) -> int:
        """The axis counted from the front; the batch axis is refused."""
        if not -rank <= axis < rank:
            raise self.refuse(f"has axis {axis} of a tensor of {rank}", "export the file again")
        axis %= rank
        if axis == 0:
            raise self.refuse("works across the batch", "keep the examples of a batch apart, first axis = batch")
        return axis

    def emit(
        self,
        op: str,
        *inputs: str,
        part: str = "",
        attrs: Mapping[str, Any] | None = None,
        params: Mapping[str, str | None] | None = None,
        module: str = "",
    ) -> str:
        """Add a node; `part` tells apart the nodes of an operator that becomes several, the last one has none."""
        name = f"{self.outputs[0]}.{part}" if part else self.outputs[0]
        held = {role: key for role, key in (params or {}).items() if key is not None}
        return self.draft.node(op, inputs, name, module=module or self.place, attrs=attrs, params=held)

    def keep(self, constant: Constant, change: Callable[[FloatArray], FloatArray] = lambda array: array) -> str:
        """Store a constant under its own name as a float32 parameter, after `change`."""
        return self.draft.keep(constant.name, change(self.floats(constant)))

    def floats(self, constant: Constant) -> FloatArray:
        """A constant as float32."""
        if constant.array.dtype.kind not in "fiub" and constant.array.dtype.name not in ("bfloat16", "float16"):
            raise self.refuse(f"has a constant of {constant.array.dtype}", "use floats")
        return np.array(constant.array, np.float32, order="C")

    def arithmetic(self, op: str, source: str, constant: Constant | float, *, part: str = "") -> str:
        """An add or mul of a constant that broadcasts to the tensor's axes."""
        rank = len(self.draft.shapes[source])
        stored = isinstance(constant, Constant) and constant.stored
        array = self.floats(constant) if isinstance(constant, Constant) else np.array(constant, np.float32)
        while array.ndim > rank and array.shape[0] == 1:
            array = array[0]
        if array.ndim > rank:
            raise self.refuse("broadcasts a tensor to more axes", "reshape it first, batch first")
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        if array.shape[0] != 1:
            if not (array == array[:1]).all():
                raise self.refuse("has a constant per example of the batch", "use one constant for all examples")
            array = np.ascontiguousarray(array[:1])
        trains = stored and array.size > 1
        name = constant.name if isinstance(constant, Constant) else ""
        key = self.draft.keep(name or f"{self.outputs[0]}{'.' * bool(part)}{part}.value", array)
        attrs = {} if trains else {"fixed": True}
        return self.emit(op, source, part=part, attrs=attrs, params={"value": key})

    def reshape(self, source: str, shape: Sequence[int], part: str = "") -> str:
        """The tensor in another shape, batch 1 first."""
        if prod(self.draft.shapes[source]) != prod(shape):
            raise self.refuse(f"turns {self.draft.shapes[source]} into {tuple(shape)}", "export the file again")
        return self.emit("reshape", source, part=part, attrs={"shape": tuple(shape)})

    def transpose(self, source: str, perm: Sequence[int], part: str = "") -> str:
        """The tensor with its axes in another order; the batch stays first."""
        return self.emit("transpose", source, part=part, attrs={"perm": tuple(perm)})


Translator: TypeAlias = Callable[[Op], Translated]
