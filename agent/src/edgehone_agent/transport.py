"""Where a node gets the registry's files from: a folder, or a web server.

    source = open_source("https://registry.example/edgehone")
    source.fetch("metadata/timestamp.json", 16_384)
    source.download("targets/...", Path("new.bundle"), size_bytes, sha256)

Nothing here is believed. Metadata is verified by `edgehone_agent.verify`; a file is compared with its signed size and
digest before it gets its name. What a source refuses by itself: paths that lead out of the registry, anything larger
than was asked for, redirects, compressed answers, and a web server whose certificate does not fit.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from edgehone_agent._part import PartFile
from edgehone_agent.errors import ConfigError, RegistryError, TrustError

Progress = Callable[[int, int], None]  # bytes that are there, bytes of the whole file
_CHUNK_BYTES = 1 << 20


class Source(Protocol):
    """A registry's files. May be used by several threads, one request at a time."""

    def find(self, path: str, max_bytes: int) -> bytes | None:
        """A small file, None where the registry does not have it.

        Raises:
            RegistryError: the registry cannot be reached or answers nonsense.
            TrustError: the file is larger than `max_bytes`, or the path leads elsewhere.
        """

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """A small file that must be there.

        Raises:
            RegistryError: it is not there, or as for `find`.
            TrustError: as for `find`.
        """

    def download(self, path: str, to: Path, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        """A file of known size and digest, durably in its place on return.

        What arrives before a failure is kept in `to` + ".part", and the next call goes on from there.

        Raises:
            RegistryError: the registry cannot be reached, does not have the file or answers nonsense.
            TrustError: the file is not the one that was signed.
            StateError: the disk is full or read-only.
        """

    def interrupt(self) -> None:
        """End what another thread waits for; it goes on as after any cut, which is to say that it asks `pause`."""


def open_source(
    url: str,
    *,
    timeout_s: float = 10.0,
    ca: Path | None = None,
    cert: tuple[Path, Path] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Source:
    """The registry at an address. Nothing is contacted yet.

    Args:
        url: a folder, or a file://, http:// or https:// address.
        timeout_s: how long a web server may stay silent.
        ca: certificates to trust (PEM) instead of the system's.
        cert: certificate and key (PEM) of this node, where the server wants to know it.
        pause: called with the seconds to wait before the next attempt; may raise to give up.

    Raises:
        ConfigError: an address, certificate or key that cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        from edgehone_agent._http import HttpSource

        return HttpSource(url, timeout_s=timeout_s, ca=ca, cert=cert, pause=pause)
    if ca is not None or cert is not None:
        raise ConfigError("certificates are for https:// registries", where=url, do="leave them out, or use https://")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ConfigError("this is no address of a local folder", where=url, do="write file:///path/of/registry")
        return FolderSource(Path(unquote(parts.path)))
    if "://" in url or not url:
        raise ConfigError(
            "this is no address of a registry",
            where=url,
            do="give a folder, or an address that begins with file://, http:// or https://",
        )
    return FolderSource(Path(url))


class FolderSource:
    """A registry in a folder: a disk, a stick, a mounted share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, path: str, max_bytes: int) -> bytes | None:
        """See `Source.find`."""
        try:
            descriptor = self._open(path)
        except (FileNotFoundError, NotADirectoryError):
            if self.folder.is_dir():
                return None
            raise RegistryError(
                "there is no such folder", where=str(self.folder), do="give the registry's folder, or mount it"
            ) from None
        except OSError as error:
            raise _unreadable(error, self.folder / path) from error
        with os.fdopen(descriptor, "rb") as file:
            try:
                content = file.read(max_bytes + 1)
            except OSError as error:
                raise _unreadable(error, self.folder / path) from error
        if len(content) > max_bytes:
            raise too_large(path, max_bytes)
        return content

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """See `Source.fetch`."""
        content = self.find(path, max_bytes)
        if content is None:
            raise missing(str(self.folder / path))
        return content

    def download(self, path: str, to: Path, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        """See `Source.download`. A folder is read again from its beginning where the kept part turns out wrong."""
        try:
            descriptor = self._open(path)
        except (FileNotFoundError, NotADirectoryError):
            raise missing(str(self.folder / path)) from None
        except OSError as error:
            raise _unreadable(error, self.folder / path) from error
        with os.fdopen(descriptor, "rb") as file, PartFile(to, size_bytes, sha256) as part:
            resumed = part.have > 0
            file.seek(part.have)
            self._copy(file, part, progress)
            if resumed and not part.is_right():
                part.restart()
                file.seek(0)
                self._copy(file, part, progress)
            part.finish()

    def interrupt(self) -> None:
        """See `Source.interrupt`; a folder keeps nobody waiting."""

    def _copy(self, file: Reads, part: PartFile, progress: Progress | None) -> None:
        while True:
            try:
                chunk = file.read(min(_CHUNK_BYTES, part.missing + 1))  # one more byte shows a file that is too large
            except OSError as error:
                raise _unreadable(error, self.folder) from error
            if not chunk:
                return
            part.write(chunk)
            if progress is not None:
                progress(part.have, part.size_bytes)

    def _open(self, path: str) -> int:
        """A descriptor of a plain file; a pipe or device is refused without waiting for it."""
        descriptor = os.open(self.folder / checked_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise TrustError("the registry holds no plain file here", where=path, do="have the registry looked at")
        return descriptor


class Reads(Protocol):
    """A file open for reading."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


def checked_path(path: str) -> str:
    """A path inside the registry.

    Raises:
        TrustError: it is absolute, climbs up, or holds characters that no published path has.
    """
    steps = path.split("/")
    if "\\" in path or not path.isprintable() or any(step in ("", ".", "..") for step in steps):
        raise TrustError(
            f"{path!r} is no path inside a registry", do="have the registry looked at: it names a file outside of it"
        )
    return path


def too_large(path: str, max_bytes: int) -> TrustError:
    """What is said of a file over its limit."""
    return TrustError(
        f"the registry's file is larger than the {max_bytes} bytes it may have",
        where=path,
        do="have the registry looked at: no published file is that large",
    )


def missing(where: str) -> RegistryError:
    """What is said of a file that should be there."""
    return RegistryError("the registry does not have this file", where=where, do="check the address of the registry")


def _unreadable(error: OSError, path: Path) -> RegistryError:
    return RegistryError(
        f"the registry's folder cannot be read: {error.strerror or error}",
        where=str(path),
        do="check the mount and the permissions; the node tries again",
    )
