"""A registry in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure. The rules are those of `objects`.

- A bucket shows an object whole or not at all, and keeps what it said it has: so metadata is put in order, one by one.
- The lock is an object, `.lock`, which one command alone can make. It says until when it holds, 15 minutes from now,
  and its owner makes it again before it is old: only if nobody else did meanwhile, by the object's mark (ETag).
- Nothing is put while less than 10 minutes of the lock are left, and no request takes longer than that. So a command
  that slept too long writes nothing into the work of the one that came after it.
- A command that was killed leaves its lock behind; the next one takes it over when its time has passed. Clocks of
  machines that publish to one bucket must agree within a few minutes.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgehone.errors import HostError, InputError
from edgehone.registry.objects import LOCK, Objects, first_line, no_registry
from edgehone.registry.store import Store
from edgehone_agent.errors import BusyError, RegistryError

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
LEASE_S = 900.0
_FRESH_S = 300.0  # of the lease; then it is made again before the next put
_CLIENT = {"timeout": "240s", "connect_timeout": "10s"}
_RETRY = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}


def open_store(place: str) -> Objects:
    """The registry at a path or URL: a folder, file:///..., s3://bucket/folder, gs://..., az://...

    Credentials, region and endpoint come from the environment, by the names that obstore documents (AWS_*, GOOGLE_*,
    AZURE_*).

    Raises:
        InputError: no such kind of place, or something that it needs is not set.
    """
    scheme, found, _ = place.partition("://")
    if not found:
        return Store(Path(place))
    if scheme == "file":
        return Store(Path(urlsplit(place).path))
    if scheme not in SCHEMES:
        raise InputError(
            f"a registry cannot be changed through {scheme}://",
            where="REGISTRY",
            do=f"give a folder, or a URL of one of: {', '.join(SCHEMES)}",
        )
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    shown = _shown(place)
    connect: Any = from_url  # its types want to know the scheme
    try:
        objects = connect(place, client_options={**_CLIENT, "allow_http": _plain_http()}, retry_config=_RETRY)
    except (BaseError, ValueError, TypeError) as error:
        raise InputError(
            first_line(error), where=shown, do="check the URL, and what the environment says about the account"
        ) from error
    return Bucket(objects, shown)


def _shown(url: str) -> str:
    """A URL without a user or password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _plain_http() -> bool:
    """Whether the environment allows a server without TLS, as one in the same room may be."""
    return any(os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("1", "true") for cloud in ("AWS", "AZURE"))


class Bucket(Objects):
    """A registry behind any store of obstore that can put an object only if it is new or unchanged.

    Args:
        objects: obstore's store; its prefix is the registry's folder.
        url: for messages.
        clock: seconds since 1970. It goes on while a machine sleeps, other than `time.monotonic`.
    """

    def __init__(self, objects: Any, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._url, self._clock = objects, url, clock
        self._mark: dict[str, str] | None = None  # of our lock
        self._made_s = 0.0

    def place(self, path: str = "") -> str:
        """See `Objects`."""
        return f"{self._url}/{path}" if path else self._url

    def write(self, path: str, content: bytes) -> None:
        """See `Objects`."""
        import obstore
        from obstore.exceptions import BaseError

        self._keep()
        try:
            obstore.put(self._store, path, content, use_multipart=False)
        except (OSError, BaseError) as error:
            raise HostError(
                f"the file cannot be written: {first_line(error)}",
                where=self.place(path),
                do="fix the permission or the connection, then run the same command again",
            ) from error

    def put(self, path: str, file: Path, sha256: str) -> None:
        """See `Objects`."""
        self._keep()
        super().put(path, file, sha256)

    def delete(self, path: str) -> None:
        """See `Objects`."""
        self._keep()
        super().delete(path)

    def fetch(self, path: str, scratch: Path) -> Path:
        """See `Objects`."""
        file = scratch / path.replace("/", "-")
        try:
            with file.open("wb") as target:
                for chunk in self._chunks(path):
                    target.write(chunk)
        except FileNotFoundError as error:
            raise RegistryError(
                "the blob is missing", where=self.place(path), do="restore it, or take its release back"
            ) from error
        except OSError as error:
            raise HostError(error.strerror or str(error), where=str(file), do="free space there") from error
        return file

    def sweep(self) -> int:
        """See `Objects`. A bucket shows nothing half done."""
        return 0

    @contextmanager
    def lock(self, *, new: bool = False) -> Iterator[None]:
        """See `Objects`."""
        if not new and not self.entries("metadata"):
            raise no_registry(self.place())
        self._take()
        try:
            yield
        finally:
            self._leave()

    def _objects(self) -> Any:
        return self._store

    def _sync(self, path: str) -> None:
        """Nothing to do: a bucket keeps what it said it has."""

    def _take(self) -> None:
        from obstore.exceptions import AlreadyExistsError

        try:
            self._put_lock("create")
        except AlreadyExistsError:
            mark, until_s = self._other()
            if until_s > self._clock():
                until = datetime.fromtimestamp(until_s, UTC)
                raise BusyError(
                    "another command is changing this registry",
                    where=self.place(LOCK),
                    do=f"try again when it is done; if it was killed, from {until:%Y-%m-%d %H:%M} UTC on",
                ) from None
            self._again(mark)

    def _other(self) -> tuple[dict[str, str], float]:
        """Mark of somebody's lock, and until when it holds, seconds since 1970; one that is gone holds no more."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            found = obstore.get(self._store, LOCK)
            mark = _mark(found.meta)
            said = json.loads(bytes(found.bytes()))
            return mark, float(said["until_s"])
        except FileNotFoundError:
            return {"e_tag": "gone"}, 0.0
        except (OSError, BaseError) as error:
            raise _no_lock(error, self.place(LOCK)) from error
        except (ValueError, KeyError, TypeError):
            return mark, 0.0  # nothing that this command wrote

    def _keep(self) -> None:
        """Make the lock again before it is old.

        Raises:
            BusyError: somebody took it over.
        """
        if self._mark is not None and not 0 <= self._clock() - self._made_s < _FRESH_S:
            self._again(self._mark)

    def _again(self, mark: dict[str, str]) -> None:
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        try:
            self._put_lock(mark)
        except (PreconditionError, AlreadyExistsError, NotFoundError, FileNotFoundError):
            self._mark = None
            raise BusyError(
                "another command has begun to change this registry", where=self.place(), do="run this one again"
            ) from None

    def _put_lock(self, mode: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

        begun_s = self._clock()
        said = {"by": f"{socket.gethostname()}:{os.getpid()}", "until_s": begun_s + LEASE_S}
        try:
            done = obstore.put(self._store, LOCK, json.dumps(said).encode(), mode=mode, use_multipart=False)
        except (PreconditionError, AlreadyExistsError, NotFoundError, FileNotFoundError):
            raise
        except (OSError, BaseError) as error:
            raise _no_lock(error, self.place(LOCK)) from error
        self._mark, self._made_s = _mark(done), begun_s

    def _leave(self) -> None:
        """Give the lock back, if it still is ours."""
        mine, self._mark = self._mark, None
        with suppress(HostError):  # then its time passes, and what was done is done
            if mine is not None and self._other()[0] == mine:
                self.delete(LOCK)


def _mark(meta: Mapping[str, Any]) -> dict[str, str]:
    """What tells one state of an object from another: its ETag, and on Google its generation."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _no_lock(error: Exception, place: str) -> HostError:
    return HostError(
        f"the registry cannot be locked: {first_line(error)}",
        where=place,
        do="fix the URL, the permission or the connection",
    )
