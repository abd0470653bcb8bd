"""Write the golden bundles of this version of the format. Run once for each version; never change what is there.

python tests/golden/make_bundles.py

bundle-1.bundle          a member with both model files, card, probe and papers, the child of another bundle
bundle-1-newer.bundle    the same, as a newer edgehone might write it: with fields that this version does not know
bundle-1.json            what a reader must find in them
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.bundle.build import Wishes, build
from edgehone.testing.studies import readings, write_study
from edgehone_agent.bundle import open_bundle
from edgehone_agent.wire.manifest import SCHEMA

FOLDER = Path(__file__).parent
SHAPE = (2, 6, 6)


def main() -> None:
    """Write what is not there yet."""
    plain, newer = (FOLDER / f"bundle-{SCHEMA}{more}.bundle" for more in ("", "-newer"))
    if plain.exists():
        raise SystemExit(f"{plain} is there already: golden files are never written again")
    with tempfile.TemporaryDirectory() as folder:
        study = write_study(Path(folder), shape=SHAPE, embedding=True)
        wishes = Wishes(version=3, parent="5a" * 32, unit="lux")
        plain.write_bytes(build(study, "int8", Path(folder), wishes, readings(SHAPE, 200)))
    with open_bundle(plain) as bundle:
        manifest = bundle.manifest
        contents = [Content(part.path, part.role, bundle.read(part), part.runtime) for part in manifest.parts]
    later = {"carbon_g": 0.25, "reviewed_by": ["a", {"b": None}]}
    newer.write_bytes(bundle_bytes(replace(manifest, unknown=later), contents))
    expected = {}
    for path in (plain, newer):
        with open_bundle(path) as bundle:
            expected[path.name] = {"digest": bundle.digest, "manifest": bundle.manifest.to_json()}
    plain.with_suffix(".json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
