"""One story in a real browser, with a core, an agent and a training process that are real, too.

An operator makes a token on a page; the node that uses it appears. Its world changes; the alarm appears. The operator
labels ten samples by key, people at the node label more; a round is trained and waits. The operator reads its figures,
approves it, and sees the canary promoted.
"""

from __future__ import annotations

import contextlib
import html
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import LABELS, TASK, draw
from proof_world import QuickProcesses

from edgehone.errors import HostError
from edgehone.fleet.cohorts import set_versions
from edgehone.loop.policy import LoopPolicy, save_policy
from edgehone.records.tables import decision, feedback, release, sample
from edgehone.records.tables import round as round_table
from edgehone.simulate.nodes import LiveNode, Processes

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
LIMIT_S = 90.0
SHIFT = -2.5  # four answers of ten become wrong, and can be learnt
AGENT = (sys.executable, "-m", "edgehone_agent")


@dataclass
class Device:
    """A node that answers readings all the time, and knows the truth of each; `shift` moves its world.

    Attributes:
        told: prediction → number of the right class.
        people: the same node, for whoever speaks beside the readings: a connection is for one thread.
    """

    node: LiveNode
    people: LiveNode
    shift: float = 0.0
    told: dict[str, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            x, y = draw(50, 10_000 + turn, self.shift)
            for reading, truth in zip(x, y, strict=True):
                with contextlib.suppress(HostError):  # it swaps its model
                    self.told[self.node.ask(reading).id] = int(truth)
                if self._stop.wait(0.01):
                    return

    def stop(self) -> None:
        """Answer no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(20)
        self.node.close()
        self.people.close()


def until(found: Callable[[], Any], what: Callable[[], object] | str, limit_s: float = LIMIT_S) -> Any:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError(what() if callable(what) else what)


@pytest.fixture
def site(gas_family: Path, tmp_path: Path) -> Iterator[Processes]:
    """A core that has version 1 of a small task and a policy that a person approves by; no node."""
    from edgehone.bundle.build import Wishes, build
    from edgehone.report.study_file import read

    study, source, bundle = gas_family / "family", gas_family / "gas_task.py", tmp_path / "1.bundle"
    bundle.write_bytes(build(read(study), "int8", study, Wishes(1), draw(300, 3, 0.0)[0]))
    with QuickProcesses(tmp_path / "site") as site:
        site.start_core(TASK, interval_s=1.0)
        site.publish([bundle])
        plan = {"shadow_rows": 0, "soak_s": 1.0, "patience_s": 60.0, "stages": [1.0]}
        policy = LoopPolicy(
            TASK, str(source), str(study), ("int8",), min_labels=150, corrections=10, cool_down_s=0.0,
            latency_ratio=5.0, flip_limit=0.3, epsilon_pp=5.0, rollout=plan, epochs=2.0, node_share=1.0,
            annotator_share=1.0,
        )  # fmt: skip
        with site.database.write() as conn:
            set_versions(conn, TASK, [TASK], 1, time.time())
            save_policy(conn, policy, actor="test", now_s=time.time())
        yield site


@pytest.fixture
def page(site: Processes, chromium: str) -> Iterator[Any]:
    """The dashboard, signed in."""
    wrong: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        opened.set_default_timeout(LIMIT_S * 1000)
        opened.on("console", lambda said: wrong.append(f"{said.type}: {said.text}"))
        opened.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        opened.goto(site.address.replace("https://", "http://"))
        opened.get_by_label("Name").fill("operator")
        opened.get_by_label("Password").fill(site.password)
        opened.get_by_label("Password").press("Enter")
        opened.wait_for_selector("nav[aria-label=Pages]")
        yield opened
        browser.close()
    assert wrong == []


def enrol(site: Processes, page: Any, state: Path) -> Iterator[Device]:
    """Make a token on the page, run the command that it shows, and start the agent."""
    page.get_by_role("link", name="Enrol a node").click()
    page.get_by_label("Name").fill("kitchen")
    page.get_by_label("Tags").fill("floor=2")
    assert page.get_by_label(TASK).is_checked()
    page.get_by_role("button", name="Make the token").click()
    command = shlex.split(html.unescape(page.locator("#command").inner_text()))
    page.locator("#tokens", has_text="kitchen").get_by_text("good for").wait_for()
    done = subprocess.run(
        [*AGENT, *command[1:], "--state", str(state)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    log = site.folder / "logs" / "kitchen.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*AGENT, "run", "--state", str(state), "--listen", "127.0.0.1:0", "--poll", "2"],
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    device = Device(*(LiveNode("kitchen", TASK, state, process, log) for _ in range(2)))
    try:
        yield device
    finally:
        device.stop()
        process.terminate()
        process.wait(20)


@pytest.fixture
def device(site: Processes, page: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    yield from enrol(site, page, tmp_path_factory.mktemp("n") / "k")


def count(site: Processes, query: Any) -> int:
    with site.database.read() as conn:
        return len(conn.execute(query).all())


def progress(site: Processes) -> str:
    """Where the loop is, for a failure."""
    with site.database.read() as conn:
        rounds = [(one.phase, one.state, one.why) for one in conn.execute(select(round_table))]
        decided = [(one.answer, one.why) for one in conn.execute(select(decision))]
        samples = len(conn.execute(select(sample.c.id)).all())
    return f"rounds {rounds}, decisions {decided}, {samples} samples"


def test_from_a_token_to_a_promoted_canary(site: Processes, page: Any, device: Device) -> None:
    # the node appears by itself, first where its token was made, then in the fleet
    page.locator("#tokens").get_by_text("enrolled").wait_for()
    page.get_by_role("link", name="Fleet", exact=True).first.click()
    row = page.get_by_role("row", name="kitchen")
    row.get_by_text("v1").wait_for()
    row.get_by_text("online").wait_for()
    assert page.locator("#alarms").inner_text() == "all quiet"

    # its world changes, and the open page says so
    device.shift = SHIFT
    device.start()
    page.locator("#alarms", has_text="1 node is alarmed").wait_for()
    page.locator("#alarms").get_by_role("link", name="kitchen").click()
    picture = page.locator(".pic svg:visible")  # its evidence follows
    assert picture.get_attribute("aria-label")
    page.get_by_role("link", name="Fleet", exact=True).first.click()

    # ten samples by key
    until(lambda: count(site, select(sample.c.id)) >= 10, lambda: progress(site))
    page.goto(page.url.rstrip("/") + f"/label?task={TASK}")
    for done in range(1, 11):
        truth = device.told[page.locator("#desk input[name=id]").first.get_attribute("value")]
        said = page.locator("#desk .answer").inner_text()
        page.keyboard.press("Enter" if said == LABELS[truth] else str(truth))
        page.locator("#done", has_text=f"{done}").wait_for()
        until(lambda done=done: page.locator("#done").inner_text() == str(done), "the label was not taken")
    mine = select(feedback.c.id).where(feedback.c.node == "core", feedback.c.annotator == "operator")
    assert count(site, mine) == 10
    assert count(site, select(round_table.c.id)) == 0

    # people at the node know more; a round is trained and waits
    asked: set[str] = set()

    def waits() -> bool:
        with site.database.read() as conn:
            here = set(conn.execute(select(sample.c.id)).scalars())
            state = conn.execute(select(round_table.c.state)).scalars().all()
        for id in sorted(here - asked)[:80] if not state else []:
            with contextlib.suppress(HostError):
                device.people.feedback(f"label-{id}", id, label=LABELS[device.told[id]], time_s=time.time())
                asked.add(id)
        assert set(state) <= {"running", "waiting"}, progress(site)
        return "waiting" in state

    until(waits, lambda: progress(site))
    page.get_by_role("link", name="Rounds").click()
    page.locator("#rounds").get_by_role("link", name=TASK).click()
    figures = page.get_by_role("row", name="int8 v2")
    assert "must gain at least 0.5 pp" in figures.inner_text()
    assert figures.get_by_text("pass").count() == 1
    assert "1 node answers with it" in page.locator("#replaced").inner_text()
    page.get_by_role("button", name="Approve v2").click()  # without the tick the browser keeps it back
    page.get_by_label("I have seen the figures").check()
    page.get_by_role("button", name="Approve v2").click()

    # the canary is promoted, and the fleet answers with the new version
    page.get_by_role("link", name="Rollout of v2").click()
    page.locator("#standing", has_text="done").wait_for()
    assert page.locator(".steps .done").count() == 3
    assert "kitchen" in page.locator("#canaries").inner_text()
    page.get_by_role("link", name="Fleet", exact=True).click()
    page.get_by_role("row", name="kitchen").get_by_text("v2").wait_for()
    until(lambda: count(site, select(round_table.c.id).where(round_table.c.state == "done")), lambda: progress(site))
    with site.database.read() as conn:
        assert conn.execute(select(release.c.approved_by).where(release.c.version == 2)).scalar() == "person:operator"
