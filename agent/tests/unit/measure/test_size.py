"""Size and digest of a file against the tools that define them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from edgehone_agent.errors import ModelFileError
from edgehone_agent.measure.size import measure_size


def test_size_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"abcd" * 5000)
    found = measure_size(path)
    assert found.raw_bytes == path.stat().st_size == 20_000
    # gzip is the same deflate stream with 12 more bytes around it.
    assert found.compressed_bytes == len(gzip.compress(path.read_bytes(), 9)) - 12
    assert found.sha256 == hashlib.sha256(b"abcd" * 5000).hexdigest()
    assert found.to_json()["raw_bytes"] == 20_000


@pytest.mark.parametrize("content", [None, b""])
def test_missing_and_empty_files_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"no such file|empty"):
        measure_size(path)
