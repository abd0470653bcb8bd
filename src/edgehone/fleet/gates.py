"""The gates that judge a step of a rollout: values in, a verdict with its figures and its words out. Pure.

A verdict says one of
    pass     looked at, and good
    fail     the release goes back
    wait     there will be more to look at; the step goes on when the gate has said something else
    no say   nothing to judge by (no labels, no reference); never holds anything up

Bounds:
- agreement and risk are bets (see `risk_test`): a release that is at the limit and not beyond it is sent back by such a
  gate with a chance of at most 1 in 20, however often it is looked at; a release that is worse than the old one by the
  margin gets the risk gate's "pass" with a chance of at most 1 in 20.
- latency and memory are medians over nodes of new / old, each node compared with itself.
- crashes, drift and silence compare shares of nodes; each watch alarm in them carries its own bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from edgehone.fleet.observed import NodeView, Watched, known_fields
from edgehone.fleet.risk_test import LOG_PROOF, Comparison, Count, compare, compare_paired, log_above
from edgehone_agent.errors import InputError
from edgehone_agent.watch.risk import RiskDetector

Says = Literal["pass", "fail", "wait", "no say"]
Pairs = Sequence[tuple[Watched, NodeView]]

ALARM = 2  # the watch level that counts as drift: evidence of 1e5
MARGIN = 0.25  # how far the share of touched nodes with a trouble may be above that of the others


@dataclass(frozen=True)
class Limits:
    """What a release may cost.

    Attributes:
        flip_rate: share of answers in which new and old differed when the release was made; None when not known.
        flip_rows: how many rows that is the share of; 0 when it is a limit that was set, not measured.
        flip_tolerance: how far above nobody minds.
        latency_ratio: largest median over nodes of new / old latency.
        latency_slack_us: a rise below this is never too much: it is noise on any node.
        latency_us: slowest median over nodes, from the manifest; None for no bound.
        memory_ratio, memory_slack_bytes: the same for memory.
        failed_share: share of the step's nodes that may fail to take it, or crash with it.
        risk_margin: how much more often than the old model it may err.
    """

    flip_rate: float | None = None
    flip_rows: int = 0
    flip_tolerance: float = 0.01
    latency_ratio: float = 1.5
    latency_slack_us: float = 50.0
    latency_us: float | None = None
    memory_ratio: float = 1.5
    memory_slack_bytes: int = 16 << 20
    failed_share: float = 0.05
    risk_margin: float = 0.02

    def __post_init__(self) -> None:
        shares = (self.flip_tolerance, self.failed_share, self.risk_margin, self.flip_rate or 0.0)
        if not all(0 <= share < 1 for share in shares) or min(self.latency_ratio, self.memory_ratio) < 1:
            raise InputError(
                "a limit of the rollout is out of range",
                where="limits",
                do="choose shares from 0 to below 1, and ratios of at least 1",
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Limits:
        """Read one back; fields it does not know are dropped. Raises StateError."""
        return known_fields(cls, data)


@dataclass(frozen=True)
class Verdict:
    """What a gate says: its name, the answer, the figures it comes from, and a sentence for people."""

    gate: str
    says: Says
    figures: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""


@dataclass(frozen=True)
class Step:
    """What the gates look at.

    Attributes:
        version: that is rolled out.
        shadow: it answers beside the old one, unseen.
        watched: nodes of this step that are not quarantined or gone, with what they are like now.
        others: nodes that the release has not touched, likewise, since the step began.
        bystanders: whether there are online nodes that it has not touched, whoever they are.
        rows: shadow rows that are wanted.
        overdue: the patience with its nodes has run out.
        rows_overdue: the time to wait for these rows has run out.
    """

    version: int
    shadow: bool
    watched: Pairs
    others: Pairs = ()
    bystanders: bool = False
    rows: int = 0
    overdue: bool = False
    rows_overdue: bool = False

    def taken(self) -> list[tuple[Watched, NodeView]]:
        """Those that have the release now."""
        return [pair for pair in self.watched if took(pair[1], self.version, shadow=self.shadow)]


def took(view: NodeView, version: int, *, shadow: bool) -> bool:
    """Whether a node has the release of a step: as what answers, or as its shadow."""
    if shadow:
        return view.status.shadow is not None and view.status.shadow.version == version
    return view.has(version)


def judge(step: Step, limits: Limits) -> tuple[Verdict, ...]:
    """Every gate's verdict. Labels outrank agreement: whoever is shown to be no worse may differ."""
    gates: tuple[Callable[[Step, Limits], Verdict], ...] = (crashes, silence, latency, memory, drift)
    verdicts = [gate(step, limits) for gate in gates]
    by_labels = risk(step, limits)
    if step.shadow:
        verdicts.append(agreement(step, limits, by_labels))
    return (*verdicts, by_labels)


