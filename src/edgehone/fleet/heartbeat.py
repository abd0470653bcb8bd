"""Heartbeats: what a node says of itself, judged against what it said before, and what it is told in return.

Rules:
- `judge` is pure. `take` reads and writes many nodes at once, inside the caller's transaction; an answer may be sent
  only after that transaction is on disk, because the node will bring the answer's nonce next time.
- A node brings the nonce of the last answer. It may have missed that answer and bring the one before; that is no fault
  as long as it goes on to. Anything else is not refused but counted, and recorded once an hour: either the node was set
  back, or there are two of it.
- Version floors never fall here. A node that reports a lower one has lost its state, which is recorded.
- `node.status` holds the tasks of the last heartbeat (`TaskStatus`). What concerns the node as a whole is in
  `node.facts`: machine, runtimes, memory_bytes, agent, clock_skew_s (node minus core), floors, flags, disk_free_bytes,
  nonce_before, wrong_nonces, lost_nonces, evidence_s (task → last time).
- `served` has one open row per node and task: the bytes that answer there. A report of another digest closes it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from edgehone.fleet.nodes import REVOKED
from edgehone.records import audit
from edgehone.records.tables import node, served
from edgehone_agent.errors import EdgehoneError, TrustError
from edgehone_agent.wire.uplink import Desired, Heartbeat, HeartbeatAnswer, TaskStatus, Wants

EVIDENCE_EVERY_S = 600.0  # while a watch is alarmed
EVIDENCE_AT_LEAST_S = 86_400.0  # while all is quiet
SAMPLES_PER_BEAT = 64
_RECORD_EVERY_S = 3600.0
_CHUNK = 500


@dataclass(frozen=True)
class Arrived:
    """A heartbeat with the node that its certificate names and the core's time of arrival."""

    node: str
    beat: Heartbeat
    now_s: float


@dataclass(frozen=True)
class Wish:
    """What a node is told: desired releases, policies, and what it should send up besides the usual. By task.

    Attributes:
        until_s: when it changes though nothing else does, by the core's clock.
    """

    desired: Mapping[str, Desired] = field(default_factory=dict)
    policy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    wants: Mapping[str, Wants] = field(default_factory=dict)
    until_s: float = math.inf


@dataclass(frozen=True)
class Asking:
    """A node that asks what to run.

    Attributes:
        node, state, tags, facts: of the node; the facts are those of this heartbeat.
        tasks: what it reports.
        now_s: the core's clock.
    """

    node: str
    state: str
    tags: Mapping[str, str]
    facts: Mapping[str, Any]
    tasks: Mapping[str, TaskStatus]
    now_s: float


Wishes = Callable[[Connection, Asking], Wish]
"""Says what a node is told."""


@dataclass(frozen=True)
class Known:
    """What the core knew of a node before a heartbeat."""

    state: str
    nonce: str | None
    facts: Mapping[str, Any]
    status: Mapping[str, Any]
    beats: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Swap:
    """Other bytes answer for a task; `digest` is None when none do."""

    task: str
    digest: str | None
    version: int | None
    member: str | None
    why: str


@dataclass(frozen=True)
class Verdict:
    """What a heartbeat changes.

    Attributes:
        known: of the node, from now on.
        swaps: tasks whose bytes changed.
        events: (action, detail) for the audit.
    """

    known: Known
    swaps: tuple[Swap, ...] = ()
    events: tuple[tuple[str, Mapping[str, Any]], ...] = ()


def judge(before: Known, beat: Heartbeat, now_s: float, fresh_nonce: str) -> Verdict:
    """Compare a heartbeat with what was known. Pure.

    Args:
        fresh_nonce: that the answer will bring.
    """
    facts = dict(before.facts)
    events: list[tuple[str, Mapping[str, Any]]] = []
    _judge_nonce(before, beat, now_s, facts, events)
    floors: dict[str, int] = dict(facts.get("floors", {}))
    for task, floor in beat.floors.items():
        kept = floors.get(task, 0)
        if floor < kept and _is_due(facts, f"floor_fell_s {task}", now_s):
            events.append(("node.floor-fell", {"task": task, "kept": kept, "reported": floor}))
        floors[task] = max(floor, kept)
    facts |= beat.facts
    facts |= {
        "agent": beat.agent,
        "clock_skew_s": round(beat.sent_s - now_s, 3),
        "floors": floors,
        "flags": list(beat.flags),
        "disk_free_bytes": beat.disk_free_bytes,
    }
    status = {task: told.to_json() for task, told in beat.tasks.items()}
    known = Known(before.state, fresh_nonce, facts, status, before.beats + 1, before.tags)
    return Verdict(known, _swaps(before.status, beat.tasks), tuple(events))


def _judge_nonce(
    before: Known, beat: Heartbeat, now_s: float, facts: dict[str, Any], events: list[tuple[str, Mapping[str, Any]]]
) -> None:
    """Count a nonce that is not the expected one, and remember which one may still come late."""
    if before.nonce is None or beat.nonce == before.nonce:
        facts["nonce_before"] = before.nonce
        return
    if beat.nonce is not None and beat.nonce == facts.get("nonce_before"):
        return  # the last answer was lost on its way; the same nonce may come again
    name = "lost_nonces" if beat.nonce is None else "wrong_nonces"
    facts[name] = facts.get(name, 0) + 1
    facts["nonce_before"] = before.nonce
    if _is_due(facts, f"{name}_s", now_s):
        events.append(("node.nonce", {"brought": "none" if beat.nonce is None else "another", "count": facts[name]}))


def _is_due(facts: dict[str, Any], name: str, now_s: float) -> bool:
    """Whether something was not recorded within the hour; it counts as recorded from now on."""
    if _age_s(facts.get(name), now_s) < _RECORD_EVERY_S:
        return False
    facts[name] = now_s
    return True


