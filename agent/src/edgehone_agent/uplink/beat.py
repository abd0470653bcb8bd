"""A heartbeat from what a node knows of itself, and when the next one is due. Pure.

beat = compose(status, nonce=mind.nonce, now_s=time.time(), facts=facts, floors=floors, disk_free_bytes=free)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgehone_agent.fit import NodeFacts
from edgehone_agent.wire._uplink_task import MAX_FAILED, MEMBER
from edgehone_agent.wire.uplink import (
    MAX_BEAT_BYTES,
    Failed,
    Heartbeat,
    Labelled,
    Learning,
    ShadowStatus,
    TaskStatus,
    write,
)

_JITTER = 0.2
_FIRST_RETRY = 1 / 12  # of the interval, after the first failure
_MOST_INTERVALS = 4.0  # the longest wait after failures
_LEAST_WAIT_S = 1.0
_MAX_FLAGS = 32
_WHY = 400  # characters of a reason


def compose(
    status: Mapping[str, Any],
    *,
    nonce: str | None,
    now_s: float,
    facts: NodeFacts,
    floors: Mapping[str, int],
    disk_free_bytes: int | None,
    flags: Iterable[str] = (),
) -> Heartbeat:
    """What to say.

    Args:
        status: `Node.status()`.
        nonce: of the core's last answer.
        now_s: this node's clock.
        facts: what the node is.
        floors: task → version below which it takes nothing.
        disk_free_bytes: where it keeps its state; None where that is not known.
        flags: names of what is wrong besides what the status tells.
    """
    tasks = {name: task_status(told) for name, told in status["tasks"].items()}
    names = (*flags, *_flags(status))
    beat = Heartbeat(
        nonce=nonce, sent_s=now_s, agent=facts.agent[:40],
        facts={"machine": facts.machine, "runtimes": list(facts.runtimes), "memory_bytes": facts.memory_bytes},
        floors={name: floors[name] for name in tasks if name in floors}, tasks=tasks,
        disk_free_bytes=disk_free_bytes, flags=tuple(dict.fromkeys(names))[:_MAX_FLAGS],
    )  # fmt: skip
    if len(write(beat)) <= MAX_BEAT_BYTES:
        return beat
    return replace(beat, tasks={name: replace(told, failed=told.failed[-2:]) for name, told in tasks.items()})


def task_status(told: Mapping[str, Any]) -> TaskStatus:
    """One task of `Node.status()` as the core reads it."""
    watch, risk, trial = told.get("watch") or {}, told.get("risk") or {}, told.get("trial") or {}
    rows = [risk[name] for name in ("drawn", "sent") if name in risk]
    failed = [
        Failed(one["digest"], one["version"], _text(one["why"])) for one in told["failed"][-MAX_FAILED:]
    ]  # fmt: skip
    member = told.get("member") or ""
    return TaskStatus(
        digest=told.get("digest"), version=told.get("version"),
        member=(member if MEMBER.fullmatch(member) else "unnamed") if told.get("digest") else None,
        ready=told["ready"], fault=_text(told["fault"]), latency_us=told.get("latency_us"),
        watch_level=watch.get("level") or 0, risk_level=risk.get("level") or 0,
        predictions=told.get("predictions", 0), swaps=told["swaps"], roll_backs=told["roll_backs"],
        crashes=trial.get("deaths", 0), failed=tuple(failed),
        labelled=Labelled(sum(row["rows"] for row in rows), sum(row["wrong"] for row in rows)) if rows else None,
        shadow=_shadow(told.get("shadow")), learn=_learn(told.get("learn")),
    )  # fmt: skip


def _shadow(told: Mapping[str, Any] | None) -> ShadowStatus | None:
    if told is None:
        return None
    labelled = told.get("labelled")
    return ShadowStatus(
        digest=told["digest"], version=told["version"], rows=told["rows"], disagreements=told["disagreements"],
        latency_us=told["latency_us"], fault=_text(told["fault"]),
        labelled=None if labelled is None else Labelled(**labelled),
    )  # fmt: skip


def _learn(told: Mapping[str, Any] | None) -> Learning | None:
    return None if told is None else Learning(told["kind"], told["rows"], told["state"], _text(told["why"]))


def _text(text: Any) -> Any:
    """A reason that goes out as UTF-8, whatever file names it holds."""
    return None if text is None else str(text)[:_WHY].encode(errors="replace").decode()


def _flags(status: Mapping[str, Any]) -> Iterable[str]:
    """Names of what the node's own status says is wrong."""
    if status.get("fault"):
        yield "state_not_writable"
    if (status.get("capture") or {}).get("error"):
        yield "capture_not_writable"
    registry = status.get("registry") or {}
    if registry.get("defect"):
        yield "defect"
    for told in (registry.get("tasks") or {}).values():
        yield from (flag["name"] for flag in told.get("flags", ()))


def news(status: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a status the core should hear of before the next heartbeat is due, when it changes."""
    return tuple(
        (
            name,
            told.get("digest"),
            told["ready"],
            len(told["failed"]),
            (told.get("watch") or {}).get("level"),
            (told.get("risk") or {}).get("level"),
            (told.get("shadow") or {}).get("digest"),
            (told.get("shadow") or {}).get("fault"),
            (told.get("learn") or {}).get("state"),
        )
        for name, told in status["tasks"].items()
    )


def next_wait_s(interval_s: float, failures: int, rng: random.Random) -> float:
    """Seconds to the next heartbeat.

    All is well: about the interval. After failures in a row: a twelfth of it, then twice as long each time, at most
    four intervals; half of that is random, so that a fleet does not come back in one moment.

    Args:
        interval_s: that the core asked for.
        failures: heartbeats in a row that came to nothing.
        rng: for the jitter.
    """
    if not failures:
        return interval_s * rng.uniform(1 - _JITTER, 1 + _JITTER)
    mean_s = min(interval_s * _FIRST_RETRY * 2.0 ** min(failures - 1, 16), interval_s * _MOST_INTERVALS)
    return max(_LEAST_WAIT_S, mean_s) * rng.uniform(0.5, 1.5)
