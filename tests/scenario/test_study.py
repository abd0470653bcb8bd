"""The product's main job, end to end and for real: train, cut, recover, quantize, measure, judge, write."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgehone.record import to_json
from edgehone.report.study_file import read
from edgehone.search.study import Study
from edgehone_agent.model import open_model

pytestmark = pytest.mark.slow
EDGEHONE = [sys.executable, "-m", "edgehone.cli.main"]


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def study(small_family: Path) -> Study:
    """The family that was made once; nobody may write into its folder."""
    return Study(read(small_family), small_family)


def test_it_makes_a_family_that_gets_smaller_and_faster(study: Study) -> None:
    record = study.record
    assert 2 <= len(record.members) <= 3 and record.members[0].name == "int8"
    sizes = [next(f.size_bytes for f in m.files if f.format == "tflite") for m in (record.original, *record.members)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 3
    latencies = [m.latency[0].latency.value for m in record.members]
    assert latencies == sorted(latencies, reverse=True)
    assert [m.macs for m in record.members] == sorted((m.macs for m in record.members), reverse=True)
    for member in record.members:
        assert member.drop["test"].low_pp <= member.drop["test"].value_pp <= member.drop["test"].high_pp
        assert member.latency[0].speedup is not None and member.latency[0].latency.kind == "measured"
    assert study.met and set(record.front) <= {member.name for member in record.members}


def test_the_files_are_what_the_record_says(study: Study) -> None:
    import hashlib

    for member in (study.record.original, *study.record.members):
        assert {file.format for file in member.files} == {"tflite", "onnx"}
        for file in member.files:
            content = (study.folder / file.path).read_bytes()
            assert len(content) == file.size_bytes and hashlib.sha256(content).hexdigest() == file.sha256
        assert (study.folder / Path(member.files[0].path).parent / "README.md").exists()


def test_the_reported_accuracy_is_that_of_the_file(study: Study) -> None:
    from edgehone.data import load_task, prepare

    prepared = prepare(load_task("digits"))
    x, y = prepared.test.arrays()
    for member in study.members:
        answers = np.argmax(member.predict(x), axis=1)
        assert np.mean(answers == y) == pytest.approx(member.record.metric["test"].value)
    original = open_model(study.folder / "original" / "model.onnx").predict(x)
    assert np.mean(np.argmax(original, axis=1) == y) == pytest.approx(study.record.original.metric["test"].value)


def test_the_page_names_everyone(study: Study) -> None:
    page = study.report.read_text()
    assert all(member.name in page for member in study.record.members)
    assert "<table" in study._repr_html_()


def test_the_same_command_again_is_refused_and_resume_takes_seconds(
    study: Study, small_task: Path, edgehone_here: Command, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(study.folder, tmp_path / "family"))
    arguments = ("optimize", str(small_task), "--members", "3", "-o", str(folder))
    refused = edgehone_here(*arguments)
    assert refused.returncode == 6 and "--resume" in refused.stderr and "Traceback" not in refused.stderr
    before = (folder / ".work" / "original.npz").read_bytes()
    resumed = edgehone_here(*arguments, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    record = json.loads(resumed.stdout)
    assert [m["name"] for m in record["members"]] == [m.name for m in study.record.members]
    assert record["trials"] == json.loads(json.dumps(to_json(study.record)["trials"]))
    digests = [[f["sha256"] for f in m["files"]] for m in record["members"]]
    assert digests == [[f.sha256 for f in m.files] for m in study.record.members]
    assert (folder / ".work" / "original.npz").read_bytes() == before


def test_another_study_in_the_folder_is_refused(study: Study, small_task: Path, edgehone_here: Command) -> None:
    refused = edgehone_here("optimize", str(small_task), "--members", "2", "-o", str(study.folder), "--resume")
    assert refused.returncode == 6 and "another study" in refused.stderr
    assert read(study.folder) == study.record


@pytest.mark.parametrize(("how", "members"), [(signal.SIGKILL, "2"), (signal.SIGINT, "1")])
def test_a_stopped_study_goes_on(
    small_task: Path, edgehone_here: Command, tmp_path: Path, how: signal.Signals, members: str
) -> None:
    folder = tmp_path / "family"
    arguments = ["optimize", str(small_task), "--members", members, "-o", str(folder)]
    process = subprocess.Popen([*EDGEHONE, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 200
    while not (folder / ".work" / "original.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[1]
    os.kill(process.pid, how)
    _, errors = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "--resume" in errors and "Traceback" not in errors
    trained = (folder / ".work" / "original.npz").read_bytes()
    done = edgehone_here(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert (folder / ".work" / "original.npz").read_bytes() == trained
    assert read(folder).members


def test_an_unmet_budget_is_told_with_the_nearest_front(
    small_task: Path, edgehone_here: Command, tmp_path: Path
) -> None:
    arguments = ("--members", "1", "--max-size", "1kB", "-o", str(tmp_path / "f"), "--json")
    done = edgehone_here("optimize", str(small_task), *arguments)
    assert done.returncode == 3, done.stderr
    record = json.loads(done.stdout)
    assert record["met"] is False and record["verdict"].startswith("No member holds every limit")
    assert record["members"][-1]["holds"]["size_bytes"] is False


def test_a_device_that_is_not_here_gets_estimates(small_task: Path, edgehone_here: Command, tmp_path: Path) -> None:
    arguments = ("--device", "stm32l4", "--members", "1", "-o", str(tmp_path / "f"), "--json")
    done = edgehone_here("optimize", str(small_task), *arguments)
    assert done.returncode in (0, 3), done.stderr
    record = json.loads(done.stdout)
    assert record["device"]["here"] is False
    kinds = {entry["latency"]["kind"] for member in record["members"] for entry in member["latency"]}
    assert kinds == {"estimated"}
