"""From triggers and evidence to answers: which nodes it is about, what has changed, and what to do. Pure.

The table, by scope (node, cohort, fleet) and kind (fault, input, output, risk); the first line that fits counts:

    a sensor stands still, is missing, or is far out, for     quarantine: what the node sends teaches nothing
        two reports and `fault_after_s`, and on no other
        node of its cohort the like began at that time
    the same, not for so long yet                             nothing, for now
    risk alarm, or drift with an audited drop                 retrain
    input drift on one node, no drop                          adapt, where the policy lets nodes learn by themselves
    drift, audited labels do not tell yet                     collect labels
    drift of one node of several, audited: risk is flat       nothing
    drift of a cohort or the fleet, audited: risk is flat     re-baseline, do not retrain; where readings are too few
        for that: collect
    enough corrected labels, asked for, or due by schedule    retrain
    a class that the model does not know                      nothing: it needs a new study

Guards, whatever the reason for a round:
    a round runs, cool-down, the week's budget                nothing, for now
    too few usable labels to retrain                          collect

A round that a person asks for waits for no cool-down and counts in no budget, and none that trains waits because of one
that did not. What is audited is the nodes that drift, since they do: a cohort that got worse must not hide behind a
fleet that did not. Labels that are known to be wrong now and then (`label_error`) are counted in; see
`edgehone_agent.watch.risk`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgehone.fleet.risk_test import LOG_PROOF, Count, log_above
from edgehone.loop.baseline import can_be_named, moved
from edgehone.loop.faults import together_s
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.sight import NodeSight, Sight
from edgehone.loop.triggers import Trigger, fired, most_wrong
from edgehone.units import format_duration

Scope = Literal["node", "cohort", "fleet", "task"]
Kind = Literal["fault", "input", "output", "risk", "labels"]
Answer = Literal["quarantine", "adapt", "re-baseline", "collect", "retrain", "nothing"]
ROUNDS: tuple[Answer, ...] = ("retrain", "re-baseline")
_HALF = 0.5
FAULT_REPORTS = 2  # in a row that show a fault, at the least


@dataclass(frozen=True)
class Finding:
    """One thing that has changed.

    Attributes:
        scope: how far it reaches; "task" for what is not about nodes.
        name: of the node or cohort; "" for the fleet.
        kind: what has changed.
        nodes: that show it.
        words: for people.
        is_pending: it has to last before it counts.
    """

    scope: Scope
    name: str
    kind: Kind
    nodes: tuple[NodeSight, ...] = ()
    words: str = ""
    is_pending: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """An answer to a finding.

    Attributes:
        trigger: name of what called for it.
        scope, name, kind: of the finding.
        answer: what is done.
        why: for people.
        evidence: figures behind it (JSON).
        cohorts: whose nodes it is about; empty for all.
    """

    trigger: str
    scope: Scope
    name: str
    kind: Kind
    answer: Answer
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cohorts: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What it is about: two answers about the same are the same news."""
        return f"{self.scope} {self.name} {self.kind} {self.trigger}"


def diagnose(sight: Sight, policy: LoopPolicy) -> tuple[Diagnosis, ...]:
    """Every answer that is called for now; together they need at most one round."""
    triggers = {trigger.name: trigger for trigger in fired(sight, policy)}
    found = findings(sight, policy)
    answers = [
        _about_nodes(finding, triggers, sight, policy, audit(sight, policy, finding.nodes, tests=len(found)))
        for finding in found
    ]
    answers += [_about_task(trigger, sight, policy) for trigger in triggers.values() if trigger.name not in _OF_NODES]
    if sight.asked and sight.asked_kind == "re-baseline":  # what a person wants comes first, training after it
        later = "later: a person asked for new drift references first"
        answers = [
            replace(one, answer="nothing", why=f"{one.why}; {later}") if one.answer == "retrain" else one
            for one in answers
        ]
    return _one_round(answers)


def findings(sight: Sight, policy: LoopPolicy) -> tuple[Finding, ...]:
    """What has changed, and where: faults one by one, the rest by how far it reaches."""
    found = _faults(sight, policy)
    faulty = {one.name for one in found}
    whole = [one for one in sight.nodes if one.node not in faulty]
    alarms: dict[Kind, list[NodeSight]] = {
        "risk": [one for one in whole if one.risk_level >= policy.risk_level],
        "input": [one for one in whole if one.watch_level >= policy.drift_level and not one.is_output],
        "output": [one for one in whole if one.watch_level >= policy.drift_level and one.is_output],
    }
    for kind, nodes in alarms.items():
        found += _scopes(kind, nodes, whole)
    return tuple(found)


