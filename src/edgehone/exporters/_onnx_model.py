"""An ONNX model in the making: nodes, constants and names. Knows the format and nothing of graphs or quantization.

Values are named by number, since in a small file long names weigh as much as the weights, and nodes after what they
write: ONNX Runtime 1.20 makes names for new nodes out of old ones, and they must not clash. Equal constants are stored
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgehone.graph.ir import FloatArray, Shape

OPSET = 14  # of HardSwish, the youngest operator in use: runtimes on devices lag behind
_IR_VERSION = 7  # of the ONNX release that brought the opset

Data: TypeAlias = FloatArray | NDArray[np.uint8] | NDArray[np.int8] | NDArray[np.int32] | NDArray[np.int64]
Attribute: TypeAlias = int | float | str | list[int]


class ModelWriter:
    """Collects nodes in execution order; every method returns the name of the value it adds."""

    input = "input"

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, Shape, bytes], TensorProto] = {}
        self._count = 0

    def constant(self, data: Data) -> str:
        """A constant tensor; a number (rank 0) stays one, as scales and zero points must be."""
        key = (data.dtype.str, data.shape, data.tobytes())
        if key not in self._constants:
            # np.array, since np.ascontiguousarray makes a vector of a number
            self._constants[key] = numpy_helper.from_array(np.array(data, order="C"), self._name())
        return str(self._constants[key].name)

    def node(self, operator: str, inputs: Iterable[str], **attributes: Attribute) -> str:
        """An operator with one output; an input called "" is left out."""
        name = self._name()
        made = helper.make_node(operator, list(inputs), [name], name, **attributes)  # type: ignore[arg-type]
        self._nodes.append(made)
        return name

    def finish(self, input_shape: Shape, outputs: Mapping[str, tuple[str, Shape]]) -> bytes:
        """The file.

        Args:
            input_shape: of the input.
            outputs: what each output is called → the value and its shape. The batch of every shape is free.
        """
        called = {value: name for name, (value, _) in outputs.items()}
        for node in self._nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = called.get(name, name)
        given, *answered = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape[1:]])
            for name, shape in ((self.input, input_shape), *((name, shape) for name, (_, shape) in outputs.items()))
        )
        graph = helper.make_graph(self._nodes, "edgehone", [given], answered, list(self._constants.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="edgehone"
        )
        return bytes(model.SerializeToString(deterministic=True))

    def _name(self) -> str:
        self._count += 1
        return str(self._count)
