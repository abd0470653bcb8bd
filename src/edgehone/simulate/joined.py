"""Nodes of this machine at a core that already runs, and what that core says of them.

    people = open_people("https://core.example:7443", token, ca=Path("ca.pem"))
    with Guests(folder, people) as site:
        node = site.add_node("digits", site.name(0), {"site": "north"})

Rules:
- A core on another machine is spoken to over TLS by the CA that was given, and by no other. A core on this machine is
  asked over plain HTTP, which it answers on the same port. Nodes enrol over TLS in either case, and trust the CA that
  their token names.
- Nothing but an operator's API token is used: for enrolment tokens, the audit, and taking the nodes away again.
- The core keeps its policy, cohorts, releases and rollouts. The nodes are revoked at the end. They carry the tag
  simulated=yes, so that they can be told from others and have a cohort of their own.
"""

from __future__ import annotations

import http.client
import json
import logging
import secrets
import ssl
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgehone.service.listen import is_loopback
from edgehone.simulate.nodes import LiveNode, Processes
from edgehone.simulate.telling import News
from edgehone_agent.errors import ConfigError, EdgehoneError, InputError, RegistryError, TrustError
from edgehone_agent.uplink.client import core_error
from edgehone_agent.uplink.identity import core_address, load_identity

log = logging.getLogger("edgehone.simulate")

TAG = "simulated"
_TIMEOUT_S = 20.0
_MOST_BYTES = 4 << 20
_PAGE = 100
_LATEST = 500  # answers that a person looks at
_MAKE_TOKEN = "make one: edgehone core person CORE api-token NAME --role operator"
_QUIET = ("token.", "person.", "enrolment.", "node.enrol", "node.renew")  # begin what is not told


