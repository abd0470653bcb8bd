"""An agent process that was off for a month comes back to its core by itself; a copy of its disk does not."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from edgehone.fleet.authority import DAY_S, Authority
from edgehone.fleet.enrol import issue
from edgehone.records.database import open_database
from edgehone.records.tables import audit, certificate, node
from edgehone.simulate.nodes import LiveNode
from edgehone.testing.agents import TASK
from edgehone.testing.sites import Agent, Site
from edgehone_agent.uplink.identity import life, load_key, make_request

pytestmark = pytest.mark.slow

LIMIT_S = 120.0


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    with Site(folder) as site:
        yield site
    shutil.rmtree(folder, ignore_errors=True)


def set_back(site: Site, agent: Agent) -> str:
    """Make the past of a node what it would be had it been enrolled 37 days ago and been off for 30; its id."""
    uplink = agent.state / "uplink"
    id = str(json.loads((uplink / "identity.json").read_text())["node"])
    then_s = time.time() - 37 * DAY_S
    database = open_database(site.place.database_url)
    with database.write() as conn:
        conn.execute(delete(certificate).where(certificate.c.node == id))
        conn.execute(update(node).where(node.c.id == id).values(enrolled_s=then_s, seen_s=then_s + 6 * DAY_S))
        request = make_request(load_key(uplink / "node.key"))
        made = issue(conn, Authority.load(site.place.authority), id, request, then_s, 7 * DAY_S)
    database.close()
    (uplink / "node.pem").write_text(made.pem)
    return id


def test_a_node_that_was_off_for_a_month_is_back_and_a_copy_of_its_disk_is_not(site: Site) -> None:
    site.make_core((TASK,), interval_s=0.5)
    agent = site.add_agent("one", (TASK,))
    site.kill_agent(agent)
    id = set_back(site, agent)
    copy = site.folder / "states" / "copy"
    shutil.copytree(agent.state, copy, ignore=shutil.ignore_patterns("*.sock", "lock*"))
    database = open_database(site.place.database_url)

    def until(action: str) -> None:
        ends_s = time.monotonic() + LIMIT_S
        while time.monotonic() < ends_s:
            with database.read() as conn:
                seen_s = conn.execute(select(node.c.seen_s).where(node.c.id == id)).scalar_one()
                actions = set(conn.execute(select(audit.c.action).where(audit.c.subject == id)).scalars())
            if action in actions and seen_s > time.time() - LIMIT_S:
                return
            time.sleep(0.1)
        raise AssertionError(f"no {action}: {agent.log.read_text()[-1500:]}")

    site.run_agent(agent)
    until("node.return")
    assert life(agent.state / "uplink" / "node.pem")[1] > time.time() + 6 * DAY_S
    log = site.folder / "logs" / "copy.log"
    process = site._start_agent(copy, log)
    twin = Agent("copy", copy, log, {TASK: LiveNode("copy", TASK, copy, process, log)})
    until("node.copy")
    assert life(copy / "uplink" / "node.pem")[1] < time.time()
    for one in (agent, twin):
        site.kill_agent(one)
    database.close()
    assert "Traceback" not in agent.log.read_text() + log.read_text()
