"""Who a node is to its core: the files in STATE/uplink.

    identity.json   address of the core, id and name of the node; written last, so that with it all others are there
    node.key        the node's own key, EC P-256, mode 0600; it never leaves the node
    node.pem        its certificate, renewed at two thirds of its life for the same key
    ca.pem          the core's CA, the only one that is trusted; its fingerprint came with the enrolment token
    root.json       root of the core's registry
    mind.json       what the core said last, see `desired`

Every file is written whole and synced. A folder without identity.json is that of a node that is not enrolled yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgehone_agent import durable
from edgehone_agent.errors import ConfigError, InputError, StateError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

FOLDER = "uplink"
RENEW_AFTER = 2 / 3  # of a certificate's life
_FILE = "identity.json"
_PRIVATE = 0o600
_AGAIN = "enrol the node again: edgehone-agent enrol TOKEN --core ADDRESS --again"


@dataclass(frozen=True)
class Identity:
    """A node that is enrolled.

    Attributes:
        folder: STATE/uplink.
        core: address, "https://HOST:PORT".
        node: id.
        name: what the core called the node at the enrolment; it may have been renamed there since.
        fingerprint: SHA-256 of the core's CA, hex.
        tags: that the token brought, as of the enrolment.
        tasks: that were named at the enrolment; more may come from the core.
    """

    folder: Path
    core: str
    node: str
    name: str = ""
    fingerprint: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    @property
    def key_file(self) -> Path:
        """The node's key."""
        return self.folder / "node.key"

    @property
    def certificate_file(self) -> Path:
        """The node's certificate."""
        return self.folder / "node.pem"

    @property
    def ca_file(self) -> Path:
        """The core's CA."""
        return self.folder / "ca.pem"

    @property
    def root_file(self) -> Path:
        """Root of the core's registry."""
        return self.folder / "root.json"

    @property
    def mind_file(self) -> Path:
        """What the core said last."""
        return self.folder / "mind.json"

    @property
    def registry(self) -> str:
        """Address of the core's registry."""
        return f"{self.core}/registry"

    def save(self) -> None:
        """Write identity.json. Raises StateError."""
        content = {name: value for name, value in asdict(self).items() if name != "folder"}
        durable.write_bytes(self.folder / _FILE, json.dumps({"schema": 1, **content}, indent=1).encode())


def load_identity(state: Path) -> Identity | None:
    """The identity in a state folder; None for a node that is not enrolled.

    Raises:
        StateError: it cannot be read or is damaged.
    """
    folder = state / FOLDER
    try:
        data = json.loads((folder / _FILE).read_bytes())
        core, node, name, fingerprint = (data[field] for field in ("core", "node", "name", "fingerprint"))
        tags, tasks = data["tags"], data["tasks"]
        if not all(isinstance(text, str) for text in (core, node, name, fingerprint, *tags.values(), *tasks)):
            raise ValueError("a field of another type")
        core_address(core)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise durable.state_error(error, folder / _FILE) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError) as error:
        raise StateError("the node's identity is damaged", where=str(folder / _FILE), do=_AGAIN) from error
    return Identity(folder, core, node, name, fingerprint, dict(tags), tuple(tasks))


def core_address(text: str) -> tuple[str, int]:
    """Host and port of a core's address.

    Raises:
        ConfigError: it is no https:// address, or has a path.
    """
    parts = urlsplit(text)
    try:
        host, port = parts.hostname or "", parts.port or 443
        is_good = bool(host) and parts.scheme == "https" and parts.path in ("", "/") and text.isprintable()
        host.encode("idna")
    except ValueError:
        is_good, host, port = False, "", 0
    if not is_good or parts.query or parts.fragment or parts.username is not None or " " in text:
        raise ConfigError("this is no address of a core", where=text[:200], do="write https://HOST:PORT")
    return host, port


def make_key(file: Path) -> EllipticCurvePrivateKey:
    """The node's key: the one in a file, or a new one that is on disk on return.

    Raises:
        StateError: the file cannot be read or written, or is no such key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if file.exists():
        return load_key(file)
    key = ec.generate_private_key(ec.SECP256R1())
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.write_bytes(file, content, mode=_PRIVATE)
    return key


def load_key(file: Path) -> EllipticCurvePrivateKey:
    """The key in a file, which is made private where it was not. Raises StateError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if file.stat().st_mode & 0o077:
            file.chmod(_PRIVATE)
        key = load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise durable.state_error(error, file) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StateError("the node's key is damaged", where=str(file), do=_AGAIN) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise StateError("the node's key is not EC P-256", where=str(file), do=_AGAIN)
    return key


def make_request(key: EllipticCurvePrivateKey, challenge: str = "") -> str:
    """A certificate request, PKCS #10 in PEM. The core decides the name, so this one has none of its own.

    Args:
        key: of the node; it signs the request.
        challenge: of the core, to be signed as well; "" for none.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import AttributeOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgehone node")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if challenge:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def check_certificate(pem: str, key: EllipticCurvePrivateKey, node: str, ca: bytes) -> None:
    """Refuse a certificate that is not for this key and node, or not by this CA.

    Args:
        pem: the certificate.
        key: of the node.
        node: id.
        ca: certificate of the CA (DER).

    Raises:
        InputError: it is.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(ca))
        is_ours = certificate.public_key() == key.public_key() and [name.value for name in names] == [node]
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        is_ours = False
    if not is_ours:
        raise InputError(
            "the core's answer holds no certificate for this node", where="certificate", do="have the core looked at"
        )


def life(file: Path) -> tuple[float, float]:
    """From when to when a certificate (PEM) holds, seconds since 1970. Raises StateError when it cannot be read."""
    certificate = _certificate(file)
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def serial_of(file: Path) -> str:
    """Serial number of a certificate (PEM): hex, without leading zeros. Raises StateError when it cannot be read."""
    return f"{_certificate(file).serial_number:x}"


def _certificate(file: Path) -> Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        raise durable.state_error(error, file) from error
    except ValueError as error:
        raise StateError("the node's certificate is damaged", where=str(file), do=_AGAIN) from error


def is_renewal_due(held: tuple[float, float], now_s: float) -> bool:
    """Whether two thirds of a certificate's life are over. Pure."""
    start_s, end_s = held
    return now_s >= start_s + RENEW_AFTER * (end_s - start_s)


def der_of(pem: bytes) -> bytes:
    """A certificate as DER. Raises InputError."""
    import ssl

    try:
        return ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError("this is no certificate", where="ca", do="have the core looked at") from error


def fingerprint_of(der: bytes) -> str:
    """SHA-256 of a certificate (DER), hex."""
    return sha256(der).hexdigest()


def about(identity: Identity, now_s: float) -> dict[str, Any]:
    """What there is to tell about an identity, JSON-able. Raises StateError when its certificate cannot be read."""
    start_s, end_s = life(identity.certificate_file)
    return {
        "address": identity.core,
        "node": identity.node,
        "name": identity.name,
        "certificate_days": round((end_s - now_s) / 86_400, 2),
        "renewal_due": is_renewal_due((start_s, end_s), now_s),
    }