def crashes(step: Step, limits: Limits) -> Verdict:
    """Nodes that failed to take it, or crashed or stopped answering with it."""
    bad = [view.id for before, view in step.watched if _broke(before, view, step)]
    count = len(step.watched)
    figures = {"nodes": count, "bad": len(bad), "names": bad[:10]}
    if len(bad) > limits.failed_share * count:
        return Verdict("crashes", "fail", figures, f"{len(bad)} of {count} nodes failed to take it or crashed with it")
    if not step.taken():
        return Verdict("crashes", "no say", figures, "no node has it yet")
    return Verdict("crashes", "pass", figures, f"{len(bad)} of {count} nodes failed with it")


def silence(step: Step, limits: Limits) -> Verdict:  # noqa: ARG001  every gate takes both
    """Nodes that were offered it and were not heard of again, though others are."""
    heard = [view for before, view in step.watched if before.heard]
    gone = sum(not view.online for view in heard)
    known = bool(step.others) or step.bystanders
    others_gone = sum(not view.online for _, view in step.others)
    others_share = others_gone / len(step.others) if step.others else 0.0
    figures = {"heard": len(heard), "gone": gone, "others": len(step.others), "others_gone": others_gone}
    if not step.overdue or not gone:
        return Verdict("silence", "pass" if heard else "no say", figures, f"{gone} of {len(heard)} nodes are silent")
    words = f"{gone} of {len(heard)} nodes are silent since they were offered it, {others_share:.0%} of the others"
    if not known:
        return Verdict("silence", "no say", figures, f"{words}; nobody else is there to compare with")
    share = gone / len(heard)
    return Verdict("silence", "fail" if share > 0.5 and share > others_share + MARGIN else "pass", figures, words)


def latency(step: Step, limits: Limits) -> Verdict:
    """The median over nodes of new / old, each as that node measured it when it loaded the model."""
    pairs = [
        (old, new)
        for before, view in step.taken()
        if (old := view.status.latency_us if step.shadow else before.latency_us) and (new := _latency_us(view, step))
    ]
    if not pairs:
        return Verdict("latency", "no say", {"nodes": 0}, "no node has measured both")
    ratio, new_us = median(new / old for old, new in pairs), median(new for _, new in pairs)
    rise_us = median(new - old for old, new in pairs)
    figures = {"nodes": len(pairs), "ratio": ratio, "latency_us": new_us, "rise_us": rise_us}
    words = f"{ratio:.2f} times as long as before, {new_us:.0f} µs"
    if limits.latency_us is not None and new_us > limits.latency_us:
        return Verdict("latency", "fail", figures, f"{words}; the manifest allows {limits.latency_us:.0f} µs")
    if ratio > limits.latency_ratio and rise_us > limits.latency_slack_us:
        return Verdict("latency", "fail", figures, f"{words}; {limits.latency_ratio:g} times is allowed")
    return Verdict("latency", "pass", figures, words)


def memory(step: Step, limits: Limits) -> Verdict:
    """The median over nodes of new / old memory; a shadow's memory is not known."""
    pairs = [
        (before.memory_bytes, view.status.memory_bytes)
        for before, view in ([] if step.shadow else step.taken())
        if before.memory_bytes and view.status.memory_bytes
    ]
    if not pairs:
        return Verdict("memory", "no say", {"nodes": 0}, "no node has measured both")
    ratio, rise_bytes = median(new / old for old, new in pairs), median(new - old for old, new in pairs)
    figures = {"nodes": len(pairs), "ratio": ratio, "rise_bytes": rise_bytes}
    bad = ratio > limits.memory_ratio and rise_bytes > limits.memory_slack_bytes
    return Verdict("memory", "fail" if bad else "pass", figures, f"{ratio:.2f} times the memory of before")


def drift(step: Step, limits: Limits) -> Verdict:  # noqa: ARG001  every gate takes both
    """The watch alarms on nodes that took it, and not on those that did not: the card is not of this world."""
    pairs = [] if step.shadow else step.taken()
    if not pairs or not step.others:
        return Verdict("drift", "no say", {"nodes": len(pairs), "others": len(step.others)}, "nothing to compare with")
    rose = sum(_rose(*pair) for pair in pairs)
    others_rose = sum(_rose(*pair) for pair in step.others)
    figures = {"nodes": len(pairs), "rose": rose, "others": len(step.others), "others_rose": others_rose}
    bad = rose / len(pairs) > others_rose / len(step.others) + MARGIN
    words = f"the watch alarmed on {rose} of {len(pairs)} nodes, and on {others_rose} of {len(step.others)} without it"
    return Verdict("drift", "fail" if bad else "pass", figures, words)


