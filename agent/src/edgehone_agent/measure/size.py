"""Size of a model file."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgehone_agent.runtimes._files import read_model


@dataclass(frozen=True)
class FileSize:
    """Bytes on disk, bytes after zlib level 9 (what a download or an update pays), and the sha256 of the content."""

    raw_bytes: int
    compressed_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)


def measure_size(path: Path) -> FileSize:
    """Size and digest of a file. Raises ModelFileError when it cannot be read or is empty."""
    content = read_model(path, format_name="a model")
    return FileSize(len(content), len(zlib.compress(content, 9)), hashlib.sha256(content).hexdigest())
