"""What a node says that comes back after its certificate has run out; docs/formats/uplink.md has the whole exchange.

    challenge = read(Challenge, answer of POST /v1/node/challenge)
    POST /v1/node/renew with write(Return(csr, serial))         # both without a client certificate

The request (`csr`) is signed by the key of the old certificate, and holds the challenge as its challengePassword (PKCS
#9). So it proves, now and to this core alone, that whoever sends it has the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edgehone_agent.wire._fields import Fields
from edgehone_agent.wire.manifest import matching
from edgehone_agent.wire.uplink import SCHEMA, Renew

_CHALLENGE = re.compile(r"[0-9a-f]{32,128}")
_SERIAL = re.compile(r"[0-9a-f]{1,40}")


@dataclass(frozen=True)
class Challenge:
    """What the core wants to see signed: hex, good for one request within a minute; and the core's clock."""

    challenge: str
    time_s: float

    def to_json(self) -> dict[str, Any]:
        """See `uplink.Message`."""
        return {"schema": SCHEMA, "challenge": self.challenge, "time_s": self.time_s}

    @classmethod
    def from_json(cls, data: Any) -> Challenge:
        """See `uplink.Message`."""
        fields = Fields(data, "challenge")
        time_s = fields.optional_number("time_s")
        if time_s is None:
            raise fields.refuse("time_s", "is missing")
        return cls(matching(fields, "challenge", _CHALLENGE), time_s)


@dataclass(frozen=True)
class Return:
    """A certificate for a node whose last one has run out.

    Attributes:
        csr: PKCS #10 request, PEM, of the old certificate's key, with the challenge.
        serial: of the old certificate; hex, lower case, without leading zeros.
    """

    csr: str
    serial: str

    def to_json(self) -> dict[str, Any]:
        """See `uplink.Message`."""
        return {"schema": SCHEMA, "csr": self.csr, "serial": self.serial}

    @classmethod
    def from_json(cls, data: Any) -> Return:
        """See `uplink.Message`."""
        csr = Renew.from_json(data).csr
        return cls(csr, matching(Fields(data, "renew"), "serial", _SERIAL))
