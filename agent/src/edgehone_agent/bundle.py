"""Open a bundle: a zip archive of stored files, the manifest first. Nothing of it is believed before it is checked.

Order of calls: `open_bundle(path)` → `read(part)` or `unpack(folder)` any number of times → `close`.

Refused on opening, before anything but the directory and the manifest is read:
- a file that is too long, no zip, or cut off; more than one disk; a comment or bytes between the members;
- a member that is compressed, encrypted, a folder, a link, given twice, or named otherwise than by plain words joined
  by "/": a stored member cannot be a zip bomb, and such a name cannot leave the folder;
- a member that the manifest does not name, or the reverse, or one of another size.
Refused on reading: bytes that do not give the digest in the manifest.

The digest of a bundle is the sha256 of the whole file; it is what signed metadata names.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO

from edgehone_agent.durable import state_error, sync_folder
from edgehone_agent.errors import BundleError
from edgehone_agent.wire.manifest import MAX_PARTS, NAME, Manifest, Part

MAX_BUNDLE_BYTES = 2 << 30
MAX_MANIFEST_BYTES = 1 << 20

_CHUNK = 1 << 20
_LINK = 0o120000
_LOCAL_BYTES, _CENTRAL_BYTES, _END_BYTES = 30, 46, 22  # of the records of a zip file without names
_AGAIN = "copy or download it again"
_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, ValueError)


class Bundle:
    """An opened bundle. Create it with `open_bundle`; use it in a `with`, or close it.

    Attributes:
        path: of the file.
        digest: sha256 of the file, hex.
        size_bytes: of the file.
        manifest: what it says about itself.
    """

    def __init__(self, path: Path, file: IO[bytes], archive: zipfile.ZipFile, manifest: Manifest, digest: str) -> None:
        self.path, self.manifest, self.digest = path, manifest, digest
        self.size_bytes = os.fstat(file.fileno()).st_size
        self._file, self._archive = file, archive

    def read(self, part: Part) -> bytes:
        """The bytes of a part, checked against its digest.

        Raises:
            BundleError: the bytes are not those that the manifest promises.
        """
        try:
            content = self._archive.read(part.path)
        except (KeyError, OSError, *_DAMAGE) as error:
            raise BundleError(f"{part.path} cannot be read: {error}", where=str(self.path), do=_AGAIN) from error
        if len(content) != part.size_bytes or hashlib.sha256(content).hexdigest() != part.sha256:
            raise BundleError(f"{part.path} is not what the manifest says", where=str(self.path), do=_AGAIN)
        return content

    def verify(self) -> None:
        """Read every part once.

        Raises:
            BundleError: a part is not what the manifest promises.
        """
        for part in self.manifest.parts:
            self.read(part)

    def unpack(self, folder: Path) -> None:
        """Write every part and the manifest below a folder, checked, and have them on disk on return.

        Raises:
            BundleError: a part is not what the manifest promises.
            StateError: the folder cannot be written.
        """
        folders = {folder}
        for path, content in [(NAME, self._archive.read(NAME)), *((p.path, self.read(p)) for p in self.manifest.parts)]:
            target = folder / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise state_error(error, target) from error
            folders.update(parent for parent in target.parents if parent.is_relative_to(folder))
        try:
            for written in sorted(folders, key=lambda path: -len(path.parts)):
                sync_folder(written)
        except OSError as error:
            raise state_error(error, folder) from error

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        self._archive.close()
        self._file.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and check all that can be checked without reading its parts.

    Raises:
        BundleError: no such file, no bundle, damaged, unsafe, or of a newer format.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BundleError(
            f"cannot be read: {error.strerror}", where=str(path), do="give the path of a bundle"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BundleError("this is no file", where=str(path), do="give the path of a bundle")
        if os.fstat(file.fileno()).st_size > MAX_BUNDLE_BYTES:
            raise BundleError(f"is longer than {MAX_BUNDLE_BYTES} bytes", where=str(path))
        archive = zipfile.ZipFile(file)
        _check_members(archive, path)
        _check_layout(archive, os.fstat(file.fileno()).st_size, path)
        manifest = _manifest(archive, path)
        _check_sizes(archive, manifest, path)
        return Bundle(path, file, archive, manifest, _digest(file))
    except _DAMAGE as error:
        file.close()
        raise BundleError(f"this is no bundle, or a damaged one: {error}", where=str(path), do=_AGAIN) from error
    except OSError as error:
        file.close()
        raise BundleError(f"cannot be read: {error.strerror or error}", where=str(path), do=_AGAIN) from error
    except BaseException:
        file.close()
        raise


def _digest(file: IO[bytes]) -> str:
    sha = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK):
        sha.update(chunk)
    return sha.hexdigest()


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(infos) > MAX_PARTS + 1:
        raise BundleError(f"holds more than {MAX_PARTS + 1} files", where=str(path))
    if names[:1] != [NAME]:
        raise BundleError(f"does not begin with {NAME}", where=str(path), do=_AGAIN)
    if len(set(names)) != len(names):
        raise BundleError("holds two files of one name", where=str(path))
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise BundleError(f"{info.filename[:80]!r} is compressed or encrypted", where=str(path))
        if info.is_dir() or (info.external_attr >> 16) & 0o170000 == _LINK:
            raise BundleError(f"{info.filename[:80]!r} is no plain file", where=str(path))


def _check_layout(archive: zipfile.ZipFile, size_bytes: int, path: Path) -> None:
    """Members lie one behind the other from the first byte on, their directory follows, and nothing else is there.

    Two readers of such a file cannot see different things in it. Source: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12.
    """
    infos, at = archive.infolist(), 0
    for info in infos:
        if info.header_offset != at or info.extra or info.comment:
            raise BundleError("has bytes that belong to no file", where=str(path), do=_AGAIN)
        at += _LOCAL_BYTES + len(info.filename) + info.file_size
    directory_bytes = sum(_CENTRAL_BYTES + len(info.filename) for info in infos)
    if archive.comment or archive.start_dir != at or at + directory_bytes + _END_BYTES != size_bytes:
        raise BundleError("has bytes that belong to no file", where=str(path), do=_AGAIN)


def _manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    if archive.getinfo(NAME).file_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{NAME} is longer than {MAX_MANIFEST_BYTES} bytes", where=str(path))
    try:
        return Manifest.from_json(json.loads(archive.read(NAME).decode()))
    except RecursionError as error:
        raise BundleError(f"{NAME} is nested too deep", where=str(path)) from error


def _check_sizes(archive: zipfile.ZipFile, manifest: Manifest, path: Path) -> None:
    """The manifest and the directory name the same files, in one order, and each has its size."""
    found = [(info.filename, info.file_size) for info in archive.infolist()[1:]]
    promised = [(part.path, part.size_bytes) for part in manifest.parts]
    if found != promised:
        raise BundleError(f"its files are not those that {NAME} lists", where=str(path), do=_AGAIN)
