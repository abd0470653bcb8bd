"""What the dashboard's forms let through, over a real socket: sessions, CSRF, roles, and each event once."""

from __future__ import annotations

import html
import http.client
import re
import shlex
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from edgehone.records.database import open_database
from edgehone.records.tables import enrolment, feedback, node, sample
from edgehone.records.tables import round as round_table
from edgehone.service.dashboard.visits import local_path
from edgehone.testing.cores import PASSWORD, CoreNode, new_token
from edgehone.testing.seeded_cores import TASK, WAITING, fill


class Browser:
    """Cookies, forms, no scripts."""

    def __init__(self, core: Any, name: str | None = "ada") -> None:
        self.core, self.cookie = core, ""
        if name is not None:
            status, headers, _ = self.post("/sign-in", name=name, password=PASSWORD, to="/label")
            assert (status, headers["location"]) == (303, "/label")
            assert "HttpOnly" in headers["set-cookie"]
            assert "SameSite=strict" in headers["set-cookie"]
            self.cookie = headers["set-cookie"].split(";")[0]

    def get(self, path: str) -> tuple[int, http.client.HTTPMessage, str]:
        return self._send("GET", path, None, {})

    def post(self, path: str, origin: str = "", **fields: str) -> tuple[int, http.client.HTTPMessage, str]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"Origin": origin} if origin else {})
        return self._send("POST", path, urllib.parse.urlencode(fields), headers)

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/")[2])
        assert found
        return found[1]

    def _send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.core.port, timeout=20)
        connection.request(method, path, body, headers | ({"Cookie": self.cookie} if self.cookie else {}))
        answer = connection.getresponse()
        content = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer.status, answer.headers, content


def rows(core: Any, query: Any) -> list[Any]:
    database = open_database(core.place.database_url)
    try:
        with database.read() as conn:
            return list(conn.execute(query).all())
    finally:
        database.close()


def test_forms_need_a_session_a_token_and_a_role(start: Callable[..., Any]) -> None:
    core = start()
    seeded = fill(core.place, time.time())
    id = seeded.nodes["north-1"]
    where = f"/nodes/{id}/state"
    for path in ("/", "/label", "/audit", f"/nodes/{id}", "/reading?node=x&id=y"):
        status, headers, _ = Browser(core, None).get(path)
        assert (status, headers["location"].split("?")[0]) == (303, "/sign-in"), path
    status, _, text = Browser(core, None).post("/sign-in", name="ada", password="wrong wrong wrong")
    assert (status, "name or password is wrong" in text) == (403, True)
    ada, bob = Browser(core), Browser(core, "bob")
    for browser, fields in (
        (ada, {}), (ada, {"csrf": "x"}), (ada, {"csrf": bob.csrf()}), (bob, {"csrf": bob.csrf()}),
        (ada, {"csrf": ada.csrf(), "origin": "https://evil.example"}),
    ):  # fmt: skip
        status, headers, text = browser.post(where, state="revoked", **fields)
        assert (status, headers["content-type"].split(";")[0]) == (403, "text/html")
    assert rows(core, select(node.c.state).where(node.c.id == id))[0].state == "active"
    assert ada.post(where, state="quarantined", why="dust", csrf=ada.csrf())[0] == 303
    assert rows(core, select(node.c.state, node.c.why).where(node.c.id == id)) == [("quarantined", "dust")]
    for path, wanted in (
        ("/nodes/ffffffffffffffff", 404),
        ("/nodes/x", 422),
        ("/rollouts/none", 404),
        ("/rounds/no", 404),
    ):
        status, headers, text = ada.get(path)
        assert (status, "Traceback" in text) == (wanted, False)
    assert ada.post("/sign-out", csrf=ada.csrf())[0] == 303
    assert ada.get("/")[0] == 303


