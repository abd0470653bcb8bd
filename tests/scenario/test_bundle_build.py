"""From a study's member to a bundle, by the command line: same bytes, whole, with a card and a probe that bites."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgehone_agent.bundle import open_bundle
from edgehone_agent.model import open_model
from edgehone_agent.probe import read_probe
from edgehone_agent.wire.card import Card

pytestmark = pytest.mark.slow
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(edgehone_here: Run) -> Run:
    """`edgehone bundle` in this process."""
    return lambda *arguments: edgehone_here("bundle", *arguments)


@pytest.fixture(scope="module")
def family(small_family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its own, which a test may damage."""
    return Path(shutil.copytree(small_family, tmp_path_factory.mktemp("bundles") / "family"))


@pytest.fixture(scope="module")
def bundle(run: Run, family: Path, small_task: Path) -> Path:
    target = family.parent / "one.bundle"
    done = run("build", str(family / "members" / "int8"), "-o", str(target), "--task", str(small_task))
    assert done.returncode == 0, done.stderr
    return target


def test_the_same_member_gives_the_same_bytes(bundle: Path, family: Path, small_task: Path, tmp_path: Path) -> None:
    """Also in another process."""
    command = [sys.executable, "-m", "edgehone.cli.main", "bundle", "build", str(family / "members" / "int8")]
    command += ["--task", str(small_task), "-o", str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again").read_bytes() == bundle.read_bytes()


def test_it_says_what_was_measured_and_where_it_comes_from(bundle: Path, family: Path) -> None:
    study = json.loads((family / "study.json").read_text())
    member = study["members"][0]
    with open_bundle(bundle) as opened:
        opened.verify()
        manifest = opened.manifest
        papers = {role: json.loads(opened.read(manifest.part(role))) for role in ("sbom", "provenance")}
        card = Card.from_bytes(opened.read(manifest.part("card")))
    assert manifest.task == "small" and manifest.member == "int8" and manifest.input.shape == (1, 8, 8)
    assert manifest.measured["accuracy test"] == member["metric"]["test"]
    slowest_us = max(entry["latency"]["value"] for entry in member["latency"])
    assert manifest.fit.latency_us == pytest.approx(10 * slowest_us)
    digests = {file["sha256"] for file in member["files"]}
    assert {entry["digest"]["sha256"] for entry in papers["provenance"]["subject"]} == digests
    assert papers["provenance"]["predicateType"] == "https://slsa.dev/provenance/v1"
    assert papers["sbom"]["bomFormat"] == "CycloneDX" and papers["sbom"]["specVersion"] == "1.6"
    hashes = {part["hashes"][0]["content"] for part in papers["sbom"]["components"] if "hashes" in part}
    assert hashes == digests and len(card.to_bytes()) <= 6000


def test_a_cohort_gets_a_card_of_its_own(run: Run, family: Path, small_task: Path, tmp_path: Path) -> None:
    dark, file = tmp_path / "dark.npy", tmp_path / "two.bundle"
    np.save(dark, np.random.default_rng(0).uniform(0, 3, (100, 1, 8, 8)))
    arguments = (str(family / "members" / "int8"), "--task", str(small_task), "-o", str(file), "--context")
    done = run("build", *arguments, f"north={dark}")
    assert done.returncode == 0, done.stderr
    with open_bundle(file) as opened:
        opened.verify()
        cards = {part.path: Card.from_bytes(opened.read(part)) for part in opened.manifest.parts if part.role == "card"}
    assert list(cards) == ["card.bin", "cards/north.bin"]
    plain, north = cards.values()
    assert north.rows == 67  # a third of the readings set the edges, the others are counted
    assert north.model_digest == plain.model_digest
    assert (north.edges[0] < plain.edges[0]).any()
    assert run("verify", str(file)).returncode == 0
    for wrong in ("north", f"no/rth={dark}", f"north={tmp_path / 'none.npy'}", f"north={family / 'study.json'}"):
        done = run("build", *arguments, wrong)
        assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr


def test_its_probe_passes_in_both_runtimes_and_fails_for_another_member(
    bundle: Path, family: Path, tmp_path: Path
) -> None:
    with open_bundle(bundle) as opened:
        probe = read_probe(opened.read(opened.manifest.part("probe")))
        opened.unpack(tmp_path / "files")
    assert len(probe.x) >= 8 and np.ptp(probe.x) > 0
    for path in (tmp_path / "files" / "models").rglob("model.*"):
        with open_model(path) as model:
            assert probe.check(model).ok
    study = json.loads((family / "study.json").read_text())
    with open_model(family / "members" / study["members"][-1]["name"] / "model.tflite") as other:
        assert not probe.check(other).ok


def test_inspect_verify_and_diff_speak_json(run: Run, bundle: Path, family: Path, tmp_path: Path) -> None:
    told = json.loads(run("inspect", str(bundle), "--json").stdout)
    assert told["manifest"]["member"] == "int8"
    checked = json.loads(run("verify", str(bundle), "--json").stdout)
    assert checked["ok"] and len(checked["probe"]) == 2
    second = tmp_path / "two.bundle"
    member = str(family / "members" / "int8")
    done = run("build", member, "-o", str(second), "--no-data", "--version", "2", "--parent", str(bundle))
    assert done.returncode == 0 and "no card" in done.stdout, done.stderr
    found = json.loads(run("diff", str(bundle), str(second), "--json").stdout)
    assert found["fields"]["version"] == [1, 2] and found["parts"]["card.bin"] == "removed"
    assert found["fields"]["parent"] == [None, told["sha256"]]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("build", "{family}/members/w99-int8", "-o", "{out}", "--no-data"), "no member"),
        (("build", "{family}/members/int8", "-o", "{out}"), "--task"),
        (("build", "{family}/members/int8", "-o", "{out}", "--task", "digits", "--version", "0"), "version"),
        (("build", "{out}/members/int8", "-o", "{out}"), "study.json"),
        (("inspect", "{family}/study.json"), "no bundle"),
        (("verify", "{out}"), "cannot be read"),
    ],
)
def test_bad_input_is_said_in_one_line(
    run: Run, family: Path, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    done = run(*(part.format(family=family, out=tmp_path / "out") for part in arguments))
    assert done.returncode == 4 and word in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_the_measured_one_is_refused(run: Run, family: Path, tmp_path: Path) -> None:
    path = family / "members" / "int8" / "model.onnx"
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"x")
        done = run("build", str(family / "members" / "int8"), "-o", str(tmp_path / "out"), "--no-data")
    finally:
        path.write_bytes(content)
    assert done.returncode == 4 and "not the file that was measured" in done.stderr
