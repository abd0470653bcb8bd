"""Run a core until it is told to stop.

Rules:
- SIGTERM and SIGINT stop it: no new connections, streams end, running requests get `drain_s`, what waits is written.
- A core that is killed loses nothing that it acknowledged; the next start goes on.
- One core per folder: the second one is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import Callable, Sequence

from edgehone.service.app import Front
from edgehone.service.core import Core
from edgehone.service.jobs import Drive, Driver, Jobs, core_jobs
from edgehone.service.limits import Limits
from edgehone.service.listen import Door, shrink_buffers
from edgehone.service.settings import Place
from edgehone_agent.errors import StateError
from edgehone_agent.lock import take_lock
from edgehone_agent.serve.listen import parse_address

_LOG = logging.getLogger("edgehone.core")


async def serve(
    place: Place,
    *,
    listen: Sequence[str] = (),
    limits: Limits | None = None,
    ready: Callable[[tuple[tuple[str, int], ...]], None] | None = None,
    stop: asyncio.Event | None = None,
    drivers: Sequence[Callable[[Core], Driver]] = (),
    dashboard: bool = True,
) -> None:
    """Serve a core until a signal or `stop`.

    Args:
        place: its folder and settings.
        listen: addresses; empty for those of the settings.
        limits: bounds.
        ready: called with host and port of each listener once they are open.
        stop: set it to end; None for signals alone.
        drivers: each gets a thread of its own, once the core serves.
        dashboard: False leaves it out.

    Raises:
        ConfigError, StateError: the folder, an address or the database cannot be used.
    """
    _allow_files()
    shrink_buffers()
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    lock = take_lock(place.folder / "run")
    if lock is None:
        raise StateError("another process serves this core", where=str(place.folder), do="stop it first")
    async with contextlib.AsyncExitStack() as open_things:
        open_things.callback(lock.release)
        core = await Core.open(place, limits=limits)
        open_things.push_async_callback(core.close)
        front = Front(core, dashboard=dashboard)
        door = Door(front, core.tls(), core.limits)
        open_things.push_async_callback(door.close)
        front.people.state.door = door
        for one in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):  # not the main thread: only `stop` ends it
                loop.add_signal_handler(one, stopping.set)
                open_things.callback(loop.remove_signal_handler, one)
        bound = await door.open([parse_address(text) for text in listen or place.settings.listen])
        ends = [Jobs(core, core_jobs()).close, *(Drive(core, make).close for make in drivers)]
        for end in ends:
            open_things.push_async_callback(asyncio.to_thread, end)
        if ready is not None:
            ready(bound)
        await stopping.wait()
        _LOG.info("stopping")
        core.end_streams()


def _allow_files() -> None:
    """As many open files as the system lets us have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
