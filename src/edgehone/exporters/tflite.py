"""The .tflite format: float32 from a deployed graph, int8 (with int8 or float32 ends) from a quantized one.

- The batch is 1. Pictures are channels-last: a torch input (1, C, H, W) is (1, H, W, C) in the file, a torch (1, C, L)
  is (1, 1, L, C); inputs and outputs of other ranks are as in torch.
- One signature, `serving_default`, from "input" to "output" and, where asked for, "embedding"; tensors in between have
  numbers for names.
- The embedding of an int8 file is int8, whatever its ends are: it is a tensor that the file computes anyhow.
- Everything is inside the flatbuffer, so that runtimes for microcontrollers find it.

Format: TensorFlow Lite schema version 3, and its 8-bit quantization specification.
"""

from __future__ import annotations

from edgehone.errors import NetworkError, UnsupportedOperatorError
from edgehone.exporters import InputOutput
from edgehone.exporters._tflite_layout import file_shape
from edgehone.exporters._tflite_lowering import MOVES, Lowering
from edgehone.exporters._tflite_operators import OPERATORS
from edgehone.graph.embedding import with_embedding
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph


class TfliteExporter:
    """Writes .tflite files; see `Exporter`."""

    name = "tflite"
    suffix = ".tflite"

    def export(self, graph: Graph | QuantizedGraph, *, io: InputOutput = "int8", embedding: bool = False) -> bytes:
        """The file's bytes; the same graph gives the same bytes.

        Args:
            graph: a deployed graph for a float32 file, a quantized graph for an int8 file.
            io: dtype of the input and output of an int8 file.
            embedding: whether the file has a second output, see `Exporter`.

        Raises:
            UnsupportedOperatorError: an operator, or a setting of it, that the format does not have.
            NetworkError: the network computes nothing.
        """
        graph, second = with_embedding(graph) if embedding else (graph, None)
        network, quantized = (graph.graph, graph) if isinstance(graph, QuantizedGraph) else (graph, None)
        if network.output == network.input:
            raise NetworkError("the network returns its input", do="export a network that computes something")
        float_ends = quantized is not None and io == "float32"
        low = Lowering(network, quantized, output_name="" if float_ends else "output", embedding=second)
        first = self._input(low, float_ends)
        for node in network.nodes:
            if node.op not in OPERATORS:
                raise UnsupportedOperatorError(
                    f"{node.op} is not an operator of .tflite", where=node.module, do="deploy the graph first"
                )
            if node.op not in MOVES:
                low.require_rank(node)
            OPERATORS[node.op](low, node)
        last = low.read(network.output)
        if float_ends:
            written = last
            last = low.model.tensor(file_shape(network.output_shape), "float32", name="output")
            low.emit("DEQUANTIZE", [written], last)
        more = {} if second is None else {"embedding": low.read(second)}
        return low.model.finish(first, {"output": last, **more})

    def _input(self, low: Lowering, float_ends: bool) -> int:
        """The input tensor, and the quantization behind it when the file takes floats."""
        name, shape = low.graph.input, file_shape(low.graph.input_shape)
        if not float_ends:
            low.bind(name, low.scratch(name, shape, "input"))
            return low.read(name)
        given = low.model.tensor(shape, "float32", name="input")
        low.bind(name, low.scratch(name, shape))
        low.model.operator("QUANTIZE", [given], low.read(name), int8=False)
        return given


exporter = TfliteExporter()
