"""The .onnx format: float32 from a deployed graph, int8 (as a QDQ model) from a quantized one.

- Layout is torch's: (N, C, H, W), (N, C, L) or (N, F), and the batch N is free. Input and output are float32, called
  "input" and "output", in both kinds of file; so is the second output "embedding", where asked for.
- int8 activations are stored as uint8, 128 levels up. Weights are int8, one scale per output channel; biases int32.
- Every operator stands between DequantizeLinear and QuantizeLinear, so that any runtime can compute the file in floats
  and ONNX Runtime replaces each such group by one integer kernel:

    operator                           integer kernel in ONNX Runtime (CPU)
    conv, linear, add, mul             QLinearConv, QGemm, QLinearAdd, QLinearMul
    relu, relu6, fused                 none needed: levels saturate at 0 (and 6)
    relu, relu6, alone; requantize     QLinearLeakyRelu (slope 0; slope 1), a table look-up
    leaky_relu, sigmoid, softmax       QLinearLeakyRelu, QLinearSigmoid, QLinearSoftmax
    tanh                               QLinearSigmoid of the doubled input
    hard_swish                         QLinearAdd that saturates, QLinearMul
    sub                                QLinearMul by -1, QLinearAdd
    mean, avg_pool, concat             QLinearGlobalAveragePool, QLinearAveragePool, QLinearConcat
    max_pool, slice, reshape,          MaxPool, Slice, Reshape or Flatten, Transpose, Pad, on uint8
      transpose, pad
    resize nearest                     Resize on uint8; Gather when places are not all repeated alike
    resize bilinear                    none: Resize in floats
    relu6 on levels that reach above   none: Clip in floats, behind the integer kernel
      6, as a concat may ask for

Format: ONNX operator set 14, IR version 7.
"""

from __future__ import annotations

from edgehone.errors import NetworkError, UnsupportedOperatorError
from edgehone.exporters import InputOutput
from edgehone.exporters._onnx_lowering import Lowering
from edgehone.exporters._onnx_operators import OPERATORS
from edgehone.graph.embedding import with_embedding
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph


class OnnxExporter:
    """Writes .onnx files; see `Exporter`."""

    name = "onnx"
    suffix = ".onnx"

    def export(
        self,
        graph: Graph | QuantizedGraph,
        *,
        io: InputOutput = "int8",  # noqa: ARG002
        embedding: bool = False,
    ) -> bytes:
        """The file's bytes; the same graph gives the same bytes.

        Args:
            graph: a deployed graph for a float32 file, a quantized graph for an int8 file.
            io: without effect, since input and output are always float32.
            embedding: whether the file has a second output, see `Exporter`.

        Raises:
            UnsupportedOperatorError: an operator, or a setting of it, that the format does not have.
            NetworkError: the network computes nothing.
        """
        graph, second = with_embedding(graph) if embedding else (graph, None)
        network, quantized = (graph.graph, graph) if isinstance(graph, QuantizedGraph) else (graph, None)
        if network.output == network.input:
            raise NetworkError("the network returns its input", do="export a network that computes something")
        low = Lowering(network, quantized)
        for node in network.nodes:
            if node.op not in OPERATORS:
                raise UnsupportedOperatorError(
                    f"{node.op} is not an operator of .onnx", where=node.module, do="deploy the graph first"
                )
            OPERATORS[node.op](low, node)
        return low.finish(second)


exporter = OnnxExporter()
