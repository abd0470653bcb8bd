"""Where the model files of a bundle come from: an in-toto Statement with the SLSA provenance predicate.

Sources: in-toto attestation framework, Statement v1 and ResourceDescriptor v1; SLSA v1.0, provenance. What our
`buildType` means is said in docs/formats/bundle.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgehone.bundle import said
from edgehone.record import MemberRecord, StudyRecord
from edgehone_agent.wire.manifest import Manifest, Part

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:edgehone:study:v1"


def provenance(study: StudyRecord, member: MemberRecord, manifest: Manifest, models: Sequence[Part]) -> dict[str, Any]:
    """The statement about the model files: recipe and settings, digests of the data, versions of what made them."""
    versions = said.versions(study)
    data = [
        {"name": f"{manifest.task}/{split}", "digest": {"sha256": digest}}
        for split, digest in sorted(manifest.dataset.items())
    ]
    return {
        "_type": STATEMENT,
        "subject": [{"name": part.path, "digest": {"sha256": part.sha256}} for part in models],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "task": manifest.task,
                    "device": study.device.get("name"),
                    "budget": dict(study.budget),
                    "settings": dict(study.settings),
                    "recipe": [dict(step) for step in member.recipe],
                },
                "internalParameters": {"member": member.name, "startedFrom": member.parent},
                "resolvedDependencies": data,
            },
            "runDetails": {
                "builder": {"id": f"pkg:pypi/edgehone@{versions.get('edgehone', 'unknown')}", "version": versions},
                "metadata": {
                    "invocationId": f"{manifest.task}/{manifest.version}-{manifest.member}",
                    "finishedOn": manifest.created,
                },
            },
        },
    }
