"""How a node gets in: a token that a person was given, for a certificate of the core.

    identity = enrol(state, "EH1-...", "https://core.example:7443", name="camera-1")

Rules:
- The token names the core's CA by its fingerprint. The core must show this CA and a certificate by it before the token
  leaves the node, so whoever else answers at the address learns nothing.
- The key is made first and kept. A cut between the core's answer and the disk costs nothing: the same token and key
  give another certificate as long as the token is good.
- A node that is enrolled already stays as it is, whatever the token, unless it is told `again`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone_agent import __version__, durable
from edgehone_agent.errors import ConfigError, InputError, RegistryError, TrustError
from edgehone_agent.fit import describe_node
from edgehone_agent.uplink.client import TIMEOUT_S, CoreClient, certificate_error, core_error, trusting
from edgehone_agent.uplink.identity import (
    FOLDER,
    Identity,
    check_certificate,
    core_address,
    der_of,
    fingerprint_of,
    is_renewal_due,
    life,
    load_identity,
    make_key,
    make_request,
    serial_of,
)
from edgehone_agent.wire.returning import Challenge, Return
from edgehone_agent.wire.uplink import Enrol, Enrolled, JoinToken, Renew, Renewed, read, write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_MAX_ROOT_BYTES = 1 << 20
_MAX_ROOTS = 1024


def enrol(
    state: Path, token: str, core: str, *, name: str = "", tasks: tuple[str, ...] = (), again: bool = False
) -> tuple[Identity, bool]:
    """Let this node be known to a core.

    Args:
        state: the node's folder.
        token: its text, as the core printed it.
        core: its address, https://HOST:PORT.
        name: what the node would like to be called; the core may choose.
        tasks: to serve; more may come from the core.
        again: with a new key, as a new node, whatever was before.

    Returns:
        The identity, and whether it is a new one.

    Raises:
        InputError: the token is none, is used, wrong or expired (TrustError), or the address is none (ConfigError).
        RegistryError: the core cannot be reached, or its certificate is not accepted.
        StateError: the folder cannot be written.
    """
    asked = JoinToken.parse(token)
    host, port = core_address(core)
    core = core.rstrip("/")
    folder = state / FOLDER
    known = load_identity(state)
    if known is not None and not again:
        if known.fingerprint != asked.fingerprint:
            raise ConfigError(
                f"this node is enrolled with another core, {known.core}", where=str(folder),
                do="add --again to leave that one",
            )  # fmt: skip
        return _moved(known, core, tasks), False
    ca = find_authority(host, port, asked.fingerprint)
    if again:
        with contextlib.suppress(FileNotFoundError):
            (folder / "node.key").unlink()
    key = make_key(folder / "node.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca)
    client = CoreClient(core, context)
    facts = {**asdict(describe_node()), "agent": __version__}
    body = write(Enrol(str(asked), make_request(key), name or socket.gethostname()[:100], facts))
    try:
        answer = read(Enrolled, client.post("enrol", body))
    finally:
        client.close()
    check_certificate(answer.certificate, key, answer.node, ca)
    if fingerprint_of(der_of(answer.ca.encode())) != asked.fingerprint:
        raise InputError("the core's answer holds another CA than the token names", where=core)
    made = Identity(folder, core, answer.node, answer.name or name, asked.fingerprint, answer.tags, tasks)
    durable.write_bytes(made.ca_file, answer.ca.encode())
    durable.write_bytes(made.certificate_file, answer.certificate.encode())
    for left in (made.mind_file, made.root_file):  # of an enrolment before
        left.unlink(missing_ok=True)
    with contextlib.suppress(RegistryError, InputError):  # a core without a registry yet; it is fetched when needed
        bring_root(made)
    made.save()
    return made, True


def find_authority(host: str, port: int, fingerprint: str) -> bytes:
    """The CA of the core at an address (DER), when it is the one with this fingerprint. Nothing is told to the core.

    Raises:
        TrustError: the core has another CA.
        RegistryError: it cannot be reached.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # compared with the fingerprint instead
    core = f"https://{host}:{port}"
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            shown = _chain(wrapped)
    except ssl.SSLCertVerificationError as error:
        raise certificate_error(error, core) from error
    except OSError as error:
        raise core_error(error, core) from error
    for der in shown:
        if fingerprint_of(der) == fingerprint:
            return der
    raise TrustError(
        "another core answers here than the one that the token is of", where=core,
        do="check the address; the token is still good",
    )  # fmt: skip


