"""A `FakeFleet` whose nodes speak to a real core: enrolled, with certificates, over kept connections, by HTTP.

fleet = HttpFleet(port, folder, authority, TASK)
fleet.enrol([new_token(place) for _ in range(20)])
fleet.models[2] = Model(latency_us=2000)
with fleet.beating(interval_s=1.0):        # every node has a heartbeat in each interval, and does what it is told
    ...
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgehone.testing.cores import CoreNode
from edgehone.testing.fleets import FakeFleet, FakeNode
from edgehone_agent.wire.uplink import Desired

FACTS = {"machine": "x86_64", "runtimes": ["litert"], "memory_bytes": 1 << 30}


def second_link(node: CoreNode) -> CoreNode:
    """Another connection of the same node: one of them belongs to one thread at a time."""
    return CoreNode(node.port, node.folder, node.authority, node.key, node.id)


class HttpFleet(FakeFleet):
    """Nodes in memory, a certificate and a connection for each.

    Args:
        port: of the core, on 127.0.0.1.
        folder: for keys and certificates.
        authority: file of the core's CA.
        task: that the nodes report.
        version: that they serve at first.
        seed, rows, labels: see `FakeFleet`.
    """

    def __init__(
        self, port: int, folder: Path, authority: Path, task: str, *, version: int | None = None, seed: int = 0,
        rows: int = 50, labels: int = 0,
    ) -> None:  # fmt: skip
        super().__init__((), seed=seed, rows=rows, labels=labels)
        self._port, self._folder, self._authority, self._task = port, folder, authority, task
        self._version = version
        self.links: dict[str, CoreNode] = {}
        self.failures: list[str] = []
        """What calls came to nothing, in words."""

    def enrol(self, tokens: Sequence[str]) -> list[str]:
        """Let a node in with each token; their ids. Raises AssertionError when the core refuses."""
        found = []
        for token in tokens:
            link = CoreNode(self._port, self._folder / f"node-{len(self.links)}", self._authority)
            link.enrol(token)
            self.links[link.id] = link
            self.nodes[link.id] = FakeNode(link.id, cohort=self._task, version=self._version)
            found.append(link.id)
        return found

    def beat_once(self) -> None:
        """One heartbeat of every node: it reports, and then does what it is told."""
        self.beat(time.time(), self._told)

    @contextmanager
    def beating(self, interval_s: float) -> Iterator[None]:
        """Beat meanwhile, from a thread of its own."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(interval_s):
                self.beat_once()

        thread = threading.Thread(target=work, name="fleet")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """Close every connection."""
        for link in self.links.values():
            link.close()

    def _told(self, node: FakeNode) -> Desired:
        link = self.links[node.id]
        with suppress(KeyError):
            try:
                answer = link.beat({self._task: self.last[node.id]}, facts=FACTS)
                return answer.desired[self._task]
            except (OSError, AssertionError) as error:  # the core is away: the node goes on as it is
                self.failures.append(f"{node.id}: {error!r}")
                link.close()
        return Desired(node.version)
