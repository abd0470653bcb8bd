"""Every field of the bill of materials and the provenance, by the text of their specifications.

CycloneDX 1.6 JSON reference (the fields that a bundle uses; others are refused here), package URL specification,
in-toto Statement v1 and ResourceDescriptor v1, SLSA v1.0 provenance.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from edgehone.bundle.build import Wishes, build
from edgehone.testing.shapes import fits
from edgehone_agent.bundle import open_bundle

HEX = "[0-9a-f]{64}"
TEXT = r"[^\x00-\x1f]{1,1024}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"  # RFC 3339, date-time
# type, namespace and name in lower case, "_" as "-"; a version with what it may not hold written as %XX
PURL = r"pkg:pypi/[a-z0-9.-]+@([A-Za-z0-9._~-]|%[0-9A-F]{2})+"
URI = r"[a-z][a-z0-9+.-]*:[!-~]+"  # RFC 3986: a scheme, and no space
COMPONENT = {"type": "machine-learning-model", "bom-ref": TEXT, "name": TEXT, "version": TEXT}
FILE = {
    "type": "file", "bom-ref": TEXT, "name": TEXT, "hashes": [{"alg": "SHA-256", "content": HEX}],
    "properties": [{"name": r"edgehone:[a-z_]+", "value": TEXT}],
}  # fmt: skip
LIBRARY = {
    "type": "library", "bom-ref": TEXT, "name": TEXT, "version": TEXT, "purl": PURL,
    "scope": "required|optional|excluded",
}  # fmt: skip
BOM = {
    "$schema": re.escape("http://cyclonedx.org/schema/bom-1.6.schema.json"),
    "bomFormat": "CycloneDX", "specVersion": r"1\.6",
    "serialNumber": "urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "version": range(1, 2**31), "metadata": {"timestamp": TIME, "component": COMPONENT}, "components": [dict],
    "dependencies": [{"ref": TEXT, "dependsOn": [TEXT]}],
}  # fmt: skip
RESOURCE = {"name": TEXT, "digest": {"sha256": HEX}}
STATEMENT = {
    "_type": re.escape("https://in-toto.io/Statement/v1"), "subject": [RESOURCE],
    "predicateType": re.escape("https://slsa.dev/provenance/v1"),
    "predicate": {
        "buildDefinition": {
            "buildType": URI, "externalParameters": dict, "internalParameters": dict, "resolvedDependencies": [RESOURCE]
        },
        "runDetails": {
            "builder": {"id": URI, "version": {re.compile(TEXT): TEXT}},
            "metadata": {"invocationId": TEXT, "finishedOn": TIME},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def papers(family: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both papers of a bundle by name."""
    path: Path = tmp_path_factory.mktemp("fields") / "one.bundle"
    path.write_bytes(build(family.study, "int8", family.folder, Wishes(version=3), family.x))
    with open_bundle(path) as bundle:
        parts = [part for part in bundle.manifest.parts if part.path.endswith(".json")]
        return {part.path: json.loads(bundle.read(part)) for part in parts}


