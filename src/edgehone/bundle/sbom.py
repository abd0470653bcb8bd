"""The bill of materials of a bundle, as CycloneDX 1.6 JSON: the model files, and the libraries that made and run them.

Source: CycloneDX 1.6 JSON reference; package URL specification, type "pypi".
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from edgehone.bundle import said
from edgehone.record import StudyRecord
from edgehone_agent.wire.manifest import Manifest, Part

_LIBRARY_OF = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pkg:pypi/edgehone")


def sbom(study: StudyRecord, manifest: Manifest, models: Sequence[Part]) -> dict[str, Any]:
    """The document. Its serial number follows from the release and its model files, so it is the same every time."""
    name = f"{manifest.task}/{manifest.version}-{manifest.member}"
    serial = uuid.uuid5(_NAMESPACE, "\n".join((name, *(part.sha256 for part in models))))
    files = [_file(part) for part in models]
    needed = {_LIBRARY_OF.get(part.runtime, part.runtime) for part in models if part.runtime}
    libraries = [
        _library(library, version, needed=library in needed)
        for library, version in sorted(said.versions(study).items())
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created,
            "component": {
                "type": "machine-learning-model",
                "bom-ref": name,
                "name": f"{manifest.task} {manifest.member}",
                "version": str(manifest.version),
            },
        },
        "components": [*files, *libraries],
        "dependencies": [
            {"ref": name, "dependsOn": [entry["bom-ref"] for entry in files]},
            *({"ref": entry["bom-ref"], "dependsOn": _runs_on(part, libraries)}
              for part, entry in zip(models, files, strict=True)),
        ],
    }  # fmt: skip


def _file(part: Part) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": part.path,
        "name": part.path,
        "hashes": [{"alg": "SHA-256", "content": part.sha256}],
        "properties": [{"name": "edgehone:size_bytes", "value": str(part.size_bytes)}],
    }


def _library(name: str, version: str, *, needed: bool) -> dict[str, Any]:
    url = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version, safe='')}"
    return {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
        "scope": "required" if needed else "excluded",  # excluded: took part in the making, is not needed to run
    }


def _runs_on(part: Part, libraries: list[dict[str, Any]]) -> list[str]:
    """The runtime of a model file, where its version is known."""
    name = _LIBRARY_OF.get(part.runtime or "", part.runtime)
    return [entry["bom-ref"] for entry in libraries if entry["name"] == name]
