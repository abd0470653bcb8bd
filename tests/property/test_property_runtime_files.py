"""Damaged model files: a runtime refuses them or runs them, and never takes the process down.

The loading happens in a process of its own, so that a crash in the library fails the test instead of ending it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgehone.exporters import EXPORTERS
from edgehone.testing.runtimes import reference_graph

LOADER = """
import sys
from pathlib import Path
import numpy as np
from edgehone_agent.errors import InputError, ModelFileError
from edgehone_agent.model import open_model
for line in sys.stdin:
    try:
        with open_model(Path(line.strip())) as model:
            model.session.run(np.zeros(model.session.input.shape, model.session.input.dtype))
        outcome = "ran"
    except ModelFileError:
        outcome = "file refused"
    except InputError:
        outcome = "input refused"
    print(outcome, flush=True)
"""


class Loader:
    """Loads and runs files in another process; starts a new one when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def outcome(self, path: Path) -> str:
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen([sys.executable, "-c", LOADER], text=True, **pipes)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            answer = f"died with {self._process.wait()}"
            self.close()
        return answer

    def close(self) -> None:
        if self._process is not None and self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
        self._process = None


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    loader = Loader()
    yield loader
    loader.close()


def _onnx_file() -> bytes:
    """Conv and ReLU with a free batch, written by onnx's own helper."""
    weight = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    values = {"x": ["n", 3, 5, 4], "y": ["n", 2, 3, 2]}
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()}
    graph = helper.make_graph(nodes, "test", [ends["x"]], [ends["y"]], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


FILES = {".tflite": EXPORTERS.get("tflite").export(reference_graph()), ".onnx": _onnx_file()}


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file cut short, or with a few bytes changed."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    positions = st.integers(0, len(content) - 1)
    for position, value in draw(st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=4)):
        changed[position] = value
    return bytes(changed)


@pytest.mark.parametrize("suffix", sorted(FILES))
def test_intact_files_run(suffix: str, loader: Loader, tmp_path: Path) -> None:
    path = tmp_path / f"intact{suffix}"
    path.write_bytes(FILES[suffix])
    assert loader.outcome(path) == "ran"


@pytest.mark.parametrize("suffix", sorted(FILES))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_crash(suffix: str, loader: Loader, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data.draw(damaged(FILES[suffix])))
    assert loader.outcome(path) in ("ran", "file refused", "input refused")
