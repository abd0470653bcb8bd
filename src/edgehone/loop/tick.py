"""The loop of a running core: looks at every task that has a policy, answers, and takes rounds on.

    loop = Loop(site)
    loop.tick(now_s)        # every few seconds, from one thread
    loop.close()

Rules:
- A task is looked at when something about it has changed, and at least every minute: times pass, too.
- Labels that look poisoned are put aside before anything is decided.
- Every answer is a row of `decision`. The same answer to the same news is written once a day, not at every look.
- A task whose policy or study cannot be used stops nobody else: the reason is a decision, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select

from edgehone.bundle import said as study_said
from edgehone.fleet import orders
from edgehone.fleet.nodes import QUARANTINED, set_state
from edgehone.loop import rounds
from edgehone.loop.diagnosis import ROUNDS, Diagnosis, Scope, diagnose
from edgehone.loop.policy import DAY_S, PREFIX, LoopPolicy, load_policy, policy_tasks
from edgehone.loop.process import Workers
from edgehone.loop.round import Kind, Round
from edgehone.loop.rounds import CORE, Site
from edgehone.loop.said import Heard
from edgehone.loop.sight import look, look_at_nodes
from edgehone.loop.trust import Suspect, settle, suspects
from edgehone.records import audit
from edgehone.records.tables import decision, evidence, feedback, node, setting
from edgehone.report.study_file import read as read_study
from edgehone_agent.errors import EdgehoneError, InputError

_LOG = logging.getLogger("edgehone.loop")
LOOK_S = 60.0
REPEAT_S = DAY_S
_NEWEST = 200  # decisions that are looked through for the same news


@dataclass(frozen=True)
class Looked:
    """When a task was last looked at, and what stood there then."""

    at_s: float
    mark: tuple[Any, ...]


class Loop:
    """Looks and acts. One thread at a time; `close` ends the training that it has started."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.workers = Workers()
        self._looked: dict[str, Looked] = {}
        self._heard: dict[str, Heard] = {}

    def tick(self, now_s: float) -> list[Round]:
        """Do what can be done now; rounds that have changed."""
        with self.site.database.read() as conn:
            tasks = policy_tasks(conn)
        changed = []
        for task in tasks:
            try:
                changed += self._one(task, now_s)
            except EdgehoneError as error:
                _LOG.error("%s: %s", task, error)
                self._tell(task, error, now_s)
        return changed

    def close(self) -> None:
        """End the training that runs; the next driver goes on with it."""
        self.workers.close()

    def _one(self, task: str, now_s: float) -> list[Round]:
        with self.site.database.read() as conn:
            policy, running, mark = load_policy(conn, task), rounds.current(conn, task), _mark(conn, task)
        if running is not None:
            after = rounds.advance(self.site, running, now_s, self.workers)
            return [after] if after != running else []
        before = self._looked.get(task)
        if policy is None or (before and before.mark == mark and 0 <= now_s - before.at_s < LOOK_S):
            return []
        begun = consider(self.site, policy, now_s, heard=self._heard.setdefault(task, Heard()))
        self._looked[task] = Looked(now_s, mark)
        return [] if begun is None else [rounds.advance(self.site, begun, now_s, self.workers)]

    def _tell(self, task: str, error: EdgehoneError, now_s: float) -> None:
        found = Diagnosis("trouble", "task", "", "labels", "nothing", str(error).splitlines()[0], {"code": error.code})
        try:
            with self.site.database.write() as conn:
                record(conn, task, found, now_s)
        except EdgehoneError as again:  # the database itself is the trouble
            _LOG.error("%s: %s", task, again)


