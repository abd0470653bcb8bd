"""The calls of nodes over real TLS: enrolment, heartbeats, uploads, quotas, streams."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from edgehone.fleet import serial
from edgehone.fleet.nodes import QUARANTINED, REVOKED, set_state
from edgehone.records.database import open_database
from edgehone.records.tables import audit, evidence, feedback, node, sample, served
from edgehone.service.limits import Limits
from edgehone.service.wake import MOST_STREAMS
from edgehone.testing.cores import make_request, new_token
from edgehone_agent.uplink.enrol import enrol
from edgehone_agent.uplink.identity import load_identity
from edgehone_agent.wire.uplink import Enrol, JoinToken, Renew, Renewed, TaskStatus, read, write

DIGEST, OTHER = "a" * 64, "b" * 64
Start = Callable[..., Any]


def rows(core: Any, query: Any) -> list[Any]:
    """What a query finds in a core's database."""
    opened = open_database(core.place.database_url)
    try:
        with opened.read() as conn:
            return list(conn.execute(query).all())
    finally:
        opened.close()


def change_state(core: Any, id: str, state: str) -> None:
    """As another process would."""
    opened = open_database(core.place.database_url)
    with opened.write() as conn:
        set_state(conn, id, state, "a test", actor="core", now_s=time.time())
    opened.close()


def sample_line(id: str, value: float = 1.0) -> bytes:
    """A line of samples."""
    file = io.BytesIO()
    np.save(file, np.full((1, 2, 2), value, np.float32))
    x = base64.b64encode(file.getvalue()).decode()
    return json.dumps(
        {
            "id": id, "task": "digits", "digest": DIGEST, "time_s": 5.0, "share": "uniform", "propensity": 0.5,
            "informativeness": 0.1, "stratum": "zero", "answer": [0.5, 0.5], "x": x,
        }
    ).encode()  # fmt: skip


def test_a_token_lets_one_node_in_once(start: Start, tmp_path: Path) -> None:
    core = start()
    token = new_token(core.place, name="camera-1", tags={"site": "north"})
    first = core.stranger(tmp_path / "a")
    enrolled = first.enrol(token)
    assert enrolled.tags == {"site": "north"}
    assert rows(core, select(node.c.name)) == [("camera-1",)]
    assert first.enrol(token).node == enrolled.node  # the same key: its answer was lost
    with pytest.raises(AssertionError, match="403"):
        core.stranger(tmp_path / "b").enrol(token)
    assert len(rows(core, select(node.c.id))) == 1


