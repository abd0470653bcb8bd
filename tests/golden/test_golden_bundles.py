"""Bundles that earlier versions wrote are read for ever, and mean what they meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgehone.bundle.archive import pack
from edgehone.bundle.check import check
from edgehone_agent.bundle import open_bundle
from edgehone_agent.wire.card import Card
from edgehone_agent.wire.manifest import SCHEMA, Manifest

FOLDER = Path(__file__).parent
EXPECTED: dict[str, Any] = {
    name: value for file in sorted(FOLDER.glob("bundle-*.json")) for name, value in json.loads(file.read_text()).items()
}


def test_every_version_of_the_format_has_its_bundles() -> None:
    wanted = {f"bundle-{version}{more}.bundle" for version in range(1, SCHEMA + 1) for more in ("", "-newer")}
    assert wanted == set(EXPECTED) == {path.name for path in FOLDER.glob("*.bundle")}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_reads_as_it_did_when_it_was_written(name: str) -> None:
    expected = EXPECTED[name]
    with open_bundle(FOLDER / name) as bundle:
        bundle.verify()
        assert bundle.digest == expected["digest"]
        assert bundle.manifest == Manifest.from_json(expected["manifest"])
        assert expected["manifest"].items() <= json.loads(bundle.manifest.to_bytes()).items()
        card = Card.from_bytes(bundle.read(bundle.manifest.part("card")))
        card.check_model(bundle.manifest.part("model", "litert").sha256)


@pytest.mark.parametrize("name", EXPECTED)
def test_its_models_answer_as_they_did(name: str) -> None:
    found = check(FOLDER / name)
    assert sorted(found) == ["models/litert/model.tflite", "models/onnxruntime/model.onnx"]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith(f"bundle-{SCHEMA}")])
def test_packed_again_it_has_the_same_bytes(name: str) -> None:
    with open_bundle(FOLDER / name) as bundle:
        bodies = {part.path: bundle.read(part) for part in bundle.manifest.parts}
        assert pack(bundle.manifest, bodies) == (FOLDER / name).read_bytes()


def test_what_a_newer_version_added_is_kept() -> None:
    with open_bundle(FOLDER / "bundle-1-newer.bundle") as newer, open_bundle(FOLDER / "bundle-1.bundle") as plain:
        assert newer.manifest.unknown == {"carbon_g": 0.25, "reviewed_by": ["a", {"b": None}]}
        assert replace(newer.manifest, unknown={}) == plain.manifest