def consider(
    site: Site, policy: LoopPolicy, now_s: float, *, asked: str = "", kind: Kind = "retrain",
    cohorts: Sequence[str] = (), heard: Heard | None = None,
) -> Round | None:  # fmt: skip
    """Look at a task, write down every answer, and begin a round when that is one.

    Args:
        site: where.
        policy: of the task.
        now_s: the core's clock.
        asked: who asks for a round by hand.
        kind, cohorts: of the round that is asked for; see `ask`.
        heard: what was read at the last look of this task, if it is at hand.

    Raises:
        InputError: the study of the policy cannot be read.
    """
    heard = heard or Heard()
    with site.database.read() as conn:
        study = read_study(Path(rounds.family(conn, policy)))
        is_classes, labels = study_said.text(study, "kind") == "classification", study_said.labels(study)
        said = heard.read(conn, policy.task, labels, is_classes=is_classes)
        nodes = look_at_nodes(conn, policy)
    drifted = {one.node for one in nodes if one.watch_level >= policy.drift_level}
    found = suspects(
        said, bound=policy.poison_bound, margin=policy.poison_margin, drifted=drifted, label_error=policy.label_error
    )
    if found:
        with site.database.write() as conn:
            _quarantine_labels(conn, policy.task, heard, found, now_s)
        with site.database.read() as conn:
            said = heard.read(conn, policy.task, labels, is_classes=is_classes)
    settled = settle(said, min_trust=policy.min_trust)
    with site.database.write() as conn:
        sight = look(
            conn, policy, settled, now_s, classes=len(labels) if is_classes else 0, asked=asked, asked_kind=kind,
            asked_cohorts=cohorts,
        )  # fmt: skip
        answers = diagnose(sight, policy)
        begun = _begin(conn, policy, answers, now_s, asked)
        for diagnosis in answers:
            if diagnosis.answer == "quarantine":
                set_state(conn, diagnosis.name, QUARANTINED, diagnosis.why, actor=CORE, now_s=now_s)
            is_round = diagnosis.answer in ROUNDS and begun is not None
            record(conn, policy.task, diagnosis, now_s, round=begun.id if begun is not None and is_round else None)
        _collect(conn, policy, [one for one in answers if one.answer == "collect"], now_s)
    return begun


def _begin(
    conn: Connection, policy: LoopPolicy, answers: Sequence[Diagnosis], now_s: float, asked: str
) -> Round | None:  # fmt: skip
    """Begin the round that is called for, if any; a retraining makes the drift references as well."""
    wanted = [one for kind in ROUNDS for one in answers if one.answer == kind]
    if not wanted:
        return None
    first = wanted[0]
    is_retraining = first.answer == "retrain"
    return rounds.begin(
        conn, policy, now_s=now_s, actor=asked or CORE, trigger=first.trigger, why=first.why,
        kind="retrain" if is_retraining else "re-baseline", cohorts=() if is_retraining else first.cohorts,
    )  # fmt: skip


def _collect(conn: Connection, policy: LoopPolicy, answers: Sequence[Diagnosis], now_s: float) -> None:
    """Ask nodes for samples, unless they are asked already; it ends by itself."""
    if not answers or not policy.collect_samples:
        return
    everybody = any(not one.cohorts for one in answers)
    cohorts = frozenset() if everybody else frozenset(name for one in answers for name in one.cohorts)
    asked = orders.load_orders(conn)[1].get(policy.task)
    if asked is not None and asked.until_s > now_s:
        is_fresh = asked.samples == policy.collect_samples and asked.until_s - now_s > policy.collect_s / 2
        if is_fresh and (not asked.cohorts or (cohorts and cohorts <= asked.cohorts)):
            return
        cohorts = cohorts | asked.cohorts if cohorts and asked.cohorts else frozenset()
    until_s = now_s + policy.collect_s
    orders.collect(conn, policy.task, policy.collect_samples, until_s, now_s, sorted(cohorts))
    told = {"samples": policy.collect_samples, "until_s": until_s, "cohorts": sorted(cohorts)}
    audit.record(conn, now_s=now_s, actor=CORE, action="loop.collect", subject=policy.task, detail=told)


