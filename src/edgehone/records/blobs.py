"""Blobs: contents named by their SHA-256, which never change. In a folder, in memory, or in a bucket, by URL.

Rules:
- `put` stores what is not there yet, whole or not at all, and it is kept when `put` returns. A blob comes before the
  row that names it, and goes after the last such row is gone.
- `get` checks what it read. A damaged blob is an error, never an answer; putting the same content again heals it.
- A blob that no row names is garbage once it is older than the grace time: until then its row may still be on the way.
  Putting it again makes it young again.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgehone.errors import InputError
from edgehone_agent.errors import ConfigError, StateError

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Stored:
    """A blob that is there: its digest, size, and when it was last put (seconds since 1970)."""

    digest: str
    size_bytes: int
    put_s: float


class Blobs(ABC):
    """A store of blobs. Threads may share it."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, without a password."""

    def put(self, content: bytes) -> str:
        """Store a content, and return its digest. It is kept on return.

        Raises:
            StateError: there is no room, or it may not be written.
        """
        return self.put_many([content])[0]

    @abstractmethod
    def put_many(self, contents: Iterable[bytes]) -> list[str]:
        """Store contents together, which is faster than one by one, and return their digests. All are kept on return.

        Raises:
            StateError: as `put`; some of them may be kept then.
        """

    def get(self, digest: str) -> bytes:
        """A content.

        Raises:
            StateError: it is not there, or damaged, or cannot be read.
            InputError: this is no digest.
        """
        content = self._read(checked(digest))
        if content is None:
            raise StateError("there is no such blob", where=f"{self.url}: {digest}", do="restore it from a backup")
        if hashlib.sha256(content).hexdigest() != digest:
            raise StateError("the blob is damaged", where=f"{self.url}: {digest}", do="restore it from a backup")
        return content

    @abstractmethod
    def has(self, digest: str) -> bool:
        """Whether a blob is there; its content is not read.

        Raises:
            StateError: that cannot be found out.
            InputError: this is no digest.
        """

    @abstractmethod
    def delete(self, digest: str) -> None:
        """Remove a blob; fine when it is gone already.

        Raises:
            StateError: it may not be removed.
            InputError: this is no digest.
        """

    def digests(self) -> Iterator[str]:
        """The digest of every blob, in any order.

        Raises:
            StateError: they cannot be listed.
        """
        return (blob.digest for blob in self.stored())

    @abstractmethod
    def stored(self) -> Iterator[Stored]:
        """Every blob, in any order.

        Raises:
            StateError: they cannot be listed.
        """

    @abstractmethod
    def delete_older(self, digest: str, than_s: float) -> bool:
        """Remove a blob that was last put before `than_s`; whether it was removed.

        Raises:
            StateError: it may not be removed.
            InputError: this is no digest.
        """

    @abstractmethod
    def _read(self, digest: str) -> bytes | None:
        """A content as it lies there, None when there is no such blob."""


def open_blobs(url: str) -> Blobs:
    """The blobs at a path, "file:///PATH", "memory://", "s3://BUCKET/FOLDER", "gs://..." or "az://...".

    A folder is made when there is none, and what killed writers left in it is removed. Credentials, region and
    endpoint of a bucket come from the environment, by the names that obstore documents (AWS_*, GOOGLE_*, AZURE_*).

    Raises:
        ConfigError: no such kind of place, or something that it needs is not set.
        StateError: the folder cannot be made or written.
    """
    from edgehone.records.blob_bucket import bucket, in_memory
    from edgehone.records.blob_folder import BlobFolder

    scheme, found, _ = url.partition("://")
    if not found:
        return BlobFolder(Path(url))
    if scheme == "file":
        return BlobFolder(Path(unquote(urlsplit(url).path)))
    if scheme == "memory":
        return in_memory()
    if scheme in SCHEMES:
        return bucket(url)
    raise ConfigError(
        f"blobs cannot be kept in {scheme}://", where="blobs", do=f"give a folder, or a URL of {', '.join(SCHEMES)}"
    )


def checked(digest: str) -> str:
    """A digest that can be no path.

    Raises:
        InputError: it is not 64 lower case hex digits.
    """
    if not _DIGEST.fullmatch(digest):
        raise InputError("this is no SHA-256", where=repr(digest[:80]), do="give 64 lower case hex digits")
    return digest


def is_digest(name: str) -> bool:
    """Whether a name is one that a blob can have."""
    return _DIGEST.fullmatch(name) is not None
