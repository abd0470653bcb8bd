"""The contract of an exporter, as tests to inherit.

    class TestMyExporter(ExporterContract):
        @pytest.fixture
        def exporter(self):
            return my_exporter

Every file is opened by every registered runtime that takes its suffix: a format that none can read is not exported.
Asked on networks of every shape; single operators, and which kernels a runtime picks, are for the exporter's own tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgehone.errors import UnsupportedOperatorError
from edgehone.exporters import Exporter, InputOutput
from edgehone.graph.embedding import find_embedding
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph, Node
from edgehone.graph.network import GraphNetwork
from edgehone.graph.quantized import QuantizedGraph
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.testing.expect import expect, identical, untouched
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone_agent.model import Model, to_file
from edgehone_agent.runtimes import RUNTIMES, Runtime, Session

KINDS = ("resnet8", "mobilenet", "se-net", "shuffle-net", "conv1d-net", "mlp", "autoencoder")
RELATIVE_ERROR = 1e-5  # of a float file, to the largest answer
LEVELS = 1.0  # mean distance of an int8 file from the twin; each layer may round one level the other way
_EXAMPLES = 32


@dataclass(frozen=True)
class Reference:
    """A reference network with the answers its files must give.

    Attributes:
        graph, quantized: what the files are written from.
        x: (N, *input) readings, those that it was calibrated on.
        floats, levels: (N, *output) answers of `GraphNetwork`, and of the twin as floats.
    """

    graph: Graph
    quantized: QuantizedGraph
    x: NDArray[np.float32]
    floats: NDArray[np.float32]
    levels: NDArray[np.float32]


@cache
def reference(name: str) -> Reference:
    """A reference network, deployed and quantized."""
    x = torch.randn((_EXAMPLES, *example_shape(name)[1:]), generator=torch.Generator().manual_seed(4))
    graph = deploy(trace(NETWORKS[name](), x[:2]))
    twin = Twin(graph).eval()
    twin.calibrate([x])
    with torch.no_grad():
        floats, levels = GraphNetwork(graph).eval()(x).numpy(), twin(x).numpy()
    return Reference(graph, twin.to_quantized(), x.numpy(), floats, levels)


class ExporterContract:
    """What every exporter keeps."""

    @pytest.fixture
    def exporter(self) -> Exporter:
        """The exporter under test."""
        raise NotImplementedError("define a fixture called exporter")

    @pytest.fixture(params=KINDS)
    def case(self, request: pytest.FixtureRequest) -> Reference:
        """A network to write."""
        return reference(request.param)

    def test_names_itself(self, exporter: Exporter) -> None:
        expect(bool(exporter.name), "an exporter has a name")
        expect(exporter.suffix.startswith(".") and exporter.suffix.islower(), f"{exporter.suffix!r} is no suffix")

    def test_the_same_graph_gives_the_same_bytes(self, exporter: Exporter, case: Reference) -> None:
        for source in (case.graph, case.quantized):
            one, two = (exporter.export(source) for _ in range(2))
            expect(one == two, f"two files of one {type(source).__name__} differ")

    def test_the_graph_is_left_alone(self, exporter: Exporter, case: Reference) -> None:
        for source in (case.graph, case.quantized):
            with untouched(source):
                exporter.export(source)

    def test_a_float_file_computes_what_the_graph_does(
        self, exporter: Exporter, case: Reference, tmp_path: Path
    ) -> None:
        allowed = RELATIVE_ERROR * np.abs(case.floats).max()
        for runtime, found in _answers(exporter, exporter.export(case.graph), case.x, tmp_path):
            expect(found.shape == case.floats.shape, f"{runtime.name} answers {found.shape}, not {case.floats.shape}")
            off = np.abs(found - case.floats).max()
            expect(off <= allowed, f"{runtime.name} is off by {off:.3g}; {allowed:.3g} is rounding")

    @pytest.mark.parametrize("io", get_args(InputOutput))
    def test_an_int8_file_computes_what_the_twin_does(
        self, exporter: Exporter, case: Reference, io: InputOutput, tmp_path: Path
    ) -> None:
        grid = case.quantized.tensors[case.quantized.graph.output]
        expected = grid.quantize(case.levels).astype(np.int64)
        for runtime, found in _answers(exporter, exporter.export(case.quantized, io=io), case.x, tmp_path):
            expect(found.shape == expected.shape, f"{runtime.name} answers {found.shape}, not {expected.shape}")
            off = np.abs(grid.quantize(found).astype(np.int64) - expected).mean()
            expect(off <= LEVELS, f"{runtime.name} is {off:.2f} levels from the twin on average; {LEVELS} are allowed")

    @pytest.mark.parametrize("int8", [False, True])
    def test_an_embedding_is_a_second_output_and_changes_no_answer(
        self, exporter: Exporter, case: Reference, int8: bool, tmp_path: Path
    ) -> None:
        source = case.quantized if int8 else case.graph
        plain, wider = exporter.export(source), exporter.export(source, embedding=True)
        expect(
            plain == exporter.export(source, embedding=False), "no embedding is what is written unless it is asked for"
        )
        wanted = find_embedding(case.graph)
        answers = dict(_sessions(exporter, plain, tmp_path))
        for runtime, session in _sessions(exporter, wider, tmp_path):
            expect(
                (session.embedding is None) == (wanted is None), f"{runtime} finds the embedding {session.embedding}"
            )
            for row in to_file(session, case.x[:4])[:, None]:
                before = answers[runtime].run(row)
                found = session.run(row) if wanted is None else session.run_with_embedding(row)[0]
                expect(identical(before, found), f"{runtime}: the answer changes with the second output")

    @pytest.mark.parametrize("int8", [False, True])
    def test_the_embedding_is_what_the_last_layer_reads(
        self, exporter: Exporter, case: Reference, int8: bool, tmp_path: Path
    ) -> None:
        wanted = find_embedding(case.graph)
        if wanted is None:
            return
        source = case.quantized if int8 else case.graph
        body = exporter.export(_up_to(source, wanted))
        expected = dict(_sessions(exporter, body, tmp_path))
        for runtime, session in _sessions(exporter, exporter.export(source, embedding=True), tmp_path):
            for row in to_file(session, case.x[:4])[:, None]:
                _, found = session.run_with_embedding(row)
                info = session.embedding
                told = None if info is None else (info.shape, info.dtype)
                expect(told == (found.shape, found.dtype.name), f"{runtime} gives {found.shape}, and says {told}")
                np.testing.assert_allclose(found, expected[runtime].run(row), rtol=1e-5, atol=1 if int8 else 1e-6)

    def test_int8_is_smaller(self, exporter: Exporter, case: Reference) -> None:
        large, small = len(exporter.export(case.graph)), len(exporter.export(case.quantized))
        expect(small < large, f"the int8 file has {small} bytes, the float file {large}")

    def test_an_unknown_operator_is_refused_by_name(self, exporter: Exporter, case: Reference) -> None:
        graph = case.graph
        stranger = replace(graph.nodes[-1], op="fourier", module="head.fourier")
        strange = replace(graph, nodes=(*graph.nodes[:-1], stranger))
        for source in (strange, replace(case.quantized, graph=strange)):
            try:
                exporter.export(source)
            except UnsupportedOperatorError as error:
                expect("fourier" in error.what, f"the message does not name the operator: {error.what}")
                expect(error.where == "head.fourier", f"it stands in head.fourier, not in {error.where!r}")
            else:
                expect(False, "an operator that does not exist was written")


def _up_to(source: Graph | QuantizedGraph, name: str) -> Graph | QuantizedGraph:
    """The network that answers with one of its tensors."""
    if isinstance(source, QuantizedGraph):
        body = _up_to(source.graph, name)
        return replace(source, graph=body) if isinstance(body, Graph) else body
    end = next(place for place, node in enumerate(source.nodes) if node.output == name)
    needed, kept = {name}, list[Node]()
    for node in reversed(source.nodes[: end + 1]):
        if node.output in needed:
            needed.update(node.inputs)
            kept.insert(0, node)
    return source.with_nodes(tuple(kept), output=name)


def _sessions(exporter: Exporter, data: bytes, folder: Path) -> Iterator[tuple[str, Session]]:
    """Every runtime that takes the format, by name, with the file loaded."""
    path = folder / f"model{exporter.suffix}"
    path.write_bytes(data)
    for name in RUNTIMES.names():
        runtime = RUNTIMES.get(name)
        if exporter.suffix in runtime.suffixes:
            yield name, runtime.load(path)


def _answers(
    exporter: Exporter, data: bytes, x: NDArray[np.float32], folder: Path
) -> Iterator[tuple[Runtime, NDArray[np.float32]]]:
    """Every runtime that takes the format, with what it answers."""
    path = folder / f"model{exporter.suffix}"
    path.write_bytes(data)
    takers = [runtime for runtime in map(RUNTIMES.get, RUNTIMES.names()) if exporter.suffix in runtime.suffixes]
    expect(bool(takers), f"no registered runtime takes {exporter.suffix} files")
    for runtime in takers:
        with Model(runtime.load(path)) as model:
            yield runtime, model.predict(x)
