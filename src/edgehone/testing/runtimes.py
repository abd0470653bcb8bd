"""The contract of an inference runtime, as tests to inherit.

    class TestMyRuntime(RuntimeContract):
        @pytest.fixture
        def runtime(self):
            return my_runtime

That is all for a runtime whose files one of our exporters writes; another one overrides `model_file` and writes
`reference_graph()` in its own format. Everything a session promises in `edgehone_agent.runtimes` is asked here.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from edgehone.exporters import EXPORTERS
from edgehone.graph.ir import Graph, Node
from edgehone.testing.expect import expect
from edgehone.testing.graphs import GraphBuilder
from edgehone_agent.errors import InputError, ModelFileError
from edgehone_agent.model import Model, example_shape, to_file
from edgehone_agent.runtimes import Runtime

EXAMPLE = (3, 9, 7)  # channels, height and width all differ: a layout that is mixed up cannot fit
CLASSES = 5


def reference_graph() -> Graph:
    """A float network whose answer depends on every axis: conv, ReLU, mean, linear; (1, 3, 9, 7) → (1, 5)."""
    build = GraphBuilder((1, *EXAMPLE), seed=3)
    x = build.node("relu", build.conv(build.input, 4, bias=True))
    return build.graph(build.linear(build.node("mean", x, axes=(2, 3), keepdim=False), CLASSES))


def reference_answer(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network says to a batch (N, 3, 9, 7), computed by torch from the parameters: (N, 5)."""
    _, linear = reference_graph().weighted()
    answer = F.linear(torch.from_numpy(reference_embedding(x)), _tensor(linear, "weight"), _tensor(linear, "bias"))
    return np.asarray(answer.numpy(), np.float32)