def _chain(wrapped: ssl.SSLSocket) -> list[bytes]:
    """The certificates that the other side showed, as DER. Public in Python 3.13, there before under another name."""
    public = getattr(wrapped, "get_unverified_chain", None)
    if public is not None:
        return [bytes(der) for der in public()]
    found: list[Any] = getattr(wrapped, "_sslobj").get_unverified_chain() or []  # noqa: B009  it is not in the stubs
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in found]


def bring_root(identity: Identity) -> None:
    """The newest root of the core's registry, from the core itself, whose CA the token named; on disk on return.

    Raises:
        RegistryError: the core cannot be reached, or has no registry.
        StateError: it cannot be written.
    """
    from edgehone_agent.transport import open_source

    source = open_source(
        identity.registry, ca=identity.ca_file, cert=(identity.certificate_file, identity.key_file)
    )  # fmt: skip
    root = source.fetch("metadata/1.root.json", _MAX_ROOT_BYTES)
    for number in range(2, _MAX_ROOTS):
        newer = source.find(f"metadata/{number}.root.json", _MAX_ROOT_BYTES)
        if newer is None:
            break
        root = newer
    durable.write_bytes(identity.root_file, root)


def renew(identity: Identity, client: CoreClient, *, now_s: float | None = None) -> bool:
    """Another certificate for the same key, on disk and in use on return. The old one works until it ends.

    A node that was away until then comes back by itself: without a certificate, it signs a challenge of the core with
    its key. The core lets it in for as long as its owner allows. Whether the certificate has run out is for the core's
    clock to say, where this node's clock or a closed door make that likely.

    Args:
        identity: of the node.
        client: that shows the old certificate; it shows the new one on return.
        now_s: this node's clock; None for the system's.

    Returns:
        False when there was no need: the core was asked, and the certificate is still good.

    Raises:
        EdgehoneError: as `CoreClient.post`, or the answer holds no certificate for this node.
        StateError: it cannot be written.
    """
    key, held = make_key(identity.key_file), life(identity.certificate_file)
    now_s = time.time() if now_s is None else now_s
    answer: Renewed | None = None
    if now_s >= held[1] or client.turned_away:
        stranger = CoreClient(identity.core, trusting(identity, show=False))
        try:
            answer, now_s = _come_back(identity, key, stranger, held[1])
        finally:
            stranger.close()
    if answer is None:
        if not is_renewal_due(held, now_s):
            return False
        answer = read(Renewed, client.post("renew", write(Renew(make_request(key)))))
    check_certificate(answer.certificate, key, identity.node, der_of(identity.ca_file.read_bytes()))
    durable.write_bytes(identity.certificate_file, answer.certificate.encode())
    client.show(trusting(identity))
    return True


def _come_back(
    identity: Identity, key: EllipticCurvePrivateKey, stranger: CoreClient, ends_s: float
) -> tuple[Renewed | None, float]:
    """A certificate if the old one has run out by the core's clock; and that clock."""
    told = read(Challenge, stranger.post("challenge", b"{}"))
    if told.time_s < ends_s:
        return None, told.time_s
    message = Return(make_request(key, told.challenge), serial_of(identity.certificate_file))
    return read(Renewed, stranger.post("renew", write(message))), told.time_s


def _moved(known: Identity, core: str, tasks: tuple[str, ...]) -> Identity:
    """The same identity where the core has another address now, or more tasks are named."""
    wanted = tuple(dict.fromkeys((*known.tasks, *tasks)))
    found = Identity(known.folder, core, known.node, known.name, known.fingerprint, known.tags, wanted)
    if found != known:
        found.save()
    return found
