"""People's sign-in, sessions, tokens and calls, over plain HTTP on loopback and over TLS."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.records.database import Database
from edgehone.service import people
from edgehone.service.answers import Refused
from edgehone.service.core import Core
from edgehone.service.gate import SignIns
from edgehone.service.limits import Limits
from edgehone.testing.cores import PASSWORD, make_core
from edgehone_agent.errors import TrustError

Start = Callable[..., Any]


class Browser:
    """Keeps a session's cookie and CSRF token, as a page does."""

    def __init__(self, port: int, authority: Path | None = None) -> None:
        self.port = port
        self.context = None if authority is None else ssl.create_default_context(cafile=str(authority))
        self.cookie = self.csrf = self.set_cookie = ""

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection: http.client.HTTPConnection
        if self.context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.context)
        given = {"cookie": self.cookie, "x-csrf-token": self.csrf, "content-type": "application/json"}
        sent = {k: v for k, v in given.items() if v} | {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            content = answer.read()
            self.set_cookie = answer.headers.get("set-cookie") or self.set_cookie
            return answer.status, json.loads(content) if content else None
        finally:
            connection.close()

    def sign_in(self, name: str = "ada", password: str = PASSWORD) -> int:
        status, told = self.call("POST", "/v1/sign-in", {"name": name, "password": password})
        if status == 200:
            self.cookie, self.csrf = self.set_cookie.partition(";")[0], told["csrf"]
        return status


def test_a_password_is_kept_as_a_hash_that_says_its_cost() -> None:
    hashed = people.hash_password(PASSWORD)
    assert hashed.startswith("scrypt$32768$8$1$")
    assert people.is_password(PASSWORD, hashed)
    assert not people.is_password(PASSWORD + "x", hashed)
    assert people.hash_password(PASSWORD) != hashed
    for bad in (
        "",
        "scrypt$1$8$1$x$y",
        hashed.replace("scrypt", "plain"),
        hashed[:-10],
        "scrypt$99999999999$8$1$AAAA$AAAA",
    ):
        assert not people.is_password(PASSWORD, bad)


def test_a_session_reads_and_changes_with_its_csrf_token_only(start: Start) -> None:
    core = start()
    browser = Browser(core.port)
    assert browser.call("GET", "/v1/nodes")[0] == 401
    assert browser.sign_in() == 200
    assert {"httponly", "samesite=strict", "path=/"} <= {
        part.strip().lower() for part in browser.set_cookie.split(";")
    }  # fmt: skip
    assert "secure" not in browser.set_cookie.lower()
    assert browser.call("GET", "/v1/me") == (200, {"name": "ada", "role": "operator", "csrf": browser.csrf})
    assert browser.call("POST", "/v1/enrolments", {})[0] == 201
    good, browser.csrf = browser.csrf, "wrong"
    assert browser.call("POST", "/v1/enrolments", {})[0] == 403
    browser.csrf = good
    assert browser.call("POST", "/v1/enrolments", {}, origin="http://evil.example")[0] == 403
    assert browser.call("POST", "/v1/sign-out")[0] == 204
    assert browser.call("GET", "/v1/nodes")[0] == 401


def test_over_tls_the_cookie_is_secure(start: Start) -> None:
    core = start()
    browser = Browser(core.port, core.place.authority / "ca.pem")
    assert browser.sign_in() == 200
    assert "secure" in browser.set_cookie.lower()


def test_a_viewer_reads_and_changes_nothing(start: Start) -> None:
    core = start()
    browser = Browser(core.port)
    assert browser.sign_in("bob") == 200
    assert browser.call("GET", "/v1/nodes")[0] == 200
    for method, path, body in (
        ("POST", "/v1/enrolments", {}),
        ("POST", "/v1/people", {"name": "eve", "role": "operator", "password": "long enough indeed"}),
        ("POST", "/v1/tokens", {"name": "x", "role": "operator"}),
        ("PUT", "/v1/nodes/0123456789abcdef/state", {"state": "revoked", "why": ""}),
        ("DELETE", "/v1/people/ada", None),
    ):
        assert browser.call(method, path, body)[0] == 403


def test_guessing_is_slowed_down_and_says_nothing(start: Start) -> None:
    core = start(limits=Limits(sign_ins=3))
    wrong = Browser(core.port).call("POST", "/v1/sign-in", {"name": "ada", "password": "wrong"})
    nobody = Browser(core.port).call("POST", "/v1/sign-in", {"name": "zoe", "password": "wrong"})
    assert wrong == nobody
    assert wrong[0] == 403
    assert Browser(core.port).sign_in() == 200
    codes = [Browser(core.port).sign_in("ada", "wrong") for _ in range(3)]
    assert codes[-1] == 429


def test_an_address_that_must_wait_costs_names_nothing(tmp_path: Path) -> None:
    asyncio.run(_try_from_addresses(tmp_path))


async def _try_from_addresses(folder: Path) -> None:
    core = await Core.open(make_core(folder), limits=Limits(sign_ins=2, sign_in_window_s=3000.0))
    attempts = SignIns(core)

    async def told(name: str, host: str, password: str = "wrong wrong wrong") -> str:
        try:
            return (await asyncio.to_thread(attempts.sign_in, name, password, host))[1].name
        except (TrustError, Refused) as error:
            return str(error)

    try:
        for _ in range(2):
            assert "password is wrong" in await told("eve", "192.0.2.1")
        for _ in range(4):
            assert "too many tries" in await told("ada", "192.0.2.1")
        assert await told("ada", "192.0.2.2", PASSWORD) == "ada"
        for at in range(4):  # one machine has all of these addresses
            assert ("too many tries" in await told(f"eve-{at}", f"2001:db8::{at}")) == (at > 1)
    finally:
        await core.close()


def test_passwords_are_looked_at_a_few_at_a_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    core = start(limits=Limits(sign_ins_at_once=1))
    gate = threading.Semaphore(0)
    monkeypatch.setattr(people, "_AT_ONCE", gate)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(Browser(core.port).sign_in())) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + 20
    while len(found) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert found == [429, 429]
    assert Browser(core.port).call("GET", "/v1/me")[0] == 401  # others are answered meanwhile
    gate.release()
    for thread in threads:
        thread.join()
    assert found[2] == 200


