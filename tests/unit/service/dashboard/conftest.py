"""A core with its dashboard that serves in this process, on a port of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgehone.service.serving import serve
from edgehone.testing.cores import make_core


@pytest.fixture
def start(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Callable[[], SimpleNamespace]]:
    """Start a core: `start()` gives its `place` and its `port`."""
    ends: list[Callable[[], None]] = []

    def one() -> SimpleNamespace:
        place = make_core(tmp_path / f"core-{len(ends)}", database=new_database())
        core = SimpleNamespace(place=place, port=0)
        started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

        def ready(bound: tuple[tuple[str, int], ...]) -> None:
            core.port = bound[0][1]
            started.set()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve(core.place, listen=["127.0.0.1:0"], ready=ready, stop=stop))

        thread = threading.Thread(target=run)
        thread.start()

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)
            assert not thread.is_alive()

        ends.append(end)
        assert started.wait(30)
        return core

    yield one
    for end in ends:
        end()
