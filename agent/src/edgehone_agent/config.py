"""The agent's settings: one TOML file, flags over it, and defaults under it. docs/commands/agent.md lists them all.

    settings = read_settings(Path("agent.toml"), {"poll_s": 60.0})

Rules: a table of the file is a dataclass here, a key is a field. An unknown key is refused by name, with the nearest
known one; so is a value of another type, and settings that contradict each other. Paths in a file start at its folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from edgehone_agent.errors import ConfigError, InputError

SOCKET = "agent.sock"
_LONGEST_SOCKET = 100  # bytes; the system takes 107


@dataclass(frozen=True)
class ServeSettings:
    """Table [serve]: who may ask this node, and where.

    Attributes:
        listen: addresses such as "127.0.0.1:8000" and "unix:/run/edgehone.sock"; the state folder has a socket besides.
        cert, key: of this node (PEM); needed for addresses that can be reached from outside.
        client_ca: whose clients may come in (PEM).
        limits: table [serve.limits], see `edgehone_agent.serve.limits`; those that are not named keep their default.
    """

    listen: tuple[str, ...] = ("127.0.0.1:8000",)
    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WatchSettings:
    """Table [watch]: following what the models see and answer.

    Attributes:
        enabled: for bundles that have a card.
    """

    enabled: bool = True


@dataclass(frozen=True)
class CaptureSettings:
    """Table [capture]: samples and feedback that the node keeps, sealed, until they are exported.

    Attributes:
        enabled: keep them at all.
        max_bytes: for all of them together.
        max_age_s: samples that are older are dropped.
    """

    enabled: bool = True
    max_bytes: int = 64_000_000
    max_age_s: float = 30 * 86_400.0


@dataclass(frozen=True)
class CoreSettings:
    """Table [core]: the core that this node is enrolled with, see `edgehone-agent enrol`.

    Attributes:
        enabled: listen to it; false for a node that goes on by itself.
        samples: send captured readings up when the core wants some. Feedback and evidence go up in any case.
        shadow_share: the most of one CPU core that a release may take that answers unseen, 0 to 1.
        tasks: "named": only tasks that the settings or the enrolment name, and any where they name none; "any": what
            the core names besides, too.
    """

    enabled: bool = True
    samples: bool = True
    shadow_share: float = 0.2
    tasks: Literal["named", "any"] = "named"


@dataclass(frozen=True)
class BrokerSettings:
    """Table [mqtt]: readings in and answers out over a broker; needs the extra `mqtt`.

    Attributes:
        broker: "host:port"; none for no MQTT.
        node: the node's name in the topics; the host's name when none.
        ca, cert, key: whom to trust and who this node is (PEM); needed unless the broker is on this machine.
        prefix: first levels of the topics.
    """

    broker: str | None = None
    node: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    prefix: str = "edgehone"


@dataclass(frozen=True)
class Settings:
    """Everything the agent can be told.

    Attributes:
        registry: a folder, file://, http:// or https:// address; none to serve what is there and never update.
        root: root.json of the registry, which came to this node by a way you trust.
        tasks: names of the tasks to serve; none for those that the state folder has.
        state: the node's folder.
        poll_s: seconds between two looks at the registry, on average.
        threads: of each model.
        sessions: of each model; how many callers are answered at the same time.
        memory_bytes: the most that a model may take; none for what the machine has to give.
        registry_ca, registry_cert, registry_key: whom to trust and who this node is, for https:// (PEM).
        log: "text" or "json", a line each, on standard error.
        log_level: "debug", "info", "warning" or "error".
        context: whose drift reference the watch uses where a bundle has several, such as a site; the core may name
            another.
        learn: what the node may learn by itself, see `edgehone_agent.learn`; the core's word counts over it.
        label_error: share of the labels that is known to be wrong, 0 to 0.5; the core's word counts over it, too.
    """

    registry: str | None = None
    root: Path | None = None
    tasks: tuple[str, ...] = ()
    state: Path = field(default_factory=lambda: default_state())
    poll_s: float = 300.0
    threads: int = 1
    sessions: int = 1
    memory_bytes: int | None = None
    registry_ca: Path | None = None
    registry_cert: Path | None = None
    registry_key: Path | None = None
    log: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    context: str | None = None
    learn: Literal["", "statistics", "last-layer"] = ""
    label_error: float = 0.0
    serve: ServeSettings = field(default_factory=ServeSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    core: CoreSettings = field(default_factory=CoreSettings)
    mqtt: BrokerSettings = field(default_factory=BrokerSettings)

    def __post_init__(self) -> None:
        _check(self)


def default_state() -> Path:
    """The state folder when none is named: $XDG_STATE_HOME/edgehone-agent, by default in ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "edgehone-agent"


def socket_path(state: Path) -> Path | None:
    """The agent's own socket in a state folder; None when the path is longer than the system takes."""
    path = (state / SOCKET).absolute()
    return path if len(os.fsencode(path)) <= _LONGEST_SOCKET else None


