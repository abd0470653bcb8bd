"""Every exporter keeps the contract; one that breaks a rule is caught by that rule."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgehone.errors import UnsupportedOperatorError
from edgehone.exporters import EXPORTERS, Exporter
from edgehone.exporters.onnx import exporter as onnx
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph
from edgehone.testing.exporters import ExporterContract, reference

torch.set_num_threads(1)

Source = Graph | QuantizedGraph


class TestExporters(ExporterContract):
    @pytest.fixture(params=EXPORTERS.names())
    def exporter(self, request: pytest.FixtureRequest) -> Exporter:
        return EXPORTERS.get(request.param)


def test_the_pivot_formats_are_there() -> None:
    assert {"onnx", "tflite"} <= set(EXPORTERS.names())


@pytest.mark.parametrize("name", EXPORTERS.names())
def test_an_exporter_is_called_like_its_file(name: str) -> None:
    assert EXPORTERS.get(name).name == name


class Broken:
    """Writes .onnx files; `write` is where it goes wrong."""

    name = "broken"

    def __init__(self, write: Callable[[Source], bytes], suffix: str = ".onnx") -> None:
        self.write, self.suffix = write, suffix

    def export(self, graph: Source, *, io: str = "int8") -> bytes:
        return self.write(graph)


COUNT = itertools.count()


def in_place(source: Source) -> bytes:
    graph = source.graph if isinstance(source, QuantizedGraph) else source
    next(iter(graph.params.values())).flat[0] += 1.0
    return b""


def without_bias(source: Source) -> bytes:
    if isinstance(source, QuantizedGraph):
        return onnx.export(
            replace(source, weights={k: replace(w, bias=np.zeros_like(w.bias)) for k, w in source.weights.items()})
        )
    return onnx.export(replace(source, params={k: v * (1 if v.ndim > 1 else 0) for k, v in source.params.items()}))


def nameless(source: Source) -> bytes:
    raise UnsupportedOperatorError("an operator is not known", where="head.fourier")


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        (Broken(lambda _: b"", "onnx"), "test_names_itself", "no suffix"),
        (Broken(lambda _: bytes(next(COUNT))), "test_the_same_graph_gives_the_same_bytes", "differ"),
        (Broken(in_place), "test_the_graph_is_left_alone", "has changed"),
        (Broken(without_bias), "test_a_float_file_computes_what_the_graph_does", "is off by"),
        (Broken(without_bias), "test_an_int8_file_computes_what_the_twin_does", "levels from the twin"),
        (Broken(onnx.export, ".mystery"), "test_a_float_file_computes_what_the_graph_does", "no registered runtime"),
        (Broken(lambda _: b"a"), "test_int8_is_smaller", "1 bytes"),
        (Broken(nameless), "test_an_unknown_operator_is_refused_by_name", "does not name"),
        (Broken(lambda _: b""), "test_an_unknown_operator_is_refused_by_name", "was written"),
    ],
)
def test_a_broken_exporter_is_caught(broken: Broken, rule: str, said: str, tmp_path: Path) -> None:
    method = getattr(ExporterContract(), rule)
    case = copy.deepcopy(reference("resnet8"))  # one of the broken ones changes it
    given = {"exporter": broken, "case": case, "io": "int8", "tmp_path": tmp_path}
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    with pytest.raises(pytest.fail.Exception, match=said):
        method(**{name: given[name] for name in wanted})
