"""The settings of a core: `core.toml` in its folder, and the paths of what lies beside it.

Rules:
- Every setting has a default; a name that is not known is refused, so that a slip of the pen does not go unseen.
- Secrets are files of their own, never settings.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgehone.records.database import sqlite_url
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import ConfigError, StateError

FILE = "core.toml"
LISTEN = "127.0.0.1:7443"


@dataclass(frozen=True)
class Settings:
    """What `core.toml` says.

    Attributes:
        listen: addresses, HOST:PORT.
        names: host names and addresses that nodes and browsers reach the core by; they stand in its certificate.
        database: URL; "" for `core.sqlite` in the folder.
        blobs: URL or path; "" for `blobs/` in the folder.
        interval_s: between two heartbeats of a node.
        node_days: life of a node's certificate.
        grace_days: how long after its end a node that was away may still renew it by itself.
    """

    listen: tuple[str, ...] = (LISTEN,)
    names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    database: str = ""
    blobs: str = ""
    interval_s: float = 60.0
    node_days: float = 7.0
    grace_days: float = 90.0


@dataclass(frozen=True)
class Place:
    """The folder of a core and its settings."""

    folder: Path
    settings: Settings = Settings()

    @property
    def database_url(self) -> str:
        """Of the database."""
        return self.settings.database or sqlite_url(self.folder / "core.sqlite")

    @property
    def blobs_url(self) -> str:
        """Of the blob store."""
        return self.settings.blobs or str(self.folder / "blobs")

    @property
    def authority(self) -> Path:
        """Folder of the certificate authority."""
        return self.folder / "ca"

    @property
    def registry(self) -> Path:
        """Folder that is served at /registry/."""
        return self.folder / "registry"

    @property
    def keys(self) -> Path:
        """Folder of the registry's keys."""
        return self.folder / "keys"


def load_place(folder: Path) -> Place:
    """The folder of a core, its settings read.

    Raises:
        StateError: there is no core here.
        ConfigError: the settings cannot be used.
    """
    path = folder / FILE
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise StateError(
            "there is no core in this folder", where=str(folder), do="make one: edgehone core init FOLDER"
        ) from error
    except OSError as error:
        raise StateError(f"the settings cannot be read: {error.strerror}", where=str(path)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the settings are no TOML: {error}", where=str(path), do="correct the line") from error
    return Place(folder.resolve(), read_settings(data, str(path)))


def read_settings(data: dict[str, Any], where: str) -> Settings:
    """Settings from a table.

    Raises:
        ConfigError: a name that is not known, or a value of another kind or out of range.
    """
    known = {field.name for field in fields(Settings)}
    for name in data:
        if name not in known:
            raise ConfigError(f"there is no setting {name!r}", where=where, do=f"use {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        values[name] = _CHECKS[name](name, value, where)
    return Settings(**values)


def write_settings(place: Place) -> None:
    """Write `core.toml` with what differs from the defaults, and the defaults as comments.

    Raises:
        StateError: the folder cannot be written.
    """
    lines = ["# Settings of this core; docs/commands/core.md explains them. A line with # is the default.", ""]
    for field in fields(Settings):
        value = getattr(place.settings, field.name)
        text = _toml(value)
        lines.append(f"{'# ' if value == field.default else ''}{field.name} = {text}")
    write_bytes(place.folder / FILE, ("\n".join(lines) + "\n").encode())


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f"{value:g}"


def _texts(name: str, value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(f"{name} is no list of texts", where=where, do=f'write {name} = ["..."]')
    return tuple(value)


def _text(name: str, value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError(f"{name} is no text", where=where, do=f'write {name} = "..."')
    return value


def _between(low: float, high: float) -> Callable[[str, Any, str], float]:
    def check(name: str, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"{name} is no number between {low:g} and {high:g}", where=where)
        return float(value)

    return check


_CHECKS: dict[str, Callable[[str, Any, str], Any]] = {
    "listen": _texts,
    "names": _texts,
    "database": _text,
    "blobs": _text,
    "interval_s": _between(0.05, 86_400),
    "node_days": _between(0.01, 365),
    "grace_days": _between(0, 3650),
}