def redacted(address: str) -> str:
    """An address without a password, for logs and pages."""
    parts = urlsplit(address)
    if "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def read_settings(file: Path | None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from a TOML file and flags.

    Args:
        file: the file; None for none.
        flags: fields by name, "serve.listen" for one of a table; a flag counts over the file, and None for no flag.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, of another type or contradicts another.
    """
    table: dict[str, Any] = {}
    if file is not None:
        try:
            table = tomllib.loads(file.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(
                f"the file cannot be read: {error}", where=str(file), do="give a TOML file; see docs/commands/agent.md"
            ) from error
    base = Path() if file is None else file.parent
    fields = _fields(Settings, table, base, str(file or ""), "")
    if "registry" in fields and "://" not in fields["registry"] and fields["registry"]:
        fields["registry"] = str(base / Path(fields["registry"]).expanduser())  # a folder is a path like any other
    for name, value in (flags or {}).items():
        head, _, rest = name.partition(".")
        if value is None:
            continue
        if rest:
            known = fields.get(head) or typing.get_type_hints(Settings)[head]()
            fields[head] = dataclasses.replace(known, **{rest: value})
        else:
            fields[head] = value
    return Settings(**fields)


def _fields(kind: type[Any], table: Mapping[str, Any], base: Path, file: str, prefix: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            raise ConfigError(
                f"there is no setting {name!r}",
                where=file,
                do=f"did you mean {prefix}{near[0]}?" if near else f"known are: {', '.join(sorted(hints))}",
            )
        found[key] = _value(hints[key], value, base, file, name)
    return found


def _value(hint: Any, value: Any, base: Path, file: str, name: str) -> Any:
    """A TOML value as a field's type. TOML has no null: what a field takes besides None is what is asked for."""
    wanted = [part for part in typing.get_args(hint) if part is not types.NoneType]
    if isinstance(hint, types.UnionType):
        return _value(wanted[0], value, base, file, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return hint(**_fields(hint, value, base, file, f"{name}."))
    if hint is Path and isinstance(value, str):
        return base / Path(value).expanduser()
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    origin = typing.get_origin(hint)
    if origin is Literal and value in wanted:
        return value
    if origin is tuple and isinstance(value, list) and all(type(item) is str for item in value):
        return tuple(value)
    if origin is Mapping and isinstance(value, dict):
        return dict(value)
    raise ConfigError(f"{value!r} is not {_words(hint)}", where=f"{file}: {name}" if file else name, do=_TRY)


_TRY = "compare it with the table of settings in docs/commands/agent.md"


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    plain = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path in quotes"}
    return plain.get(hint, "a list of texts" if typing.get_origin(hint) is tuple else "a table")


def _check(settings: Settings) -> None:
    """Refuse settings that contradict each other or cannot be. Raises ConfigError."""
    from edgehone_agent.serve.limits import Limits

    if (settings.registry is None) != (settings.root is None):
        missing, given = ("root", "registry") if settings.root is None else ("registry", "root")
        raise ConfigError(
            f"there is a {given} and no {missing}",
            where=missing,
            do="give both: nothing from a registry is believed without its root.json",
        )
    if settings.registry is not None and not settings.tasks:
        raise ConfigError(
            "there is a registry and no task to take from it", where="tasks", do="name one, say --task digits"
        )
    for task in settings.tasks:
        _check_task(task)
        if settings.tasks.count(task) > 1:
            raise ConfigError(f"the task {task!r} is named twice", where="tasks", do="name each task once")
    for name, least in (("poll_s", 1.0), ("threads", 1), ("sessions", 1)):
        if not getattr(settings, name) >= least or getattr(settings, name) == float("inf"):
            raise ConfigError(
                f"{getattr(settings, name)} is too little or no number", where=name, do=f"give {least:g} or more"
            )
    if settings.memory_bytes is not None and settings.memory_bytes < 1:
        raise ConfigError(f"{settings.memory_bytes} bytes are no room", where="memory_bytes", do="leave it out")
    for name, value in (("max_bytes", settings.capture.max_bytes), ("max_age_s", settings.capture.max_age_s)):
        if not 0 < value < float("inf"):
            raise ConfigError(
                f"{value} is not above zero", where=f"capture.{name}", do="turn it off with enabled = false"
            )
    if not 0 < settings.core.shadow_share <= 1:
        raise ConfigError(
            f"{settings.core.shadow_share} is no share", where="core.shadow_share", do="give more than 0, up to 1"
        )
    if not 0 <= settings.label_error <= 0.5:
        raise ConfigError(
            f"{settings.label_error} is no share of wrong labels", where="label_error", do="give 0 to 0.5"
        )
    _all_or_none(settings, ("registry_cert", "registry_key"), "")
    _all_or_none(settings.serve, ("cert", "key", "client_ca"), "serve.")
    _all_or_none(settings.mqtt, ("ca", "cert", "key"), "mqtt.")
    known = [limit.name for limit in dataclasses.fields(Limits)]
    for name in settings.serve.limits:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                f"there is no setting 'serve.limits.{name}'",
                do=f"did you mean serve.limits.{near[0]}?" if near else f"known are: {', '.join(known)}",
            )
    Limits(**settings.serve.limits)  # type: ignore[arg-type]  # it checks types itself


def _check_task(task: str) -> None:
    from edgehone_agent.releases import checked_task

    try:
        checked_task(task)
    except InputError as error:
        raise ConfigError(error.what, where="tasks", do=error.do) from error


def _all_or_none(settings: Any, names: Sequence[str], prefix: str) -> None:
    given = [name for name in names if getattr(settings, name) is not None]
    if given and len(given) < len(names):
        missing = next(name for name in names if name not in given)
        raise ConfigError(
            f"{prefix}{given[0]} is of no use without {prefix}{missing}",
            where=f"{prefix}{missing}",
            do=f"give all of {', '.join(names)}, or none",
        )