def agreement(step: Step, limits: Limits, by_labels: Verdict) -> Verdict:
    """How often shadow and champion answer differently, against what the release's own study measured."""
    shadows = [view.status.shadow for _, view in step.taken() if view.status.shadow is not None]
    count = Count(sum(shadow.rows for shadow in shadows), sum(shadow.disagreements for shadow in shadows))
    share = count.wrong / count.rows if count.rows else 0.0
    figures: dict[str, Any] = {"rows": count.rows, "disagreements": count.wrong, "share": share}
    words = f"{share:.1%} of {count.rows} answers differ"
    enough = count.rows >= step.rows
    unfinished: Says = "no say" if step.rows_overdue else "wait"
    if limits.flip_rate is None:
        return Verdict("agreement", "no say" if enough else unfinished, figures, f"{words}; no reference is known")
    reference = RiskDetector(
        "disagreement", baseline=limits.flip_rate, rows=limits.flip_rows, tolerance=limits.flip_tolerance
    )
    limit = min(reference.limit, 0.999)
    log_e = log_above(count, limit)
    figures |= {"limit": limit, "log_e": log_e}
    words = f"{words}; {limit:.1%} is expected at most"
    beyond = log_e >= LOG_PROOF or (enough and step.rows_overdue and share > limit)
    if beyond and by_labels.says == "pass":
        return Verdict("agreement", "pass", figures, f"{words}, but labels show that it is no worse")
    if beyond:
        return Verdict("agreement", "fail", figures, words)
    return Verdict("agreement", "pass" if enough and share <= limit else unfinished, figures, words)


def risk(step: Step, limits: Limits) -> Verdict:
    """Labels: no worse than the old model plus the margin, or worse, or not enough of them to say."""
    if step.shadow:
        found, figures = _paired_risk(step, limits.risk_margin)
    else:
        found, figures = _unpaired_risk(step, limits.risk_margin)
    figures |= {"margin": limits.risk_margin, "log_e_no_worse": found.no_worse, "log_e_worse": found.worse}
    words = f"{figures['wrong']} of {figures['rows']} labelled answers were wrong, of the old model {figures['old']}"
    if found.worse >= LOG_PROOF:
        return Verdict("risk", "fail", figures, words)
    if found.no_worse >= LOG_PROOF:
        return Verdict("risk", "pass", figures, words)
    return Verdict("risk", "no say", figures, f"{words}: not enough to say more")


def _paired_risk(step: Step, margin: float) -> tuple[Comparison, dict[str, Any]]:
    labels = [view.status.shadow.labelled for _, view in step.taken() if view.status.shadow is not None]
    known = [one for one in labels if one is not None and one.champion_wrong is not None]
    rows, wrong = sum(one.rows for one in known), sum(one.wrong for one in known)
    old_wrong, both = sum(one.champion_wrong or 0 for one in known), sum(one.both_wrong for one in known)
    figures = {"rows": rows, "wrong": wrong, "old": f"{old_wrong}", "both": both}
    return compare_paired(rows, wrong, old_wrong, margin, both), figures


def _unpaired_risk(step: Step, margin: float) -> tuple[Comparison, dict[str, Any]]:
    """The old model's labels come from untouched nodes meanwhile; where there are none, from before the step."""
    new = sum((_labels(view) for _, view in step.taken()), Count(0, 0))
    old = sum((_since(before, view) for before, view in step.others), Count(0, 0))
    if not old.rows:
        old = sum((Count(before.rows, before.wrong) for before, _ in step.watched), Count(0, 0))
    figures = {"rows": new.rows, "wrong": new.wrong, "old": f"{old.wrong} of {old.rows}"}
    return compare(new, old, margin), figures


def _labels(view: NodeView) -> Count:
    labelled = view.status.labelled
    return Count(labelled.rows, labelled.wrong) if labelled else Count(0, 0)


def _since(before: Watched, view: NodeView) -> Count:
    """Labels since then; counts begin again with a process, so fewer than then are all of them."""
    now = _labels(view)
    if now.rows < before.rows or now.wrong < before.wrong or now.rows - before.rows < now.wrong - before.wrong:
        return now
    return Count(now.rows - before.rows, now.wrong - before.wrong)


def _latency_us(view: NodeView, step: Step) -> float | None:
    if not step.shadow:
        return view.status.latency_us
    return view.status.shadow.latency_us if view.status.shadow is not None else None


def _broke(before: Watched, view: NodeView, step: Step) -> bool:
    status = view.status
    if view.refused(step.version):
        return True
    has_it = took(view, step.version, shadow=step.shadow)
    if not (has_it or before.took):
        return False
    if step.shadow and has_it and status.shadow is not None and status.shadow.fault is not None:
        return True
    # counts begin again with a process, so fewer than before are new ones
    crashed = status.crashes > (before.crashes if status.crashes >= before.crashes else 0)
    return crashed or not status.ready


def _rose(before: Watched, view: NodeView) -> bool:
    return view.status.watch_level >= ALARM and view.status.watch_level > before.watch_level
