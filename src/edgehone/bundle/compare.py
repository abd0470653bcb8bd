"""What differs between two bundles: fields of the manifest, and parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgehone_agent.bundle import open_bundle

_APART = frozenset({"parts", "measured"})


def compare(old: Path, new: Path) -> tuple[dict[str, Any], list[str]]:
    """Differences as a JSON object, and as lines for people.

    Raises:
        BundleError: one of them is no bundle.
    """
    with open_bundle(old) as before, open_bundle(new) as after:
        one, two = before.manifest.to_json(), after.manifest.to_json()
        fields = {
            name: [one.get(name), two.get(name)]
            for name in sorted({*one, *two} - _APART)
            if one.get(name) != two.get(name)
        }
        first = {part.path: part for part in before.manifest.parts}
        second = {part.path: part for part in after.manifest.parts}
    parts = {
        path: "added" if path not in first else "removed" if path not in second else "changed"
        for path in sorted({*first, *second})
        if path not in first or path not in second or first[path].sha256 != second[path].sha256
    }
    lines = [f"{name}: {old_value} → {new_value}" for name, (old_value, new_value) in fields.items()]
    lines += [f"{what}: {path}" for path, what in parts.items()]
    return {"fields": fields, "parts": parts}, lines or ["the bundles say and hold the same"]