def _faults(sight: Sight, policy: LoopPolicy) -> list[Finding]:
    """Nodes with a broken sensor, and how that shows.

    Not many sensors break at once. Where most nodes of a cohort of several show it, or of the fleet, the world has
    changed: a place lies in the dark. The first of them must not be taken for broken: it has to stay that way for a
    while, and where it begins on another node of its cohort at that time, it is the place. Readings far out may be the
    place of a node that is alone in its cohort as well; a sensor that stands still is broken there, too.
    """
    nodes = sight.nodes
    troubled = [one for one in nodes if one.watch_level >= policy.drift_level and (one.fault or one.beyond)]
    found = []
    for one in troubled:
        peers = [other for other in nodes if other.cohort == one.cohort and other.node != one.node]
        words = one.fault or (one.beyond if peers else "")
        if not words or _is_shared(one, troubled, nodes) or _begins_elsewhere(one, troubled, policy):
            continue
        has_stayed = one.trouble_s is not None and sight.now_s - one.trouble_s >= policy.fault_after_s
        is_pending = one.reports < FAULT_REPORTS or not has_stayed
        found.append(Finding("node", one.node, "fault", (one,), words, is_pending))
    return found


def _begins_elsewhere(one: NodeSight, troubled: Sequence[NodeSight], policy: LoopPolicy) -> bool:
    """Whether trouble began on another node of its cohort at about the same time."""
    if one.trouble_s is None:
        return False
    apart_s = together_s(policy.fault_after_s)
    return any(
        other.cohort == one.cohort and other.trouble_s is not None and abs(other.trouble_s - one.trouble_s) <= apart_s
        for other in troubled
        if other.node != one.node
    )


def _is_shared(one: NodeSight, some: Sequence[NodeSight], nodes: Sequence[NodeSight]) -> bool:
    """Whether most nodes of its cohort, or of the fleet, show what it shows."""
    mine, peers = ([other for other in group if other.cohort == one.cohort] for group in (some, nodes))
    return _is_most(some, nodes) or _is_most(mine, peers)


def _is_most(some: Sequence[NodeSight], all_: Sequence[NodeSight]) -> bool:
    return len(some) > 1 and len(some) > _HALF * len(all_)


@dataclass(frozen=True)
class Audit:
    """What labels of uniformly drawn samples say, with a sentence.

    "dropped" and "flat" are both proven: the model errs more than is tolerated, or it does not err more by the policy's
    `flat_margin`. That no drop is proven yet does not make it flat; then it is "unknown".
    """

    state: Literal["flat", "dropped", "unknown"]
    words: str


def audit(sight: Sight, policy: LoopPolicy, nodes: Sequence[NodeSight] = (), *, tests: int = 1) -> Audit:
    """Whether the model errs more than was measured, or does not, by audited labels.

    Args:
        sight: what is seen.
        policy: of the task.
        nodes: whose labels; empty for all.
        tests: how many such questions are asked at once: the bound of 1 in 20 is for all of them together.
    """
    count, measured = sight.labels.count(nodes), sight.labels.baseline
    if measured is None:
        return Audit("unknown", "no measured share of errors to compare with")
    if count.rows < policy.min_audited:
        return Audit("unknown", f"{count.rows} audited labels are there, {policy.min_audited} are needed")
    words = f"{count.wrong} of {count.rows} audited answers were wrong, {measured:.1%} was measured"
    if policy.label_error and sight.labels.classes:
        words += f" and {policy.label_error:.0%} of the labels are wrong themselves"
    proof = LOG_PROOF + math.log(max(1, tests))
    limit = most_wrong(measured, policy.tolerance, sight.labels.classes, policy)
    if count.wrong > limit * count.rows and log_above(count, limit) >= proof:
        return Audit("dropped", words)
    limit = most_wrong(measured, max(policy.flat_margin, policy.tolerance), sight.labels.classes, policy)
    right = Count(count.rows, count.rows - count.wrong)
    if count.wrong < limit * count.rows and log_above(right, 1 - limit) >= proof:
        return Audit("flat", words)
    return Audit("unknown", f"{words}, and more labels are needed to tell")


def _scopes(kind: Kind, alarmed: Sequence[NodeSight], nodes: Sequence[NodeSight]) -> list[Finding]:
    """The fleet where most of its nodes alarm, else cohorts where most of theirs do, else single nodes."""
    if _is_most(alarmed, nodes):
        return [Finding("fleet", "", kind, tuple(alarmed), f"on {len(alarmed)} of {len(nodes)} nodes")]
    found = []
    for name in sorted({one.cohort for one in alarmed}):
        mine = [one for one in alarmed if one.cohort == name]
        peers = [one for one in nodes if one.cohort == name]
        if _is_most(mine, peers):
            found.append(Finding("cohort", name, kind, tuple(mine), f"on {len(mine)} of {len(peers)} nodes of {name}"))
        else:
            found += [Finding("node", one.node, kind, (one,), f"on node {one.title} alone") for one in mine]
    return found


