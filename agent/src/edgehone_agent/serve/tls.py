"""Who may talk to the node: TLS with client certificates wherever a listener can be reached from outside.

Rules: a Unix socket is guarded by its file mode and speaks plain HTTP. With `Tls` every TCP listener speaks TLS and
asks for a certificate that `client_ca` signed. Without it only loopback addresses may be listened on.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from edgehone_agent.errors import ConfigError


@dataclass(frozen=True)
class Tls:
    """Files of a TLS server, PEM.

    Attributes:
        cert: the node's certificate, with intermediate ones after it.
        key: its private key, without a passphrase.
        client_ca: certificates of the authorities whose clients may come in.
    """

    cert: Path
    key: Path
    client_ca: Path

    def context(self) -> ssl.SSLContext:
        """A server context: TLS 1.2 or newer, client certificates required.

        Raises:
            ConfigError: a file is missing, is no PEM, or key and certificate do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        load_certificate(context, self.cert, self.key)
        load_authorities(context, self.client_ca)
        return context


def load_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Give `context` its own certificate. Raises ConfigError when the files cannot be used."""
    try:  # an encrypted key would ask on the terminal, where nobody sits; an empty passphrase makes it fail instead
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"the certificate or its key cannot be used: {error}",
            where=f"{cert}, {key}",
            do="give a PEM certificate and its own PEM key, without a passphrase",
        ) from error


def load_authorities(context: ssl.SSLContext, file: Path) -> None:
    """Give `context` the authorities it trusts. Raises ConfigError when the file cannot be used."""
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise ConfigError(
            f"the certificate authorities cannot be read: {error}",
            where=str(file),
            do="give a PEM file of certificates",
        ) from error
