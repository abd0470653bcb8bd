"""Where the model files of a bundle come from: an in-toto Statement with the SLSA provenance predicate.

Sources: in-toto attestation framework, Statement v1; SLSA v1.0, provenance.
"""

from __future__ import annotations

from typing import Any

from edgehone.record import MemberRecord, StudyRecord
from edgehone_agent.wire.manifest import Manifest

BUILD_TYPE = "https://edgehone.dev/study/v1"


def provenance(study: StudyRecord, member: MemberRecord, manifest: Manifest) -> dict[str, Any]:
    """The statement about the model files: recipe and settings, digests of the data, versions of what made them."""
    versions = dict(study.machine.get("versions") or {})
    data = [
        {"name": f"{study.task['name']} {split}", "digest": {"sha256": digest}}
        for split, digest in sorted(dict(study.task.get("digest") or {}).items())
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": file.path.rsplit("/", 1)[-1], "digest": {"sha256": file.sha256}} for file in member.files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "task": study.task["name"],
                    "device": study.device.get("name"),
                    "budget": dict(study.budget),
                    "settings": dict(study.settings),
                    "recipe": [dict(step) for step in member.recipe],
                },
                "internalParameters": {"parent": member.parent, "release": manifest.version},
                "resolvedDependencies": data,
            },
            "runDetails": {
                "builder": {
                    "id": f"https://edgehone.dev/edgehone@{versions.get('edgehone', 'unknown')}",
                    "version": versions,
                },
                "metadata": {"invocationId": manifest.task, "finishedOn": study.created},
            },
        },
    }