def test_a_password_that_changes_while_it_is_checked_opens_nothing(database: Database) -> None:
    old, new = people.hash_password(PASSWORD), people.hash_password("another long password")
    with database.write() as conn:
        people.add_person(conn, "ada", "operator", old, actor="core", now_s=0.0)
        people.add_person(conn, "bob", "operator", old, actor="core", now_s=0.0)
        assert people.open_session(conn, "ada", 1.0, checked=old)[1].name == "ada"
        people.set_password(conn, "ada", new, actor="core", now_s=2.0)
        with pytest.raises(TrustError):
            people.open_session(conn, "ada", 3.0, checked=old)
        people.disable_person(conn, "ada", actor="core", now_s=4.0)
        for checked in (new, None):
            with pytest.raises(TrustError):
                people.open_session(conn, "ada", 5.0, checked=checked)


def test_api_tokens(start: Start) -> None:
    core = start()
    browser = Browser(core.port)
    browser.sign_in()
    _, made = browser.call("POST", "/v1/tokens", {"name": "ci", "role": "viewer"})
    program = Browser(core.port)
    bearer = f"Bearer {made['token']}"
    assert program.call("GET", "/v1/nodes", authorization=bearer)[0] == 200
    assert program.call("POST", "/v1/enrolments", {}, authorization=bearer)[0] == 403
    listed = browser.call("GET", "/v1/tokens")[1]
    assert [one["id"] for one in listed] == [made["id"]]
    assert made["token"] not in json.dumps(listed)
    assert browser.call("DELETE", f"/v1/tokens/{made['id']}")[0] == 204
    assert program.call("GET", "/v1/nodes", authorization=bearer)[0] == 401
    assert browser.call("DELETE", f"/v1/tokens/{made['id']}")[0] == 404


def test_people_come_and_go_and_the_last_operator_stays(start: Start) -> None:
    core = start()
    browser = Browser(core.port)
    browser.sign_in()
    eve = {"name": "eve", "role": "operator", "password": "long enough indeed"}
    assert browser.call("DELETE", "/v1/people/ada")[0] == 409
    assert browser.call("POST", "/v1/people", eve)[0] == 201
    assert browser.call("POST", "/v1/people", eve)[0] == 409
    other = Browser(core.port)
    assert other.sign_in("eve", eve["password"]) == 200
    assert browser.call("DELETE", "/v1/people/eve")[0] == 204
    assert other.call("GET", "/v1/me")[0] == 401
    assert other.sign_in("eve", eve["password"]) == 403
    actions = {one["action"] for one in browser.call("GET", "/v1/audit")[1]}
    assert {"person.add", "person.disable", "person.sign-in"} <= actions


def test_an_operator_names_quarantines_and_revokes_a_node(start: Start, tmp_path: Path) -> None:
    core = start()
    node = core.node(tmp_path)
    browser = Browser(core.port)
    browser.sign_in()
    path = f"/v1/nodes/{node.id}"
    assert browser.call("PATCH", path, {"name": "gate", "tags": {"site": "north"}})[1]["name"] == "gate"
    assert browser.call("PUT", f"{path}/state", {"state": "quarantined", "why": "noise"})[1]["why"] == "noise"
    assert node.beat().node_state == "quarantined"  # at once
    assert browser.call("PUT", f"{path}/state", {"state": "revoked", "why": "stolen"})[0] == 200
    with pytest.raises(AssertionError, match="403"):
        node.beat()
    assert browser.call("PUT", f"{path}/state", {"state": "active", "why": ""})[0] == 409
    assert browser.call("GET", "/v1/nodes/0123456789abcdef")[0] == 404
    assert browser.call("GET", "/v1/status")[1]["nodes"] == {"revoked": 1}


def test_plain_http_by_another_name_is_refused(start: Start) -> None:
    core = start()
    assert Browser(core.port).call("GET", "/v1/me", host="evil.example")[0] == 403
    assert Browser(core.port).call("GET", "/v1/me", host=f"localhost:{core.port}")[0] == 401


def test_a_body_that_is_too_long_is_refused(start: Start) -> None:
    core = start()
    status, told = Browser(core.port).call("POST", "/v1/sign-in", {"name": "ada", "password": "x" * (2 << 20)})
    assert status == 413
    assert "error" in told


def test_strict_bodies(start: Start) -> None:
    core = start()
    browser = Browser(core.port)
    browser.sign_in()
    for body in ({"nam": "x"}, {"life_s": "60"}, {"life_s": 1}, {"tags": {"": "x"}}, []):
        status, told = browser.call("POST", "/v1/enrolments", body)
        assert status == 422
        assert set(told["error"]) == {"code", "what", "do"}
