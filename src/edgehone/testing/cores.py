"""A core for tests and benchmarks: its folder made in a moment, and a node that speaks to it over real TLS."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edgehone.fleet.authority import Authority
from edgehone.fleet.enrol import make_token
from edgehone.records.database import open_database
from edgehone.service import people
from edgehone.service.settings import Place, Settings, write_settings
from edgehone_agent.wire.uplink import Enrol, Enrolled, Heartbeat, HeartbeatAnswer, JoinToken, TaskStatus, read, write

PASSWORD = "correct horse battery"


def make_core(folder: Path, *, database: str = "", interval_s: float = 60.0, tasks: tuple[str, ...] = ()) -> Place:
    """A core's folder with an operator "ada" and a viewer "bob", both with `PASSWORD`. With `tasks`, a registry too."""
    place = Place(folder.resolve(), replace(Settings(), database=database, interval_s=interval_s))
    folder.mkdir(parents=True, exist_ok=True)
    Authority.make(place.authority, time.time())
    if tasks:
        from edgehone.registry.create import create
        from edgehone.registry.keys import KeyRing, Passphrases
        from edgehone.registry.store import Store

        ring = KeyRing([place.keys], Passphrases(["a passphrase for tests"]))
        create(Store(place.registry), ring, tasks, datetime.now(UTC), approve="auto", online_plain=True)
    hashed = people.hash_password(PASSWORD)
    opened = open_database(place.database_url, create=True)
    with opened.write() as conn:
        people.add_person(conn, "ada", people.OPERATOR, hashed, actor="core", now_s=time.time())
        people.add_person(conn, "bob", people.VIEWER, hashed, actor="core", now_s=time.time())
    opened.close()
    write_settings(place)
    return place


def new_token(place: Place, *, name: str = "", tags: dict[str, str] | None = None, life_s: float = 3600.0) -> str:
    """Text of an enrolment token, made beside a core that may be running."""
    opened = open_database(place.database_url)
    try:
        with opened.write() as conn:
            authority = Authority.load(place.authority)
            made = make_token(
                conn, authority, now_s=time.time(), actor="core", name=name, tags=tags, life_s=life_s
            )  # fmt: skip
    finally:
        opened.close()
    return str(made)


def make_request(key: ec.EllipticCurvePrivateKey, name: str = "whoever") -> str:
    """A certificate request, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass
class CoreNode:
    """A node as the core sees one: a key, a certificate, and calls over one connection.

    Attributes:
        port: of the core, on 127.0.0.1.
        folder: for its PEM files.
        authority: file of the core's CA.
    """

    port: int
    folder: Path
    authority: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    id: str = ""
    nonce: str | None = None
    timeout_s: float = 20.0
    _connection: http.client.HTTPSConnection | None = None

    def enrol(self, token: str, name: str = "") -> Enrolled:
        """Get in. Raises AssertionError with the core's answer when it refuses."""
        message = Enrol(
            str(JoinToken.parse(token)), make_request(self.key), name, {"machine": "x86_64", "runtimes": []}
        )
        status, body, _ = self.call("POST", "/v1/node/enrol", write(message))
        if status != 200:
            raise AssertionError(f"{status} {body!r}")
        enrolled = read(Enrolled, body)
        self.use(enrolled.node, enrolled.certificate)
        return enrolled

    def use(self, id: str, certificate: str) -> None:
        """Take a certificate."""
        self.id = id
        self.folder.mkdir(parents=True, exist_ok=True)
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.key_file.write_bytes(private)
        self.certificate_file.write_text(certificate)
        self.close()

    @property
    def key_file(self) -> Path:
        """Its key."""
        return self.folder / "node.key"

    @property
    def certificate_file(self) -> Path:
        """Its certificate; there once it is enrolled."""
        return self.folder / "node.pem"

    def context(self) -> ssl.SSLContext:
        """A TLS context that trusts the core's CA alone."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.id:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """One request over the node's connection: status, body, headers."""
        for attempt in (0, 1):
            if self._connection is None:
                self._connection = http.client.HTTPSConnection(
                    "127.0.0.1", self.port, context=self.context(), timeout=self.timeout_s
                )
            try:
                self._connection.request(method, path, body, headers or {})
                answer = self._connection.getresponse()
                return answer.status, answer.read(), answer.headers
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                if attempt:
                    raise
        raise AssertionError("never reached")

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request with JSON both ways."""
        status, content, _ = self.call(method, path, None if body is None else json.dumps(body).encode())
        return status, json.loads(content) if content else None

    def beat(self, tasks: dict[str, TaskStatus] | None = None, **more: Any) -> HeartbeatAnswer:
        """A heartbeat that brings the last nonce. Raises AssertionError with the core's answer when it refuses."""
        values = {"nonce": self.nonce, "sent_s": time.time(), "agent": "0.1.0", "tasks": tasks or {}} | more
        status, body, _ = self.call("POST", "/v1/node/heartbeat", write(Heartbeat(**values)))
        if status != 200:
            raise AssertionError(f"{status} {body!r}")
        answer = read(HeartbeatAnswer, body)
        self.nonce = answer.nonce
        return answer

    def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