_OF_NODES = ("risk", "drift")


def _about_nodes(
    finding: Finding, triggers: Mapping[str, Trigger], sight: Sight, policy: LoopPolicy, known: Audit
) -> Diagnosis:
    trigger = triggers["risk" if finding.kind == "risk" else "drift"]
    seen = tuple(sorted({one.cohort for one in finding.nodes}))

    def answer(what: Answer, why: str, cohorts: Sequence[str] = seen) -> Diagnosis:
        evidence = {**_figures(sight), "nodes": [_shown(one) for one in finding.nodes[:20]], "trigger": trigger.why}
        return Diagnosis(trigger.name, finding.scope, finding.name, finding.kind, what, why, evidence, tuple(cohorts))

    if finding.is_pending:
        return answer("nothing", f"{finding.words}; if it stays so, and only here, it is a fault of the sensor")
    if finding.kind == "fault":
        why = f"{finding.words}: a sensor fault of one node, not a change of the world; its data teaches nothing"
        return answer("quarantine", why)
    if finding.kind == "risk":
        return _retrain(answer, f"labels {finding.words} show more errors than were measured", sight, policy)
    what = "what is seen" if finding.kind == "input" else "what is answered"
    news = f"{what} has changed {finding.words}"
    if known.state == "dropped":
        return _retrain(answer, f"{news}, and {known.words}", sight, policy)
    if any(one.risk_level >= policy.risk_level for one in finding.nodes):
        return answer("nothing", f"{news}; its labels alarm as well, which is answered on its own")
    if finding.scope == "node" and finding.kind == "input" and policy.learn:
        how = _HOW[policy.learn]
        return answer("adapt", f"{news}; no drop is shown ({known.words}): the node {how} by itself")
    if known.state == "unknown":
        return answer("collect", f"{news}; whether answers got worse is not known: {known.words}")
    flat = f"{news}, but errors have not: {known.words}"
    if finding.scope == "node" and any(one.cohort in seen for one in sight.nodes if one not in finding.nodes):
        more = "" if policy.learn else "; the policy lets no node adapt by itself (node_learning), so it stays as it is"
        return answer("nothing", flat + (more if finding.kind == "input" else ""))
    return _re_baseline(answer, flat, finding, sight, policy)


_HOW = {"statistics": "estimates its input statistics again", "last-layer": "learns its last layer from its labels"}


def _re_baseline(answer: Any, why: str, finding: Finding, sight: Sight, policy: LoopPolicy) -> Diagnosis:
    """A new drift reference for the cohorts of a finding, if readings and guards let it."""
    cohorts = sorted(moved([one.place for one in sight.nodes]) & {one.cohort for one in finding.nodes})
    return _new_references(answer, why, cohorts, sight, policy)


def _new_references(
    answer: Any, why: str, cohorts: Sequence[str], sight: Sight, policy: LoopPolicy, *, is_asked: bool = False
) -> Diagnosis:
    found: Diagnosis
    last_s = max(_known(sight.ended_s, sight.rebased_s), default=None)
    named = [name for name in cohorts if can_be_named(name)]
    enough = [name for name in named if sight.readings.get(name, 0) >= policy.card_readings]
    there = ", ".join(f"{name}: {sight.readings.get(name, 0)}" for name in named if name not in enough)
    short = f"a reference needs {policy.card_readings} uniformly drawn readings of a cohort, and here are {there}"
    if not named:
        called = ", ".join(cohorts) or "of single nodes"
        found = answer("nothing", f"{why}; a bundle can hold no reference {called}")
    elif not enough:
        found = answer("collect", f"{why}; {short}", named)
    elif blocked := _blocked(sight, policy, last_s=last_s, is_asked=is_asked):
        found = answer("nothing", f"{why}; {blocked}")
    else:
        what = "the new normal needs no new model, but a reference of its own"
        found = answer("re-baseline", f"{why}; {what}{f'; later: {short}' if there else ''}", enough)
    return found


