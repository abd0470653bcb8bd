"""A core that serves in this process, on a port of its own, and nodes that speak to it over real sockets."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehone.service.limits import Limits
from edgehone.service.serving import serve
from edgehone.service.settings import Place
from edgehone.testing.cores import CoreNode, make_core, new_token


class RunningCore:
    """A core in a thread."""

    def __init__(self, place: Place, limits: Limits, listen: str) -> None:
        self.place = place
        self._listen = listen
        self.port = 0
        self.error: BaseException | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._nodes: list[CoreNode] = []
        self._thread = threading.Thread(target=self._run, args=(limits,))
        self._thread.start()
        assert self._started.wait(30)
        if self.error is not None:
            raise self.error

    def _run(self, limits: Limits) -> None:
        try:
            asyncio.run(self._serve(limits))
        except BaseException as error:  # noqa: BLE001  shown by whoever started it
            self.error = error
        finally:
            self._started.set()

    async def _serve(self, limits: Limits) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        def ready(bound: tuple[tuple[str, int], ...]) -> None:
            self.port = bound[0][1]
            self._started.set()

        await serve(self.place, listen=[self._listen], limits=limits, ready=ready, stop=self._stop, dashboard=False)

    def node(self, folder: Path, **token: Any) -> CoreNode:
        """An enrolled node."""
        node = self.stranger(folder / f"node-{len(self._nodes)}")
        node.enrol(new_token(self.place, **token))
        return node

    def stranger(self, folder: Path) -> CoreNode:
        """A node that is not enrolled."""
        node = CoreNode(self.port, folder, self.place.authority / "ca.pem")
        self._nodes.append(node)
        return node

    def stop(self) -> None:
        """End it, as SIGTERM does."""
        for node in self._nodes:
            node.close()
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCore]]:
    """Start cores: `start()`, `start(limits=Limits(...))`, `start(place=...)`."""
    running: list[RunningCore] = []

    def one(
        place: Place | None = None, limits: Limits | None = None, listen: str = "127.0.0.1:0", **core: Any
    ) -> RunningCore:
        made = RunningCore(place or make_core(tmp_path / f"core-{len(running)}", **core), limits or Limits(), listen)
        running.append(made)
        return made

    yield one
    for core in running:
        core.stop()
    gc.collect()  # what was not closed is this test's fault
