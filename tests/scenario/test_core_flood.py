"""One node floods the core at a hundred times its rate while others work: it waits, they do not notice."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from statistics import median

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from core_world import CoreProcess, Talker, event, wait_until

from edgehone.records.tables import feedback, node, sample, served
from edgehone.service.limits import Limits
from edgehone.testing.cores import CoreNode, make_core

pytestmark = pytest.mark.slow

FLOODS = 4  # connections of one node at once


class Flood:
    """One certificate on a connection that never waits."""

    def __init__(self, node: CoreNode, name: str) -> None:
        self.node, self.name = node, name
        self.taken: set[str] = set()
        self.calls = {"heartbeat": 0, "feedback": 0}
        self.statuses: dict[int, int] = {}
        self.waits: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        self.node.close()

    def _work(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            id = f"{self.name}-{number}"
            beat = json.dumps({"sent_s": 1.0, "agent": "loud", "tasks": {}}).encode()
            for path, body in (
                ("heartbeat", beat),
                ("feedback", json.dumps({"events": [event(id)]}).encode()),
            ):
                status, content, headers = self.node.call("POST", f"/v1/node/{path}", body)
                self.calls[path] += 1
                self.statuses[status] = self.statuses.get(status, 0) + 1
                if status == 429:
                    self.waits.append(headers["retry-after"])
                elif path == "feedback" and status == 200:
                    self.taken |= set(json.loads(content)["taken"])


def test_a_flood_costs_only_the_node_that_floods(tmp_path: Path) -> None:
    limits = Limits()
    core = CoreProcess(make_core(tmp_path / "core", interval_s=1.0), tmp_path / "log").start()
    loud = core.node(tmp_path / "loud")
    calm = [Talker(core.node(tmp_path / f"calm-{k}"), f"c{k}") for k in range(2)]
    floods: list[Flood] = []
    try:
        began_s = time.monotonic()
        for number in range(FLOODS):
            one = core.stranger(loud.folder)
            one.key, one.id = loud.key, loud.id
            floods.append(Flood(one, f"loud{number}"))
        wait_until(lambda: sum(flood.statuses.get(429, 0) for flood in floods) > 200, core.log)
        waits: list[float] = []
        for _ in range(6):  # at the rate that a node may have
            started_s = time.monotonic()
            for talker in calm:
                talker.turn()
            waits.append(time.monotonic() - started_s)
            time.sleep(max(0.0, 1.0 - waits[-1]))
        status = core.ask("GET", "/healthz")[0]
    finally:
        for flood in floods:
            flood.stop()
        took_s = time.monotonic() - began_s
        core.close()
    assert status == 200
    assert {talker.name: talker.refusals for talker in calm} == {"c0": {}, "c1": {}}, "they do not notice"
    assert median(waits) < 2.0 and all(len(talker.beats) == 6 for talker in calm), waits
    events, samples = set(core.column(feedback.c.id)), set(core.column(sample.c.id))
    for talker in calm:
        assert talker.events <= events and talker.samples <= samples
        assert set(talker.beats) <= set(core.column(served.c.digest))
    calls = sum(flood.calls["heartbeat"] for flood in floods)
    taken = set().union(*(flood.taken for flood in floods))
    assert set().union(*(flood.statuses for flood in floods)) == {200, 429}
    assert all(int(wait) >= 1 for flood in floods for wait in flood.waits)
    assert {id for id in events if id.startswith("loud")} == taken, "what was taken is there"
    # All its connections share one bucket of calls and one of heartbeats.
    assert len(taken) <= limits.calls_burst + limits.calls_per_s * took_s + 1
    beats = dict(core.rows(node.select().with_only_columns(node.c.id, node.c.beats)))
    assert beats[loud.id] <= limits.beats_burst + limits.beats_per_s * took_s + 1 < calls / 5