def test_an_answer_counts_once_and_a_delete_takes_the_reading(start: Callable[..., Any]) -> None:
    core = start()
    fill(core.place, time.time())
    ada = Browser(core)
    csrf = ada.csrf()
    one = rows(core, select(sample).where(sample.c.task == TASK).limit(1))[0]
    picture = f"/reading?node={one.node}&id={one.id}"
    assert ada.get(picture)[1]["content-type"] == "image/png"
    form = {"csrf": csrf, "node": one.node, "id": one.id, "event": "0" * 24, "kind": "correct:seven"}
    for _ in range(3):
        assert ada.post("/label", **form)[0] == 303
    said = select(feedback).where(feedback.c.node == "core")
    assert [(row.id, row.label, row.kind) for row in rows(core, said)] == [("0" * 24, "seven", "correct")]
    for wrong, status in (
        ({"kind": "praise"}, 400), ({"kind": "correct"}, 400), ({"kind": "new_class", "label": "\t"}, 400),
        ({"kind": "correct", "value": "1 two"}, 400), ({"id": "nothing"}, 404), ({"event": "x"}, 422),
    ):  # fmt: skip
        assert ada.post("/label", **{**form, "event": "1" * 24, **wrong})[0] == status, wrong
    assert len(rows(core, said)) == 1
    assert ada.post("/label", **{**form, "event": "2" * 24, "kind": "delete"})[0] == 303
    assert ada.get(picture)[0] == 404
    assert rows(core, select(sample.c.blob).where(sample.c.id == one.id, sample.c.node == one.node)) == [(None,)]


def test_a_round_is_approved_by_an_operator_who_saw_it_and_ended_with_a_reason(start: Callable[..., Any]) -> None:
    core = start()
    fill(core.place, time.time())
    ada, bob = Browser(core), Browser(core, "bob")
    state = select(round_table.c.state, round_table.c.content).where(round_table.c.id == WAITING)
    page = ada.get(f"/rounds/{WAITING}")[2]
    assert page.count("<form") == 3  # sign out, approve, abort
    assert bob.get(f"/rounds/{WAITING}")[2].count("<form") == 1
    for words in ("97.2 %", "must gain at least 0.5 pp", "may lose at most 1 pp: not met", "2 nodes answer with it"):
        assert words in page, words
    csrf, where = ada.csrf(), f"/rounds/{WAITING}/answer"
    yes = {"do": "approve", "version": "4", "sure": "yes"}
    for browser, fields, wanted in (
        (ada, yes, 403), (bob, {**yes, "csrf": bob.csrf()}, 403), (ada, {**yes, "csrf": csrf, "sure": ""}, 400),
        (ada, {**yes, "csrf": csrf, "version": "3"}, 400), (ada, {**yes, "csrf": csrf, "do": "sign"}, 400),
        (ada, {"csrf": csrf, "do": "abort", "sure": "yes", "why": " "}, 400),
    ):  # fmt: skip
        assert browser.post(where, **fields)[0] == wanted, fields
        assert rows(core, state)[0].state == "waiting"
    assert ada.post("/rounds/r-0/answer", csrf=csrf, **yes)[0] == 404  # not the first characters of another
    assert ada.post(where, csrf=csrf, **yes)[0] == 303
    found = rows(core, state)[0]
    assert (found.state, found.content["approved_by"]) == ("running", "person:ada")
    status, _, text = ada.post(where, csrf=csrf, **yes)
    assert (status, "does not wait" in text) == (400, True)

    form = {"csrf": csrf, "do": "abort", "sure": "yes", "why": "the labels of <b>Monday</b> are wrong"}
    assert ada.post(where, **form)[0] == 303
    found = rows(core, select(round_table).where(round_table.c.id == WAITING))[0]
    assert (found.state, found.why) == ("aborted", form["why"])
    page = ada.get(f"/rounds/{WAITING}")[2]
    assert "&lt;b&gt;Monday" in page and "<b>Monday" not in page
    assert page.count("<form") == 1
    assert ada.post(where, **form)[0] == 400


