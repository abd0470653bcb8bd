"""The dashboard of a running core in a real browser: what a person does there, by mouse, by key, and on a phone.

With EDGEHONE_SCREENSHOTS=FOLDER three pictures are written there, for the documentation.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from edgehone.records.database import open_database
from edgehone.records.tables import feedback, node, rollout
from edgehone.service.settings import Place
from edgehone.testing.cores import PASSWORD, make_core
from edgehone.testing.seeded_cores import TASK, WAITING, Seeded, fill

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WIDTHS = (360, 768, 1280)
PAPER = {"light": "rgb(251, 251, 249)", "dark": "rgb(18, 20, 23)"}
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&"


@dataclass
class Site:
    """A core that runs, its address, and what it was filled with."""

    place: Place
    url: str
    seeded: Seeded

    def pages(self) -> list[str]:
        """Every page."""
        some = self.seeded.nodes["south-1"]
        other = self.seeded.nodes["harbour-1"]
        return [
            "/", "/?show=attention", f"/nodes/{some}", f"/nodes/{other}", "/label", "/label?task=pump-vibration",
            "/rollouts", f"/rollouts/{self.seeded.rollout}", "/releases", "/rounds", f"/rounds/{WAITING}",
            "/rounds/r-0007", "/data", "/audit", "/enrol",
        ]  # fmt: skip

    def rows(self, query: Any) -> list[Any]:
        """What the database says."""
        database = open_database(self.place.database_url)
        try:
            with database.read() as conn:
                return list(conn.execute(query).all())
        finally:
            database.close()

    def change(self, statement: Any) -> None:
        """Change the database behind the core's back."""
        database = open_database(self.place.database_url)
        try:
            with database.write() as conn:
                conn.execute(statement)
        finally:
            database.close()


@contextmanager
def running(folder: Path) -> Iterator[Site]:
    place = make_core(folder / "core")
    seeded = fill(place, time.time())
    command = [sys.executable, "-m", "edgehone.cli.main", "core", "start", str(place.folder), "--json"]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["ready"][0].rpartition(":")[2]
        yield Site(place, f"http://127.0.0.1:{port}", seeded)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One core for tests that each look at, or change, another part of it."""
    with running(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A core that a test may make a mess of."""
    with running(tmp_path) as found:
        yield found


@dataclass
class Looking:
    """A browser, and what it complained about."""

    browser: Any
    wrong: list[str] = field(default_factory=list)

    def page(self, site: Site, name: str = "ada", **context: Any) -> Any:
        """A page of somebody who is signed in."""
        opened = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}).new_page()
        opened.on("console", lambda said: self.wrong.append(f"{said.type}: {said.text}"))
        opened.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        opened.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        opened.goto(site.url + "/")
        opened.get_by_label("Name").fill(name)
        opened.get_by_label("Password").fill(PASSWORD)
        opened.get_by_label("Password").press("Enter")
        opened.wait_for_selector("nav[aria-label=Pages]")
        return opened


@pytest.fixture
def looking(chromium: str) -> Iterator[Looking]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        found = Looking(browser)
        yield found
        browser.close()
        assert found.wrong == []


def until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_every_page_fits_every_width_and_both_themes(site: Site, looking: Looking) -> None:
    page = looking.page(site, color_scheme="light")
    _shoot(page, "dashboard-fleet-light.png")
    page.goto(f"{site.url}/rounds/{WAITING}")
    page.get_by_role("button", name="Approve v4").wait_for()
    _shoot(page, "dashboard-round-light.png")
    for path in site.pages():
        answer = page.goto(site.url + path)
        assert answer.status == 200, path
        assert "'unsafe-inline'" not in answer.headers["content-security-policy"]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
            cut = page.evaluate(
                "[...document.querySelectorAll('main *')]"
                ".filter((one) => !one.closest('svg, pre, .hush, .preload, thead')"
                " && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"
            )
            assert cut == [], (path, width)
        for theme, paper in PAPER.items():
            page.emulate_media(color_scheme=theme)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper, (path, theme)
    for theme, other in (("light", PAPER["dark"]), ("dark", PAPER["light"])):
        page.context.clear_cookies(name="edgehone_theme")
        page.emulate_media(color_scheme=theme)
        page.reload()
        page.locator("button.theme").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == other
        page.reload()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == other


