"""Bad releases on a fleet that speaks the real protocol: stopped at the canary, gone again, and in nobody's way.

Two nodes are agents, in a cohort of the channel "canary", so they try every release first; the rest are in memory.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from proof_world import QuickSite, until

from edgehone.errors import HostError
from edgehone.fleet import rollouts
from edgehone.fleet.cohorts import put_cohort
from edgehone.fleet.rollout import CANARY, Rollout, RolloutPlan
from edgehone.records.tables import node, served
from edgehone.testing.bundles import LABELS
from edgehone.testing.classifiers import Classes
from edgehone.testing.cores import new_token
from edgehone.testing.fleets import Model
from edgehone.testing.http_fleets import HttpFleet
from edgehone.testing.sites import Agent, Site
from edgehone_agent.slot_rules import MAX_DEATHS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK = "moves"
INTERVAL_S = 4.0  # of the agents: going back takes a part of it, also on a busy machine
BEAT_S = 1.0  # of the nodes in memory
IN_MEMORY, AGENTS = 22, 2
MOST = int(0.05 * (IN_MEMORY + AGENTS))  # nodes that a bad release may reach
WORLD = Classes(seed=3)
WATCHED = RolloutPlan(shadow_rows=0, stages=(1.0,), soak_s=60.0, patience_s=60.0)  # the gate ends it, not the time


class Fleet:
    """A core, agents that answer readings all the time, and nodes in memory."""

    def __init__(self, site: Site) -> None:
        self.site = site
        site.make_core((TASK,), interval_s=INTERVAL_S)
        with site.database.write() as conn:
            put_cohort(
                conn, "first", TASK, tags={"role": "first"}, channel="canary", actor="core", now_s=time.time()
            )  # fmt: skip
        self.memory = HttpFleet(
            site.port, site.folder / "nodes", site.place.authority / "ca.pem", TASK, labels=20, seed=1
        )  # fmt: skip
        self.memory.models[1] = Model(accuracy=WORLD.accuracy(WORLD.weights()))
        self.publish(1, model=self.memory.models[1])
        for number in range(AGENTS):
            site.add_agent(f"agent-{number}", (TASK,), {"role": "first"})
        self.memory.enrol([new_token(site.place) for _ in range(IN_MEMORY)])
        self._said = 0

    def publish(self, version: int, *, model: Model | None = None, **more: Any) -> None:
        """Sign a version; `model` is what it is like on the nodes in memory."""
        self.memory.models[version] = model or Model(accuracy=self.memory.models[1].accuracy)
        path = self.site.folder / f"{version}.bundle"
        WORLD.write(path, version=version, task=TASK, **more)
        self.site.publish([path])

    def start(self, version: int, plan: RolloutPlan = WATCHED) -> Rollout:
        return rollouts.start(self.site.database, TASK, version, now_s=time.time(), actor="core", plan=plan)

    def say(self, agent: Agent, count: int) -> None:
        """Readings of an agent's own, and what they were."""
        x, y = WORLD.draw(count, 100 + self._said)
        for row in range(count):
            with suppress(HostError):
                found = agent.ask(TASK, x[row])
                self._said += 1
                agent.tasks[TASK].feedback(f"e{self._said}", found.id, label=LABELS[y[row]], time_s=time.time())

    def restart_agents(self, *, version: int) -> None:
        """Kill every agent, start it again, and wait until the core has heard that it serves a version."""
        for agent in self.site.agents:
            self.site.kill_agent(agent)
        before = self.nodes()
        for agent in self.site.agents:
            self.site.run_agent(agent)
        agents = before.keys() - self.memory.links.keys()

        def are_back() -> bool:
            now = self.nodes()
            return all(now[id][0] > before[id][0] and now[id][1] == version for id in agents)

        until(are_back, lambda: f"the agents are back: {self.nodes()}")

    def find(self, id: str) -> Rollout:
        with self.site.database.read() as conn:
            return rollouts.find_rollout(conn, id)

    def nodes(self) -> dict[str, tuple[int, int | None]]:
        """Node → heartbeats so far, and the version in the last."""
        with self.site.database.read() as conn:
            rows = conn.execute(select(node.c.id, node.c.beats, node.c.status)).all()
        return {row.id: (row.beats, row.status.get(TASK, {}).get("version")) for row in rows}

    def served_by(self, version: int) -> set[str]:
        with self.site.database.read() as conn:
            return set(conn.execute(select(served.c.node).where(served.c.version == version)).scalars())

    def all_on(self, version: int, limit_s: float = 120.0) -> None:
        until(
            lambda: {found for _, found in self.nodes().values()} == {version},
            lambda: f"all on {version}: {self.nodes()}", limit_s,
        )  # fmt: skip

    def watch_until_reverted(self, going: Rollout, *, good: int) -> tuple[Rollout, int]:
        """The rollout as it ended, and the most heartbeats that a node then needed until it reported the good one."""
        ended = until(
            lambda: (now := self.find(going.id)).ended and now, lambda: f"it ends: {self.find(going.id)}", pause_s=0.02
        )
        at_end, back = self.nodes(), dict[str, int]()

        def all_are_back() -> bool:
            for name, (beats, version) in self.nodes().items():
                if version == good:
                    back.setdefault(name, beats - at_end[name][0])
            return back.keys() == at_end.keys()

        until(all_are_back, lambda: f"all are back: {self.nodes()}", pause_s=0.02)
        return ended, max(back[name] for name, (_, version) in at_end.items() if version != good or back[name] == 0)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    with QuickSite(folder) as site:
        fleet = Fleet(site)
        with fleet.memory.beating(BEAT_S):
            first = fleet.start(1, RolloutPlan(shadow_rows=0, stages=(1.0,), soak_s=0.0, patience_s=30.0))
            fleet.all_on(1)
            until(lambda: fleet.find(first.id).state == "done", "the first release is everywhere")
            yield fleet
        fleet.memory.close()
    shutil.rmtree(folder, ignore_errors=True)


