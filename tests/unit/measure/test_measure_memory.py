"""Memory and cold start of fresh processes: what they count, and how they fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgehone.errors import HostError, InputError, MissingExtraError, ModelFileError
from edgehone.exporters import EXPORTERS
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.runtimes import reference_graph
from edgehone_agent.measure import memory
from edgehone_agent.measure.memory import measure_fresh_process
from edgehone_agent.measure.probe import main


def write(path: Path, *, wide: int = 0) -> Path:
    """The reference network, or one whose weights take `wide` x 4 kB."""
    graph = reference_graph()
    if wide:
        build = GraphBuilder((1, 1024))
        graph = build.graph(build.linear(build.input, wide))
    path.write_bytes(EXPORTERS.get("tflite").export(graph))
    return path


def test_a_larger_model_takes_more_memory_of_its_own(tmp_path: Path) -> None:
    small = measure_fresh_process(write(tmp_path / "s.tflite"), "litert", repeats=2)
    large = measure_fresh_process(write(tmp_path / "l.tflite", wide=8192), "litert", repeats=2)
    assert large.model_bytes - small.model_bytes > 30_000_000  # 33.5 MB of weights
    assert abs(large.bare_bytes - small.bare_bytes) < 3_000_000
    assert large.peak_bytes == pytest.approx(large.bare_bytes + large.model_bytes)
    assert small.repeats == 2
    assert small.first_run_ms > 0 and 0 < small.import_ms < small.cold_start_ms


def test_memory_of_this_process_does_not_leak_into_the_figure(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tflite")
    before = measure_fresh_process(path, "litert", repeats=1).peak_bytes
    ballast = np.ones(50_000_000)  # 400 MB: ru_maxrss of a child would show them
    after = measure_fresh_process(path, "litert", repeats=1).peak_bytes
    assert ballast[-1] == 1
    assert abs(after - before) < 5_000_000


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    measure_fresh_process(write(tmp_path / "s.tflite"), "litert", repeats=1, progress=lambda *at: told.append(at))
    assert told == [(1, 1)]


def test_a_refused_file_is_the_same_error_as_here(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelFileError, match="TFL3") as caught:
        measure_fresh_process(path, "litert", repeats=1)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"threads": 0}, {"threads": 10_000}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        measure_fresh_process(write(tmp_path / "s.tflite"), "litert", **wrong)


def _answer(returncode: int, out: str = "", err: str = "") -> object:
    return lambda *_, **__: subprocess.CompletedProcess([], returncode, out, err)


MISSING = '{"error": {"code": "EH310", "what": "not there", "where": "", "do": "pip install"}}'


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (_answer(-11), ModelFileError, "dies on this file .SIGSEGV."),
        (_answer(1, err="Traceback\nMemoryError"), HostError, "MemoryError"),
        (_answer(0, MISSING), MissingExtraError, "not there"),
    ],
)
def test_a_process_that_fails_is_told_apart(
    answer: object, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory.subprocess, "run", answer)
    with pytest.raises(kind, match=said):
        measure_fresh_process(tmp_path / "m.tflite", "litert", repeats=1)


def test_a_process_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(memory.subprocess, "run", hang)
    with pytest.raises(HostError, match="120 s"):
        measure_fresh_process(tmp_path / "m.tflite", "litert", repeats=1)


def test_the_probe_writes_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["litert", "1", str(write(tmp_path / "m.tflite"))]) == 0
    assert '"first_run_s"' in capsys.readouterr().out
    assert main(["litert", "1", str(tmp_path / "missing.tflite")]) == 0
    assert '"EH110"' in capsys.readouterr().out
