"""Where the node listens: "127.0.0.1:8000", "[::1]:8000", "localhost:0", "unix:/run/edgehone/agent.sock"."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgehone_agent.errors import ConfigError, HostError

_SOCKET_MODE = 0o660
_BACKLOG = 128


@dataclass(frozen=True)
class Address:
    """A TCP host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost may lead anywhere."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_address(self) -> bool:
        """Whether the host is given in numbers."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`text` as an address.

    Raises:
        ConfigError: it is none.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ConfigError("the path of a Unix socket is absolute", where=text, do="write unix:/run/agent.sock")
        return Address(path=path)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(
            "this is no address to listen on", where=text, do="write 127.0.0.1:8000 or unix:/run/agent.sock"
        )
    return Address(host, int(port))


def parse_addresses(listen: Sequence[str], *, has_tls: bool) -> tuple[Address, ...]:
    """All addresses, checked.

    Raises:
        ConfigError: none given, one is malformed, or one can be reached from outside and there is no TLS.
    """
    addresses = tuple(map(parse_address, listen))
    if not addresses:
        raise ConfigError("there is no address to listen on", where="listen", do="write 127.0.0.1:8000")
    for address in addresses:
        if not address.is_local and not has_tls:
            raise ConfigError(
                "this address can be reached from outside, which needs TLS with client certificates",
                where=str(address),
                do="set the node's certificate, its key and client_ca, or listen on 127.0.0.1 or a Unix socket",
            )
    return addresses


def leads_here(host: str) -> bool:
    """Whether a Host header is one that no name server can change: an address or localhost, with or without a port."""
    name = host.strip()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name.lower() == "localhost" or Address(name).is_address


def open_listener(address: Address) -> socket.socket:
    """A listening socket that does not block.

    A Unix socket gets mode 0660. A socket file that is left over is replaced, one that somebody listens on never.

    Raises:
        ConfigError: the address is in use, not on this machine, or a file of another kind has its path.
        HostError: the system refuses for another reason.
    """
    if address.path:
        return _open_unix(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"is no address of this machine: {error.strerror}", where=str(address)) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return _listening(listener, where, address)


def _listening(listener: socket.socket, where: tuple[object, ...] | str, address: Address) -> socket.socket:
    try:
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen here: {error.strerror or error}", where=str(address), do="choose another address"
        ) from error
    listener.setblocking(False)
    return listener


def _open_unix(address: Address) -> socket.socket:
    path = Path(address.path)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.fchmod(listener.fileno(), _SOCKET_MODE)  # never more open than this, not even before the chmod below
    listener = _listening(listener, address.path, address)
    try:
        path.chmod(_SOCKET_MODE)  # the process's umask may have taken the group's rights
    except OSError as error:
        listener.close()
        raise HostError(f"cannot set the mode of the socket: {error.strerror}", where=str(path)) from error
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing there; if the folder is the trouble, bind says so
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError("a file that is no socket has this path", where=str(path), do="choose another path")
    if not _is_dead(path):
        raise ConfigError("another process listens on this socket", where=str(path), do="stop it, or choose a path")
    path.unlink(missing_ok=True)


def _is_dead(path: Path) -> bool:
    """Whether nobody listens on a socket file. A full backlog or a missing permission means that somebody may."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def close_listener(listener: socket.socket) -> None:
    """Listen no more. A Unix socket's file goes too, unless another process has put its own there."""
    path = Path(listener.getsockname()) if listener.family == socket.AF_UNIX else None
    listener.close()
    if path is not None and _is_dead(path):
        path.unlink(missing_ok=True)
