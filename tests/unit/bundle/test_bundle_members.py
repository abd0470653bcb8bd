"""From a member of a study to the bytes of a bundle: what is in it, what it promises, what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.bundle import golden
from edgehone.bundle.build import SLOWER, Wishes, build
from edgehone.bundle.golden import choose, golden_probe, step_of, tells_apart
from edgehone.errors import InputError
from edgehone.record import FileRecord
from edgehone.testing.studies import member_of, only, readings, write_study
from edgehone_agent.bundle import Bundle, open_bundle
from edgehone_agent.errors import BundleError
from edgehone_agent.model import open_model
from edgehone_agent.probe import MAX_PROBE_BYTES, read_probe
from edgehone_agent.runtimes import TensorInfo
from edgehone_agent.wire.card import Card


@contextmanager
def opened(content: bytes, folder: Path) -> Iterator[Bundle]:
    path = folder / "one.bundle"
    path.write_bytes(content)
    with open_bundle(path) as bundle:
        yield bundle


def test_the_same_inputs_give_the_same_bytes_and_others_do_not(family: Any) -> None:
    study, folder, x = family.study, family.folder, family.x
    first = build(study, "int8", folder, Wishes(), x)
    assert build(study, "int8", folder, Wishes(), x.copy()) == first
    assert build(study, "int8", folder, Wishes(version=2), x) != first
    assert build(study, "int8", folder, Wishes(), x[:-1]) != first
    assert build(study, "w30-int8", folder, Wishes(), x) != first


def test_the_parts_stand_in_order_and_hold_the_member(family: Any, tmp_path: Path) -> None:
    content = build(family.study, "int8", family.folder, Wishes(), family.x)
    with opened(content, tmp_path) as bundle:
        bundle.verify()
        parts = bundle.manifest.parts
        files = {part.path: bundle.read(part) for part in parts}
    assert [part.path for part in parts] == [
        "models/litert/model.tflite", "models/onnxruntime/model.onnx", "card.bin", "probe.npz", "sbom.json",
        "provenance.json", "README.md",
    ]  # fmt: skip
    assert [part.role for part in parts] == ["model", "model", "card", "probe", "sbom", "provenance", "notes"]
    place = family.folder / "members" / "int8"
    for name, path in (("models/litert/model.tflite", "model.tflite"), ("README.md", "README.md")):
        assert files[name] == (place / path).read_bytes()


def test_the_manifest_says_what_the_record_says(family: Any, tmp_path: Path) -> None:
    wishes = Wishes(version=7, parent="ab" * 32, unit="lux")
    with opened(build(family.study, "int8", family.folder, wishes, family.x), tmp_path) as bundle:
        said = bundle.manifest
    member = member_of(family.study, "int8")
    assert (said.task, said.member, said.version, said.kind) == ("digits-like", "int8", 7, "classification")
    assert said.parent == "ab" * 32 and said.created == "2026-11-24T09:30:00+00:00"
    assert said.input.shape == (1, 8, 8) and said.input.unit == "lux" and said.output.shape == (4,)
    assert (said.input.low, said.input.high) == (float(family.x.min()), float(family.x.max()))
    assert said.labels == tuple(family.study.task["labels"]) and said.recipe == "quantize"
    assert said.dataset == family.study.task["digest"]
    assert said.fit.runtimes == ("litert", "onnxruntime")
    assert said.fit.latency_us == SLOWER * max(entry.latency.value for entry in member.latency)
    assert member.memory is not None
    assert said.fit.memory_bytes == member.memory.value + max(file.size_bytes for file in member.files)
    assert said.measured["latency_us litert"] == member.latency[0].latency.to_json()
    assert said.measured["accuracy test"] == member.metric["test"].to_json()
    drop, record = said.measured["drop_pp test"], member.drop["test"]
    assert (drop["value"], drop["low"], drop["high"]) == (record.value_pp, record.low_pp, record.high_pp)
    assert drop["unit"] == "pp" and "test" in drop["place"]


@pytest.mark.parametrize(("wished", "bound"), [(1500.0, 1500.0), (float("inf"), None)])
def test_a_wish_for_a_bound_is_kept(family: Any, tmp_path: Path, wished: float, bound: float | None) -> None:
    with opened(build(family.study, "int8", family.folder, Wishes(latency_us=wished)), tmp_path) as bundle:
        assert bundle.manifest.fit.latency_us == bound


def test_the_date_is_in_utc_and_may_be_given(family: Any, tmp_path: Path) -> None:
    study = replace(family.study, created="2026-11-24T01:30:00+02:00")
    with opened(build(study, "int8", family.folder, Wishes()), tmp_path) as bundle:
        assert bundle.manifest.created == "2026-11-23T23:30:00+00:00"
    wishes = Wishes(created="2020-01-02T03:04:05+00:00")
    with opened(build(study, "int8", family.folder, wishes), tmp_path) as bundle:
        assert bundle.manifest.created == wishes.created


def test_the_card_is_of_the_compressed_file(family: Any, tmp_path: Path) -> None:
    with opened(build(family.study, "int8", family.folder, Wishes(), family.x), tmp_path) as bundle:
        card = Card.from_bytes(bundle.read(bundle.manifest.part("card")))
        assert card.model_digest == bundle.manifest.part("model", "litert").sha256
    assert card.embedding_size == 0 and card.rows > 0


def test_a_file_with_an_embedding_gives_it_to_the_card(tmp_path: Path) -> None:
    study = write_study(tmp_path / "family", embedding=True)
    content = build(study, "int8", tmp_path / "family", Wishes(), readings((1, 8, 8), 100))
    with opened(content, tmp_path) as bundle:
        assert Card.from_bytes(bundle.read(bundle.manifest.part("card"))).embedding_size == 8


def test_without_data_there_is_no_card_and_the_probe_asks_noise_that_fills_the_range(
    family: Any, tmp_path: Path
) -> None:
    with opened(build(family.study, "int8", family.folder, Wishes()), tmp_path) as bundle:
        assert "card" not in [part.role for part in bundle.manifest.parts]
        assert bundle.manifest.input.low is None
        probe = read_probe(bundle.read(bundle.manifest.part("probe")))
    assert len(probe.x) == 16 and tells_apart(probe)
    assert probe.x.min() < 1 and probe.x.max() > 15  # the file was calibrated on 0 to 16


def test_a_probe_asks_readings_spread_over_all(family: Any, tmp_path: Path) -> None:
    with opened(build(family.study, "int8", family.folder, Wishes(), family.x), tmp_path) as bundle:
        probe = read_probe(bundle.read(bundle.manifest.part("probe")))
    rows = [int(np.flatnonzero((family.x == row).all((1, 2, 3)))[0]) for row in probe.x]
    assert rows[0] == 0 and rows[-1] == len(family.x) - 1 and rows == sorted(set(rows)) and len(rows) == 16


@pytest.mark.parametrize("runtime", ["model.tflite", "model.onnx"])
def test_the_probe_passes_for_its_member_and_for_no_other(family: Any, tmp_path: Path, runtime: str) -> None:
    with opened(build(family.study, "int8", family.folder, Wishes(), family.x), tmp_path) as bundle:
        probe = read_probe(bundle.read(bundle.manifest.part("probe")))
    with open_model(family.folder / "members" / "int8" / "model.tflite") as model:
        assert probe.tolerance == pytest.approx(golden.STEPS * step_of(model.session, probe.y))
    with open_model(family.folder / "members" / "int8" / runtime) as model:
        assert probe.check(model).ok
    with open_model(family.folder / "members" / "w30-int8" / runtime) as other:
        assert not probe.check(other).ok
    with open_model(family.folder / "members" / "int8" / runtime) as model:  # the wrong preprocessing
        assert not replace(probe, x=probe.x / 16).check(model).ok


@pytest.mark.parametrize(("shape", "kind", "answer"), [((6,), "regression", (1,)), ((6,), "anomaly", (6,))])
def test_other_kinds_of_task(tmp_path: Path, shape: tuple[int, ...], kind: Any, answer: tuple[int, ...]) -> None:
    study = write_study(tmp_path / "family", shape=shape, kind=kind)
    content = build(study, "int8", tmp_path / "family", Wishes(), readings(shape, 100))
    with opened(content, tmp_path) as bundle:
        said = bundle.manifest
        assert said.kind == kind and said.labels == () and said.output.shape == answer
        assert Card.from_bytes(bundle.read(said.part("card"))).kind == kind


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["a", "b"], ("a", "b", "2", "3")), ([], ("0", "1", "2", "3")), (["a", "b", "c", "d", "e"], ("a", "b", "c", "d"))],
)
def test_every_score_has_one_label(family: Any, tmp_path: Path, labels: list[str], expected: tuple[str, ...]) -> None:
    study = replace(family.study, task={**family.study.task, "labels": labels})
    with opened(build(study, "int8", family.folder, Wishes()), tmp_path) as bundle:
        assert bundle.manifest.labels == expected


def test_a_task_may_have_capitals_but_no_other_letters(family: Any, tmp_path: Path) -> None:
    study = replace(family.study, task={**family.study.task, "name": "MyDigits"})
    with opened(build(study, "int8", family.folder, Wishes()), tmp_path) as bundle:
        assert bundle.manifest.task == "mydigits"
    study = replace(family.study, task={**family.study.task, "name": "Zähler"})
    with pytest.raises(BundleError, match="task is 'zähler'"):
        build(study, "int8", family.folder, Wishes())


def test_progress_counts_the_readings(family: Any) -> None:
    seen: list[tuple[int, int]] = []
    x = readings((1, 8, 8), 600)
    build(family.study, "int8", family.folder, Wishes(), x, lambda done, total: seen.append((done, total)))
    assert seen == [(256, 600), (512, 600), (600, 600)]


@pytest.mark.parametrize(
    ("task", "words"),
    [({"input_shape": None}, "what a reading looks like"), ({"input_shape": [1, 0]}, "what a reading looks like")],
)
def test_a_record_without_a_shape_is_refused(family: Any, task: dict[str, Any], words: str) -> None:
    study = replace(family.study, task={**family.study.task, **task})
    with pytest.raises(InputError, match=words):
        build(study, "int8", family.folder, Wishes())


def test_what_is_not_there_or_not_the_same_is_refused(family: Any) -> None:
    study, folder = family.study, family.folder
    file = member_of(study, "int8").files[0]
    gone = replace(file, path="members/int8/gone.tflite")
    other = FileRecord(file.path, file.format, file.size_bytes, 0, "0" * 64)
    for broken, words in [
        (only(study, "int8", files=(gone,)), "cannot be read"),
        (only(study, "int8", files=(other,)), "not the file that was measured"),
        (only(study, "int8", files=()), "has no files"),
        (replace(study, created="yesterday"), "no date"),
    ]:
        with pytest.raises(InputError, match=words):
            build(broken, "int8", folder, Wishes())
    with pytest.raises(InputError, match="no member 'w9'; it has: int8, w30-int8"):
        build(study, "w9", folder, Wishes())
    with pytest.raises(InputError, match=re.escape("the readings are (6,), the member takes (1, 8, 8)")):
        build(study, "int8", folder, Wishes(), readings((6,), 20))


def test_files_that_disagree_are_refused(family: Any) -> None:
    files = (member_of(family.study, "int8").files[0], member_of(family.study, "w30-int8").files[1])
    with pytest.raises(InputError, match="does not answer as the bundle's other file does"):
        build(only(family.study, "int8", files=files), "int8", family.folder, Wishes(), family.x)


def test_a_runtime_that_rounds_otherwise_widens_the_tolerance_up_to_a_limit(family: Any) -> None:
    path = family.folder / "members" / "int8" / "model.onnx"
    with open_model(path) as model:
        y = model.predict(family.x[:8])
    for off, steps in ((0.0, 4.0), (3.0, 6.0), (11.0, 12.0)):
        probe = golden_probe(family.x[:8], y + np.float32(off * 0.01), 0.01, {"onnxruntime": path})
        assert probe.tolerance == pytest.approx(0.01 * steps, rel=1e-3)
    with pytest.raises(InputError, match="does not answer"):
        golden_probe(family.x[:8], y + np.float32(0.13), 0.01, {"onnxruntime": path})


class Ends:
    """A session's input and output, as far as choosing inputs looks at them."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", scale: float | None = None) -> None:
        self.input = self.output = TensorInfo("x", (1, *shape), dtype, scale, None if scale is None else 0)


def test_a_long_reading_makes_a_shorter_probe_and_a_longer_one_none() -> None:
    long = (MAX_PROBE_BYTES // 4 // 10,)
    assert choose(None, Ends(long), long, (1,)).shape[0] in (8, 9)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="too many for a golden probe"):
        choose(None, Ends(long), (MAX_PROBE_BYTES // 4 // 7,), (1,))  # type: ignore[arg-type]


def test_a_float_file_is_allowed_a_255th_of_its_range() -> None:
    y = np.array([[0.0, 51.0], [255.0, 3.0]], np.float32)
    assert step_of(Ends((2,)), y) == 1.0  # type: ignore[arg-type]
    assert step_of(Ends((2,), "int8", 0.5), y) == 0.5  # type: ignore[arg-type]
    x = choose(None, Ends((2,)), (2,), (2,))  # type: ignore[arg-type]
    assert x.shape == (16, 2) and x.std() == pytest.approx(1, abs=0.5)


def test_an_archive_has_no_trace_of_when_and_where(family: Any) -> None:
    content = build(family.study, "int8", family.folder, Wishes(), family.x)
    assert str(family.folder).encode() not in content
