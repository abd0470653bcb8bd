"""What the dashboard's forms let through, over a real socket: sessions, CSRF, roles, and each event once."""

from __future__ import annotations

import http.client
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from edgehone.records.database import open_database
from edgehone.records.tables import feedback, node, sample
from edgehone.service.dashboard.visits import local_path
from edgehone.testing.cores import PASSWORD
from edgehone.testing.seeded_cores import TASK, fill


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


def test_an_empty_core_says_what_to_do_next(start: Callable[..., Any]) -> None:
    ada = Browser(start())
    for path, words in (
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
