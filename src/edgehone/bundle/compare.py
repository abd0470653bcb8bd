"""What differs between two bundles: fields of the manifest, measured figures, and parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgehone_agent.bundle import open_bundle
from edgehone_agent.wire.manifest import Manifest

_APART = frozenset({"parts", "measured"})


def compare(old: Path, new: Path) -> dict[str, Any]:
    """Differences as a JSON object.

    Returns:
        `fields`: name → [old, new] of every field that differs; `measured`: name → [old value, new value], None where a
        bundle has no such figure; `parts`: path → "added", "removed" or "changed".

    Raises:
        BundleError: one of them is no bundle.
    """
    with open_bundle(old) as before, open_bundle(new) as after:
        one, two = before.manifest, after.manifest
    fields = _differences(_fields(one), _fields(two))
    return {"fields": fields, "measured": _differences(_values(one), _values(two)), "parts": _parts(one, two)}


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: value for name, value in manifest.to_json().items() if name not in _APART}


def _values(manifest: Manifest) -> dict[str, Any]:
    return {name: figure["value"] for name, figure in manifest.measured.items()}


def _differences(one: dict[str, Any], two: dict[str, Any]) -> dict[str, list[Any]]:
    pairs = {name: [one.get(name), two.get(name)] for name in sorted({*one, *two})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _parts(one: Manifest, two: Manifest) -> dict[str, str]:
    first, second = ({part.path: part.sha256 for part in manifest.parts} for manifest in (one, two))
    return {
        path: "added" if path not in first else "removed" if path not in second else "changed"
        for path in sorted({*first, *second})
        if first.get(path) != second.get(path)
    }
