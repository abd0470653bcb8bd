"""Open a bundle: a zip archive of stored files, the manifest first. Nothing of it is believed before it is checked.

Order of calls: `open_bundle(path)` → `read(part)` or `unpack(folder)` any number of times → `close`.

Refused on opening, before anything but the directory and the manifest is read:
- a file that is too long, no zip, or cut off; more than one disk; a comment or bytes between the members;
- a directory with more entries than a bundle has, so that reading it takes little memory;
- a member that is compressed, encrypted, a folder, a link, given twice, or named otherwise than by plain words joined
  by "/": a stored member cannot be a zip bomb, and such a name cannot leave the folder;
- a member that the manifest does not name, or the reverse, or one of another size.
Refused on reading: bytes that do not give the digest in the manifest.

The digest of a bundle is the sha256 of the whole file; it is what signed metadata names.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from edgehone_agent.durable import state_error, sync_folder
from edgehone_agent.errors import BundleError
from edgehone_agent.wire.manifest import MAX_PARTS, MAX_PATH, NAME, Manifest, Part

MAX_BUNDLE_BYTES = 2 << 30
MAX_MANIFEST_BYTES = 1 << 20

_CHUNK = 1 << 20
_LINK = 0o120000
_LOCAL_BYTES, _CENTRAL_BYTES = 30, 46  # of the records of a zip file, without names
_END = struct.Struct("<4s4H2LH")  # the last one: mark, disks, entries, length and place of the directory, comment
_END_MARK, _LONG_MARK, _LONG_BYTES = b"PK\5\6", b"PK\6\7", 20
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

    def __init__(self, path: Path, file: IO[bytes], archive: zipfile.ZipFile, head: bytes, digest: str) -> None:
        self.path, self.manifest, self.digest = path, Manifest.from_bytes(head), digest
        self.size_bytes = os.fstat(file.fileno()).st_size
        self._file, self._archive, self._head = file, archive, head

    def read(self, part: Part) -> bytes:
        """The bytes of a part, checked against its digest.

        Raises:
            BundleError: the bytes are not those that the manifest promises.
        """
        return b"".join(self._chunks(part))

    def verify(self) -> None:
        """Read every part once, a piece at a time.

        Raises:
            BundleError: a part is not what the manifest promises.
        """
        for part in self.manifest.parts:
            for _ in self._chunks(part):
                pass

    def unpack(self, folder: Path) -> None:
        """Write every part and the manifest below a folder, checked, and have them on disk on return.

        After an error the folder may hold some of them; none that is not what the manifest promises.

        Raises:
            BundleError: a part is not what the manifest promises.
            StateError: the folder cannot be written.
        """
        folders = {folder}
        for path, chunks in [(NAME, iter([self._head])), *((p.path, self._chunks(p)) for p in self.manifest.parts)]:
            target = folder / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(target, chunks)
            except OSError as error:
                raise state_error(error, target) from error
            folders.update(parent for parent in target.parents if parent.is_relative_to(folder))
        try:
            for written in sorted(folders, key=lambda path: -len(path.parts)):
                sync_folder(written)
        except OSError as error:
            raise state_error(error, folder) from error

    def _chunks(self, part: Part) -> Iterator[bytes]:
        """The bytes of a part piece by piece; the last piece comes only when all of them give the digest."""
        sha, size_bytes, held = hashlib.sha256(), 0, b""
        try:
            with self._archive.open(part.path) as member:
                while chunk := member.read(_CHUNK):
                    sha.update(chunk)
                    size_bytes += len(chunk)
                    if held:
                        yield held
                    held = chunk
        except (KeyError, OSError, *_DAMAGE) as error:
            raise BundleError(f"{part.path} cannot be read: {error}", where=str(self.path), do=_AGAIN) from error
        if size_bytes != part.size_bytes or sha.hexdigest() != part.sha256:
            raise BundleError(f"{part.path} is not what the manifest says", where=str(self.path), do=_AGAIN)
        yield held

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
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # a pipe does not hold us up
    except OSError as error:
        raise BundleError(
            f"cannot be read: {error.strerror}", where=str(path), do="give the path of a bundle"
        ) from error
    try:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise BundleError("this is no file", where=str(path), do="give the path of a bundle")
        if about.st_size > MAX_BUNDLE_BYTES:
            raise BundleError(f"is longer than {MAX_BUNDLE_BYTES} bytes", where=str(path))
        _check_end(file, about.st_size, path)
        archive = zipfile.ZipFile(file)
        _check_members(archive, path)
        _check_layout(archive, about.st_size, path)
        bundle = Bundle(path, file, archive, _head(archive, path), _digest(file))
        _check_sizes(archive, bundle.manifest, path)
    except _DAMAGE as error:
        file.close()
        raise BundleError(f"this is no bundle, or a damaged one: {error}", where=str(path), do=_AGAIN) from error
    except OSError as error:
        file.close()
        raise BundleError(f"cannot be read: {error.strerror or error}", where=str(path), do=_AGAIN) from error
    except BaseException:
        file.close()
        raise
    return bundle


def _write(target: Path, chunks: Iterable[bytes]) -> None:
    """Write and sync a file; it does not stay when not all of it comes."""
    try:
        with target.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _digest(file: IO[bytes]) -> str:
    sha = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK):
        sha.update(chunk)
    return sha.hexdigest()


def _check_end(file: IO[bytes], size_bytes: int, path: Path) -> None:
    """The file ends in a short directory and its end record, before anybody reads that directory into memory.

    Source: APPNOTE.TXT 6.3.10, sections 4.3.15 and 4.3.16.
    """
    if size_bytes >= _END.size:
        file.seek(size_bytes - _END.size)
        mark, disk, first, here, entries, length, start, comment = _END.unpack(file.read(_END.size))
        file.seek(max(0, size_bytes - _END.size - _LONG_BYTES))
        longer = file.read(len(_LONG_MARK)) == _LONG_MARK
        if mark == _END_MARK and not (disk or first or comment or longer) and here == entries:
            if entries > MAX_PARTS + 1 or length > entries * (_CENTRAL_BYTES + MAX_PATH):
                raise BundleError(f"holds more than {MAX_PARTS + 1} files, or too long names", where=str(path))
            if start + length + _END.size == size_bytes:
                return
    raise BundleError("this is no bundle, or one that was cut off", where=str(path), do=_AGAIN)


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
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
    if archive.comment or archive.start_dir != at or at + directory_bytes + _END.size != size_bytes:
        raise BundleError("has bytes that belong to no file", where=str(path), do=_AGAIN)


def _head(archive: zipfile.ZipFile, path: Path) -> bytes:
    if archive.getinfo(NAME).file_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{NAME} is longer than {MAX_MANIFEST_BYTES} bytes", where=str(path))
    return archive.read(NAME)


def _check_sizes(archive: zipfile.ZipFile, manifest: Manifest, path: Path) -> None:
    """The manifest and the directory name the same files, in one order, and each has its size."""
    found = [(info.filename, info.file_size) for info in archive.infolist()[1:]]
    promised = [(part.path, part.size_bytes) for part in manifest.parts]
    if found != promised:
        raise BundleError(f"its files are not those that {NAME} lists", where=str(path), do=_AGAIN)