def dies_with(fleet: Fleet, version: int, going: Rollout) -> list[str]:
    """Kill an agent whenever it loads a version, and start it again as its service would, until the rollout has ended.

    Processes are started from the main thread, which stays: they end with the thread that starts them.
    """
    deaths: list[str] = []

    def tries(agent: Agent) -> bool:
        with suppress(OSError, ValueError):
            state = json.loads((agent.state / "tasks" / TASK / "current.json").read_text())
            attempt = state.get("attempt")  # "stopped" once the process that began it is gone
            return state["version"] == version or (
                attempt is not None and attempt["version"] == version and not attempt["stopped"]
            )
        return False

    def look() -> bool:
        for agent in fleet.site.agents:
            if tries(agent):
                deaths.append(agent.name)
                fleet.site.kill_agent(agent)
                fleet.site.run_agent(agent)
        return len(deaths) > MAX_DEATHS or fleet.find(going.id).ended

    until(look, lambda: f"it ends: {fleet.find(going.id)}", pause_s=0.001)
    return deaths


def check_stopped(fleet: Fleet, ended: Rollout, version: int, gate: str) -> None:
    assert (ended.state, ended.stage) == ("rolled back", CANARY), ended
    assert ended.why.startswith(f"{gate}: "), ended.why
    assert len(ended.canaries) <= MOST and len(fleet.served_by(version)) <= MOST
    agents = fleet.site.agents
    assert not fleet.memory.failures
    assert len(agents) == AGENTS and all(agent.is_running for agent in agents)


def canary(fleet: Fleet, going: Rollout) -> Agent:
    """The one node that tries it, which has to be an agent."""
    found = until(lambda: fleet.find(going.id).canaries, "a canary is chosen", pause_s=0.01)
    names = {fleet.site.agents[0].name: fleet.site.agents[0], fleet.site.agents[1].name: fleet.site.agents[1]}
    with fleet.site.database.read() as conn:
        name = conn.execute(select(node.c.name).where(node.c.id == found[0].node)).scalar_one()
    return names[name]


def test_one_that_crashes_its_process_when_it_is_loaded(fleet: Fleet) -> None:
    fleet.publish(2, model=Model(crash_on_load=True))
    going = fleet.start(2)
    agent = canary(fleet, going)
    deaths = dies_with(fleet, 2, going)
    ended, beats = fleet.watch_until_reverted(going, good=1)
    assert deaths == [agent.name] * MAX_DEATHS
    check_stopped(fleet, ended, 2, "crashes")
    assert beats <= 2
    assert agent.version(TASK) == 1
    failed = agent.tasks[TASK].status()["failed"]
    assert [found["version"] for found in failed] == [2]


def test_one_that_takes_more_than_twice_the_time(fleet: Fleet) -> None:
    fleet.restart_agents(version=1)  # they know all the same how long version 1 took
    fleet.publish(3, model=Model(latency_us=2000.0), layers=7)
    going = fleet.start(3)
    agent = canary(fleet, going)
    ended, beats = fleet.watch_until_reverted(going, good=1)
    check_stopped(fleet, ended, 3, "latency")
    assert len(fleet.served_by(3)) == 1 and beats <= 2
    assert agent.version(TASK) == 1


def test_one_that_is_five_points_worse_by_the_labels(fleet: Fleet) -> None:
    fleet.publish(4, model=Model(accuracy=fleet.memory.models[1].accuracy - 0.05), loss=0.05)
    going = fleet.start(4)
    agent = canary(fleet, going)
    until(lambda: agent.version(TASK) == 4, "the canary answers with it")
    end_s = time.monotonic() + 200
    while not fleet.find(going.id).ended and time.monotonic() < end_s:
        fleet.say(agent, 50)
    ended, beats = fleet.watch_until_reverted(going, good=1)
    check_stopped(fleet, ended, 4, "risk")
    assert len(fleet.served_by(4)) == 1 and beats <= 2
    risk = next(one for one in ended.verdicts if one.gate == "risk")
    assert risk.figures["wrong"] / risk.figures["rows"] > 0.05
    assert agent.version(TASK) == 1


def test_after_bad_ones_a_good_one_goes_everywhere(fleet: Fleet) -> None:
    fleet.publish(5)
    going = fleet.start(5, RolloutPlan(shadow_rows=0, stages=(0.5, 1.0), soak_s=1.0, patience_s=60.0))
    fleet.all_on(5)
    until(lambda: fleet.find(going.id).state == "done", lambda: f"it is done: {fleet.find(going.id)}")
    with fleet.site.database.read() as conn:
        ended = {one.version: one.state for one in rollouts.list_rollouts(conn, TASK)}
    bad = {version: state for version, state in ended.items() if version not in (1, 5)}  # of the tests before this one
    assert ended[1] == ended[5] == "done" and set(bad.values()) <= {"rolled back"}
