"""Tokens and certificates of nodes, and what a person changes about a node."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from edgehone.errors import InputError
from edgehone.fleet.authority import Authority
from edgehone.fleet.enrol import enrol, list_unused, make_token, renew, withdraw
from edgehone.fleet.nodes import Standing, check_tags, describe, find_node, list_nodes, set_state, standing
from edgehone.records import audit
from edgehone.records.database import Database
from edgehone.records.tables import certificate, enrolment
from edgehone.testing.cores import make_request
from edgehone_agent.errors import TrustError
from edgehone_agent.wire.uplink import Enrol, Enrolled, JoinToken

NOW_S = 1_800_000_000.0


class Fleet:
    def __init__(self, database: Database, authority: Authority) -> None:
        self.database, self.authority = database, authority

    def token(self, **more: object) -> JoinToken:
        with self.database.write() as conn:
            return make_token(conn, self.authority, now_s=NOW_S, actor="person:ada", **more)  # type: ignore[arg-type]

    def enrol(
        self, token: object, name: str = "", key: ec.EllipticCurvePrivateKey | None = None, at_s: float = 1.0
    ) -> Enrolled:
        message = Enrol(str(token), make_request(key or ec.generate_private_key(ec.SECP256R1())), name)
        with self.database.write() as conn:
            return enrol(conn, self.authority, message, NOW_S + at_s)


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> Fleet:
    return Fleet(database, Authority.make(tmp_path / "ca", NOW_S))


def test_a_token_is_kept_as_a_hash_and_does_not_show(fleet: Fleet) -> None:
    token = fleet.token(name="camera", tags={"site": "north"})
    assert token.secret not in repr(token)
    with fleet.database.read() as conn:
        row = conn.execute(select(enrolment)).one()
        said = [str(entry) for entry in audit.page(conn)]
    assert token.secret not in str(row)
    assert not any(token.secret in entry for entry in said)
    assert JoinToken.parse(f"  {token}\n") == token


def test_names_are_unique_whoever_wished_for_them(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.enrol(fleet.token(), "camera")
    fleet.enrol(fleet.token())
    with fleet.database.read() as conn:
        names = [node.name for node in list_nodes(conn)]
    assert len(set(names)) == 3
    assert sum(name.startswith("camera") for name in names) == 2
    with pytest.raises(InputError, match="another node"):
        fleet.token(name="camera")


def test_a_node_learns_what_it_is_called(fleet: Fleet) -> None:
    key, token = ec.generate_private_key(ec.SECP256R1()), fleet.token(name="camera")
    assert fleet.enrol(token, "what it likes", key).name == "camera"
    assert fleet.enrol(fleet.token(), "camera").name.startswith("camera-")
    with fleet.database.write() as conn:
        describe(conn, list_nodes(conn)[0].id, name="gate", tags=None, actor="core", now_s=NOW_S)
    assert fleet.enrol(token, key=key).name == "gate"


def test_an_unused_token_is_listed_without_its_secret_and_can_be_withdrawn(fleet: Fleet) -> None:
    token, key = fleet.token(name="camera", tags={"site": "north"}), ec.generate_private_key(ec.SECP256R1())
    fleet.token(life_s=10.0)
    used = fleet.token(name="gate")
    fleet.enrol(used, key=key)
    with fleet.database.write() as conn:
        assert len(list_unused(conn, NOW_S)) == 2
        (one,) = list_unused(conn, NOW_S + 10.0)
        assert (one.name, one.tags, one.created_by, one.expires_s) == (
            "camera", {"site": "north"}, "person:ada", NOW_S + 3600,
        )  # fmt: skip
        assert token.secret not in str(one)
        hashes = {row.name: row.token_hash for row in conn.execute(select(enrolment))}
        for wrong in ("", one.id[:3], "zzzz", "%%%%", hashes["gate"][:16], hashes[""][:16]):
            with pytest.raises(InputError, match="no unused token"):
                withdraw(conn, wrong, actor="person:ada", now_s=NOW_S + 10.0)
        assert withdraw(conn, one.id[:6], actor="person:bob", now_s=NOW_S + 10.0) == one
        assert list_unused(conn, NOW_S + 10.0) == []
        said = audit.page(conn)[0]
    assert (said.actor, said.action, said.subject) == ("person:bob", "enrolment.withdraw", "camera")
    with pytest.raises(TrustError):
        fleet.enrol(token)
    assert fleet.enrol(used, key=key).name == "gate"


def test_a_used_token_works_for_its_own_key_only_while_it_lasts(fleet: Fleet) -> None:
    key, token = ec.generate_private_key(ec.SECP256R1()), fleet.token(life_s=100.0)
    first = fleet.enrol(token, key=key)
    assert fleet.enrol(token, key=key, at_s=99.0).node == first.node
    with pytest.raises(TrustError):
        fleet.enrol(token, key=key, at_s=101.0)
    with pytest.raises(TrustError):
        fleet.enrol(token)
    with fleet.database.write() as conn:
        set_state(conn, first.node, "revoked", "", actor="core", now_s=NOW_S)
    with pytest.raises(TrustError):
        fleet.enrol(token, key=key)


def test_revoking_takes_every_certificate(fleet: Fleet) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    id = fleet.enrol(fleet.token(), key=key).node
    with fleet.database.write() as conn:
        renew(conn, fleet.authority, id, make_request(key), NOW_S)
        serials = set(conn.execute(select(certificate.c.serial)).scalars())
        set_state(conn, id, "revoked", "stolen", actor="person:ada", now_s=NOW_S)
        found = standing(conn, NOW_S)
    assert len(serials) == 2
    assert found == Standing(frozenset(serials), {id: "revoked"})
    assert all(found.refuses("another", serial) for serial in serials)
    assert found.refuses(id, "00")
    assert not found.refuses("another", "00")
    with fleet.database.write() as conn:
        with pytest.raises(TrustError):
            renew(conn, fleet.authority, id, make_request(key), NOW_S)
        with pytest.raises(InputError, match="come back"):
            set_state(conn, id, "active", "", actor="core", now_s=NOW_S)
        assert not standing(conn, NOW_S + 30 * 86_400).serials  # which have run out by then


def test_what_a_person_changes_is_on_record(fleet: Fleet) -> None:
    id = fleet.enrol(fleet.token()).node
    with fleet.database.write() as conn:
        set_state(conn, id, "quarantined", "noise", actor="person:ada", now_s=NOW_S)
        set_state(conn, id, "active", "repaired", actor="person:ada", now_s=NOW_S)
        assert describe(conn, id, name="gate", tags={"a": "b"}, actor="person:ada", now_s=NOW_S).tags == {"a": "b"}
        actions = [entry.action for entry in audit.page(conn, subject=id)]
        assert find_node(conn, "f" * 16) is None
        with pytest.raises(InputError, match="no such node"):
            set_state(conn, "f" * 16, "active", "", actor="core", now_s=NOW_S)
    assert actions == ["node.describe", "node.release", "node.quarantine", "node.enrol"]


@pytest.mark.parametrize(
    "tags", [{"": "x"}, {"x": ""}, {"x": "y" * 101}, {"x\n": "y"}, {str(k): "x" for k in range(33)}]
)
def test_bad_tags(tags: dict[str, str]) -> None:
    with pytest.raises(InputError):
        check_tags(tags)


@pytest.mark.parametrize("text", ["", "EH1", "EH1--", "EH2-" + "a" * 40 + "-" + "b" * 64, "EH1-short-" + "b" * 64])
def test_texts_that_are_no_tokens(text: str) -> None:
    with pytest.raises(InputError) as caught:
        JoinToken.parse(text)
    assert text == "" or text not in str(caught.value)