def _age_s(time_s: float | None, now_s: float) -> float:
    """How long ago something was; for ever where it never was, or lies ahead because the clock was set back."""
    return now_s - time_s if time_s is not None and time_s <= now_s else float("inf")


def _swaps(before: Mapping[str, Any], now: Mapping[str, TaskStatus]) -> tuple[Swap, ...]:
    swaps = []
    for task, told in now.items():
        old = before.get(task) or {}
        if told.digest == old.get("digest"):
            continue
        went_back = told.roll_backs > old.get("roll_backs", 0)
        why = "rolled back" if went_back else "first report" if old.get("digest") is None else "swapped"
        swaps.append(Swap(task, told.digest, told.version, told.member, why))
    gone = (task for task, old in before.items() if task not in now and old.get("digest") is not None)
    return (*swaps, *(Swap(task, None, None, None, "no longer reported") for task in gone))


def wants(beat: Heartbeat, before: Known, now_s: float) -> dict[str, Wants]:
    """What the core would like to have of each task: evidence when a level moved or is up, and samples. Pure."""
    last: Mapping[str, float] = before.facts.get("evidence_s", {})
    found = {}
    for task, told in beat.tasks.items():
        old = before.status.get(task) or {}
        age_s = _age_s(last.get(task), now_s)
        moved = (told.watch_level, told.risk_level) != (old.get("watch_level", 0), old.get("risk_level", 0))
        is_alarmed = max(told.watch_level, told.risk_level) > 0
        is_due = age_s >= (EVIDENCE_EVERY_S if is_alarmed else EVIDENCE_AT_LEAST_S)
        found[task] = Wants(told.digest is not None and (moved or is_due), SAMPLES_PER_BEAT)
    return found


def _together(usual: Mapping[str, Wants], more: Mapping[str, Wants]) -> dict[str, Wants]:
    """Both: evidence if either wants it, and the more samples of the two."""
    found = dict(usual)
    for task, asked in more.items():
        old = found.get(task, Wants())
        found[task] = Wants(old.evidence or asked.evidence, max(old.samples, asked.samples))
    return found


def take(
    conn: Connection, arrived: Sequence[Arrived], wishes: Wishes, interval_s: float
) -> list[HeartbeatAnswer | EdgehoneError]:
    """Take heartbeats of any nodes, several of one included, in their order.

    Args:
        wishes: says what each node is told.
        interval_s: until the next heartbeat.

    Returns:
        For each: the answer, or a TrustError for a node that is unknown or revoked.
    """
    known = _read(conn, {one.node for one in arrived})
    first = dict(known)
    answers: list[HeartbeatAnswer | EdgehoneError] = []
    seen_s: dict[str, float] = {}
    for one in arrived:
        before = known.get(one.node)
        if before is None or before.state == REVOKED:
            answers.append(TrustError("this node is not one of ours", do="enrol it with a new token"))
            continue
        fresh = secrets.token_hex(16)
        verdict = judge(before, one.beat, one.now_s, fresh)
        for swap in verdict.swaps:
            _record_swap(conn, one.node, swap, one.now_s)
        for action, detail in verdict.events:
            subject = actor = f"node:{one.node}"
            audit.record(conn, now_s=one.now_s, actor=actor, action=action, subject=subject[5:], detail=detail)
        facts = verdict.known.facts
        wish = wishes(conn, Asking(one.node, before.state, before.tags, facts, one.beat.tasks, one.now_s))
        usual = wants(one.beat, before, one.now_s)
        answers.append(
            HeartbeatAnswer(
                nonce=fresh, time_s=one.now_s, interval_s=interval_s, node_state=before.state,
                desired=wish.desired, policy=wish.policy, wants=_together(usual, wish.wants) if wish.wants else usual,
            )
        )  # fmt: skip
        known[one.node] = verdict.known
        seen_s[one.node] = one.now_s
    changed = [(id, known[id]) for id in known if known[id] is not first[id]]
    if changed:
        conn.execute(_UPDATE, [_row(id, after, seen_s[id]) for id, after in changed])
    return answers


_UPDATE = (
    update(node)
    .where(node.c.id == bindparam("id_"))
    .values(
        nonce=bindparam("nonce_"), facts=bindparam("facts_"), status=bindparam("status_"), beats=bindparam("beats_"),
        seen_s=bindparam("seen_"),
    )
)  # fmt: skip


def _row(id: str, known: Known, seen_s: float) -> dict[str, Any]:
    return {
        "id_": id, "nonce_": known.nonce, "facts_": known.facts, "status_": known.status, "beats_": known.beats,
        "seen_": seen_s,
    }  # fmt: skip


def _read(conn: Connection, ids: set[str]) -> dict[str, Known]:
    columns = (node.c.id, node.c.state, node.c.nonce, node.c.facts, node.c.status, node.c.beats, node.c.tags)
    found: dict[str, Known] = {}
    ordered = sorted(ids)
    for start in range(0, len(ordered), _CHUNK):
        query = select(*columns).where(node.c.id.in_(ordered[start : start + _CHUNK]))
        for id, *rest in conn.execute(query):
            found[id] = Known(*rest)
    return found


def _record_swap(conn: Connection, id: str, swap: Swap, now_s: float) -> None:
    is_open = (served.c.node == id) & (served.c.task == swap.task) & served.c.to_s.is_(None)
    conn.execute(update(served).where(is_open).values(to_s=now_s))
    if swap.digest is not None:
        conn.execute(
            insert(served).values(
                node=id, task=swap.task, digest=swap.digest, version=swap.version, member=swap.member,
                from_s=now_s, why=swap.why,
            )
        )  # fmt: skip