def record(conn: Connection, task: str, found: Diagnosis, now_s: float, *, round: str | None = None) -> bool:
    """Write an answer down, unless the same answer to the same news stands there from the last day."""
    newest = select(decision).where(decision.c.task == task, decision.c.time_s > now_s - REPEAT_S)
    for row in conn.execute(newest.order_by(decision.c.id.desc()).limit(_NEWEST)):
        if row.evidence.get("subject") == found.subject:
            if row.answer == found.answer and round is None and found.trigger != "manual":
                return False
            break
    told = {
        **found.evidence, "scope": found.scope, "name": found.name, "kind": found.kind, "subject": found.subject,
    }  # fmt: skip
    conn.execute(
        insert(decision).values(
            task=task, time_s=now_s, trigger=found.trigger, answer=found.answer, why=found.why, evidence=told,
            round=round,
        )
    )  # fmt: skip
    return True


def ask(
    site: Site, task: str, *, actor: str, now_s: float, kind: Kind = "retrain", cohorts: Sequence[str] = ()
) -> Round:  # fmt: skip
    """Begin a round by hand.

    Args:
        site: where.
        task: whose round.
        actor: who asks.
        now_s: the core's clock.
        kind: a new model, or the same one with new drift references.
        cohorts: that get a new reference in a re-baseline; empty for all of which most nodes alarm.

    Raises:
        InputError: the task has no policy, or there is a reason not to begin, which is told.
    """
    if cohorts and kind != "re-baseline":
        raise InputError("cohorts are named for a re-baseline only", where=task, do="a retraining serves all of them")
    with site.database.read() as conn:
        policy = load_policy(conn, task)
    if policy is None:
        raise InputError(
            f"{task!r} has no policy", where="loop", do=f"give one: edgehone loop policy {task} --set FILE"
        )
    begun = consider(site, policy, now_s, asked=actor, kind=kind, cohorts=cohorts)
    if begun is not None:
        return begun
    with site.database.read() as conn:
        mine = select(decision.c.why).where(decision.c.task == task, decision.c.trigger == "manual")
        why = conn.execute(mine.order_by(decision.c.id.desc()).limit(1)).scalar()
    raise InputError(str(why or "nothing calls for a round"), where=task, do="see `edgehone loop history`")


def _quarantine_labels(conn: Connection, task: str, heard: Heard, found: list[Suspect], now_s: float) -> None:
    marked = heard.put_aside(conn, found)
    for suspect in found:
        rows = marked.get((suspect.kind, suspect.name), 0)
        if not rows:
            continue
        told: Mapping[str, Any] = {
            "rows": suspect.rows, "wrong": suspect.wrong, "limit": suspect.limit, "log_e": suspect.log_e,
            "put_aside": rows,
        }  # fmt: skip
        why = f"{rows} labels of {suspect.kind} {suspect.name} teach nothing: {suspect.why}"
        scope: Scope = "node" if suspect.kind == "node" else "task"
        what = Diagnosis("poison", scope, suspect.name, "labels", "quarantine", why, told)
        record(conn, task, what, now_s)
        audit.record(
            conn,
            now_s=now_s,
            actor=CORE,
            action="feedback.quarantine",
            subject=suspect.name,
            detail={**told, "why": why},
        )


def _mark(conn: Connection, task: str) -> tuple[Any, ...]:
    """Changes when there is something new to look at."""
    mine = feedback.c.task.in_((task, ""))
    said = conn.execute(select(func.count(), func.max(feedback.c.received_s)).where(mine)).one()
    seen = conn.execute(select(func.max(evidence.c.id)).where(evidence.c.task == task)).scalar()
    states = conn.execute(select(node.c.id, node.c.state).where(node.c.state != "active")).all()
    policy = conn.execute(select(setting.c.value).where(setting.c.key == PREFIX + task)).scalar()
    return (*said, seen, policy, *map(tuple, states))
