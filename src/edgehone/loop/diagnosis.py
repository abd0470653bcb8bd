"""From triggers and evidence to answers: which nodes it is about, what has changed, and what to do. Pure.

The table, by scope (node, cohort, fleet) and kind (fault, input, output, risk); the first line that fits counts:

    fault on fewer than half of the nodes                     quarantine: what the node sends teaches nothing
    risk alarm, or drift with an audited drop                 retrain
    input drift on one node, no drop                          adapt its statistics
    drift of a cohort or the fleet, audited: risk is flat     re-baseline, do not retrain
    output drift on one node, audited: risk is flat           nothing
    drift, too few audited labels to know the risk            collect labels
    enough corrected labels, asked for, or due by schedule    retrain
    a class that the model does not know                      nothing: it needs a new study

Guards, whatever the reason to retrain:
    a round runs, cool-down, the week's budget                nothing, for now
    too few usable labels                                     collect

A round that a person asks for waits for no cool-down and counts in no budget.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgehone.fleet.risk_test import LOG_PROOF, Count, log_above
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.sight import NodeSight, Sight
from edgehone.loop.triggers import Trigger, fired
from edgehone.units import format_duration

Scope = Literal["node", "cohort", "fleet", "task"]
Kind = Literal["fault", "input", "output", "risk", "labels"]
Answer = Literal["quarantine", "adapt", "re-baseline", "collect", "retrain", "nothing"]
_HALF = 0.5


@dataclass(frozen=True)
class Finding:
    """One thing that has changed.

    Attributes:
        scope: how far it reaches; "task" for what is not about nodes.
        name: of the node or cohort; "" for the fleet.
        kind: what has changed.
        nodes: that show it.
        words: for people.
    """

    scope: Scope
    name: str
    kind: Kind
    nodes: tuple[NodeSight, ...] = ()
    words: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """An answer to a finding.

    Attributes:
        trigger: name of what called for it.
        scope, name, kind: of the finding.
        answer: what is done.
        why: for people.
        evidence: figures behind it (JSON).
    """

    trigger: str
    scope: Scope
    name: str
    kind: Kind
    answer: Answer
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What it is about: two answers about the same are the same news."""
        return f"{self.scope} {self.name} {self.kind} {self.trigger}"


def diagnose(sight: Sight, policy: LoopPolicy) -> tuple[Diagnosis, ...]:
    """Every answer that is called for now, at most one of them "retrain"."""
    triggers = {trigger.name: trigger for trigger in fired(sight, policy)}
    risk_state = audit(sight, policy)
    answers = [
        _about_nodes(finding, triggers, sight, policy, risk_state) for finding in findings(sight, policy)
    ]  # fmt: skip
    answers += [_about_task(trigger, sight, policy) for trigger in triggers.values() if trigger.name not in _OF_NODES]
    return _one_round(answers)


def findings(sight: Sight, policy: LoopPolicy) -> tuple[Finding, ...]:
    """What has changed, and where: faults one by one, the rest by how far it reaches."""
    broken = [one for one in sight.nodes if one.fault and one.watch_level >= policy.drift_level]
    if len(broken) > _HALF * len(sight.nodes) and len(broken) > 1:
        broken = []  # not many sensors break at once: the world has changed
    whole = [one for one in sight.nodes if one not in broken]
    found = [Finding("node", one.node, "fault", (one,), one.fault) for one in broken]
    alarms: dict[Kind, list[NodeSight]] = {
        "risk": [one for one in whole if one.risk_level >= policy.risk_level],
        "input": [one for one in whole if one.watch_level >= policy.drift_level and not one.is_output],
        "output": [one for one in whole if one.watch_level >= policy.drift_level and one.is_output],
    }
    for kind, nodes in alarms.items():
        found += _scopes(kind, nodes, whole)
    return tuple(found)


@dataclass(frozen=True)
class Audit:
    """What labels of uniformly drawn samples say: "flat", "dropped" or "unknown", with a sentence."""

    state: Literal["flat", "dropped", "unknown"]
    words: str


def audit(sight: Sight, policy: LoopPolicy) -> Audit:
    """Whether the model errs more than was measured, by the audited labels of the whole task."""
    rows, wrong, baseline = sight.labels.audited, sight.labels.audited_wrong, sight.labels.baseline
    if baseline is None:
        return Audit("unknown", "no measured share of errors to compare with")
    if rows < policy.min_audited:
        return Audit("unknown", f"{rows} audited labels are there, {policy.min_audited} are needed")
    limit = min(baseline + policy.tolerance, 0.999)
    words = f"{wrong} of {rows} audited answers were wrong, {baseline:.1%} was measured"
    is_proven = wrong > limit * rows and log_above(Count(rows, wrong), limit) >= LOG_PROOF
    return Audit("dropped" if is_proven else "flat", words)


def _scopes(kind: Kind, alarmed: Sequence[NodeSight], nodes: Sequence[NodeSight]) -> list[Finding]:
    """The fleet where most of its nodes alarm, else cohorts where most of theirs do, else single nodes."""
    if len(alarmed) > 1 and len(alarmed) > _HALF * len(nodes):
        return [Finding("fleet", "", kind, tuple(alarmed), f"on {len(alarmed)} of {len(nodes)} nodes")]
    cohorts: dict[str, list[NodeSight]] = defaultdict(list)
    for one in alarmed:
        cohorts[one.cohort].append(one)
    found = []
    for name, mine in sorted(cohorts.items()):
        size = sum(one.cohort == name for one in nodes)
        if len(mine) > 1 and len(mine) > _HALF * size:
            found.append(Finding("cohort", name, kind, tuple(mine), f"on {len(mine)} of {size} nodes of {name}"))
        else:
            found += [Finding("node", one.node, kind, (one,), f"on node {one.node} alone") for one in mine]
    return found


