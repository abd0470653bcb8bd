"""A core and two agents as real processes over TLS: enrolment, releases, uploads, a rollout, kills, and being alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from quick_core import quick

from edgehone.fleet import rollouts
from edgehone.fleet.rollout import RolloutPlan
from edgehone.records.database import open_database
from edgehone.records.tables import evidence, feedback, node, release, sample, served
from edgehone.registry.create import load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.publish import publish
from edgehone.registry.store import Store
from edgehone.testing.agents import TASK, UnixConnection
from edgehone.testing.bundles import Made, write_bundle
from edgehone.testing.cores import make_core, new_token

pytestmark = pytest.mark.slow

PASSPHRASE = "a passphrase for tests"
QUICK = RolloutPlan(shadow_rows=0, stages=(1.0,), soak_s=1.0, patience_s=30.0)
SHADOWED = RolloutPlan(shadow_rows=20, shadow_s=60.0, stages=(1.0,), soak_s=1.0, patience_s=30.0)


def wait_until(found: Callable[[], Any], what: str, limit_s: float = 40.0) -> Any:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError, AssertionError, KeyError):
            value = found()
            if value:
                return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {limit_s} s")


class Site:
    """A core process with its registry, beside which a test publishes and starts rollouts as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = make_core(folder / "core", interval_s=1.0, tasks=(TASK,))
        self.database = open_database(self.place.database_url)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"https://127.0.0.1:{self.port}"
        self.made: dict[int, Made] = {}
        self.process: subprocess.Popen[str] | None = None
        self.log = folder / "core.log"

    def start(self) -> None:
        command = [sys.executable, "-m", "edgehone.cli.main", "core", "start", str(self.place.folder), "--json"]
        command = [*quick(command), "--listen", f"127.0.0.1:{self.port}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        assert "ready" in self.process.stdout.readline(), self.log.read_text()
        self.process.stdout.close()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)

    def release(self, version: int, plan: RolloutPlan | None = QUICK, **more: Any) -> Made:
        """Publish a version and roll it out."""
        made = write_bundle(self.folder / f"{version}.bundle", version=version, **more)
        ring = KeyRing([self.place.keys], Passphrases([PASSPHRASE]))
        store, anchor = Store(self.place.registry), load_anchor(ring)
        publish(store, ring, [made.path], [], datetime.now(UTC), anchor=anchor)
        self.made[version] = made
        self.wait_for_release(made.digest)
        if plan is not None:
            rollouts.start(self.database, TASK, version, now_s=time.time(), actor="core", plan=plan)
        return made

    def wait_for_release(self, digest: str) -> None:
        """The running core notices by itself what was published into its registry."""
        until = time.monotonic() + 30
        while digest not in {row.digest for row in self.rows(release)}:
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)

    def rollout(self) -> Any:
        with self.database.read() as conn:
            found = rollouts.list_rollouts(conn)
        return max(found, key=lambda one: one.version)

    def rows(self, table: Any) -> list[Any]:
        with self.database.read() as conn:
            return list(conn.execute(select(table)))

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        self.database.close()