def test_a_token_is_shown_once_and_lets_one_node_in(start: Callable[..., Any], tmp_path: Path) -> None:
    core = start()
    fill(core.place, time.time())
    ada, bob = Browser(core), Browser(core, "bob")
    csrf = ada.csrf()
    for browser, fields, wanted in (
        (ada, {}, 403), (bob, {"csrf": bob.csrf()}, 403), (ada, {"csrf": csrf, "tags": "north"}, 400),
        (ada, {"csrf": csrf, "hours": "9999"}, 422), (ada, {"csrf": csrf, "task": "spying"}, 404),
        (ada, {"csrf": csrf, "name": "north-1"}, 400),
    ):  # fmt: skip
        assert browser.post("/enrol", **fields)[0] == wanted, fields
    assert rows(core, select(enrolment)) == []
    status, headers, page = ada.post("/enrol", csrf=csrf, name="dock-7", tags="site=<i>dock</i>", task=TASK, hours="8")
    assert (status, headers["cache-control"]) == (200, "no-store")
    command = shlex.split(html.unescape(page.split('class="typed">')[1].split("</pre>")[0]))
    assert command[:2] == ["edgehone-agent", "enrol"]
    assert command[3:] == ["--core", f"https://127.0.0.1:{core.port}", "--task", TASK]
    token = command[2]
    assert token.startswith("EH1-")
    row = rows(core, select(enrolment))[0]
    assert (row.name, row.tags, row.created_by) == ("dock-7", {"site": "<i>dock</i>"}, "person:ada")
    assert round(row.expires_s - row.created_s) == 8 * 3600
    again = ada.get("/enrol")[2]
    assert token not in again and token.split("-")[1] not in again + ada.get("/audit")[2]
    assert "dock-7" in again and "<i>dock" not in again
    node = CoreNode(core.port, tmp_path / "node", core.place.authority / "ca.pem")
    try:
        enrolled = node.enrol(token)
        assert enrolled.tags == row.tags
        assert f'href="/nodes/{enrolled.node}"' in ada.get("/enrol")[2]
        assert "dock-7" in ada.get("/nodes/" + enrolled.node)[2]
    finally:
        node.close()


def test_a_form_that_cannot_be_read_is_no_defect(start: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    core = start()
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data"):
        connection = http.client.HTTPConnection("127.0.0.1", core.port, timeout=20)
        connection.request("POST", "/sign-in", b"abcd", {"Content-Type": kind})
        answer = connection.getresponse()
        assert (answer.status, b"go back" in answer.read()) == (400, True)
        connection.close()
    assert "a defect" not in caplog.text


def test_an_unused_token_is_withdrawn_by_an_operator(start: Callable[..., Any], tmp_path: Path) -> None:
    core = start()
    token = new_token(core.place, name="dock-7")
    ada, bob = Browser(core), Browser(core, "bob")
    page = ada.get("/enrol")[2]
    id = page.split('name="token" value="')[1].split('"')[0]
    assert "/enrol/withdraw" not in bob.get("/enrol")[2]
    for browser, fields, wanted in (
        (ada, {}, 403), (bob, {"csrf": bob.csrf()}, 403), (ada, {"csrf": ada.csrf(), "token": "_" * 16}, 422),
        (ada, {"csrf": ada.csrf(), "token": "0" * 16}, 400),
    ):  # fmt: skip
        assert browser.post("/enrol/withdraw", **{"token": id} | fields)[0] == wanted, fields
    assert len(rows(core, select(enrolment))) == 1
    status, headers, _ = ada.post("/enrol/withdraw", token=id, csrf=ada.csrf())
    assert (status, headers["location"]) == (303, "/enrol")
    assert "None waits" in ada.get("/enrol")[2]
    assert "enrolment.withdraw" in ada.get("/audit")[2]
    stranger = CoreNode(core.port, tmp_path / "node", core.place.authority / "ca.pem")
    with pytest.raises(AssertionError, match="403"):
        stranger.enrol(token)
    stranger.close()


def test_an_empty_core_says_what_to_do_next(start: Callable[..., Any]) -> None:
    ada = Browser(start())
    for path, words in (
        ("/enrol", "None waits"),
        ("/", "edgehone core token"), ("/label", "Nothing to label yet"), ("/rollouts", "fleet rollout start"),
        ("/releases", "registry publish"), ("/rounds", "loop run"), ("/data", "Label some samples"),
    ):  # fmt: skip
        status, headers, text = ada.get(path)
        assert (status, words in text) == (200, True), path
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("text", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/a\nb"])
def test_the_way_back_stays_here(text: str) -> None:
    assert local_path(text) == "/"
    assert local_path("/label?task=x") == "/label?task=x"
