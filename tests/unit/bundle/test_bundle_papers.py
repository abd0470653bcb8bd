"""Bill of materials and provenance keep to their specifications, and a check of a bundle reads all of it."""

from __future__ import annotations

import io
import json
import re
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.bundle.build import Wishes, build
from edgehone.bundle.check import check
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import BundleError, ModelFileError
from edgehone_agent.probe import read_probe
from edgehone_agent.wire.manifest import Manifest


@pytest.fixture(scope="module")
def whole(family: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("papers") / "one.bundle"
    path.write_bytes(build(family.study, "int8", family.folder, Wishes(version=3), family.x))
    return path


def unpacked(path: Path) -> tuple[Manifest, list[Content]]:
    with open_bundle(path) as bundle:
        parts = bundle.manifest.parts
        return bundle.manifest, [Content(part.path, part.role, bundle.read(part), part.runtime) for part in parts]


def rewritten(whole: Path, target: Path, path: str, body: bytes) -> Path:
    """The bundle with other bytes in one part, and a manifest that fits them."""
    manifest, contents = unpacked(whole)
    changed = [Content(c.path, c.role, body if c.path == path else c.body, c.runtime) for c in contents]
    target.write_bytes(bundle_bytes(manifest, changed))
    return target


def paper(path: Path, name: str) -> Any:
    return json.loads(next(content.body for content in unpacked(path)[1] if content.path == name))


def test_the_bill_of_materials_keeps_to_cyclonedx_1_6(whole: Path) -> None:
    bom = paper(whole, "sbom.json")
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", bom["serialNumber"])
    assert uuid.UUID(bom["serialNumber"]).version == 5
    assert datetime.fromisoformat(bom["metadata"]["timestamp"]).tzinfo is not None
    known = {
        "type", "bom-ref", "name", "version", "purl", "scope", "hashes", "properties",
    }  # fmt: skip
    for component in (bom["metadata"]["component"], *bom["components"]):
        assert set(component) <= known and {"type", "name"} <= set(component)
        assert component["type"] in ("machine-learning-model", "file", "library")
        assert component.get("scope", "required") in ("required", "optional", "excluded")
        for digest in component.get("hashes", ()):
            assert digest["alg"] == "SHA-256" and re.fullmatch("[0-9a-f]{64}", digest["content"])
    references = [component["bom-ref"] for component in (bom["metadata"]["component"], *bom["components"])]
    assert len(set(references)) == len(references)
    assert {entry["ref"] for entry in bom["dependencies"]} <= set(references)
    assert {ref for entry in bom["dependencies"] for ref in entry["dependsOn"]} <= set(references)


def test_it_tells_what_runs_the_model_from_what_made_it(whole: Path) -> None:
    bom = paper(whole, "sbom.json")
    scopes = {entry["name"]: entry["scope"] for entry in bom["components"] if entry["type"] == "library"}
    assert scopes == {
        "ai-edge-litert": "required", "onnxruntime": "required", "edgehone": "excluded", "torch": "excluded",
    }  # fmt: skip
    needs = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    assert needs["models/litert/model.tflite"] == ["pkg:pypi/ai-edge-litert@2.3.0"]


def test_a_local_version_is_written_as_a_package_url_may_hold_it(family: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    study = replace(family.study, machine={"versions": {"torch": "2.13.0+cpu"}})
    (tmp_path / "one").write_bytes(build(study, "int8", family.folder, Wishes()))
    urls = [entry.get("purl") for entry in paper(tmp_path / "one", "sbom.json")["components"]]
    assert "pkg:pypi/torch@2.13.0%2Bcpu" in urls


def test_the_provenance_is_an_in_toto_statement_with_the_slsa_predicate(whole: Path, family: Any) -> None:
    statement = paper(whole, "provenance.json")
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    manifest = unpacked(whole)[0]
    subjects = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    assert subjects == {part.path: part.sha256 for part in manifest.parts if part.role == "model"}
    made, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert set(made) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert made["externalParameters"]["recipe"] == [dict(step) for step in family.study.members[0].recipe]
    assert made["externalParameters"]["settings"] == family.study.settings
    digests = {entry["name"]: entry["digest"]["sha256"] for entry in made["resolvedDependencies"]}
    assert digests == {"digits-like/train": "1" * 64, "digits-like/validation": "2" * 64}
    assert run["builder"]["id"] == "pkg:pypi/edgehone@0.1.0" and run["builder"]["version"]["torch"] == "2.13.0"
    assert run["metadata"]["invocationId"] == "digits-like/3-int8"
    for text in (made["buildType"], run["builder"]["id"]):
        assert re.match(r"[a-z]+:", text)  # a URI


def test_a_good_bundle_passes(whole: Path) -> None:
    found = check(whole)
    assert set(found) == {"models/litert/model.tflite", "models/onnxruntime/model.onnx"}
    assert all(result.ok for result in found.values())


def test_a_card_of_another_model_is_found(whole: Path, family: Any, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(build(family.study, "w30-int8", family.folder, Wishes(), family.x))
    body = next(c.body for c in unpacked(tmp_path / "other")[1] if c.role == "card")
    with pytest.raises(BundleError, match=r"card\.bin belongs to another model"):
        check(rewritten(whole, tmp_path / "bad", "card.bin", body))


@pytest.mark.parametrize("name", ["sbom.json", "provenance.json"])
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace("models/litert", "models/other"), "speaks of other files"),
        (lambda text: re.sub(r"[0-9a-f]{64}", "0" * 64, text), "speaks of other files"),
        (lambda _: "{}", "is not in its format"),
        (lambda _: "[]", "is not in its format"),
        (lambda text: text[:-5], "no JSON"),
    ],
)
def test_papers_about_other_files_are_found(whole: Path, tmp_path: Path, name: str, edit: Any, words: str) -> None:
    body = next(c.body for c in unpacked(whole)[1] if c.path == name)
    with pytest.raises(BundleError, match=words):
        check(rewritten(whole, tmp_path / "bad", name, edit(body.decode()).encode()))


def test_a_probe_that_the_model_fails_is_found(whole: Path, tmp_path: Path) -> None:
    probe = read_probe(next(c.body for c in unpacked(whole)[1] if c.role == "probe"))
    wrong = io.BytesIO()
    np.savez(wrong, x=probe.x, y=probe.y + 1, tolerance=np.float32(probe.tolerance))
    with pytest.raises(BundleError, match=r"model\.tflite fails its probe: another answer"):
        check(rewritten(whole, tmp_path / "bad", "probe.npz", wrong.getvalue()))


def test_a_model_that_does_not_load_is_found(whole: Path, tmp_path: Path) -> None:
    bad = rewritten(whole, tmp_path / "bad", "models/onnxruntime/model.onnx", b"no model")
    with pytest.raises((BundleError, ModelFileError)):
        check(bad)
