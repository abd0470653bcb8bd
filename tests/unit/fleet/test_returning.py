"""A node comes back after its certificate has run out: by its key and a fresh challenge, within the grace, and once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert, select, update

from edgehone.errors import InputError
from edgehone.fleet.authority import DAY_S, Authority, Issued
from edgehone.fleet.enrol import issue
from edgehone.fleet.nodes import set_state
from edgehone.fleet.returning import Challenges, challenge_in, check_challenge, take_back
from edgehone.records import audit
from edgehone.records.database import Database, open_database, sqlite_url
from edgehone.records.tables import certificate, node
from edgehone_agent.errors import BusyError, TrustError
from edgehone_agent.uplink.identity import make_request
from edgehone_agent.wire.returning import Return

NOW_S = 1_800_000_000.0
ID = "0123456789abcdef"


class Away:
    """A node whose certificate ran out 30 days ago, a week after it was enrolled."""

    def __init__(self, database: Database, authority: Authority) -> None:
        self.database, self.authority = database, authority
        self.key = ec.generate_private_key(ec.SECP256R1())
        then_s = NOW_S - 37 * DAY_S
        with database.write() as conn:
            conn.execute(
                insert(node).values(
                    id=ID, name="camera", tags={}, state="active", why="", facts={}, enrolled_s=then_s,
                    seen_s=then_s + DAY_S, status={}, beats=0,
                )
            )  # fmt: skip
            self.old = issue(conn, authority, ID, make_request(self.key), then_s, 7 * DAY_S)

    def ask(
        self, at_s: float = NOW_S, key: ec.EllipticCurvePrivateKey | None = None, serial: str = ""
    ) -> Issued | TrustError:
        message = Return(make_request(key or self.key, "c"), serial or self.old.serial)
        with self.database.write() as conn:
            return take_back(conn, self.authority, message, at_s)

    def actions(self) -> list[str]:
        with self.database.read() as conn:
            return [entry.action for entry in audit.page(conn, subject=ID)][::-1]


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Away]:
    database = open_database(sqlite_url(tmp_path / "core.sqlite"), create=True)
    yield Away(database, Authority.make(tmp_path / "ca", NOW_S - 400 * DAY_S))
    database.close()


def test_within_the_grace_it_gets_a_certificate_for_the_same_key(away: Away) -> None:
    issued = away.ask()
    assert isinstance(issued, Issued)
    made = x509.load_pem_x509_certificate(issued.pem.encode())
    assert made.public_key() == away.key.public_key()
    assert issued.not_after_s == NOW_S + 7 * DAY_S
    with away.database.read() as conn:
        rows = conn.execute(select(certificate.c.serial).where(certificate.c.node == ID)).scalars().all()
    assert set(rows) == {away.old.serial, issued.serial}
    assert isinstance(away.ask(NOW_S + 5), Issued)  # the first answer was lost
    assert away.actions() == ["node.return", "node.return"]


@pytest.mark.parametrize(("days", "is_good"), [(89.9, True), (90.1, False)])
def test_the_grace_ends(away: Away, days: float, is_good: bool) -> None:
    found = away.ask(away.old.not_after_s + days * DAY_S)
    assert isinstance(found, Issued) is is_good
    assert is_good or "90 days" in str(found)


def test_a_copy_is_refused_once_the_node_was_heard_of_and_shows(away: Away) -> None:
    assert isinstance(away.ask(), Issued)
    with away.database.write() as conn:
        conn.execute(update(node).values(seen_s=NOW_S + 1))
    for at_s in (2.0, 3.0, 4000.0):
        assert "a copy" in str(away.ask(NOW_S + at_s))
    assert away.actions() == ["node.return", "node.copy", "node.copy"]  # once an hour


def test_others_and_the_revoked_get_nothing(away: Away) -> None:
    with pytest.raises(TrustError, match="not by this key"):
        away.ask(key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(TrustError, match="no certificate of ours"):
        away.ask(serial="123")
    with away.database.write() as conn:
        conn.execute(update(certificate).values(revoked_s=NOW_S))
    assert "revoked" in str(away.ask())
    with away.database.write() as conn:
        conn.execute(update(certificate).values(revoked_s=None))
        set_state(conn, ID, "revoked", "", actor="core", now_s=NOW_S)
        conn.execute(update(certificate).values(revoked_s=None))
    assert "revoked" in str(away.ask())


def test_a_challenge_is_good_once_for_a_minute_and_ours_alone() -> None:
    ours, other = Challenges(), Challenges()
    first = ours.make(NOW_S)
    assert not other.spend(first, NOW_S)
    assert not ours.spend(first[:-1] + ("0" if first[-1] != "0" else "1"), NOW_S)
    assert not ours.spend("", NOW_S) and not ours.spend("é" * 80, NOW_S) and not ours.spend("zz", NOW_S)
    assert not ours.spend(first, NOW_S + 60.0)
    assert not ours.spend(first, NOW_S - 100.0)  # the clock was set back
    assert ours.spend(first, NOW_S + 59.0)
    assert not ours.spend(first, NOW_S + 59.0)
    assert ours.make(NOW_S) != ours.make(NOW_S)


def test_a_flood_of_challenges_ends_in_a_refusal_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehone.fleet.returning._MOST_SPENT", 3)
    ours = Challenges()
    texts = [ours.make(NOW_S) for _ in range(4)]
    assert all(ours.spend(text, NOW_S) for text in texts[:3])
    with pytest.raises(BusyError):
        ours.spend(texts[3], NOW_S)
    later = ours.make(NOW_S + 61)
    assert ours.spend(later, NOW_S + 61)


def test_the_challenge_must_be_in_what_the_key_signed() -> None:
    key, ours = ec.generate_private_key(ec.SECP256R1()), Challenges()
    challenge = ours.make(NOW_S)
    assert challenge_in(make_request(key, challenge)) == challenge
    assert challenge_in(make_request(key)) == ""
    with pytest.raises(TrustError, match="no challenge"):
        check_challenge(ours, make_request(key), NOW_S)
    check_challenge(ours, make_request(key, challenge), NOW_S)
    with pytest.raises(TrustError, match="no challenge"):
        check_challenge(ours, make_request(key, challenge), NOW_S)
    with pytest.raises(InputError):
        challenge_in("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
