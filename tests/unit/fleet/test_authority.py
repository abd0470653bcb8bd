"""The certificate authority: what it signs, what it refuses, and its files."""

from __future__ import annotations

import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgehone.errors import InputError
from edgehone.fleet.authority import DAY_S, NODE_LIFE_S, SERVER_LIFE_S, SKEW_S, Authority
from edgehone_agent.errors import StateError

NOW_S = 1_800_000_000.0
NODE = "0123456789abcdef"


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, ca: bool = False) -> str:
    """A request that asks for more than it gets."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("core")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_a_node_certificate_says_what_the_core_decides(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca", NOW_S)
    key = p256()
    issued = authority.sign_node(request(key, ca=True), NODE, NOW_S)
    made = x509.load_pem_x509_certificate(issued.pem.encode())
    assert made.subject.rfc4514_string() == f"CN={NODE}"
    assert made.public_key() == key.public_key()
    assert f"{made.serial_number:x}" == issued.serial
    assert made.not_valid_before_utc == datetime.fromtimestamp(NOW_S - SKEW_S, UTC)
    assert made.not_valid_after_utc == datetime.fromtimestamp(NOW_S + NODE_LIFE_S, UTC)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usage == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pem.encode()))


def test_two_certificates_never_share_a_serial(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca", NOW_S)
    text = request(p256())
    assert len({authority.sign_node(text, NODE, NOW_S).serial for _ in range(50)}) == 50


@pytest.mark.parametrize("what", ["rsa", "p384", "nonsense", "another key's signature"])
def test_requests_that_prove_nothing_are_refused(tmp_path: Path, what: str) -> None:
    authority = Authority.make(tmp_path / "ca", NOW_S)
    if what == "rsa":
        text = request(rsa.generate_private_key(65537, 2048))
    elif what == "p384":
        text = request(ec.generate_private_key(ec.SECP384R1()))
    elif what == "nonsense":
        text = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    else:
        der = bytearray(x509.load_pem_x509_csr(request(p256()).encode()).public_bytes(Encoding.DER))
        point = bytes(x509.load_pem_x509_csr(request(p256()).encode()).public_bytes(Encoding.DER))
        at, other = der.index(b"\x03\x42\x00\x04"), point.index(b"\x03\x42\x00\x04")
        der[at : at + 68] = point[other : other + 68]
        text = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(InputError) as caught:
        authority.sign_node(text, NODE, NOW_S)
    assert caught.value.where == "csr"


def test_the_key_is_the_owners_alone(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca", NOW_S)
    authority.serve_as(["localhost"], NOW_S)
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / "ca" / name).stat().st_mode) == 0o600
    (tmp_path / "ca" / "ca.key").chmod(0o640)
    with pytest.raises(StateError, match="others may read"):
        Authority.load(tmp_path / "ca")


def test_it_is_loaded_as_it_was_made_and_made_once(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca", NOW_S)
    assert Authority.load(tmp_path / "ca").fingerprint == authority.fingerprint
    assert len(authority.fingerprint) == 64
    with pytest.raises(InputError, match="already"):
        Authority.make(tmp_path / "ca", NOW_S)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
@pytest.mark.parametrize("damage", ["gone", "empty", "another's"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    Authority.make(tmp_path / "ca", NOW_S)
    Authority.make(tmp_path / "other", NOW_S)
    file = tmp_path / "ca" / name
    if damage == "gone":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(StateError) as caught:
        Authority.load(tmp_path / "ca")
    assert "backup" in caught.value.do


def test_the_server_certificate_renews_itself(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca", NOW_S)
    names = ["core.example.org", "10.0.0.7", "::1"]

    def serial(at_s: float, names: list[str] = names) -> int:
        files = authority.serve_as(names, at_s)
        return x509.load_pem_x509_certificate(files.cert.read_bytes()).serial_number

    first = serial(NOW_S)
    assert serial(NOW_S + 0.6 * SERVER_LIFE_S) == first
    assert serial(NOW_S + 0.7 * SERVER_LIFE_S) != first
    again = serial(NOW_S + 0.7 * SERVER_LIFE_S)
    assert serial(NOW_S + 0.7 * SERVER_LIFE_S, [*names, "other.example.org"]) != again
    (tmp_path / "ca" / "server.key").unlink()
    assert serial(NOW_S + 0.7 * SERVER_LIFE_S, [*names, "other.example.org"]) != again
    assert serial(NOW_S - 10 * DAY_S) != again  # a certificate of the future: the clock was set back


@pytest.mark.parametrize("name", ["", "https://core", "core:7443", "a b", "x" * 300])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    authority = Authority.make(tmp_path / "ca", time.time())
    with pytest.raises(InputError):
        authority.serve_as([name], time.time())
