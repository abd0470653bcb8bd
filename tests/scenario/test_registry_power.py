"""The power goes at any moment of a publish: what is left verifies, blobs are whole, and it can be repeated."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgehone.registry import release
from edgehone.registry.create import create, load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.names import blob_path
from edgehone.registry.publish import publish
from edgehone.registry.state import read
from edgehone.registry.store import Store
from edgehone.testing.bundles import write_bundle
from edgehone.testing.power import SURVIVALS, record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="Debian package `strace` is not installed"),
]

PASSPHRASE = "correct horse battery staple"


def live(store: Store, anchor: bytes | None) -> list[int]:
    """Live versions of a registry that verifies and whose blobs are all whole."""
    listed = release.listed(read(store, anchor).roles["task-gestures"].signed)
    for bundle in listed:
        assert store.holds(blob_path(bundle.path, bundle.sha256), bundle.sha256), bundle.path
    return sorted(bundle.version for bundle in listed)


def test_a_power_cut_leaves_a_registry_that_verifies(memory_path: Path) -> None:
    now = datetime.now(UTC)
    ring = KeyRing([memory_path / "keys"], Passphrases([PASSPHRASE]))
    store = Store(memory_path / "registry")
    create(store, ring, ["gestures"], now)
    anchor = load_anchor(ring)
    first, second = (write_bundle(memory_path / f"{n}.bundle", version=n).path for n in (1, 2))
    publish(store, ring, [first], [], now, anchor=anchor)
    words = ["registry", "publish", store.folder, second, "--keys", memory_path / "keys"]
    disk, operations = record(
        [sys.executable, "-m", "edgehone.cli.main", *map(str, words)],
        store.folder,
        environment={**os.environ, "EDGEHONE_PASSPHRASE": PASSPHRASE},
    )
    seen, cuts = set(), 0
    for operation in operations:
        if not disk.apply(operation):
            continue
        cuts += 1
        for survival in SURVIVALS:
            left = Store(memory_path / f"cut-{cuts}-{survival}")
            disk.leave(left.folder, survival)
            found = live(left, anchor)
            assert found in ([1], [1, 2]), (cuts, survival)
            seen.add(tuple(found))
            publish(left, ring, [second], [], now, anchor=anchor)
            assert live(left, anchor) == [1, 2]
            shutil.rmtree(left.folder)
    assert seen == {(1,), (1, 2)} and cuts >= 15
    disk.leave(memory_path / "after", "nothing")
    assert live(Store(memory_path / "after"), anchor) == [1, 2]  # what a finished publish said is certain
