"""A `FakeFleet` whose nodes and releases stand in a real database, driven as the core drives its own.

world = StoredFleet(database, FakeFleet(...)); world.publish(2); start(database, "digits", 2, ...); world.beat()
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from sqlalchemy import insert, update

from edgehone.fleet import serial
from edgehone.fleet.desired import desired_state
from edgehone.fleet.rollouts import Happened, advance
from edgehone.records.database import Database
from edgehone.records.tables import node, release
from edgehone.testing.fleets import FakeFleet, FakeNode
from edgehone_agent.wire.manifest import Fit
from edgehone_agent.wire.uplink import Desired, TaskStatus

FACTS = {"machine": "x86_64", "runtimes": ["litert"], "memory_bytes": 1 << 30, "agent": "0.1.0"}
MEMBER = "w8-int8"


def digest_of(version: int, member: str = MEMBER) -> str:
    """The digest that `publish` gives a member."""
    return hashlib.sha256(f"{version} {member}".encode()).hexdigest()


class StoredFleet:
    """Nodes with rows in a database.

    Args:
        database: a fresh one.
        fleet: the nodes.
        task: that they all have.
    """

    def __init__(self, database: Database, fleet: FakeFleet, task: str = "digits") -> None:
        self.database, self.fleet, self.task = database, fleet, task
        self.now_s = 1000.0
        self.told: dict[str, Desired] = {}
        with database.write() as conn:
            for one in fleet.nodes.values():
                conn.execute(
                    insert(node).values(
                        id=one.id, name=f"node {one.id}", tags=one.tags, state="active", why="", facts=FACTS,
                        enrolled_s=0.0, status={}, beats=0,
                    )
                )  # fmt: skip
        self.publish(1)

    def publish(self, version: int, member: str = MEMBER, **values: Any) -> str:
        """A release as `releases.sync` would write it; its digest."""
        digest = digest_of(version, member)
        fit = Fit(machines=("x86_64",), runtimes=("litert",), memory_bytes=1 << 20)
        row = {
            "digest": digest, "task": self.task, "version": version, "member": member, "rank": 0, "size_bytes": 1000,
            "fit": fit.to_json(), "measured": {"latency_us litert": {"value": 1000.0}}, "published_s": self.now_s,
        }  # fmt: skip
        with self.database.write() as conn:
            conn.execute(insert(release).values(**{**row, **values}))
            serial.bump(conn, self.now_s)
        return digest

    def heartbeats(self) -> None:
        """Every node that is on reports and is told, each in the transaction of its own heartbeat."""
        with self.database.write() as conn:

            def wanted(one: FakeNode) -> Desired:
                self._store(conn, one.id, self.fleet.last[one.id])
                found = desired_state(conn, one.id, self.now_s).get(self.task)
                self.told[one.id] = found if found is not None else Desired(one.version)
                return self.told[one.id]

            self.fleet.beat(self.now_s, wanted)

    def beat(self, seconds: float = 60.0) -> list[Happened]:
        """The core takes rollouts on, then nodes have a heartbeat, then time passes."""
        happened = advance(self.database, self.now_s)
        self.heartbeats()
        self.now_s += seconds
        return happened

    def _store(self, conn: Any, id: str, status: TaskStatus) -> None:
        digest = None if status.version is None else digest_of(status.version)
        told = {self.task: replace(status, digest=digest).to_json()}
        conn.execute(update(node).where(node.c.id == id).values(status=told, seen_s=self.now_s))
