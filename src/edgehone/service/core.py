"""A running core: its folder opened, its writer, its streams, and what is in memory for speed.

    core = await Core.open(load_place(folder))
    door = Door(application(core), core.tls(), core.limits)
    ...
    await core.close()

Rules:
- Requests read through `database.read()` in worker threads and write through `writer`, so that commits are shared.
- `standing` (who is revoked or quarantined) and what nodes are told are remembered, and read again from the database
  all the time: other processes, such as the command line, change it too.
- `clock` is the only clock.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from edgehone.fleet import serial
from edgehone.fleet.authority import DAY_S, Authority
from edgehone.fleet.desired import told
from edgehone.fleet.heartbeat import Arrived, Wishes, take
from edgehone.fleet.nodes import Standing, standing
from edgehone.records.blobs import Blobs, open_blobs
from edgehone.records.database import Database, open_database
from edgehone.service.limits import Limits
from edgehone.service.listen import tls_context
from edgehone.service.rates import Buckets
from edgehone.service.settings import Place
from edgehone.service.wake import Waker
from edgehone.service.wishes import Remembered
from edgehone.service.writing import Writer
from edgehone_agent.errors import EdgehoneError

_DAY = 86_400.0


class Core:
    """Everything a request needs. Made by `open`, inside a running loop.

    Attributes:
        place: its folder and settings.
        limits: bounds.
        clock: seconds since 1970.
        database, blobs, authority: what it keeps.
        writer: writes; `await core.writer.run(job)` from the loop, `core.writer.run_now(job)` from a thread.
        waker: wake-up streams; `core.waker.wake(node_ids)` from anywhere.
        standing: who is revoked or quarantined.
        stopping: set when the core is about to end; endless answers must end then.
    """

    def __init__(
        self,
        place: Place,
        database: Database,
        blobs: Blobs,
        authority: Authority,
        *,
        limits: Limits,
        clock: Callable[[], float],
        wishes: Wishes,
    ) -> None:
        self.place, self.limits, self.clock = place, limits, clock
        self.database, self.blobs, self.authority = database, blobs, authority
        self.writer = Writer(database)
        self.waker = Waker()
        self.standing = Standing()
        self.stopping = asyncio.Event()
        self.started_s = clock()
        self.beats = Buckets(limits.beats_per_s, limits.beats_burst)
        self.calls = Buckets(limits.calls_per_s, limits.calls_burst)
        self.bytes_up = Buckets(limits.node_bytes_per_day / _DAY, limits.node_bytes_per_day)
        self.rows_up = Buckets(limits.node_rows_per_day / _DAY, limits.node_rows_per_day)
        self._wishes = Remembered(wishes)
        self._refreshing = threading.Lock()  # what was read first must not replace what was read later
        self._told: tuple[int, str] | None = None
        self._context: ssl.SSLContext | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(
        cls,
        place: Place,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        wishes: Wishes | None = None,
    ) -> Core:
        """Open the folder of a core.

        Args:
            wishes: says what a node is told; None for what the fleet's cohorts and rollouts say.

        Raises:
            StateError, ConfigError: the database, the blobs or the authority cannot be used.
        """
        authority = Authority.load(place.authority)
        database = open_database(place.database_url)
        try:
            blobs = open_blobs(place.blobs_url)
        except EdgehoneError:
            database.close()
            raise
        core = cls(
            place, database, blobs, authority, limits=limits or Limits(), clock=clock, wishes=wishes or told
        )  # fmt: skip
        core.refresh_standing()
        return core

    def tls(self) -> ssl.SSLContext:
        """The context of the listener, with a certificate that is fresh.

        Raises:
            InputError, ConfigError, StateError: the names or the files cannot be used.
        """
        files = self.authority.serve_as(self.place.settings.names, self.clock())
        self._context = tls_context(files.cert, files.key, self.authority.certificate_file)
        return self._context

    def renew_tls(self) -> None:
        """Make a new certificate when it is time; connections that are open keep the old one."""
        files = self.authority.serve_as(self.place.settings.names, self.clock())
        if self._context is not None:
            self._context.load_cert_chain(files.cert, files.key)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders on the disks of this machine that the database and the blobs fill."""
        file, blobs = self.database.file, Path(self.blobs.url)
        return (*([file.parent] if file else []), *([blobs] if blobs.is_dir() else []))

    @property
    def node_life_s(self) -> float:
        """Life of a node's certificate."""
        return self.place.settings.node_days * DAY_S

    def take_beats(self, conn: Connection, arrived: Sequence[Arrived]) -> Sequence[Any]:
        """The batch of heartbeats for `writer.batch`."""
        self._wishes.refresh(conn)
        return take(conn, arrived, self._wishes, self.place.settings.interval_s)

    def refresh_standing(self) -> None:
        """Read again who is revoked or quarantined, and end the streams of those who were revoked. Any thread."""
        with self._refreshing:
            with self.database.read() as conn:
                now = standing(conn, self.clock())
            before, self.standing = self.standing, now
        gone = [id for id, state in now.nodes.items() if state == "revoked" and before.nodes.get(id) != state]
        if gone:
            self._loop.call_soon_threadsafe(self.waker.drop, gone)

    def wake_on_change(self) -> None:
        """Wake all nodes when the fleet's serial number was counted up since the last call. Any thread."""
        with self._refreshing:
            with self.database.read() as conn:
                now = serial.current(conn)
            before, self._told = self._told, now
        if before is not None and now != before:
            self.waker.wake()

    def end_streams(self) -> None:
        """End all answers that have no end of their own."""
        self.stopping.set()
        self.waker.close()

    async def close(self) -> None:
        """Write what waits and close everything. The listener is closed before."""
        self.end_streams()
        await asyncio.to_thread(self.writer.close)
        self.database.close()
