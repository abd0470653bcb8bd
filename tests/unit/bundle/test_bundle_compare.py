"""What differs between two bundles is said field by field, figure by figure, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgehone.bundle.build import Wishes, build
from edgehone.bundle.compare import compare
from edgehone.testing.studies import member_of
from edgehone_agent.errors import BundleError


def test_a_bundle_does_not_differ_from_itself(family: Any, tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(build(family.study, "int8", family.folder, Wishes()))
    assert compare(path, path) == {"fields": {}, "measured": {}, "parts": {}}


def test_two_members_differ_in_what_they_are_and_do(family: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(build(family.study, "int8", family.folder, Wishes(), family.x))
    two.write_bytes(build(family.study, "w30-int8", family.folder, Wishes(version=2), None))
    found = compare(one, two)
    assert found["fields"]["version"] == [1, 2] and found["fields"]["member"] == ["int8", "w30-int8"]
    assert "task" not in found["fields"] and "parts" not in found["fields"] and "measured" not in found["fields"]
    before, after = (member_of(family.study, name).latency[0].latency.value for name in ("int8", "w30-int8"))
    assert found["measured"]["latency_us litert"] == [before, after]
    assert found["parts"]["card.bin"] == "removed" and found["parts"]["models/litert/model.tflite"] == "changed"
    assert compare(two, one)["parts"]["card.bin"] == "added"


def test_what_is_no_bundle_is_refused(family: Any, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"PK")
    with pytest.raises(BundleError):
        compare(tmp_path / "one", tmp_path / "one")