def _about_task(trigger: Trigger, sight: Sight, policy: LoopPolicy) -> Diagnosis:
    def answer(what: Answer, why: str, cohorts: Sequence[str] = ()) -> Diagnosis:
        evidence = {**_figures(sight), **trigger.evidence}
        return Diagnosis(trigger.name, "task", "", "labels", what, why, evidence, tuple(cohorts))

    if trigger.name == "new class":
        return answer("nothing", f"{trigger.why}; add it to the task and start a new study, a round cannot learn it")
    if trigger.name == "manual" and sight.asked_kind == "re-baseline":
        return _re_baseline_by_hand(answer, trigger.why, sight, policy)
    return _retrain(answer, trigger.why, sight, policy, is_asked=trigger.name == "manual")


def _re_baseline_by_hand(answer: Any, why: str, sight: Sight, policy: LoopPolicy) -> Diagnosis:
    """New drift references because a person says that what is seen is the new normal: no audit has to show it."""
    found: Diagnosis
    have_moved = moved([one.place for one in sight.nodes])
    wanted = sight.asked_cohorts or tuple(sorted(have_moved))
    calm = [name for name in wanted if name not in have_moved]
    if calm or not wanted:
        what = f"in {', '.join(calm)} most nodes do" if calm else "most nodes of every cohort do"
        found = answer("nothing", f"{why}, but {what} not alarm: there is nothing new to make a reference of")
    else:
        found = _new_references(answer, why, wanted, sight, policy, is_asked=True)
    return found


def _retrain(answer: Any, why: str, sight: Sight, policy: LoopPolicy, *, is_asked: bool = False) -> Diagnosis:
    """Retrain, if every guard lets it."""
    found: Diagnosis
    blocked = _blocked(sight, policy, last_s=sight.ended_s, is_asked=is_asked)
    if policy.where != "core" and not sight.is_running:
        found = answer("adapt", f"{why}; the policy lets this task learn on its nodes only ({policy.where})")
    elif blocked:
        found = answer("nothing", f"{why}; {blocked}")
    elif sight.labels.usable < policy.min_labels:
        short = ", ".join(f"{name}: {n}" for name, n in sorted(sight.labels.short.items()))
        rest = f"; classes with fewer than {policy.min_labels_per_class} do not count ({short})" if short else ""
        needed = f"{sight.labels.usable} usable labels are there, {policy.min_labels} are needed{rest}"
        found = answer("collect", f"{why}; {needed}")
    elif sight.is_refused and not is_asked and sight.labels.new < policy.min_labels:
        few = f"only {sight.labels.new} labels have come since, and {policy.min_labels} are needed to try again"
        found = answer("collect", f"{why}; the last round was refused, {few}")
    else:
        found = answer("retrain", why)
    return found


def _known(*times_s: float | None) -> list[float]:
    return [one for one in times_s if one is not None]


def _blocked(sight: Sight, policy: LoopPolicy, *, last_s: float | None, is_asked: bool = False) -> str:
    """Why no round may begin now; "" when one may."""
    if sight.is_running:
        return "a round runs already"
    if not is_asked and last_s is not None and 0 <= sight.now_s - last_s < policy.cool_down_s:
        left_s = policy.cool_down_s - (sight.now_s - last_s)
        return f"the last round has ended, the next may begin in {format_duration(left_s)}"
    if not is_asked and sight.rounds_this_week >= policy.rounds_per_week:
        return f"{sight.rounds_this_week} rounds began this week, which is the budget"
    return ""


def _one_round(answers: Sequence[Diagnosis]) -> tuple[Diagnosis, ...]:
    """All of them, but of several reasons for a kind of round one, which tells the others.

    A round that retrains makes the references of all cohorts anew: a re-baseline beside it is part of it.
    """
    found = [one for one in answers if one.answer not in ROUNDS]
    for kind in ROUNDS:
        mine = [one for one in answers if one.answer == kind]
        if mine:
            cohorts = tuple(sorted({name for one in mine for name in one.cohorts}))
            found.append(replace(mine[0], why="; ".join(dict.fromkeys(one.why for one in mine)), cohorts=cohorts))
    return tuple(found)


def _figures(sight: Sight) -> dict[str, Any]:
    labels, audited = sight.labels, sight.labels.count()
    return {
        "labels": {
            "usable": labels.usable, "new": labels.new, "corrected": labels.corrected, "audited": audited.rows,
            "audited_wrong": audited.wrong, "baseline": labels.baseline, "short": dict(labels.short),
        },
        "readings": dict(sight.readings), "reporting": len(sight.nodes),
    }  # fmt: skip


def _shown(one: NodeSight) -> dict[str, Any]:
    shown = {
        "node": one.node, "cohort": one.cohort, "watch": one.watch_level, "risk": one.risk_level, "rows": one.rows,
        "channel": f"{one.channel} {one.direction}".strip(), "evidence": one.evidence,
    }  # fmt: skip
    return {**shown, "fault": one.fault} if one.fault else shown
