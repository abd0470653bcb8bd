"""Clocks that are a day off, at nodes and at the core, which is set back while it runs: nothing is lost or stuck."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from core_world import Clock, CoreProcess, Puppet, Talker, wait_until
from test_uplink_story import Agent, Site

from edgehone.fleet import rollouts
from edgehone.fleet.rollout import RolloutPlan
from edgehone.records.database import open_database
from edgehone.records.tables import certificate, feedback, node, release, sample, served
from edgehone.registry.create import load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.publish import publish
from edgehone.registry.store import Store
from edgehone.testing.agents import TASK
from edgehone.testing.bundles import write_bundle
from edgehone.testing.cores import PASSWORD, make_core, make_request, new_token
from edgehone_agent.wire.uplink import Renew, Renewed, read, write

pytestmark = pytest.mark.slow

HOUR_S, DAY_S = 3600.0, 86_400.0
QUICK = RolloutPlan(shadow_rows=0, stages=(1.0,), soak_s=1.0, patience_s=60.0)


@pytest.fixture
def site() -> Iterator[Site]:
    """A core that was made a moment ago, at the true time, in a folder with a short name: it holds sockets."""
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    site = Site(folder)
    site.start()
    yield site
    site.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_nodes_whose_clocks_are_a_day_off_join_serve_and_report(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents: dict[float, Agent] = {}
    clocks: dict[float, Clock] = {}

    def start(off_s: float) -> None:
        with monkeypatch.context() as there:
            for name, value in clocks[off_s].environment.items():
                there.setenv(name, value)
            agents[off_s].start()

    try:
        for off_s in (-DAY_S, DAY_S):
            folder = tmp_path / f"{off_s:g}"
            folder.mkdir()
            clocks[off_s] = Clock(folder)
            clocks[off_s].shift(off_s)
            with monkeypatch.context() as there:
                for name, value in clocks[off_s].environment.items():
                    there.setenv(name, value)
                agents[off_s] = Agent(site, f"off{off_s:+g}")
                done = agents[off_s].enrol(new_token(site.place))  # seconds after the core itself was made
                assert done.returncode == 0, done.stderr
        clocks[DAY_S].shift(0.0)  # who is a day ahead takes no release, as its signatures have ended by that clock
        for off_s in agents:
            start(off_s)
        site.release(1, QUICK)
        for agent in agents.values():
            agent.answers(1)
        wait_until(lambda: site.rollout().state == "done", lambda: site.rollout())
        agents[DAY_S].stop()
        clocks[DAY_S].shift(DAY_S)
        start(DAY_S)
        said = set()
        for agent in agents.values():
            agent.answers(1)
            for k in range(5):
                prediction, _ = agent.infer()
                agent.feedback(f"{agent.name}-{k}", prediction)
                said.add(f"{agent.name}-{k}")
        wait_until(lambda: said <= {row.id for row in site.rows(feedback)}, "all feedback is there")
        assert len(site.rows(feedback)) == len(said)

        def is_told() -> bool:
            found = {row.name: row.facts for row in site.rows(node)}
            return all(
                abs(found[agent.name]["clock_skew_s"] - off_s) < 60 and "clock_off" in found[agent.name]["flags"]
                for off_s, agent in agents.items()
            )

        wait_until(is_told, lambda: site.rows(node))
        for agent in agents.values():
            wait_until(lambda agent=agent: agent.status()["core"]["error"] is None, agent.tail)
            days = agent.status()["core"]["certificate_days"]
            assert abs(days - 7.0) < 0.1, "it counts by the core's clock"
        assert "wrong_nonces" not in {name for row in site.rows(node) for name in row.facts}
        assert len(site.rows(certificate)) == len(agents), "neither thinks that it has to renew"
    finally:
        for agent in agents.values():
            if agent.process is not None:
                agent.stop(9)


def test_a_core_whose_clock_jumps_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    place = make_core(tmp_path / "core", interval_s=10.0, tasks=(TASK,))
    core = CoreProcess(place, tmp_path / "log", environment=clock.environment).start()
    database = open_database(place.database_url)
    digests: dict[int, str] = {}
    talker = Talker(core.node(tmp_path / "talker"), "t")
    puppets = [Puppet(core.node(tmp_path / f"node-{k}"), TASK, digests) for k in range(3)]
    stop = threading.Event()

    def live() -> None:
        while not stop.is_set():
            for puppet in puppets:
                puppet.node.close()  # a new handshake each time: a certificate has to hold at any moment
                puppet.beat()
            stop.wait(1.0)

    def roll_out(version: int) -> None:
        made = write_bundle(tmp_path / f"{version}.bundle", version=version)
        digests[version] = made.digest
        ring = KeyRing([place.keys], Passphrases(["a passphrase for tests"]))
        store = Store(place.registry)
        publish(store, ring, [made.path], [], datetime.now(UTC), anchor=load_anchor(ring))
        wait_until(lambda: made.digest in core.column(release.c.digest), core.log)
        begun = rollouts.start(database, TASK, version, now_s=clock.now_s(), actor="core", plan=QUICK)
        clock.shift(clock.ahead_s - HOUR_S)  # it is set back in the middle of it, by an hour

        def is_done() -> bool:
            with database.read() as conn:
                return rollouts.find_rollout(conn, begun.id).state == "done"

        wait_until(is_done, core.log)
        wait_until(lambda: all(one.status.version == version for one in puppets), core.log)

    def sign_in() -> str:
        status, _, headers = core.ask("POST", "/v1/sign-in", {"name": "ada", "password": PASSWORD})
        assert status == 200
        return headers["set-cookie"].partition(";")[0]

    living = threading.Thread(target=live)
    talker.start()
    living.start()
    try:
        cookie, token = sign_in(), new_token(place)
        for version, ahead_s in enumerate((0.0, DAY_S, -DAY_S), start=1):
            clock.shift(ahead_s)
            before = talker.said
            if ahead_s == DAY_S:  # what a day ends has ended, and can be had again
                assert core.ask("GET", "/v1/me", cookie=cookie)[0] == 401
                cookie = sign_in()
                with pytest.raises(AssertionError, match="403"):
                    core.stranger(tmp_path / "late").enrol(token)
            assert core.ask("GET", "/v1/me", cookie=cookie)[0] == 200
            new = core.node(tmp_path / f"new-{version}", life_s=5 * DAY_S)
            status, body, _ = new.call("POST", "/v1/node/renew", write(Renew(make_request(new.key))))
            assert status == 200
            new.use(new.id, read(Renewed, body).certificate)
            assert abs(new.beat().time_s - clock.now_s()) < 30
            roll_out(version)
            wait_until(lambda before=before: talker.said > before + 10, core.log)
    finally:
        stop.set()
        living.join(60)
        talker.stop()
        database.close()
        core.close()
    assert talker.events and talker.events <= set(core.column(feedback.c.id))
    assert talker.samples <= set(core.column(sample.c.id))
    assert set(talker.beats) <= set(core.column(served.c.digest))
    assert set(talker.refusals) <= {429} and talker.broken == 0
    assert time.time() - clock.now_s() > 0.9 * DAY_S and "Traceback" not in core.log(), core.log()
