"""A node whose certificate has run out, with the agent's own client over TLS: it comes back, copies of it do not."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert

from edgehone.fleet.authority import DAY_S, Authority
from edgehone.fleet.enrol import issue
from edgehone.records import audit
from edgehone.records.database import open_database
from edgehone.records.tables import node
from edgehone.service.settings import Place
from edgehone_agent.errors import EdgehoneError, TrustError
from edgehone_agent.uplink.client import CoreClient, trusting
from edgehone_agent.uplink.enrol import renew
from edgehone_agent.uplink.identity import Identity, life, make_key, make_request
from edgehone_agent.wire.uplink import Heartbeat, HeartbeatAnswer, read, write

Start = Callable[..., Any]
ID = "0123456789abcdef"


def away(place: Place, port: int, folder: Path, days_ago: float) -> Identity:
    """A node as it was enrolled for a week, so that its certificate ran out some days ago."""
    folder.mkdir()
    authority = Authority.load(place.authority)
    identity = Identity(folder, f"https://127.0.0.1:{port}", ID, "camera", authority.fingerprint)
    then_s = time.time() - (days_ago + 7) * DAY_S
    database = open_database(place.database_url)
    with database.write() as conn:
        conn.execute(
            insert(node).values(
                id=ID, name="camera", tags={}, state="active", why="", facts={}, enrolled_s=then_s, seen_s=then_s,
                status={}, beats=1,
            )
        )  # fmt: skip
        made = issue(conn, authority, ID, make_request(make_key(identity.key_file)), then_s, 7 * DAY_S)
    database.close()
    identity.ca_file.write_text(authority.pem)
    identity.certificate_file.write_text(made.pem)
    identity.save()
    return identity


def client_of(identity: Identity) -> CoreClient:
    return CoreClient(identity.core, trusting(identity))


def beat(client: CoreClient) -> HeartbeatAnswer:
    return read(HeartbeatAnswer, client.post("heartbeat", write(Heartbeat(None, time.time(), "0.1.0"))))


def test_it_comes_back_by_itself_and_a_copy_of_its_disk_does_not(start: Start, tmp_path: Path) -> None:
    core = start()
    identity = away(core.place, core.port, tmp_path / "node", days_ago=30)
    shutil.copytree(identity.folder, tmp_path / "copy")
    client = client_of(identity)
    with pytest.raises(EdgehoneError):
        beat(client)
    assert renew(identity, client)
    assert life(identity.certificate_file)[1] > time.time() + 6 * DAY_S
    assert beat(client).node_state == "active"
    client.close()
    copy = Identity(tmp_path / "copy", identity.core, ID)
    other = client_of(copy)
    with pytest.raises(TrustError, match="a copy, or was set back"):
        renew(copy, other)
    other.close()
    database = open_database(core.place.database_url)
    with database.read() as conn:
        assert [entry.action for entry in audit.page(conn, subject=ID)] == ["node.copy", "node.return"]
    database.close()


def test_it_comes_back_though_its_own_clock_is_late(start: Start, tmp_path: Path) -> None:
    core = start()
    identity = away(core.place, core.port, tmp_path / "node", days_ago=30)
    client = client_of(identity)
    late_s = time.time() - 40 * DAY_S
    with pytest.raises(EdgehoneError):
        beat(client)
    assert client.turned_away  # for the core's handshake ends without a word
    assert renew(identity, client, now_s=late_s)
    assert beat(client).node_state == "active"
    client.close()


def test_whom_the_core_still_knows_gets_nothing_new_whatever_its_own_clock_says(start: Start, tmp_path: Path) -> None:
    core = start()
    identity = away(core.place, core.port, tmp_path / "node", days_ago=-6)
    before = identity.certificate_file.read_bytes()
    client = client_of(identity)
    client.turned_away = True  # a cable was pulled
    assert not renew(identity, client)
    assert not renew(identity, client, now_s=time.time() + 90 * DAY_S)
    assert identity.certificate_file.read_bytes() == before
    assert beat(client).node_state == "active" and not client.turned_away
    client.close()


def test_after_the_grace_a_person_has_to_let_it_in(start: Start, tmp_path: Path) -> None:
    core = start()
    identity = away(core.place, core.port, tmp_path / "node", days_ago=91)
    client = client_of(identity)
    before = identity.certificate_file.read_bytes()
    with pytest.raises(TrustError, match="more than 90 days ago"):
        renew(identity, client)
    assert identity.certificate_file.read_bytes() == before
    client.close()


def test_without_a_certificate_nothing_else_is_answered(start: Start, tmp_path: Path) -> None:
    core = start()
    identity = away(core.place, core.port, tmp_path / "node", days_ago=30)
    stranger = CoreClient(identity.core, trusting(identity, show=False))
    for name in ("heartbeat", "evidence", "samples", "feedback"):
        with pytest.raises(TrustError, match="needs the certificate of a node"):
            stranger.post(name, b"{}")
    request = make_request(ec.generate_private_key(ec.SECP256R1()))
    for body in (b"{}", json.dumps({"csr": request}).encode(), b"[", json.dumps({"csr": 1, "serial": "1"}).encode()):
        with pytest.raises(EdgehoneError):
            stranger.post("renew", body)
    with pytest.raises(TrustError, match="no challenge"):
        stranger.post("renew", json.dumps({"csr": request, "serial": "1"}).encode())
    stranger.close()
    plain = http.client.HTTPConnection("127.0.0.1", core.port, timeout=20)
    plain.request("POST", "/v1/node/challenge", b"{}")
    assert plain.getresponse().status == 403
    plain.close()
    context = ssl.create_default_context(cafile=str(identity.ca_file))
    secure = http.client.HTTPSConnection("127.0.0.1", core.port, timeout=20, context=context)
    secure.request("GET", "/v1/node/challenge")
    assert secure.getresponse().status == 405
    secure.close()
