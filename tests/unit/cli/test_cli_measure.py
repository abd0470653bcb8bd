"""`edgehone measure` through the real entry point, on files that the exporter writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.cli._measure_page import drop_sentence, noise_sentence, speed_sentence
from edgehone.cli.main import main
from edgehone.exporters import EXPORTERS
from edgehone.measure.drop import accuracy_drop
from edgehone.testing.graphs import GraphBuilder
from edgehone_agent.measure import latency, memory
from edgehone_agent.measure.latency import LatencyResult
from edgehone_agent.measure.noise import Noise

TASK = """
import numpy as np
import torch
from edgehone import Task

rng = np.random.default_rng(0)
x = rng.standard_normal((200, 64)).astype(np.float32)
y = np.arange(200) % 3
task = Task(name="toy", network=torch.nn.Linear(64, 3), train=(x, y), test=(x[:90], y[:90]), labels=("a", "b", "c"))
"""


def write(path: Path, widths: tuple[int, ...], seed: int = 0) -> Path:
    """A float .tflite file of linear layers, 64 values in."""
    build = GraphBuilder((1, 64), seed=seed)
    x = build.input
    for width in widths:
        x = build.linear(x, width)
    path.write_bytes(EXPORTERS.get("tflite").export(build.graph(x)))
    return path


@pytest.fixture
def one_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real probes of a fresh process, but each only once."""
    probe, seen = memory._probe, {}

    def once(*args: Any) -> dict[str, float]:
        if args not in seen:
            seen[args] = probe(*args)
        return seen[args]

    monkeypatch.setattr(memory, "_probe", once)


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def measured(one_fresh_process: None, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> dict[str, Any]:
        assert main(["measure", *map(str, arguments), "--json", "--rounds", "6"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


def test_one_file_in_json(measured: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", (3,))
    result = measured(path)
    (entry,) = result["files"]
    assert result["comparison"] is None
    assert entry["file"] == str(path)
    assert entry["session"]["runtime"] == "litert"
    assert entry["size"]["raw_bytes"] == path.stat().st_size
    assert entry["latency"]["rounds"] == 6
    assert 0 < entry["latency"]["low_us"] <= entry["latency"]["median_us"] <= entry["latency"]["high_us"]
    assert entry["fresh_process"]["peak_bytes"] > 10_000_000
    assert result["machine"]["cores"] >= 1
    assert "accuracy" not in entry


def _constant(latency_us: float) -> LatencyResult:
    """What a session that always takes the same time would give."""
    return LatencyResult(
        *(latency_us,) * 5, rounds=6, calls=3, noise=Noise(0.0, 0.0, "quiet"), round_us=(latency_us,) * 6
    )


@pytest.mark.parametrize(
    ("file_us", "verdict", "speedup"), [(50.0, "faster", 2.0), (200.0, "slower", 0.5), (100.0, "within noise", 1.0)]
)
def test_the_comparison_speaks_of_the_first_file(
    file_us: float, verdict: str, speedup: float, measured: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = {"file": _constant(file_us), "against": _constant(100.0)}
    monkeypatch.setattr(latency, "measure_latency", lambda *_, **__: found)
    path = write(tmp_path / "m.tflite", (3,))
    comparison = measured(path, "--against", path)["comparison"]
    assert comparison == {
        "verdict": verdict, "speedup": speedup, "speedup_low": speedup, "speedup_high": speedup
    }  # fmt: skip


def test_a_task_adds_accuracy_and_the_paired_drop(measured: Run, tmp_path: Path) -> None:
    task = tmp_path / "toy_task.py"
    task.write_text(TASK)
    first, second = write(tmp_path / "a.tflite", (3,)), write(tmp_path / "b.tflite", (3,), seed=1)
    result = measured(first, "--against", second, "--task", task)

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 64)).astype(np.float32)[:90], np.arange(90) % 3
    right = []
    for seed in (0, 1):
        build = GraphBuilder((1, 64), seed=seed)
        graph = build.graph(build.linear(build.input, 3))
        (node,) = graph.weighted()
        right.append((x @ graph.param(node, "weight").T + graph.param(node, "bias")).argmax(1) == y)
    assert [entry["accuracy"]["value"] for entry in result["files"]] == pytest.approx([r.mean() for r in right])
    expected = accuracy_drop(right[1], right[0])
    drop = result["comparison"]["drop"]
    assert (drop["worse"], drop["better"], drop["n"]) == (expected.worse, expected.better, 90)
    assert drop["high_pp"] == pytest.approx(expected.high_pp)


def test_the_table_says_what_was_measured(
    one_fresh_process: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    path = write(tmp_path / "m.tflite", (3,))
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "m.tflite", (1024, 3))
    assert main(["measure", str(path), "--against", str(other), "--rounds", "6"]) == 0
    text = capsys.readouterr().out
    for word in ("litert", "latency, median", "95 % interval", "cold start", "peak memory", "file size", "compressed"):
        assert word in text
    assert "times as fast as" in text or "cannot be ranked" in text
    assert "The machine was" in text
    assert "6 rounds of" in text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("faster", "a is 2 times as fast as b (95 %: 1.9 to 2.1)."),
        ("slower", "a takes 0.5 times as long as b (95 %: 0.476 to 0.526)."),
        ("within noise", "cannot be ranked"),
    ],
)
def test_speed_in_words(verdict: str, said: str) -> None:
    comparison = {"verdict": verdict, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    assert said in speed_sentence(comparison, "a", "b")


def test_drop_in_words() -> None:
    drop = {"value_pp": 1.0, "low_pp": -0.5, "high_pp": 2.5, "method": "paired", "worse": 3, "better": 1}
    assert drop_sentence(drop, "accuracy") == (
        "Drop in accuracy: 1.00 pp (95 %: -0.50 to 2.50), which may be chance; 3 examples worse, 1 better."
    )
    relative = drop | {"low_pp": 0.5, "method": "bootstrap, relative change in percent", "worse": None}
    assert drop_sentence(relative, "mae") == "Drop in mae: 1.00 % (95 %: 0.50 to 2.50)."


def test_noise_in_words() -> None:
    quiet, loud = ({"spread": s, "load_per_core": 0.5, "word": w} for s, w in ((0.01, "quiet"), (0.4, "very noisy")))
    assert noise_sentence([quiet]) == "The machine was quiet: rounds spread by 1.0 %, 0.5 processes per core."
    assert "very noisy" in noise_sentence([quiet, loud]) and "quieter" in noise_sentence([loud])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.tflite"], "no such file"),
        (["text.tflite"], "TFL3"),
        (["empty.onnx"], "empty"),
        (["model.pth"], "no runtime takes"),
        (["m.tflite", "--against", "missing.onnx"], "no such file"),
        (["m.tflite", "--rounds", "2"], "at least 5 rounds"),
        (["m.tflite", "--threads", "0"], "threads is 0"),
        (["m.tflite", "--threads", "9999"], "this process may use"),
        (["m.tflite", "--runtime", "magic"], "no runtime called 'magic'"),
        (["m.tflite", "--runtime", "onnxruntime"], "corrupt"),
        (["m.tflite", "--task", "no-such-task", "--rounds", "5"], "no-such-task"),
    ],
)
def test_bad_input_ends_in_one_message(
    arguments: list[str],
    said: str,
    one_fresh_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("m.tflite"), (3,))
    Path("text.tflite").write_text("nothing of the kind")
    Path("empty.onnx").write_bytes(b"")
    Path("model.pth").write_bytes(b"x")
    assert main(["measure", *arguments]) == 4
    captured = capsys.readouterr()
    assert said in captured.err and "→" in captured.err
    assert captured.out == ""
