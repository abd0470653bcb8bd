"""What a core does by itself, again and again, besides answering.

Rules:
- Each job has a period. Jobs of one core run one after the other in one thread; a long one makes the others late,
  never twice.
- A job that fails is logged once per failure and tried again at its time. It stops neither the others nor the core;
  nor does a defect, whose traceback is logged: nodes would go on being believed that were revoked since.
- A job sees the core's clock only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from edgehone.fleet.rollouts import advance
from edgehone.service.core import Core
from edgehone.service.people import drop_old_sessions
from edgehone_agent.errors import EdgehoneError

_LOG = logging.getLogger("edgehone.core")
_TICK_S = 0.25
DRIVE_S = 2.0


@dataclass(frozen=True)
class Job:
    """One thing to do.

    Attributes:
        name: for the log.
        every_s: its period.
        run: does it; (core, now).
    """

    name: str
    every_s: float
    run: Callable[[Core, float], None]


class Jobs:
    """The thread that runs jobs. Close it before the core."""

    def __init__(self, core: Core, jobs: Sequence[Job]) -> None:
        self._core = core
        self._jobs = tuple(jobs)
        self._due_s = {job.name: core.clock() for job in self._jobs}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="edgehone-jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the running job end, and no other begin."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(_TICK_S):
            for job in self._jobs:
                now_s = self._core.clock()
                # A clock that was set back must not put a job to sleep for as long.
                if not self._stop.is_set() and not 0 < self._due_s[job.name] - now_s <= job.every_s:
                    self._due_s[job.name] = now_s + job.every_s
                    self._run(job, now_s)

    def _run(self, job: Job, now_s: float) -> None:
        try:
            job.run(self._core, now_s)
        except (EdgehoneError, SQLAlchemyError, OSError) as error:
            _LOG.error("%s: %s", job.name, error)
        except Exception as defect:  # noqa: BLE001  the thread has to go on
            _LOG.error("%s: a defect of edgehone", job.name, exc_info=defect)


class Driver(Protocol):
    """Something that takes long steps, such as the loop, in a thread of its own."""

    def tick(self, now_s: float) -> object:
        """Do what can be done now."""

    def close(self) -> None:
        """End what runs."""


class Drive:
    """The thread of one driver. Close it before the core.

    Args:
        core: whose clock it ticks by.
        make: makes the driver, in that thread: what it imports does not delay the start of the core.
        every_s: pause between two ticks; None for `DRIVE_S`.
    """

    def __init__(self, core: Core, make: Callable[[Core], Driver], every_s: float | None = None) -> None:
        self._core, self._make = core, make
        self._every_s = DRIVE_S if every_s is None else every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="edgehone-driver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the running step end, and then the driver."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            driver = self._make(self._core)
        except EdgehoneError as error:
            _LOG.error("a driver cannot be started: %s", error)
            return
        with closing(driver):
            while not self._stop.wait(self._every_s):
                try:
                    driver.tick(self._core.clock())
                except (EdgehoneError, SQLAlchemyError, OSError) as error:
                    _LOG.error("%s", error)
                except Exception as defect:  # noqa: BLE001  the thread has to go on
                    _LOG.error("a defect of edgehone", exc_info=defect)


def core_jobs() -> tuple[Job, ...]:
    """The jobs of every core."""
    return (
        Job("standing", 0.5, lambda core, _: core.refresh_standing()),
        Job("wake", 0.5, lambda core, _: core.wake_on_change()),
        Job("rollouts", 1.0, advance_rollouts),
        Job("sessions", 600.0, lambda core, now_s: core.writer.run_now(lambda conn: drop_old_sessions(conn, now_s))),
        Job("certificate", 3600.0, lambda core, _: core.renew_tls()),
        Job("registry", 600.0, refresh_registry),
        Job("releases", 2.0, Releases().follow),
    )


def advance_rollouts(core: Core, now_s: float) -> None:
    """Take every rollout as far as it can go."""
    happened = advance(core.database, now_s, online_s=3 * core.place.settings.interval_s)
    if any(one.event.what == "stranded" for one in happened):
        from edgehone.service.stranded import bring_home

        bring_home(core, happened, now_s)


class Releases:
    """Follows the core's registry: what a person publishes into it can be rolled out a moment later."""

    def __init__(self) -> None:
        self._seen: int | None = None

    def follow(self, core: Core, now_s: float) -> None:
        """Read the registry when it has been signed anew.

        Raises:
            EdgehoneError: the registry cannot be read, or is not what its keys signed.
            OSError: as above.
        """
        timestamp = core.place.registry / "metadata" / "timestamp.json"
        if not timestamp.is_file():
            return
        signed_at = timestamp.stat().st_mtime_ns
        if signed_at == self._seen:
            return
        from edgehone.fleet.releases import sync
        from edgehone.registry.create import load_anchor
        from edgehone.registry.keys import KeyRing, Passphrases
        from edgehone.registry.store import Store

        anchor = load_anchor(KeyRing([core.place.keys], Passphrases()))
        found = sync(core.database, Store(core.place.registry), now_s, anchor=anchor)
        self._seen = signed_at
        for digest in found.added:
            _LOG.info("a release is new in the registry: %s", digest[:12])


def refresh_registry(core: Core, now_s: float) -> None:
    """Sign the registry's timestamp again when half of its time is over, if its online key is here and plain.

    Raises:
        EdgehoneError: the registry or its key cannot be used.
    """
    from edgehone.registry.create import load_anchor
    from edgehone.registry.keys import KeyRing, Passphrases
    from edgehone.registry.state import read
    from edgehone.registry.store import Store
    from edgehone.registry.upkeep import refresh

    if not (core.place.registry / "metadata").is_dir():
        return
    ring = KeyRing([core.place.keys], Passphrases())
    store, anchor = Store(core.place.registry), load_anchor(ring)
    state = read(store, anchor)
    now = datetime.fromtimestamp(now_s, UTC)
    left_days = (state.timestamp.signed.expires.replace(tzinfo=UTC) - now).total_seconds() / 86_400
    if left_days < state.expiry.timestamp / 2:
        refresh(store, ring, now, anchor=anchor)
