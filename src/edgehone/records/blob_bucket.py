"""Blobs in memory or in a bucket, through obstore. A bucket keeps what it said it has, and shows an object whole."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edgehone.records.blobs import Blobs, Stored, checked, is_digest
from edgehone_agent.errors import ConfigError, StateError

_CLIENT = {"timeout": "60s", "connect_timeout": "10s"}
_RETRY = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
_YOUNG_S = 600.0  # a blob put again within this time is young enough as it is


def in_memory() -> Blobs:
    """Blobs that end with the process, for tests and simulations."""
    from obstore.store import MemoryStore

    return BlobBucket(MemoryStore(), "memory://")


def bucket(url: str) -> Blobs:
    """Blobs in a bucket; nothing is asked of it yet.

    Raises:
        ConfigError: the URL or what the environment says about the account cannot be used.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    parts = urlsplit(url)
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    connect: Any = from_url  # its types want to know the scheme
    try:
        return BlobBucket(connect(url, client_options=_CLIENT, retry_config=_RETRY), shown)
    except (BaseError, ValueError, TypeError) as error:
        raise ConfigError(
            _first_line(error), where=shown, do="check the URL, and what the environment says about the account"
        ) from error


class BlobBucket(Blobs):
    """Blobs in any store of obstore.

    Args:
        objects: obstore's store.
        shown: where it is, as people write it, without a password.
    """

    def __init__(self, objects: Any, shown: str) -> None:
        self._objects = objects
        self._shown = shown
        self._ages = threading.Lock()  # a blob is made young, or removed for its age: one or the other

    @property
    def url(self) -> str:
        """See `Blobs`."""
        return self._shown

    def put_many(self, contents: Iterable[bytes]) -> list[str]:
        """See `Blobs`. A blob that is there and whole is put again only when it is not young, to make it so."""
        import obstore
        from obstore.exceptions import BaseError

        digests = []
        for content in contents:
            digest = hashlib.sha256(content).hexdigest()
            with self._ages:
                if not self._young(digest, len(content)):
                    try:
                        obstore.put(self._objects, _path(digest), content)
                    except (OSError, BaseError) as error:
                        raise self._fault(error) from error
            digests.append(digest)
        return digests

    def has(self, digest: str) -> bool:
        """See `Blobs`."""
        return self._head(checked(digest)) is not None

    def delete(self, digest: str) -> None:
        """See `Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.delete(self._objects, _path(checked(digest)))
        except FileNotFoundError:
            return
        except (OSError, BaseError) as error:
            raise self._fault(error) from error

    def delete_older(self, digest: str, than_s: float) -> bool:
        """See `Blobs`."""
        with self._ages:
            found = self._head(checked(digest))
            if found is None or found.put_s >= than_s:
                return False
            self.delete(digest)
            return True

    def stored(self) -> Iterator[Stored]:
        """See `Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            for chunk in obstore.list(self._objects):
                for item in chunk:
                    name = str(item["path"]).rpartition("/")[2]
                    if is_digest(name):
                        yield Stored(name, int(item["size"]), item["last_modified"].timestamp())
        except (OSError, BaseError) as error:
            raise self._fault(error) from error

    def _read(self, digest: str) -> bytes | None:
        import obstore
        from obstore.exceptions import BaseError

        try:
            return bytes(obstore.get(self._objects, _path(digest)).bytes())
        except FileNotFoundError:
            return None
        except (OSError, BaseError) as error:
            raise self._fault(error) from error

    def _young(self, digest: str, size_bytes: int) -> bool:
        found = self._head(digest)
        return found is not None and found.size_bytes == size_bytes and found.put_s > time.time() - _YOUNG_S

    def _head(self, digest: str) -> Stored | None:
        import obstore
        from obstore.exceptions import BaseError

        try:
            item = obstore.head(self._objects, _path(digest))
        except FileNotFoundError:
            return None
        except (OSError, BaseError) as error:
            raise self._fault(error) from error
        return Stored(digest, int(item["size"]), item["last_modified"].timestamp())

    def _fault(self, error: Exception) -> StateError:
        return StateError(
            _first_line(error), where=self._shown, do="fix the connection or the permission, then try again"
        )


def _path(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _first_line(error: Exception) -> str:
    """An error without obstore's debug output."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
