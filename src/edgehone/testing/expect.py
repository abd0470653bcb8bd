"""What all contract suites ask with: a reason for every failure, a graph left alone, a source that is cited."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph

_SOURCE = re.compile(r"(?:[A-Z]\w+|et al\.),?\s+\(?(?:19|20)\d\d\b")  # an author, then the year


def expect(holds: bool, otherwise: str) -> None:
    """Fail the running test with a reason unless something holds."""
    if not holds:
        pytest.fail(otherwise)


def identical(a: object, b: object) -> bool:
    """Whether two values of plain data are the same, arrays bit for bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if is_dataclass(a) and not isinstance(a, type):
        return all(identical(getattr(a, item.name), getattr(b, item.name)) for item in fields(a))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


@contextmanager
def untouched(graph: Graph | QuantizedGraph) -> Iterator[None]:
    """Fail when what happens inside changes the graph: a node, a shape, or one bit of an array."""
    before = copy.deepcopy(graph)
    yield
    expect(identical(before, graph), "the graph that was handed in has changed")


def cites_a_source(extension: object) -> bool:
    """Whether the docstring of the file that defines an extension names a paper: an author, then the year."""
    return bool(_SOURCE.search(inspect.getdoc(inspect.getmodule(type(extension))) or ""))