def reference_embedding(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the linear layer of the network reads for a batch (N, 3, 9, 7), computed by torch: (N, 4)."""
    conv, _ = reference_graph().weighted()
    hidden = F.relu(F.conv2d(torch.from_numpy(x), _tensor(conv, "weight"), _tensor(conv, "bias"), padding=1))
    return np.asarray(hidden.mean(dim=(2, 3)).numpy(), np.float32)


def _tensor(node: Node, role: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(reference_graph().param(node, role)))


def _written(runtime: Runtime, folder: Path, *, embedding: bool) -> Path:
    exporters = map(EXPORTERS.get, EXPORTERS.names())
    exporter = next(found for found in exporters if found.suffix in runtime.suffixes)
    path = folder / f"{'embedding' if embedding else 'reference'}{exporter.suffix}"
    path.write_bytes(exporter.export(reference_graph(), embedding=embedding))
    return path


def _readings(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((n, *EXAMPLE), np.float32)


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class RuntimeContract:
    """What every runtime keeps. Tests run in a folder of their own and never measure time."""

    @pytest.fixture
    def runtime(self) -> Runtime:
        """The runtime under test."""
        raise NotImplementedError("define a fixture called runtime")

    @pytest.fixture
    def model_file(self, runtime: Runtime, tmp_path: Path) -> Path:
        """`reference_graph()` as a float32 file of the runtime's format."""
        return _written(runtime, tmp_path, embedding=False)

    @pytest.fixture
    def embedding_file(self, runtime: Runtime, tmp_path: Path) -> Path:
        """The same with a second output, what the linear layer reads."""
        return _written(runtime, tmp_path, embedding=True)

    def test_names_itself(self, runtime: Runtime) -> None:
        expect(bool(runtime.name) and bool(runtime.version()), "a runtime has a name and a version")
        expect(all(suffix.startswith(".") for suffix in runtime.suffixes), "a suffix starts with a dot")

    def test_equals_the_float_reference(self, runtime: Runtime, model_file: Path) -> None:
        session = runtime.load(model_file)
        expect(example_shape(session.input, session.layout) == EXAMPLE, f"the input is {session.input}")
        x = _readings(4)
        with Model(session) as model:
            np.testing.assert_allclose(model.predict(x), reference_answer(x), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(model.predict(x[0]), reference_answer(x)[0], rtol=1e-4, atol=1e-5)

    def test_the_answer_is_the_callers_to_keep(self, runtime: Runtime, model_file: Path) -> None:
        with Model(runtime.load(model_file)) as model:
            session, x = model.session, to_file(model.session, _readings(2))
            first = session.run(x[:1])
            kept = first.copy()
            session.run(x[1:])
            np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(first, kept)

    def test_wrong_input_is_an_input_error(self, runtime: Runtime, model_file: Path) -> None:
        session = runtime.load(model_file)
        good = np.zeros(session.input.shape, session.input.dtype)
        for wrong in (good[..., :-1], good[0], good.astype(np.float64), np.zeros(0, session.input.dtype)):
            with pytest.raises(InputError):
                session.run(wrong)
        expect(session.run(good).shape == session.output.shape, "a refused input must not spoil the session")
        session.close()

    def test_a_file_with_one_output_has_no_embedding(self, runtime: Runtime, model_file: Path) -> None:
        session = runtime.load(model_file)
        x = np.zeros(session.input.shape, session.input.dtype)
        expect(session.embedding is None, f"the file has one output, and the session finds {session.embedding}")
        with pytest.raises(InputError, match="no embedding"):
            session.run_with_embedding(x)
        expect(session.run(x).shape == session.output.shape, "a refused call must not spoil the session")
        session.close()

    def test_a_second_output_is_the_embedding(self, runtime: Runtime, model_file: Path, embedding_file: Path) -> None:
        x = _readings(2)
        plain, session = runtime.load(model_file), runtime.load(embedding_file)
        rows = to_file(session, x)[:, None]
        expect(session.output.shape == plain.output.shape, f"the answer is the first output, not {session.output}")
        first, embedding = session.run_with_embedding(rows[0])
        kept = embedding.copy()
        for found, row in ((first, rows[0]), (session.run(rows[1]), rows[1])):
            np.testing.assert_allclose(found, plain.run(row), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(embedding, kept)
        np.testing.assert_allclose(embedding.reshape(-1), reference_embedding(x)[0], rtol=1e-4, atol=1e-5)
        info = session.embedding
        expect(info is not None and info.shape == embedding.shape, f"{info} does not tell its shape")
        told = json.loads(json.dumps(session.describe()))
        expect("embedding" in told, "describe() does not name the embedding")
        with pytest.raises(InputError):
            session.run_with_embedding(rows[0][..., :-1])
        session.close()
        with pytest.raises(InputError):
            session.run_with_embedding(rows[0])

    def test_a_bad_file_is_a_model_file_error(self, runtime: Runtime, model_file: Path, tmp_path: Path) -> None:
        content, bad = model_file.read_bytes(), tmp_path / f"bad{model_file.suffix}"
        kinds = {"empty": b"", "text": b"not a model\n" * 50, "half": content[: len(content) // 2], "head": content[:9]}
        for kind, damaged in kinds.items():
            bad.write_bytes(damaged)
            with pytest.raises(ModelFileError) as caught:
                runtime.load(bad)
            expect(caught.value.where == str(bad), f"{kind}: the message must name the file")
        for missing in (tmp_path / f"missing{model_file.suffix}", tmp_path):
            with pytest.raises(ModelFileError):
                runtime.load(missing)

    def test_sessions_are_independent(self, runtime: Runtime, model_file: Path) -> None:
        x = _readings(2)
        first, second = Model(runtime.load(model_file)), Model(runtime.load(model_file))
        before = first.predict(x[0])
        second.predict(x[1])
        np.testing.assert_array_equal(first.predict(x[0]), before)
        first.close()
        np.testing.assert_array_equal(second.predict(x[0]), before)
        second.close()

    def test_a_file_may_go_away_once_it_is_loaded(self, runtime: Runtime, model_file: Path) -> None:
        with Model(runtime.load(model_file)) as model:
            before = model.predict(_readings(1))
            model_file.write_bytes(b"")
            model_file.unlink()
            np.testing.assert_array_equal(model.predict(_readings(1)), before)

    def test_closing_twice_is_fine_and_running_after_is_not(self, runtime: Runtime, model_file: Path) -> None:
        session = runtime.load(model_file)
        session.close()
        session.close()
        with pytest.raises(InputError):
            session.run(np.zeros(session.input.shape, session.input.dtype))

    def test_describes_itself_in_json(self, runtime: Runtime, model_file: Path) -> None:
        session = runtime.load(model_file)
        told = json.loads(json.dumps(session.describe()))
        session.close()
        expect(told["runtime"] == runtime.name, f"describe() names {told.get('runtime')!r}")
        expect({"version", "threads", "input", "output", "accelerator"} <= set(told), f"it lacks a field: {told}")

    def test_threads_are_bounded(self, runtime: Runtime, model_file: Path) -> None:
        runtime.load(model_file).close()  # what the library starts once per process does not count
        before = _threads()
        session = runtime.load(model_file, threads=1)
        session.run(np.zeros(session.input.shape, session.input.dtype))
        expect(_threads() <= before, f"one thread was asked for, {_threads() - before} were started")
        session.close()
        for refused in (0, -1, len(os.sched_getaffinity(0)) + 1):
            with pytest.raises(InputError):
                runtime.load(model_file, threads=refused)

    def test_memory_comes_back_after_close(self, runtime: Runtime, model_file: Path) -> None:
        x = np.zeros(runtime.load(model_file).input.shape, np.float32)

        def load_and_run(times: int) -> int:
            for _ in range(times):
                session = runtime.load(model_file)
                session.run(x)
                session.close()
            gc.collect()
            return _resident_bytes()

        before = load_and_run(30)
        grown = load_and_run(150) - before
        # The smallest leak of a whole session is its arena and weights; allocators keep a few pages of their own.
        expect(grown < 4_000_000, f"150 loads left {grown} bytes behind")
