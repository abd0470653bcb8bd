"""What a node says about one task in a heartbeat: the model that answers, how it fares, and its shadow.

The messages around it are in `uplink`. Texts for people (`why`, `fault`) are taken as they come: control characters
become spaces, and what is too long is cut, because a strange error message must not cost a node its heartbeat.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgehone_agent.wire._fields import Fields
from edgehone_agent.wire.manifest import matching

MAX_FAILED = 64  # bundles that a task names as failed
LONGEST_PROSE = 1000
HIGHEST = (1 << 53) - 1  # whole numbers that every JSON reader keeps

TASK = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
_LEARNING = ("active", "waiting", "dropped")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


@dataclass(frozen=True)
class Failed:
    """A bundle that the node went back from and will not try again."""

    digest: str
    version: int
    why: str

    @classmethod
    def from_json(cls, data: Any) -> Failed:
        """Read one; raises BundleError."""
        fields = Fields(data, "failed")
        return cls(matching(fields, "digest", DIGEST), fields.whole("version", 1, HIGHEST), prose(fields, "why") or "")


@dataclass(frozen=True)
class Labelled:
    """Labels about the answers of one model: how many rows, and how many of them it had wrong.

    Attributes:
        champion_wrong: of a shadow's rows, those that the model that answers had wrong; None for that model itself.
        both_wrong: of a shadow's rows, those that both had wrong; 0 from a node that does not count them.
    """

    rows: int
    wrong: int
    champion_wrong: int | None = None
    both_wrong: int = 0

    @classmethod
    def from_json(cls, data: Any) -> Labelled:
        """Read one; raises BundleError."""
        fields = Fields(data, "labelled")
        rows = fields.whole("rows", 0, HIGHEST)
        champion = fields.whole("champion_wrong", 0, rows) if fields.data.get("champion_wrong") is not None else None
        wrong = fields.whole("wrong", 0, rows)
        return cls(rows, wrong, champion, fields.whole("both_wrong", 0, min(wrong, champion or 0), 0))


@dataclass(frozen=True)
class ShadowStatus:
    """A release that answers beside the one that is served, unseen.

    Attributes:
        digest, version: of its bundle.
        rows: answered by both.
        disagreements: rows on which the two gave different answers.
        latency_us: median of the shadow's own calls.
        fault: why it does not run, None when it does.
        labelled: labels about those rows.
    """

    digest: str
    version: int
    rows: int = 0
    disagreements: int = 0
    latency_us: float | None = None
    fault: str | None = None
    labelled: Labelled | None = None

    @classmethod
    def from_json(cls, data: Any) -> ShadowStatus:
        """Read one; raises BundleError."""
        fields = Fields(data, "shadow")
        rows = fields.whole("rows", 0, HIGHEST, 0)
        return cls(
            digest=matching(fields, "digest", DIGEST),
            version=fields.whole("version", 1, HIGHEST),
            rows=rows,
            disagreements=fields.whole("disagreements", 0, rows, 0),
            latency_us=positive(fields, "latency_us"),
            fault=prose(fields, "fault"),
            labelled=None if fields.data.get("labelled") is None else Labelled.from_json(fields.data["labelled"]),
        )


@dataclass(frozen=True)
class Learning:
    """What a node learns by itself, because its policy says so; see `edgehone_agent.learn`.

    Attributes:
        kind: "statistics" or "last-layer"; a name that this version does not know is taken as it is.
        rows: readings or labels that it rests on.
        state: "active" (it answers), "waiting", or "dropped" (it answered worse).
        why: for people.
    """

    kind: str
    rows: int = 0
    state: str = "waiting"
    why: str | None = None

    @classmethod
    def from_json(cls, data: Any) -> Learning:
        """Read one; raises BundleError."""
        fields = Fields(data, "learn")
        state = fields.text("state", longest=20)
        if state not in _LEARNING:
            raise fields.refuse("state", f"is none of {', '.join(_LEARNING)}")
        return cls(fields.text("kind", longest=40), fields.whole("rows", 0, HIGHEST, 0), state, prose(fields, "why"))


@dataclass(frozen=True)
class TaskStatus:
    """One task of a node.

    Attributes:
        digest, version, member: of the bundle that answers; None while none does.
        ready: whether requests are answered.
        fault: why not, for people.
        latency_us: median of the bundle that answers, measured on the node when it was loaded.
        watch_level, risk_level: 0 (quiet) to 3 (alarm), see `edgehone_agent.watch.levels`.
        predictions, swaps, roll_backs, crashes: counts since the process began.
        memory_bytes: that the model takes.
        failed: bundles that the node went back from.
        labelled: labels about the answers of the model that answers.
        shadow: the release that answers beside it, if any.
        learn: what the node learns of this task by itself; None when its policy lets it learn nothing.
    """

    digest: str | None = None
    version: int | None = None
    member: str | None = None
    ready: bool = False
    fault: str | None = None
    latency_us: float | None = None
    watch_level: int = 0
    risk_level: int = 0
    predictions: int = 0
    swaps: int = 0
    roll_backs: int = 0
    crashes: int = 0
    memory_bytes: int | None = None
    failed: tuple[Failed, ...] = ()
    labelled: Labelled | None = None
    shadow: ShadowStatus | None = None
    learn: Learning | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field. By hand: `asdict` takes ten times as long, and a core does this for all."""
        shadow = self.shadow
        return {
            **self.__dict__,
            "failed": [dict(failed.__dict__) for failed in self.failed],
            "labelled": _plain(self.labelled),
            "shadow": None if shadow is None else {**shadow.__dict__, "labelled": _plain(shadow.labelled)},
            "learn": None if self.learn is None else dict(self.learn.__dict__),
        }

    @classmethod
    def from_json(cls, data: Any, where: str = "task") -> TaskStatus:
        """Read one; raises BundleError."""
        fields = Fields(data, where)
        get: Mapping[str, Any] = fields.data
        has_model = get.get("digest") is not None
        return cls(
            digest=matching(fields, "digest", DIGEST) if has_model else None,
            version=fields.whole("version", 1, HIGHEST) if has_model else None,
            member=matching(fields, "member", MEMBER) if has_model else None,
            ready=flag(fields, "ready"),
            fault=prose(fields, "fault"),
            latency_us=positive(fields, "latency_us"),
            watch_level=fields.whole("watch_level", 0, 3, 0),
            risk_level=fields.whole("risk_level", 0, 3, 0),
            predictions=fields.whole("predictions", 0, HIGHEST, 0),
            swaps=fields.whole("swaps", 0, HIGHEST, 0),
            roll_backs=fields.whole("roll_backs", 0, HIGHEST, 0),
            crashes=fields.whole("crashes", 0, HIGHEST, 0),
            memory_bytes=None if get.get("memory_bytes") is None else fields.whole("memory_bytes", 0, 1 << 50),
            failed=tuple(map(Failed.from_json, fields.items("failed", [], most=MAX_FAILED))),
            labelled=None if get.get("labelled") is None else Labelled.from_json(get["labelled"]),
            shadow=None if get.get("shadow") is None else ShadowStatus.from_json(get["shadow"]),
            learn=None if get.get("learn") is None else Learning.from_json(get["learn"]),
        )


def _plain(labelled: Labelled | None) -> dict[str, Any] | None:
    return None if labelled is None else dict(labelled.__dict__)


def flag(fields: Fields, name: str, default: bool = False) -> bool:
    """A truth value."""
    value = fields.data.get(name, default)
    if not isinstance(value, bool):
        raise fields.refuse(name, "is neither true nor false")
    return value


def positive(fields: Fields, name: str) -> float | None:
    """A finite number that is not negative, or None."""
    value = fields.optional_number(name)
    if value is not None and value < 0:
        raise fields.refuse(name, "is negative")
    return value


def prose(fields: Fields, name: str) -> str | None:
    """A text for people, made safe instead of refused; None where it is null or left out."""
    value = fields.data.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise fields.refuse(name, "is no text")
    return _CONTROL.sub(" ", value[:LONGEST_PROSE])