class Agent:
    """An agent process that is enrolled with a site."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name
        self.state = site.folder / name
        self.log = site.folder / f"{name}.log"
        self.process: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgehone_agent", *arguments, "--state", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def enrol(self, token: str, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = ["enrol", token, "--core", self.site.address, "--task", TASK, "--name", self.name]
        return self.command(*arguments, *more)

    def start(self) -> None:
        arguments = ["run", "--state", str(self.state), "--listen", "127.0.0.1:0", "--poll", "2"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "edgehone_agent", *arguments], stderr=log, text=True)

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        connection = UnixConnection(self.state / "agent.sock")
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            return json.loads(content) if content else {}
        finally:
            connection.close()

    def infer(self, x: Any = None) -> tuple[str, int]:
        """The id of an answer, and the version that gave it."""
        reading = next(iter(self.site.made.values())).x if x is None else x
        data = {"name": "reading", "shape": [1, len(reading)], "datatype": "FP32", "data": reading.tolist()}
        found = self.ask("POST", f"/v2/models/{TASK}/infer", {"inputs": [data]})
        answer = np.array(found["outputs"][0]["data"], np.float32)
        known = {made.y.tobytes(): version for version, made in self.site.made.items()}
        return found["id"], known[answer.tobytes()] if x is None else 0

    def feedback(self, id: str, prediction: str) -> None:
        event = {"id": id, "prediction_id": prediction, "kind": "correct", "label": "tap"}
        self.ask("POST", f"/v2/models/{TASK}/feedback", event)

    def status(self) -> dict[str, Any]:
        return self.ask("GET", "/status")

    def answers(self, version: int) -> None:
        wait_until(lambda: self.infer()[1] == version, f"{self.name} answers with version {version}\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_text()[-1500:] if self.log.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


def is_off(site: Site, agent: Agent) -> bool:
    """Whether the core has not heard of a node for so long that rollouts do not wait for it."""
    (seen_s,) = (row.seen_s for row in site.rows(node) if row.name == agent.name)
    return bool(time.time() - seen_s > 3 * site.place.settings.interval_s)


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    site = Site(folder)
    site.start()
    yield site
    site.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def agents(site: Site) -> Iterator[tuple[Agent, Agent]]:
    pair = (Agent(site, "one"), Agent(site, "two"))
    for agent in pair:
        done = agent.enrol(new_token(site.place))
        assert done.returncode == 0, done.stderr
        agent.start()
    yield pair
    for agent in pair:
        agent.stop(signal.SIGKILL)


def test_from_the_token_to_a_second_release_with_kills_and_a_core_that_is_away(
    site: Site, agents: tuple[Agent, Agent]
) -> None:
    one, two = agents
    assert "as before" in one.enrol(new_token(site.place)).stdout  # again changes nothing
    site.release(1)
    for agent in agents:
        agent.answers(1)
    wait_until(lambda: site.rollout().state == "done", "the first rollout is done")

    # what is seen and said goes up, exactly once, whatever is killed
    said: dict[str, str] = {}
    stop = threading.Event()

    def talk() -> None:
        rng, attempts = np.random.default_rng(0), itertools.count()
        while not stop.is_set():
            name = f"event-{next(attempts)}"  # one that was cut off may have been taken, so its name is used up
            with contextlib.suppress(OSError, AssertionError, KeyError, ValueError):
                prediction, _ = one.infer(rng.standard_normal(20, np.float32))
                one.feedback(name, prediction)
                said[name] = prediction
            time.sleep(0.005)

    talker = threading.Thread(target=talk)
    talker.start()
    for _ in range(3):
        time.sleep(2.3)
        one.stop(signal.SIGKILL)
        one.start()
        one.answers(1)
    stop.set()
    talker.join()
    assert len(said) > 50
    wait_until(lambda: {row.id for row in site.rows(feedback)} >= set(said), f"all feedback is there\n{one.tail()}")
    rows = site.rows(feedback)
    assert len(rows) == len({(row.node, row.id) for row in rows})
    assert {row.id: row.prediction for row in rows if row.id in said} == said
    wait_until(lambda: len(site.rows(sample)) > 10, "samples are there")
    assert {row.task for row in site.rows(sample)} == {TASK}
    wait_until(lambda: site.rows(evidence), "evidence is there")

    # the core is away: both go on, and start without it
    site.stop()
    one.stop()
    pointer = one.state / "tasks" / TASK / "current.json"  # as a minute of living would: what is on trial has no shadow
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "trial": None}))
    one.start()
    for agent in agents:
        agent.answers(1)
    wait_until(lambda: one.status()["core"]["error"], "the node says that the core is away")
    site.start()
    wait_until(lambda: all(agent.status()["core"]["error"] is None for agent in agents), "both are back", 60)

    # node two is off while the second release goes out, as a shadow first, and comes back to it
    assert two.stop() == 0
    wait_until(lambda: is_off(site, two), "the core takes it for off")
    site.release(2, SHADOWED)

    compared = 0

    def goes_on() -> bool:
        nonlocal compared
        one.infer()
        compared = max(compared, (one.status()["tasks"][TASK]["shadow"] or {}).get("rows", 0))
        return bool(site.rollout().state == "done")

    wait_until(goes_on, f"the second rollout is done\n{one.tail()}", 90)
    assert compared >= 15  # the last rows are seen by the core, which then promotes
    one.answers(2)
    assert one.status()["tasks"][TASK]["previous"]["version"] == 1
    two.start()
    two.answers(2)
    history = [(row.version, row.to_s is None) for row in site.rows(served)]
    assert (2, True) in history and (1, False) in history
    for agent in agents:
        assert agent.stop() == 0
        assert "Traceback" not in agent.log.read_text(), agent.tail()
    assert {row.facts.get("wrong_nonces", 0) for row in site.rows(node)} == {0}


def test_a_node_is_told_to_go_back_and_does_to_its_last_good_version(site: Site, agents: tuple[Agent, Agent]) -> None:
    one, two = agents
    site.release(1)
    site.release(2, None)
    for agent in agents:
        agent.answers(1)
    wait_until(lambda: site.rollout().state == "done", "the first rollout is done")
    going = rollouts.start(
        site.database, TASK, 2, now_s=time.time(), actor="core",
        plan=RolloutPlan(shadow_rows=0, canary_share=1.0, stages=(1.0,), soak_s=600.0),
    )  # fmt: skip
    for agent in agents:
        agent.answers(2)
    rollouts.abort(site.database, going.id, now_s=time.time(), actor="core", why="a test")
    for agent in agents:
        agent.answers(1)
        told = agent.status()["tasks"][TASK]
        assert told["failed"][0]["version"] == 2 and "the core wants version 1" in told["failed"][0]["why"]
    assert "Traceback" not in one.log.read_text() + two.log.read_text()


def test_mistakes_of_enrolling_end_in_a_message_and_change_nothing(site: Site) -> None:
    agent = Agent(site, "one")
    token = new_token(site.place)
    secret, _, fingerprint = token.removeprefix("EH1-").rpartition("-")
    for wrong, said in (
        ("nonsense", "no enrolment token"),
        (f"EH1-{'0' * len(secret)}-{fingerprint}", "token is not good"),
        (f"EH1-{secret}-{'0' * 64}", "another core"),
        (new_token(site.place, life_s=0.01), "token is not good"),
    ):
        time.sleep(0.02)
        done = agent.enrol(wrong)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (4, True, False), done.stderr
        assert secret not in done.stderr + done.stdout
        assert not (agent.state / "uplink" / "identity.json").exists()
    assert agent.enrol(token).returncode == 0
    key = agent.state / "uplink" / "node.key"
    assert key.stat().st_mode & 0o777 == 0o600
    other = Agent(site, "other").enrol(token)
    assert other.returncode == 4 and "token is not good" in other.stderr
    (agent.state / "uplink" / "identity.json").unlink()  # the answer came, and the power went
    again = agent.enrol(token, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["node"] == site.rows(node)[0].id and len(site.rows(node)) == 1
    site.stop()
    done = Agent(site, "third").enrol(token)
    assert done.returncode == 6 and "cannot be reached" in done.stderr