def check_bom(bom: Any) -> None:
    fits(bom, BOM, "bom")
    for number, component in enumerate(bom["components"]):
        kinds = {"file": FILE, "library": LIBRARY}
        assert component.get("type") in kinds, f"components[{number}]: no file and no library"
        fits(component, kinds[component["type"]], f"components[{number}]")
        if component["type"] == "library":
            name, version = component["purl"].removeprefix("pkg:pypi/").split("@")
            assert name == component["name"].lower().replace("_", "-") and unquote(version) == component["version"]
    references = [entry["bom-ref"] for entry in (bom["metadata"]["component"], *bom["components"])]
    assert len(set(references)) == len(references), "bom-ref: every one must be unique"
    depending = [entry["ref"] for entry in bom["dependencies"]]
    assert len(set(depending)) == len(depending), "dependencies: one entry for each reference"
    for entry in bom["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= set(references), "dependencies: leads nowhere"
        assert len(set(entry["dependsOn"])) == len(entry["dependsOn"]), "dependsOn: unique items"
        assert entry["ref"] not in entry["dependsOn"], "dependencies: depends on itself"


def check_statement(statement: Any) -> None:
    fits(statement, STATEMENT, "statement")
    assert statement["subject"], "subject: at least one"
    names = [entry["name"] for entry in statement["subject"]]
    assert len(set(names)) == len(names), "subject: names are unique"
    assert statement["predicate"]["buildDefinition"]["externalParameters"], "externalParameters: must be complete"


CHECKS = {"sbom.json": check_bom, "provenance.json": check_statement}


@pytest.mark.parametrize("name", CHECKS)
def test_every_field_is_of_the_specification(name: str, papers: dict[str, Any]) -> None:
    CHECKS[name](papers[name])


@pytest.mark.parametrize(
    ("name", "path", "wrong"),
    [
        ("sbom.json", ("specVersion",), "1.7"),
        ("sbom.json", ("serialNumber",), "urn:uuid:3E671687-395b-41f5-a30f-a58921a69b79"),
        ("sbom.json", ("serialNumber",), "3e671687-395b-41f5-a30f-a58921a69b79"),
        ("sbom.json", ("version",), 0),
        ("sbom.json", ("version",), "1"),
        ("sbom.json", ("metadata", "timestamp"), "2026-01-01"),
        ("sbom.json", ("metadata", "timestamp"), "2026-01-01T00:00:00"),
        ("sbom.json", ("metadata", "component", "type"), "model"),
        ("sbom.json", ("metadata", "extra"), 1),
        ("sbom.json", ("components", 0, "type"), "program"),
        ("sbom.json", ("components", 0, "hashes", 0, "alg"), "sha256"),
        ("sbom.json", ("components", 0, "hashes", 0, "content"), "0" * 63),
        ("sbom.json", ("components", 0, "bom-ref"), ""),
        ("sbom.json", ("components", -1, "purl"), "pkg:pypi/Some_Name@1"),
        ("sbom.json", ("components", -1, "purl"), "pkg:pypi/x@1+cpu"),
        ("sbom.json", ("components", -1, "scope"), "build"),
        ("sbom.json", ("components", -1, "bom-ref"), "models/litert/model.tflite"),
        ("sbom.json", ("dependencies", 0, "ref"), "nothing"),
        ("sbom.json", ("dependencies", 0, "dependsOn"), ["models/litert/model.tflite"] * 2),
        ("sbom.json", ("licenses",), []),
        ("provenance.json", ("_type",), "https://in-toto.io/Statement/v0.1"),
        ("provenance.json", ("predicateType",), "https://slsa.dev/provenance/v0.2"),
        ("provenance.json", ("subject",), []),
        ("provenance.json", ("subject", 0, "digest"), {}),
        ("provenance.json", ("subject", 0, "digest", "sha256"), "0" * 63),
        ("provenance.json", ("predicate", "buildDefinition", "buildType"), "a study"),
        ("provenance.json", ("predicate", "buildDefinition", "externalParameters"), {}),
        ("provenance.json", ("predicate", "buildDefinition", "resolvedDependencies", 0, "digest"), None),
        ("provenance.json", ("predicate", "runDetails", "builder", "id"), "edgehone"),
        ("provenance.json", ("predicate", "runDetails", "builder", "version"), "0.1"),
        ("provenance.json", ("predicate", "runDetails", "metadata", "finishedOn"), "yesterday"),
        ("provenance.json", ("predicate", "runDetails", "metadata", "invocationID"), "x"),
    ],
)
def test_what_breaks_them_is_seen(name: str, path: tuple[Any, ...], wrong: Any, papers: dict[str, Any]) -> None:
    paper = copy.deepcopy(papers[name])
    place = paper
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    with pytest.raises(AssertionError):
        CHECKS[name](paper)
