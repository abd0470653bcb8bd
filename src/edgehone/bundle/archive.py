"""Put a manifest and its parts into one archive: the same content gives the same bytes.

Members are stored and not compressed, in the manifest's order, with the earliest date that zip can hold and the same
rights; there is nothing else in the file. `edgehone_agent.bundle` reads it and accepts nothing but this form.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgehone.errors import OutputFolderError
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import StateError
from edgehone_agent.wire.manifest import NAME, Manifest, Part, Role

_EPOCH = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o100644 << 16  # a regular file that its owner may write and all may read
_UNIX = 3


@dataclass(frozen=True)
class Content:
    """One file for a bundle: where it lies, what it is, its bytes, and for a model file its runtime."""

    path: str
    role: Role
    body: bytes
    runtime: str | None = None

    def part(self) -> Part:
        """What the manifest says of it."""
        return Part(self.path, self.role, hashlib.sha256(self.body).hexdigest(), len(self.body), self.runtime)


def bundle_bytes(manifest: Manifest, contents: Iterable[Content]) -> bytes:
    """The bundle of a manifest and files; the manifest's own `parts` are replaced by those of the files.

    Raises:
        BundleError: the manifest is one that a node would refuse.
    """
    contents = tuple(contents)
    manifest = replace(manifest, parts=tuple(content.part() for content in contents))
    Manifest.from_bytes(manifest.to_bytes())
    return pack(manifest, {content.path: content.body for content in contents})


def pack(manifest: Manifest, bodies: Mapping[str, bytes]) -> bytes:
    """The archive of a manifest as it is and of the parts that it lists, by path; nothing is checked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, body in [(NAME, manifest.to_bytes()), *((part.path, bodies[part.path]) for part in manifest.parts)]:
            info = zipfile.ZipInfo(path, _EPOCH)
            info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
            archive.writestr(info, body)
    return buffer.getvalue()


def write_output(path: Path, content: bytes) -> None:
    """Write a file that a person asked for, whole or not at all.

    Raises:
        OutputFolderError: the disk is full, or the place may not be written.
    """
    try:
        write_bytes(path, content)
    except (StateError, OSError) as error:
        what = error.what if isinstance(error, StateError) else error.strerror
        raise OutputFolderError(
            f"the file cannot be written: {what}", where=str(path), do="choose a place you may write to"
        ) from error
