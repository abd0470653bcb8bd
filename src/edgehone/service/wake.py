"""Wake-up streams: server-sent events that say "look", and nothing else.

Rules:
- A node asks for its desired state with a heartbeat; a stream only tells it that now is a good moment. What is lost on
  the way costs a node the rest of its interval, nothing more.
- `wake` may be called from any thread. A stream that is slow gets one event for all that happened meanwhile.
- A node has a few streams at most: another one ends its oldest, whose node may long have gone.
- A comment every `KEEP_ALIVE_S` keeps middle boxes from closing the connection, and shows us which ends are dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from typing import Any

KEEP_ALIVE_S = 45.0
MOST_STREAMS = 4  # of one node
_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
_LOOK = b"event: look\ndata:\n\n"
_STILL_HERE = b": still here\n\n"


class Waker:
    """The open streams of a core, by node."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams: dict[str, dict[asyncio.Event, None]] = {}  # the oldest first
        self._is_closed = False
        self.streams = 0

    def wake(self, nodes: Iterable[str] | None = None) -> None:
        """Tell some nodes, or all of them, to look. Any thread may call it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._wake, None if nodes is None else list(nodes))

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self._wake(None)

    def drop(self, nodes: Iterable[str]) -> None:
        """End the streams of some nodes, which wake up one last time. Only from the loop."""
        for name in nodes:
            for waiting in self._streams.pop(name, ()):
                waiting.set()

    async def stream(self, node: str, receive: Any, send: Any) -> None:
        """Serve one stream, an ASGI response, until its client goes or the core stops."""
        waiting = asyncio.Event()
        streams = self._streams.setdefault(node, {})
        while len(streams) >= MOST_STREAMS:
            oldest = next(iter(streams))
            del streams[oldest]
            oldest.set()
        streams[waiting] = None
        self.streams += 1
        gone = asyncio.create_task(_until_gone(receive, waiting))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": _STILL_HERE, "more_body": True})
            while not self._is_closed and not gone.done():
                pause_s = KEEP_ALIVE_S * random.uniform(0.8, 1.2)
                try:
                    async with asyncio.timeout(pause_s):
                        await waiting.wait()
                except TimeoutError:
                    await send({"type": "http.response.body", "body": _STILL_HERE, "more_body": True})
                    continue
                if gone.done():
                    break
                waiting.clear()
                await send({"type": "http.response.body", "body": _LOOK, "more_body": True})
                if self._streams.get(node) is not streams or waiting not in streams:  # dropped
                    break
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self.streams -= 1
            streams.pop(waiting, None)
            if not streams and self._streams.get(node) is streams:
                del self._streams[node]

    def _wake(self, nodes: list[str] | None) -> None:
        for name in list(self._streams) if nodes is None else nodes:
            for waiting in self._streams.get(name, ()):
                waiting.set()


async def _until_gone(receive: Any, waiting: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    waiting.set()
