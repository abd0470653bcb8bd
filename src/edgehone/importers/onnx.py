"""The .onnx format: float networks, and int8 networks with QuantizeLinear and DequantizeLinear nodes (QDQ).

Operator sets 7 and later. One float32 input whose first axis is the batch, free or fixed; every other axis is fixed.
One float32 output; a second one called "embedding", as our own files have, is left out.

1. Functions of the file are written out. QuantizeLinear and DequantizeLinear go (`_onnx_levels.py`): weights become
   floats again, and a ReLU that only saturating levels expressed becomes a ReLU. We quantize anew afterwards.
2. Nodes are read in order (`_onnx_walk.py`). What depends on constants and shapes alone is computed at once; the rest
   goes to its translator: `_onnx_layers.py`, `_onnx_pointwise.py`, `_onnx_shapes.py`, `_onnx_resize.py`.
3. Several nodes that spell one of our operators become that operator (`_idioms.py`); the graph is simplified before, so
   that a hard-swish is seen before the numbers around it are joined, and after.
4. The graph and ONNX Runtime answer the same random inputs (`_onnx_check.py`): equal to 1e-4, or the file is refused.

A stored constant of several values in an add or a mul is a parameter and trains; a single number does not.
Specification: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgehone.graph.ir import Graph


class OnnxImporter:
    """Reads .onnx files; see `Importer`."""

    suffixes = (".onnx",)

    def read(self, path: Path) -> Graph:
        """The network of an .onnx file, in training form.

        Raises:
            ModelFileError: damaged, not ONNX, of an operator set before 7, or its external data is missing.
            NetworkError: several inputs or outputs, free axes besides the batch, another dtype than float32, or the
                graph answers otherwise than the file.
            UnsupportedOperatorError: an operator, or a use of it, that the graph does not hold; with the node's name.
        """
        from edgehone.graph.rewrite import simplify
        from edgehone.importers._idioms import join_idioms
        from edgehone.importers._onnx_check import check_answers
        from edgehone.importers._onnx_file import open_file
        from edgehone.importers._onnx_levels import without_levels
        from edgehone.importers._onnx_walk import read_model

        file = open_file(path)
        floats = without_levels(file)
        graph = simplify(join_idioms(simplify(read_model(floats))))
        check_answers(graph, file, floats)
        return graph


importer = OnnxImporter()
