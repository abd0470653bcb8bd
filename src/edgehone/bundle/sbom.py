"""The bill of materials of a bundle, as CycloneDX 1.6 JSON: the model files, and the libraries that made and run them.

Source: CycloneDX 1.6 specification, https://cyclonedx.org/docs/1.6/json/.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from edgehone.record import MemberRecord, StudyRecord
from edgehone_agent.wire.manifest import Manifest

_RUNNERS = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}


def sbom(study: StudyRecord, member: MemberRecord, manifest: Manifest) -> dict[str, Any]:
    """The document; its serial number follows from the digests of the model files, so it is the same every time."""
    digests = [file.sha256 for file in member.files]
    serial = uuid.UUID(bytes=hashlib.sha256("".join(digests).encode()).digest()[:16], version=4)
    versions = dict(study.machine.get("versions") or {})
    reference = f"{manifest.task}/{manifest.version}-{manifest.member}"
    files = [
        {
            "type": "file",
            "bom-ref": f"{reference}/{file.format}",
            "name": f"model.{file.format}",
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            "properties": [{"name": "edgehone:size_bytes", "value": str(file.size_bytes)}],
        }
        for file in member.files
    ]
    libraries = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "scope": "required" if name in _RUNNERS.values() else "excluded",
        }
        for name, version in sorted(versions.items())
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": study.created,
            "component": {
                "type": "machine-learning-model",
                "bom-ref": reference,
                "name": f"{manifest.task} {manifest.member}",
                "version": str(manifest.version),
            },
        },
        "components": [*files, *libraries],
        "dependencies": [{"ref": reference, "dependsOn": [entry["bom-ref"] for entry in (*files, *libraries)]}],
    }
