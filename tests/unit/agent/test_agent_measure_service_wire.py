"""What goes over the wire of a measuring service: it comes back whole, and damage is refused, never believed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehone_agent.errors import BundleError, ConfigError, EdgehoneError, HostError, ModelFileError
from edgehone_agent.measure.latency import LatencyResult
from edgehone_agent.measure.noise import Noise
from edgehone_agent.wire.measuring import (
    Candidate,
    MeasureRequest,
    error_from_json,
    error_to_json,
    latency_to_json,
    read_about,
    read_request,
    read_told,
)

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
REQUEST = MeasureRequest((Candidate("a", "litert", b"123"), Candidate("b", "onnxruntime", b"4")), 7, 2, 3, X)
LATENCY = LatencyResult(2.0, 3.0, 4.0, 1.5, 2.5, 5, 11, Noise(0.01, 0.5, "quiet"), (1.0, 2.0, 2.0, 3.0, 4.0))
MACHINE = {"cpu": "Cortex-A72", "machine": "aarch64", "cores": 4}
SESSION = {"runtime": "litert", "version": "2.3.0", "threads": 1, "accelerator": "XNNPACK", "partitions": 1}


def done() -> dict[str, Any]:
    fresh = {
        "cold_start_ms": 3.0, "import_ms": 1.0, "load_ms": 1.0, "first_run_ms": 1.0, "peak_bytes": 9,
        "bare_bytes": 8, "model_bytes": 1, "repeats": 2,
    }  # fmt: skip
    entry = {
        "session": SESSION, "latency": latency_to_json(LATENCY), "fresh_process": fresh,
        "answers": {"sha256": "0" * 64, "rows": 2},
    }  # fmt: skip
    return {"id": "1", "state": "done", "before": 0, "result": {"files": {"a": entry}, "machine": MACHINE}}


def test_a_request_comes_back_whole() -> None:
    found = read_request(REQUEST.to_bytes())
    assert (found.files, found.rounds, found.threads, found.fresh_repeats) == (REQUEST.files, 7, 2, 3)
    assert found.inputs is not None and np.array_equal(found.inputs, X)
    assert read_request(MeasureRequest(REQUEST.files).to_bytes()).inputs is None


def test_figures_come_back_whole() -> None:
    told = read_told(json.dumps(done()).encode())
    assert told.files is not None and told.machine == MACHINE
    found = told.files["a"]
    assert found.latency == LATENCY and found.session == SESSION
    assert found.fresh_process is not None and found.fresh_process.peak_bytes == 9
    assert found.answers is not None and found.answers.rows == 2


@given(st.integers(0, len(REQUEST.to_bytes()) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_request_is_refused_or_another_one(at: int, new: bytes, cut: int) -> None:
    body = REQUEST.to_bytes()
    try:
        found = read_request(body[:at] + new + body[at + cut :])
    except BundleError:
        return
    assert 1 <= len(found.files) <= 16 and 5 <= found.rounds <= 1000


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a JSON object stands."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, child in inside for path in paths(child, (*at, key)))]


@given(st.sampled_from(paths(done())[1:]), st.sampled_from([None, -1, True, "", "\x1b[2J", 1e400, [], {}, [[]]]))
def test_a_damaged_answer_is_refused_or_harmless(path: tuple[Any, ...], new: Any) -> None:
    data = done()
    *way, last = path
    place: Any = data
    for key in way:
        place = place[key]
    place[last] = new
    try:
        told = read_told(json.dumps(data).encode())
    except BundleError:
        return
    for found in (told.files or {}).values():
        assert len(found.latency.round_us) == found.latency.rounds
        assert all(value > 0 for value in found.latency.round_us)
        assert str(found.session["runtime"]).isprintable() and str(found.session["accelerator"]).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"state": "gone", "id": "1"}', b'{"state": "failed", "id": "1"}']
)
def test_what_is_no_answer_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        read_told(content)
    with pytest.raises(BundleError):
        read_about(content)


@pytest.mark.parametrize("kind", [ModelFileError, HostError, ConfigError])
def test_errors_keep_their_class_and_lose_what_a_terminal_obeys(kind: type[EdgehoneError]) -> None:
    found = error_from_json(error_to_json(kind("it broke\n\x1b[2J" + "x" * 9000, where="a", do="try")))
    assert type(found) is kind and (found.where, found.do) == ("a", "try")
    assert found.what.startswith("it broke  [2J") and found.what.isprintable() and len(found.what) == 4000
    assert type(error_from_json({"code": "EH999", "what": "new"})) is HostError
