"""Check all of a bundle, as a node does and further: digests, golden probe on every runtime, card, and papers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgehone_agent.bundle import Bundle, open_bundle
from edgehone_agent.errors import BundleError
from edgehone_agent.model import open_model
from edgehone_agent.probe import ProbeResult, read_probe
from edgehone_agent.wire.card import Card
from edgehone_agent.wire.manifest import Part, Role
from edgehone_agent.wire.strict_json import read_json


def check(path: Path) -> dict[str, ProbeResult]:
    """Check a bundle on this machine; path of every model file → what it made of the probe.

    Raises:
        BundleError: a part is not what the manifest promises, a model fails the probe, the card belongs to another
            model, or bill of materials or provenance speak of other files.
        ModelFileError: a model file that its runtime does not take.
        MissingExtraError: a runtime is not installed here.
    """
    with open_bundle(path) as bundle, tempfile.TemporaryDirectory() as folder:
        models = [part for part in bundle.manifest.parts if part.role == "model"]
        bundle.unpack(Path(folder))
        _check_card(bundle, models)
        _check_papers(bundle, {part.path: part.sha256 for part in models})
        probe = read_probe(bundle.read(bundle.manifest.part("probe")))
        found = {}
        for part in models:
            with open_model(Path(folder) / part.path, runtime=part.runtime) as model:
                found[part.path] = probe.check(model)
    failed = next((name for name, result in found.items() if not result.ok), None)
    if failed is not None:
        raise BundleError(f"{failed} fails its probe: {found[failed].text}", where=str(path), do="build it again")
    return found


def _check_card(bundle: Bundle, models: list[Part]) -> None:
    for part in bundle.manifest.parts:
        if part.role == "card":
            card = Card.from_bytes(bundle.read(part))
            if card.model_digest not in {model.sha256 for model in models}:
                raise BundleError(f"{part.path} belongs to another model", where=str(bundle.path), do="build it again")


def _check_papers(bundle: Bundle, models: dict[str, str]) -> None:
    """Both papers, where there are any, name the model files and their digests, all of them and no other."""

    def hashes(document: Any) -> dict[str, str]:
        return {c["name"]: c["hashes"][0]["content"] for c in document["components"] if c["type"] == "file"}

    def subjects(document: Any) -> dict[str, str]:
        return {subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]}

    readers: dict[Role, Any] = {"sbom": hashes, "provenance": subjects}
    for part in bundle.manifest.parts:
        if part.role not in readers:
            continue
        try:
            named = readers[part.role](read_json(bundle.read(part), part.path))
        except (KeyError, TypeError, IndexError) as error:
            raise BundleError(f"{part.path} is not in its format", where=str(bundle.path)) from error
        if named != models:
            raise BundleError(f"{part.path} speaks of other files", where=str(bundle.path), do="build it again")