@dataclass(frozen=True)
class People:
    """The people's API of a core (docs/commands/core.md), for one operator.

    Attributes:
        address: that nodes enrol at, https://HOST:PORT.
        token: of the operator.
        context: whom to trust; None for plain HTTP on this machine.
    """

    address: str
    token: str
    context: ssl.SSLContext | None = None

    def ask(self, method: str, path: str, asked: object = None) -> Any:
        """The core's answer to a call, from JSON.

        Raises:
            RegistryError: the core cannot be reached, or this is no core's answer.
            TrustError: the token is not good, or its certificate is not the core's.
            InputError: it does not take this.
        """
        host, port = core_address(self.address)
        link = (
            http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
            if self.context is None
            else http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=self.context)
        )
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            with closing(link):
                link.request(method, path, None if asked is None else json.dumps(asked).encode(), headers)
                response = link.getresponse()
                content = response.read(_MOST_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise TrustError(
                f"the core's certificate is not accepted: {error.verify_message}", where=self.address,
                do="check the address, and that --ca is this core's ca/ca.pem",
            ) from error  # fmt: skip
        except (OSError, http.client.HTTPException) as error:
            text = core_error(error, self.address).what
            raise RegistryError(
                text, where=self.address, do="start it: edgehone core start CORE; or check the address"
            ) from error
        return self._judge(response.status, content)

    def _judge(self, status: int, content: bytes) -> Any:
        try:
            found = json.loads(content) if content else {}
        except ValueError:
            found = None
        if isinstance(found, dict | list) and 200 <= status < 300:
            return found
        error = found.get("error") if isinstance(found, dict) else None
        what, do = (
            (str(error.get(name) or "")[:500] for name in ("what", "do")) if isinstance(error, dict) else ("", "")
        )
        if status == 401:
            raise TrustError("the core does not take this API token", where=self.address, do=_MAKE_TOKEN)
        if status == 403:
            raise TrustError(what or "the core does not allow this", where=self.address, do=do or _MAKE_TOKEN)
        if what and 400 <= status < 500:
            raise InputError(what, where=self.address, do=do)
        raise RegistryError(
            f"this is no answer of a core: {what or f'it answers {status}'}", where=self.address,
            do="check the address of the core",
        )  # fmt: skip


def open_people(core: str, token: str, *, ca: Path | None = None) -> People:
    """The API of a core that runs, with an operator's token that it takes.

    Args:
        core: its address, https://HOST:PORT; http:// for this machine only.
        token: an API token.
        ca: file with the CA (PEM) of a core on another machine.

    Raises:
        ConfigError: no address, or another machine's core without its CA; nothing was sent.
        InputError: the token is none, or the CA's file cannot be read; nothing was sent.
        TrustError: the core does not take the token, it is no operator's, or its certificate is not by this CA.
        RegistryError: the core cannot be reached.
    """
    parts = urlsplit(core)
    address = f"https://{core.removeprefix('http://')}" if parts.scheme == "http" else core
    host, _ = core_address(address)
    is_here = host == "localhost" or is_loopback(host)
    if parts.scheme == "http" and not is_here:
        raise ConfigError("plain HTTP is for this machine", where=core, do="write https://, and give --ca")
    if ca is None and not is_here:
        raise ConfigError(
            "the core is on another machine, and nothing says which certificate is its own", where=core,
            do="give its CA: --ca CORE/ca/ca.pem",
        )  # fmt: skip
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("this is no API token", where="--api-token-file", do=_MAKE_TOKEN)
    context = None
    if ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(ca)
        except OSError as error:  # ssl.SSLError is one
            raise InputError(
                f"the CA cannot be read: {error.strerror or error}", where=str(ca), do="give CORE/ca/ca.pem"
            ) from error
    people = People(address.rstrip("/"), token, context)
    me = people.ask("GET", "/v1/me")
    if me.get("role") != "operator":
        raise TrustError("only an operator may enrol nodes", where=people.address, do=_MAKE_TOKEN)
    return people


class Guests(Processes):
    """Nodes at a core that was there before; a context that ends them and takes them away from the core.

    Args:
        folder: for the logs.
        people: of the core.
    """

    def __init__(self, folder: Path, people: People) -> None:
        self._people, self.run = people, secrets.token_hex(3)
        self._entry = max((one["id"] for one in self._audit()), default=0)
        super().__init__(folder)  # after what may fail: it makes a folder that `close` removes
        self.address = people.address

    def name(self, number: int) -> str:
        """Of a node of this run."""
        return f"sim-{self.run}-{number}"

    def make_token(self, name: str, tags: dict[str, str]) -> str:
        """See `Processes`. Raises as `People.ask`."""
        asked = {"name": name, "tags": {**tags, TAG: "yes"}}
        return str(self._people.ask("POST", "/v1/enrolments", asked)["token"])

    def news(self) -> list[News]:
        """What the core's audit says since it was last asked; people and nodes that come and go are left out."""
        new = [one for one in reversed(self._audit()) if one["id"] > self._entry]
        self._entry = max((one["id"] for one in new), default=self._entry)
        return [_news(one) for one in new if not str(one["action"]).startswith(_QUIET)]

    def to_label(self, answered: Collection[str]) -> Sequence[str]:
        """The latest answers: a person who has each device at hand looks at any of them, whatever was answered."""
        return list(islice(reversed(list(answered)), _LATEST))

    def close(self) -> None:
        """End every node, and revoke it at the core; where that fails, it is said which ones are left."""
        nodes = [self._id(node) for node in self.nodes]  # before their folders are removed
        super().close()
        self.nodes.clear()
        try:
            for id in filter(None, nodes):
                asked = {"state": "revoked", "why": f"the simulation {self.run} has ended"}
                self._people.ask("PUT", f"/v1/nodes/{id}/state", asked)
        except EdgehoneError as error:
            log.warning("nodes sim-%s-* are still known to the core; revoke them there: %s", self.run, error)

    def _audit(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._people.ask("GET", f"/v1/audit?limit={_PAGE}")
        return found

    def _id(self, node: LiveNode) -> str:
        identity = load_identity(node.state)
        return "" if identity is None else identity.node


def _news(entry: dict[str, Any]) -> News:
    why = str((entry.get("detail") or {}).get("why") or "")
    words = f"{entry['action']} {entry['subject']} by {entry['actor']}"
    return News("core", f"{words}: {why}" if why else words)
