"""On-disk formats. One format is one file that defines `exporter`; every exporter writes from the same graph.

A float file is written from a deployed `Graph`, an int8 file from a `QuantizedGraph`; the same graph gives the same
bytes, always. What a format cannot express is refused by operator name, never approximated.
"""

from __future__ import annotations

from typing import Literal, Protocol

from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph
from edgehone.plugins import Registry

InputOutput = Literal["int8", "float32"]


class Exporter(Protocol):
    """Writes one format."""

    name: str
    suffix: str

    def export(self, graph: Graph | QuantizedGraph, *, io: InputOutput = "int8", embedding: bool = False) -> bytes:
        """The file's bytes.

        Args:
            graph: a deployed graph for a float32 file, a quantized graph for an int8 file.
            io: dtype of the file's input and output when it is int8 inside; formats that know one kind ignore it.
            embedding: whether the file has a second output, what its last weighted layer reads; see
                `edgehone.graph.embedding`. The answer stays the same bit for bit. A network without a sensible
                embedding keeps one output.

        Raises:
            UnsupportedOperatorError: an operator or a setting of it that the format cannot express.
        """


EXPORTERS: Registry[Exporter] = Registry("exporter", package="edgehone.exporters", group="edgehone.exporters")

__all__ = ["EXPORTERS", "Exporter", "InputOutput"]
