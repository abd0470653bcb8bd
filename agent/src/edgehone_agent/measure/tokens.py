"""The token of a measuring service, in a file: its owner makes it, the service and its clients read it."""

from __future__ import annotations

from pathlib import Path

from edgehone_agent.errors import ConfigError

LEAST_LETTERS = 16
_MOST_BYTES = 4096
_MAKE = "make one: openssl rand -hex 32 > FILE"


def read_token(file: Path) -> str:
    """The first line of a file.

    Raises:
        ConfigError: no such file, or the line is not 16 or more printable characters without a space.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"the token cannot be read: {error.strerror}", where=str(file), do=_MAKE) from error
    token = content.decode("ascii", "replace").partition("\n")[0].strip()
    if len(token) < LEAST_LETTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"this is no token: {LEAST_LETTERS} or more letters and digits", where=str(file), do=_MAKE)
    return token