def test_the_agent_is_told_the_name_that_its_token_holds(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = start()
    monkeypatch.setattr("edgehone_agent.uplink.enrol.bring_root", lambda identity: None)  # there is no registry
    identity, _ = enrol(tmp_path, new_token(core.place, name="camera-1"), f"https://127.0.0.1:{core.port}")
    assert (identity.name, load_identity(tmp_path).name) == ("camera-1", "camera-1")  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", ["secret", "fingerprint", "expired", "nonsense"])
def test_bad_tokens_are_refused_alike(start: Start, tmp_path: Path, bad: str) -> None:
    core = start()
    token = JoinToken.parse(new_token(core.place, life_s=0.001 if bad == "expired" else 3600))
    time.sleep(0.01)
    text = {
        "secret": f"EH1-{'0' * 40}-{token.fingerprint}",
        "fingerprint": f"EH1-{token.secret}-{'0' * 64}",
        "expired": str(token),
        "nonsense": "let me in",
    }[bad]
    stranger = core.stranger(tmp_path / "a")
    started = time.monotonic()
    status, body, _ = stranger.call("POST", "/v1/node/enrol", write(Enrol(text, make_request(stranger.key))))
    assert time.monotonic() - started > 0.05
    assert status == 403
    assert json.loads(body)["error"]["what"] == "token: the enrolment token is not good"


def test_a_bad_request_does_not_cost_the_token(start: Start, tmp_path: Path) -> None:
    core = start()
    token = new_token(core.place)
    stranger = core.stranger(tmp_path / "a")
    pem = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    assert stranger.call("POST", "/v1/node/enrol", write(Enrol(token, pem)))[0] == 400
    assert stranger.enrol(token).node


def test_calls_need_a_certificate(start: Start, tmp_path: Path) -> None:
    core = start()
    stranger = core.stranger(tmp_path / "a")
    for name, method in (("heartbeat", "POST"), ("samples", "POST"), ("feedback", "POST"), ("wake", "GET")):
        assert stranger.call(method, f"/v1/node/{name}", b"{}" if method == "POST" else None)[0] == 403
    assert stranger.call("GET", "/v1/node/heartbeat")[0] in (403, 405)
    assert stranger.call("POST", "/v1/node/nothing", b"")[0] == 404


def test_a_heartbeat_is_remembered_and_bytes_that_answer_are_followed(start: Start, tmp_path: Path) -> None:
    core = start()
    one = core.node(tmp_path)
    status = TaskStatus(digest=DIGEST, version=1, member="w8", ready=True, predictions=3)
    answer = one.beat({"digits": status}, floors={"digits": 1}, facts={"machine": "arm", "runtimes": ["litert"]})
    assert answer.node_state == "active"
    assert answer.wants["digits"].evidence
    one.beat({"digits": status})
    one.beat({"digits": TaskStatus(digest=OTHER, version=2, member="w8", ready=True)}, floors={"digits": 2})
    one.beat({"digits": TaskStatus(digest=DIGEST, version=1, member="w8", roll_backs=1)})
    found = rows(core, select(served.c.digest, served.c.why, served.c.to_s.is_(None)).order_by(served.c.id))
    assert found == [(DIGEST, "first report", False), (OTHER, "swapped", False), (DIGEST, "rolled back", True)]
    row = rows(core, select(node))[0]
    assert row.beats == 4
    assert row.status["digits"]["roll_backs"] == 1
    assert row.facts["floors"] == {"digits": 2}
    assert row.facts["machine"] == "arm"
    assert abs(row.facts["clock_skew_s"]) < 5


def test_a_clone_shows(start: Start, tmp_path: Path) -> None:
    core = start()
    one = core.node(tmp_path)
    one.beat()
    lost = one.nonce
    one.beat()
    one.nonce = lost  # the last answer did not arrive: no fault, once or twice
    one.beat()
    one.nonce, other = lost, one.nonce
    one.beat()
    assert "wrong_nonces" not in rows(core, select(node.c.facts))[0][0]
    one.nonce, other = other, one.nonce  # but a second node goes on from there
    one.beat()
    assert rows(core, select(node.c.facts))[0][0]["wrong_nonces"] == 1
    assert [row.action for row in rows(core, select(audit.c.action).where(audit.c.action == "node.nonce"))]


def test_a_revoked_node_is_out_and_a_quarantined_one_teaches_nothing(start: Start, tmp_path: Path) -> None:
    core = start()
    sick, gone = core.node(tmp_path), core.node(tmp_path)
    change_state(core, sick.id, QUARANTINED)
    change_state(core, gone.id, REVOKED)
    time.sleep(1.2)  # the core looks twice in a second
    assert sick.beat().node_state == "quarantined"
    with pytest.raises(AssertionError, match="403"):
        gone.beat()
    event = {"id": "e1", "prediction_id": "p1", "kind": "correct", "label": "3"}
    assert sick.json("POST", "/v1/node/feedback", {"events": [event]})[0] == 200
    assert rows(core, select(feedback.c.quarantined)) == [("the node is quarantined",)]


def test_uploads_count_once(start: Start, tmp_path: Path) -> None:
    core = start()
    one, two = core.node(tmp_path), core.node(tmp_path)
    body = b"\n".join([sample_line("p1"), sample_line("p2", 2.0), sample_line("p1")])
    assert json.loads(one.call("POST", "/v1/node/samples", body)[1]) == {"taken": ["p1", "p2"], "known": []}
    assert json.loads(one.call("POST", "/v1/node/samples", body)[1]) == {"taken": [], "known": ["p1", "p2"]}
    assert json.loads(two.call("POST", "/v1/node/samples", sample_line("p1"))[1])["taken"] == ["p1"]
    events = [{"id": f"e{k}", "prediction_id": f"p{k}", "kind": "correct", "label": "3"} for k in (1, 2, 3)]
    assert one.json("POST", "/v1/node/feedback", {"events": events[:2]})[1] == {"taken": ["e1", "e2"], "known": []}
    again = one.json("POST", "/v1/node/feedback", {"events": list(reversed(events))})[1]
    assert again == {"taken": ["e3"], "known": ["e2", "e1"]}
    assert [tuple(r) for r in rows(core, select(feedback.c.id, feedback.c.task).order_by(feedback.c.id))] == [
        ("e1", "digits"), ("e2", "digits"), ("e3", ""),
    ]  # fmt: skip
    found = rows(core, select(sample.c.blob, sample.c.size_bytes).where(sample.c.node == one.id))
    assert len({row.blob for row in found}) == 2
    assert all((core.place.folder / "blobs").rglob(f"*{row.blob[2:]}*") for row in found)


def test_evidence_is_kept(start: Start, tmp_path: Path) -> None:
    core = start()
    one = core.node(tmp_path)
    told = {"task": "digits", "digest": DIGEST, "content": {"level": 2, "rows": 70, "risk": {"level": 1}}}
    assert one.json("POST", "/v1/node/evidence", told) == (204, None)
    row = rows(core, select(evidence))[0]
    assert (row.watch_level, row.risk_level, row.rows) == (2, 1, 70)
    answer = one.beat({"digits": TaskStatus(digest=DIGEST, version=1, member="w8", watch_level=0)})
    assert not answer.wants["digits"].evidence


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("heartbeat", b"{"),
        ("heartbeat", b'{"sent_s":1,"agent":"x","tasks":{"BAD NAME":{}}}'),
        ("heartbeat", b'{"sent_s":"now","agent":"x"}'),
        ("heartbeat", b'{"sent_s":1,"agent":"x","floors":{"digits":-1}}'),
        ("feedback", b'{"events":[{"id":"e"}]}'),
        ("feedback", b'{"events":3}'),
        ("samples", b'{"id":"p"}'),
        ("samples", sample_line("p").replace(b'"x": "', b'"x": "!!!!')),
        ("evidence", b'{"task":"digits","digest":"short","content":{}}'),
        ("renew", b'{"csr":"none"}'),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(start: Start, tmp_path: Path, name: str, body: bytes) -> None:
    core = start()
    one = core.node(tmp_path)
    status, content, _ = one.call("POST", f"/v1/node/{name}", body)
    assert status == 400
    assert json.loads(content)["error"]["code"] in ("EH100", "EH180")
    for table in (feedback, sample, evidence):
        assert rows(core, select(table)) == []
    assert one.beat().nonce


def test_a_body_that_is_too_long_is_refused_before_it_is_read(start: Start, tmp_path: Path) -> None:
    core = start()
    one = core.node(tmp_path)
    assert one.call("POST", "/v1/node/heartbeat", b" " * (65 << 10))[0] == 413


def test_renewal(start: Start, tmp_path: Path) -> None:
    core = start()
    one = core.node(tmp_path)
    status, body, _ = one.call("POST", "/v1/node/renew", write(Renew(make_request(one.key))))
    assert status == 200
    one.use(one.id, read(Renewed, body).certificate)
    assert one.beat().nonce


def test_who_calls_too_often_waits(start: Start, tmp_path: Path) -> None:
    core = start(limits=Limits(beats_per_s=0.5, beats_burst=3, node_rows_per_day=2))
    loud, calm = core.node(tmp_path), core.node(tmp_path)
    for _ in range(3):
        loud.beat()
    status, _, headers = loud.call("POST", "/v1/node/heartbeat", b"")
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert calm.beat().nonce
    events = [{"id": f"e{k}", "prediction_id": "p", "kind": "confirm"} for k in range(3)]
    assert loud.json("POST", "/v1/node/feedback", {"events": events[:2]})[0] == 200
    status, _, headers = loud.call("POST", "/v1/node/feedback", json.dumps({"events": events[2:]}).encode())
    assert status == 429
    assert int(headers["retry-after"]) > 1000


def test_one_node_has_few_uploads_under_way(start: Start, tmp_path: Path) -> None:
    core = start(limits=Limits(node_uploads=1, upload_bytes=5000))
    one, other = core.node(tmp_path), core.node(tmp_path)
    with one.context().wrap_socket(
        socket.create_connection(("127.0.0.1", core.port), 20), server_hostname="localhost"
    ) as slow:
        slow.sendall(b"POST /v1/node/feedback HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\n\r\n{")
        events = json.dumps({"schema": 1, "events": []}).encode()
        status = wait_for(lambda: one.call("POST", "/v1/node/feedback", events)[0], 429)
        assert status == 429
        status, body, headers = other.call("POST", "/v1/node/feedback", events + b" " * 2000)
        assert (status, int(headers["retry-after"]) >= 1) == (503, True), body
        assert other.call("POST", "/v1/node/feedback", events)[0] == 200
        assert one.beat()
    assert wait_for(lambda: one.call("POST", "/v1/node/feedback", events)[0], 200) == 200


def wait_for(ask: Callable[[], int], wanted: int) -> int:
    """What is answered in the end."""
    deadline_s = time.monotonic() + 20
    while (found := ask()) != wanted and time.monotonic() < deadline_s:
        time.sleep(0.25)  # a node may call five times in a second
    return found


def test_another_stream_of_a_node_ends_its_oldest(start: Start, tmp_path: Path) -> None:
    core = start()
    one = core.node(tmp_path)
    streams = []
    for _ in range(MOST_STREAMS + 1):
        plain = socket.create_connection(("127.0.0.1", core.port), 20)
        streams.append(one.context().wrap_socket(plain, server_hostname="localhost"))
        streams[-1].sendall(b"GET /v1/node/wake HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in streams[-1].recv(1000)
    said = b""
    while b"0\r\n\r\n" not in said:
        part = streams[0].recv(1000)
        assert part, said
        said += part
    streams[1].settimeout(0.05)
    said = b""
    with pytest.raises(TimeoutError):
        while True:
            said += streams[1].recv(1000)
    assert b"0\r\n\r\n" not in said
    for stream in streams:
        stream.close()


def test_a_stream_wakes_and_ends_with_the_core(start: Start, tmp_path: Path) -> None:
    core = start()
    one = core.node(tmp_path)
    with one.context().wrap_socket(
        socket.create_connection(("127.0.0.1", core.port)), server_hostname="127.0.0.1"
    ) as stream:
        stream.settimeout(10)
        stream.sendall(b"GET /v1/node/wake HTTP/1.1\r\nhost: x\r\n\r\n")
        got = b""
        while b"still here" not in got:
            got += stream.recv(4096)
        time.sleep(1.2)  # the core has seen the serial number once
        opened = open_database(core.place.database_url)
        with opened.write() as conn:
            serial.bump(conn, time.time())
        opened.close()
        while b"event: look" not in got:
            got += stream.recv(4096)
        core.stop()
        while stream.recv(4096):
            pass
