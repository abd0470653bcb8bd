"""The core's own small certificate authority: it lets nodes in, and says who the core is.

Rules:
- EC P-256 and SHA-256 throughout. The key of the authority never leaves its file, which only its owner may read.
- Of a node's request only the public key is used, once the request's own signature proves that the node has the private
  one. The name and the extensions that a node asks for are ignored: the core decides them.
- Node certificates are for TLS clients alone, the core's for TLS servers alone. Neither may sign.
- Every certificate begins a day before now, because clocks of nodes are late as often as early, and the core's own may
  be set back. One that lives for less than four days begins a quarter of its life before.
- A node trusts the authority by the SHA-256 of its certificate, which comes with the enrolment token.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgehone.errors import InputError
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import StateError

DAY_S = 86_400.0
AUTHORITY_LIFE_S = 20 * 365 * DAY_S
NODE_LIFE_S = 7 * DAY_S
SERVER_LIFE_S = 90 * DAY_S
SKEW_S = 25 * 3600.0  # how late a clock may be, or be set back, when a certificate is first used: a day and an hour
RENEW_AFTER = 2 / 3  # of a certificate's life

_CERTIFICATE, _KEY = "ca.pem", "ca.key"
_SERVER_CERTIFICATE, _SERVER_KEY = "server.pem", "server.key"
_PRIVATE = 0o600


@dataclass(frozen=True)
class Issued:
    """A certificate that was signed.

    Attributes:
        pem: the certificate.
        serial: hex, lower case, without leading zeros.
        not_before_s, not_after_s: when it holds.
    """

    pem: str
    serial: str
    not_before_s: float
    not_after_s: float


@dataclass(frozen=True)
class ServerFiles:
    """Certificate and key of the core as a TLS server."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in a folder; see `make` and `load`."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self._certificate = certificate
        self._key = key

    @classmethod
    def make(cls, folder: Path, now_s: float) -> Authority:
        """A new authority, its files on disk.

        Raises:
            InputError: the folder holds one already.
            StateError: the folder cannot be written.
        """
        if (folder / _KEY).exists():
            raise InputError("there is a certificate authority here already", where=str(folder))
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgehone core {serial & 0xFFFFFF:06x}")])
        usage = _key_usage(signs_certificates=True)
        certificate = (
            _builder(name, name, key.public_key(), serial, now_s, AUTHORITY_LIFE_S)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(folder / _KEY, _private_pem(key), mode=_PRIVATE)
        write_bytes(folder / _CERTIFICATE, certificate.public_bytes(Encoding.PEM))
        return cls(folder, certificate, key)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The authority whose files lie in a folder.

        Raises:
            StateError: a file is missing or damaged, others may read the key, or key and certificate differ.
        """
        do = "restore the folder from a backup"
        try:
            mode = (folder / _KEY).stat().st_mode
            certificate = x509.load_pem_x509_certificate((folder / _CERTIFICATE).read_bytes())
            key = load_pem_private_key((folder / _KEY).read_bytes(), None)
        except OSError as error:
            raise StateError(f"the certificate authority: {error.strerror}", where=str(folder), do=do) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StateError("the certificate authority is damaged", where=str(folder), do=do) from error
        if mode & 0o077:
            raise StateError(
                "others may read the key of the certificate authority",
                where=str(folder / _KEY),
                do="chmod 600 it; if anybody may have read it, make a new core and enrol the nodes again",
            )
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise StateError("key and certificate of the authority do not belong together", where=str(folder), do=do)
        return cls(folder, certificate, key)

    @property
    def pem(self) -> str:
        """Its certificate."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    @property
    def certificate_file(self) -> Path:
        """The file of its certificate."""
        return self.folder / _CERTIFICATE

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate (DER), hex."""
        return sha256(self._certificate.public_bytes(Encoding.DER)).hexdigest()

    def sign_node(self, csr: str, node: str, now_s: float, *, life_s: float = NODE_LIFE_S) -> Issued:
        """A client certificate for a node.

        Args:
            csr: PKCS #10, PEM.
            node: id of the node; becomes the common name.
            now_s: the core's clock.
            life_s: of the certificate.

        Raises:
            InputError: no such request, another kind of key, or a signature that is not by that key.
        """
        key = request_key(csr)
        return _issued(
            _builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)]),
                self._certificate.subject, key, x509.random_serial_number(), now_s, life_s,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(self._identifier(), critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip

    def serve_as(self, names: Sequence[str], now_s: float, *, life_s: float = SERVER_LIFE_S) -> ServerFiles:
        """Files of the core's own certificate, renewed when two thirds of its life are over or `names` changed.

        Args:
            names: host names and IP addresses that nodes and browsers reach the core by.
            now_s: the core's clock.
            life_s: of a new certificate.

        Raises:
            InputError: no name, or one that is neither a host name nor an address.
            StateError: the folder cannot be written.
        """
        files = ServerFiles(self.folder / _SERVER_CERTIFICATE, self.folder / _SERVER_KEY)
        alternatives = _alternatives(names)
        if self._is_fresh(files, alternatives, now_s):
            return files
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]),
                self._certificate.subject, key.public_key(), x509.random_serial_number(), now_s, life_s,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(self._identifier(), critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        # A key without its certificate is noticed and made again; so whatever moment the power goes, a start mends it.
        write_bytes(files.key, _private_pem(key), mode=_PRIVATE)
        write_bytes(files.cert, certificate.public_bytes(Encoding.PEM))
        return files

    def _is_fresh(self, files: ServerFiles, alternatives: list[x509.GeneralName], now_s: float) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
            key = load_pem_private_key(files.key.read_bytes(), None)
            certificate.verify_directly_issued_by(self._certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
            return False
        start_s, end_s = validity(certificate)
        return (
            key.public_key() == certificate.public_key()
            and list(names) == alternatives
            and start_s <= now_s < start_s + RENEW_AFTER * (end_s - start_s)
        )

    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def request_key(csr: str) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request whose signature was checked.

    Raises:
        InputError: no request, no EC P-256 key, or not signed by that key.
    """
    do = "send a PKCS #10 request of an EC P-256 key, signed with that key"
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError("this is no certificate request that can be read", where="csr", do=do) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError("the key of the certificate request is not EC P-256", where="csr", do=do)
    if not is_signed:
        raise InputError("the certificate request is not signed by its own key", where="csr", do=do)
    return key


def certified_key(pem: str) -> ec.EllipticCurvePublicKey | None:
    """The public key of a certificate that this module signed; None for anything else."""
    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    except ValueError:
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


def validity(certificate: x509.Certificate) -> tuple[float, float]:
    """From when to when a certificate holds, seconds since 1970."""
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _issued(certificate: x509.Certificate) -> Issued:
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return Issued(pem, f"{certificate.serial_number:x}", *validity(certificate))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    serial: int,
    now_s: float,
    life_s: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(datetime.fromtimestamp(now_s - min(SKEW_S, life_s / 4), UTC))
        .not_valid_after(datetime.fromtimestamp(now_s + life_s, UTC))
    )


def _key_usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    if not names:
        raise InputError("the core has no name to serve as", where="names", do="give a host name or an address")
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if not name.isascii() or not 0 < len(name) <= 253 or any(not c.isalnum() and c not in "-." for c in name):
                raise InputError(
                    f"{name[:80]!r} is neither a host name nor an address",
                    where="names",
                    do="leave port and scheme out",
                ) from None
            found.append(x509.DNSName(name))
    return found


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