_OF_NODES = ("risk", "drift")


def _about_nodes(
    finding: Finding, triggers: Mapping[str, Trigger], sight: Sight, policy: LoopPolicy, known: Audit
) -> Diagnosis:
    trigger = triggers["risk" if finding.kind == "risk" else "drift"]

    def answer(what: Answer, why: str) -> Diagnosis:
        evidence = {**_figures(sight), "nodes": [_shown(one) for one in finding.nodes[:20]], "trigger": trigger.why}
        return Diagnosis(trigger.name, finding.scope, finding.name, finding.kind, what, why, evidence)

    if finding.kind == "fault":
        why = f"{finding.words}: a sensor fault of one node, not a change of the world; its data teaches nothing"
        return answer("quarantine", why)
    if finding.kind == "risk":
        return _retrain(answer, f"labels {finding.words} show more errors than were measured", sight, policy)
    what = "what is seen" if finding.kind == "input" else "what is answered"
    moved = f"{what} has changed {finding.words}"
    if known.state == "dropped":
        return _retrain(answer, f"{moved}, and {known.words}", sight, policy)
    if any(one.risk_level >= policy.risk_level for one in finding.nodes):
        return answer("nothing", f"{moved}; its labels alarm as well, which is answered on its own")
    if finding.scope == "node" and finding.kind == "input":
        return answer("adapt", f"{moved}; no drop is shown ({known.words}): its input statistics are estimated again")
    if known.state == "unknown":
        return answer("collect", f"{moved}; whether answers got worse is not known: {known.words}")
    if finding.scope == "node":
        return answer("nothing", f"{moved}, but errors have not: {known.words}")
    return answer("re-baseline", f"{moved}, but errors have not: {known.words}; the new normal needs no new model")


def _about_task(trigger: Trigger, sight: Sight, policy: LoopPolicy) -> Diagnosis:
    def answer(what: Answer, why: str) -> Diagnosis:
        evidence = {**_figures(sight), **trigger.evidence}
        return Diagnosis(trigger.name, "task", "", "labels", what, why, evidence)

    if trigger.name == "new class":
        return answer("nothing", f"{trigger.why}; add it to the task and start a new study, a round cannot learn it")
    return _retrain(answer, trigger.why, sight, policy, is_asked=trigger.name == "manual")


def _retrain(answer: Any, why: str, sight: Sight, policy: LoopPolicy, *, is_asked: bool = False) -> Diagnosis:
    """Retrain, if every guard lets it."""
    found: Diagnosis
    if sight.is_running:
        found = answer("nothing", f"{why}; a round runs already")
    elif policy.where != "core":
        found = answer("adapt", f"{why}; the policy lets this task learn on its nodes only ({policy.where})")
    elif not is_asked and sight.ended_s is not None and 0 <= sight.now_s - sight.ended_s < policy.cool_down_s:
        left_s = policy.cool_down_s - (sight.now_s - sight.ended_s)
        found = answer("nothing", f"{why}; the last round has ended, the next may begin in {format_duration(left_s)}")
    elif not is_asked and sight.rounds_this_week >= policy.rounds_per_week:
        found = answer("nothing", f"{why}; {sight.rounds_this_week} rounds began this week, which is the budget")
    elif sight.labels.usable < policy.min_labels:
        short = ", ".join(f"{name}: {n}" for name, n in sorted(sight.labels.short.items()))
        rest = f"; classes with fewer than {policy.min_labels_per_class} do not count ({short})" if short else ""
        needed = f"{sight.labels.usable} usable labels are there, {policy.min_labels} are needed{rest}"
        found = answer("collect", f"{why}; {needed}")
    else:
        found = answer("retrain", why)
    return found


def _one_round(answers: Sequence[Diagnosis]) -> tuple[Diagnosis, ...]:
    """All of them, but of several reasons to retrain one, which tells the others."""
    rounds = [one for one in answers if one.answer == "retrain"]
    if len(rounds) < 2:
        return tuple(answers)
    why = "; ".join(dict.fromkeys(one.why for one in rounds))
    first = rounds[0]
    one = Diagnosis(first.trigger, first.scope, first.name, first.kind, "retrain", why, first.evidence)
    return (*(other for other in answers if other.answer != "retrain"), one)


def _figures(sight: Sight) -> dict[str, Any]:
    labels = sight.labels
    return {
        "labels": {
            "usable": labels.usable, "new": labels.new, "corrected": labels.corrected, "audited": labels.audited,
            "audited_wrong": labels.audited_wrong, "baseline": labels.baseline, "short": dict(labels.short),
        },
        "reporting": len(sight.nodes),
    }  # fmt: skip


def _shown(one: NodeSight) -> dict[str, Any]:
    shown = {
        "node": one.node, "cohort": one.cohort, "watch": one.watch_level, "risk": one.risk_level, "rows": one.rows,
        "channel": f"{one.channel} {one.direction}".strip(), "evidence": one.evidence,
    }  # fmt: skip
    return {**shown, "fault": one.fault} if one.fault else shown
