"""A core's clock that is set back, and clocks that differ: what is judged by age is not forgotten for as long."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgehone.fleet.authority import DAY_S, SKEW_S, Authority
from edgehone.fleet.heartbeat import Known, judge, wants
from edgehone.testing.cores import make_request
from edgehone_agent.uplink.identity import is_renewal_due
from edgehone_agent.wire.uplink import Heartbeat, TaskStatus

NOW_S = 1_800_000_000.0
TOLD = {"digits": TaskStatus(digest="a" * 64, version=1, member="w8")}


def known(**facts: object) -> Known:
    """A node that is quiet, with these facts."""
    return Known("active", "n", facts, {"digits": TOLD["digits"].to_json()}, 1)


@pytest.mark.parametrize(("ago_s", "wanted"), [(60.0, False), (2 * DAY_S, True), (-60.0, True), (-400 * DAY_S, True)])
def test_evidence_is_asked_for_again_after_the_clock_was_set_back(ago_s: float, wanted: bool) -> None:
    beat = Heartbeat("n", NOW_S, "0.1.0", tasks=TOLD)
    assert wants(beat, known(evidence_s={"digits": NOW_S - ago_s}), NOW_S)["digits"].evidence is wanted


@pytest.mark.parametrize(("ago_s", "recorded"), [(60.0, False), (4000.0, True), (-400 * DAY_S, True)])
def test_a_clone_is_recorded_again_after_the_clock_was_set_back(ago_s: float, recorded: bool) -> None:
    before = known(wrong_nonces=3, wrong_nonces_s=NOW_S - ago_s)
    verdict = judge(before, Heartbeat("of another", NOW_S, "0.1.0", tasks=TOLD), NOW_S, "fresh")
    assert bool(verdict.events) is recorded
    assert verdict.known.facts["wrong_nonces"] == 4


@pytest.mark.parametrize("life_s", [600.0, DAY_S, 7 * DAY_S, 365 * DAY_S])
def test_a_certificate_begins_before_now_and_is_not_due_at_once(tmp_path: Path, life_s: float) -> None:
    authority = Authority.make(tmp_path / "ca", NOW_S)
    request = make_request(ec.generate_private_key(ec.SECP256R1()))
    issued = authority.sign_node(request, "0123456789abcdef", NOW_S, life_s=life_s)
    held = issued.not_before_s, issued.not_after_s
    assert NOW_S - held[0] == min(SKEW_S, life_s / 4)
    assert not is_renewal_due(held, NOW_S + 0.5 * life_s)
    assert is_renewal_due(held, NOW_S + 0.67 * life_s)


def test_clocks_may_be_a_day_apart(tmp_path: Path) -> None:
    """All certificates of a new core, and of a node that has just come, hold a day ago: see `test_core_clock.py`."""
    authority = Authority.make(tmp_path / "ca", NOW_S)
    files = authority.serve_as(["localhost"], NOW_S)
    for file in (authority.certificate_file, files.cert):
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        assert certificate.not_valid_before_utc.timestamp() < NOW_S - DAY_S
        assert ssl.PEM_cert_to_DER_cert(file.read_text())
    assert authority.serve_as(["localhost"], NOW_S - DAY_S) == files  # as good by a clock that was set back by a day
