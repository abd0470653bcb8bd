"""Names, thresholds and periods of a registry: what is called how, who signs what, and how long it holds.

    role        keys      signs with            holds
    root        2 of 3    offline, passphrase   365 days   which keys count
    targets     2 of 3    offline, passphrase   365 days   which key may release for which task
    task-NAME   1 of 1    by `--approve`        90 days    the releases of one task, under NAME/ and nowhere else
    snapshot    1 of 1    online                7 days     which versions of all these belong together
    timestamp   1 of 1    online, same key      1 day      that this is the newest snapshot

The periods are kept in the signed root under `x-edgehone`, so nobody who can write the folder can stretch them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from edgehone.errors import InputError

FIELD = "x-edgehone"  # ours among the fields that the TUF specification leaves open
ONLINE = "online"  # label of the key of snapshot and timestamp
OFFLINE_ROLES = ("root", "targets")
KEYS, THRESHOLD = 3, 2  # of each offline role
MAX_TARGETS = 100  # of a task's role: more makes every lookup slow
CHANNEL = "stable"

Approve = Literal["manual", "auto"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DAY_S = 86400


@dataclass(frozen=True)
class Expiry:
    """How long fresh metadata holds, in days, by role."""

    root: float = 365.0
    targets: float = 365.0
    task: float = 90.0
    snapshot: float = 7.0
    timestamp: float = 1.0

    def __post_init__(self) -> None:
        for name, days in asdict(self).items():
            if not 60 / _DAY_S <= days <= 3650:
                raise InputError(
                    f"{name} metadata that holds {days:g} days makes no sense", do="choose between a minute and 3650"
                )

    @classmethod
    def parse(cls, words: list[str], start: Expiry | None = None) -> Expiry:
        """Read ["timestamp=1", "task=30"], days by role, over `start` or the defaults.

        Raises:
            InputError: an unknown role, no number, or a period that makes no sense.
        """
        days = asdict(start or cls())
        for word in words:
            name, _, value = word.partition("=")
            try:
                days[name] = float(value) if name in days else float("nan")
            except ValueError:
                days[name] = float("nan")
            if days[name] != days[name]:
                raise InputError(
                    f"{word!r} is no period", do=f"write ROLE=DAYS with one of {', '.join(days)}, like 'timestamp=1'"
                )
        return cls(**days)

    @classmethod
    def from_root(cls, unrecognized: Mapping[str, Any]) -> Expiry:
        """Periods that a signed root states; defaults where it states none."""
        stated = unrecognized.get(FIELD, {}).get("expiry_days", {})
        return cls(**{field.name: float(stated[field.name]) for field in fields(cls) if field.name in stated})

    def to_json(self) -> dict[str, Any]:
        """What goes into the root. Canonical JSON knows no fractions, so days are written as text."""
        return {"expiry_days": {name: f"{days:g}" for name, days in asdict(self).items()}}

    def days(self, role: str) -> float:
        """Days that metadata of this role holds."""
        return cast(float, getattr(self, "task" if task_of(role) else role))

    def end(self, role: str, now: datetime) -> datetime:
        """When metadata of this role that is signed now expires, UTC, whole seconds as the specification wants."""
        return (now.astimezone(UTC) + timedelta(days=self.days(role))).replace(microsecond=0)


def check_task(task: str) -> str:
    """The name of a task, if a path and a pattern may be made of it.

    Raises:
        InputError: other characters than lower case letters, digits, ".", "_" and "-", or more than 64.
    """
    if not _NAME.fullmatch(task):
        raise InputError(
            f"{task!r} cannot name a task here",
            do="use up to 64 lower case letters, digits, '.', '_' and '-', and begin with a letter or digit",
        )
    return task


def check_member(member: str) -> str:
    """The name of a member, if a path may be made of it.

    Raises:
        InputError: other characters than letters, digits, ".", "_" and "-", or more than 64.
    """
    if not _MEMBER.fullmatch(member):
        raise InputError(
            f"{member!r} cannot name a member here",
            do="use up to 64 letters, digits, '.', '_' and '-', and begin with a letter or digit",
        )
    return member


def role_of(task: str) -> str:
    """Name of the delegated role of a task."""
    return f"task-{task}"


def task_of(role: str) -> str | None:
    """The task of a delegated role, None for a top-level one."""
    return role.removeprefix("task-") if role.startswith("task-") else None


def bundle_path(task: str, version: int, member: str) -> str:
    """Target path of a bundle."""
    return f"{task}/{version}-{member}.bundle"


def delta_path(task: str, version: int, from_sha256: str) -> str:
    """Target path of a delta from the bundle with a digest to this version."""
    return f"{task}/{version}-from-{from_sha256[:16]}.delta"


def metadata_path(role: str, version: int) -> str:
    """Where metadata lies; a timestamp has no version in its name."""
    return "metadata/timestamp.json" if role == "timestamp" else f"metadata/{version}.{role}.json"


def blob_path(target: str, sha256: str) -> str:
    """Where a target's bytes lie: its path, the digest before the file's name (TUF specification, section 6.2)."""
    folder, _, name = target.rpartition("/")
    return f"targets/{folder}/{sha256}.{name}"