def test_ten_samples_are_labelled_with_keys_each_exactly_once(site: Site, looking: Looking) -> None:
    page = looking.page(site, color_scheme="dark")
    page.goto(site.url + "/label?task=" + TASK)
    said = feedback.c.node == "core"
    for count in range(1, 11):
        if count == 5:
            page.set_viewport_size({"width": 1280, "height": 740})
            _shoot(page, "dashboard-label-dark.png")
        page.keyboard.press("Enter" if count % 2 else str(count % 10))
        page.locator("#done", has_text=f"{count}").wait_for()
        until(lambda now=count: page.locator("#done").inner_text() == str(now))
    rows = site.rows(select(feedback).where(said))
    assert len(rows) == 10
    assert {row.annotator for row in rows} == {"ada"}
    assert len({(row.content["node"], row.prediction) for row in rows}) == 10
    assert {row.kind for row in rows} <= {"confirm", "correct"}
    assert sum(row.kind == "confirm" for row in rows) >= 5

    page.keyboard.press("u")  # back to the tenth, and another answer, which is one more event about the same sample
    page.locator("text=You are back here").wait_for()
    page.keyboard.press("n")
    page.keyboard.type("smudge")
    page.keyboard.press("Enter")
    until(lambda: len(site.rows(select(feedback).where(said))) == 11)
    last = site.rows(select(feedback).where(said).order_by(feedback.c.received_s.desc()).limit(2))
    assert (last[0].kind, last[0].label) == ("new_class", "smudge")
    assert last[0].prediction == last[1].prediction
    page.get_by_role("button", name="smudge").wait_for()  # a choice from now on

    before = page.locator(".view img").get_attribute("src")
    page.keyboard.press("s")
    until(lambda: page.locator(".view img").get_attribute("src") != before)
    page.keyboard.press("d")
    page.keyboard.press("Enter")
    until(lambda: len(site.rows(select(feedback).where(said, feedback.c.kind == "delete"))) == 1)
    until(lambda: page.locator("#done").inner_text() == "11")


def test_a_rollout_is_paused_and_aborted(site: Site, looking: Looking) -> None:
    page = looking.page(site)
    page.goto(f"{site.url}/rollouts/{site.seeded.rollout}")
    assert page.locator(".steps [aria-current=step]").inner_text().startswith("canary")
    assert (
        page.locator(".steps li").evaluate_all(
            "all => all.filter((one) => one.getBoundingClientRect().width > 40).length"
        )
        == 5
    )
    page.get_by_role("button", name="Pause").click()
    page.locator("#standing", has_text="paused").wait_for()
    page.get_by_text("Abort", exact=True).click()
    page.get_by_role("button", name="Abort the rollout").click()  # without the tick the browser keeps it back
    assert site.rows(select(rollout.c.state))[0].state == "paused"
    page.get_by_label("All nodes go back").check()
    page.get_by_label("Why").fill("the pictures look wrong")
    page.get_by_role("button", name="Abort the rollout").click()
    page.locator("#standing", has_text="aborted").wait_for()
    assert "the pictures look wrong" in page.locator("#standing").inner_text()
    page.goto(site.url + "/audit?action=rollout.")
    assert "rollout.abort" in page.locator("tbody").inner_text()


def test_the_tab_key_reaches_everything(site: Site, looking: Looking) -> None:
    page = looking.page(site)
    page.add_init_script("window.setInterval = () => 0")  # a fresh reading would wipe the marks off
    for path in ("/", "/label", f"/rollouts/{site.seeded.rollout}", f"/rounds/{WAITING}", "/enrol"):
        page.goto(site.url + path)
        wanted = page.evaluate(
            "(() => { let n = 0; for (const one of document.querySelectorAll('a[href], button, select, summary,"
            " input:not([type=hidden])')) if (one.checkVisibility()) one.dataset.stop = n++; return n; })()"
        )
        reached: set[str] = set()
        for _ in range(wanted + 5):
            page.keyboard.press("Tab")
            at = page.evaluate("document.activeElement.dataset.stop ?? ''")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert not at or outline != "none", "the focus cannot be seen"
            reached |= {at} - {""}
        assert len(reached) == wanted, path
        unnamed = page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select')]"
            ".filter((one) => !one.labels.length).length"
        )
        assert unnamed == 0


def test_markup_of_others_is_text(own_site: Site, looking: Looking) -> None:
    site = own_site
    id = site.seeded.nodes["harbour-2"]
    status = site.rows(select(node.c.status).where(node.c.id == id))[0].status
    status[TASK] |= {
        "fault": HOSTILE,
        "failed": [{"digest": "0" * 64, "version": 1, "why": HOSTILE}],
    }
    tags = {"site": HOSTILE, HOSTILE[:40]: "1"}
    site.change(update(node).where(node.c.id == id).values(name=HOSTILE, tags=tags, why=HOSTILE, status=status))
    site.change(update(feedback).values(label=HOSTILE, annotator=HOSTILE, kind="new_class", task=TASK))
    page = looking.page(site)
    for path in (*site.pages(), f"/nodes/{id}", "/nodes/" + site.seeded.nodes["south-2"]):
        assert page.goto(site.url + path).status == 200, path
        assert page.locator("main img[src=x], main script").count() == 0, path
    page.goto(f"{site.url}/nodes/{id}")
    assert page.locator("h1").inner_text() == HOSTILE
    page.goto(site.url + "/label")
    assert page.get_by_role("button", name=HOSTILE).count() == 1
    page.goto(site.url + "/sign-in?to=//evil.example/")
    assert page.url == site.url + "/"


def test_a_viewer_sees_and_changes_nothing(site: Site, looking: Looking) -> None:
    page = looking.page(site, "bob")
    node = f"/nodes/{site.seeded.nodes['north-1']}"
    for path in ("/label", f"/rollouts/{site.seeded.rollout}", node, f"/rounds/{WAITING}", "/enrol"):
        page.goto(site.url + path)
        assert page.locator("main form[method=post]").count() == 0, path
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    page.goto(site.url + "/audit?action=node.")
    assert "/sign-in?to=" in page.url


def _shoot(page: Any, name: str) -> None:
    folder = os.environ.get("EDGEHONE_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / name))
