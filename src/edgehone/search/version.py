"""A version of the network: its trained graph, its integers, and the files written from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgehone.exporters import EXPORTERS
from edgehone.graph.cost import macs, node_macs, peak_activation_bytes
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph
from edgehone.recipe import Step
from edgehone.record import CurvePoint, FileRecord, LayerRecord
from edgehone.search.workspace import Workspace
from edgehone_agent.measure.size import measure_size
from edgehone_agent.wire.measurement import Measurement

ORIGINAL = "original"
FORMATS: Mapping[str, str] = {"tflite": "litert", "onnx": "onnxruntime"}
"""Format of every exported file → the runtime that judges it; the first is the main one."""


@dataclass(frozen=True)
class Version:
    """The original (no integers) or a member.

    Attributes:
        name, parent, recipe: as in the record.
        graph: the training graph.
        quantized: the integers; None for the original.
        curve, seconds: of its recovery.
    """

    name: str
    parent: str | None
    graph: Graph
    quantized: QuantizedGraph | None = None
    recipe: tuple[Step, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    seconds: float = 0.0

    @property
    def folder(self) -> str:
        """Its folder inside the study's."""
        return ORIGINAL if self.name == ORIGINAL else f"members/{self.name}"

    def file(self, format_name: str) -> str:
        """Path of one of its files inside the study's folder."""
        return f"{self.folder}/model{EXPORTERS.get(format_name).suffix}"


def export(version: Version, workspace: Workspace) -> tuple[FileRecord, ...]:
    """Write every format of a version into the study's folder and say what was written.

    The files carry their embedding, so that the file that was judged is the file whose embedding a node watches.
    """
    source: Graph | QuantizedGraph = version.quantized or deploy(version.graph)
    records = []
    for name in FORMATS:
        path = version.file(name)
        size = measure_size(workspace.put(path, EXPORTERS.get(name).export(source, embedding=True)))
        records.append(FileRecord(path, name, size.raw_bytes, size.compressed_bytes, size.sha256))
    return tuple(records)


def working_memory(version: Version, place: str) -> Measurement:
    """Peak activation memory of one inference, as a greedy arena plan over tensor lifetimes gives it."""
    graph = version.quantized.graph if version.quantized else deploy(version.graph)
    value = peak_activation_bytes(graph, bytes_per_value=1 if version.quantized else 4)
    return Measurement(value, "bytes", "arena planned over tensor lifetimes", place, 1, kind="estimated")


def layers(original: Graph, graph: Graph) -> tuple[LayerRecord, ...]:
    """Every conv and linear layer of a version beside the original's."""
    before = {node.output: original.params[node.params["weight"]].shape[0] for node in original.weighted()}
    records = []
    for node in graph.weighted():
        weight = graph.params[node.params["weight"]]
        norms = np.linalg.norm(weight.reshape(len(weight), -1), axis=1)
        counts, _ = np.histogram(norms / max(float(norms.max()), 1e-12), bins=10, range=(0.0, 1.0))
        records.append(
            LayerRecord(
                name=node.module or node.output,
                op=node.op,
                width_before=before.get(node.output, len(weight)),
                width_after=len(weight),
                macs=node_macs(graph, node),
                magnitudes=tuple(int(count) for count in counts),
            )
        )
    return tuple(records)


def name_of(graph: Graph, original: Graph) -> str:
    """A name that decodes: "w40-int8" keeps 40 % of the original's multiply-accumulates."""
    return f"w{max(1, round(100 * macs(graph) / macs(original)))}-int8"
