"""Whom to believe: trust in annotators, one label for each sample, and sources whose labels look poisoned. Pure.

Rules:
- Of an annotator the latest word about a sample counts. People at the core are the audit: where they have labelled a
  sample, others are compared with them, elsewhere with the majority of the others.
- Trust is the mean of a Beta posterior that starts from 4 agreements in 5.
- Where labels of a sample differ, the one with most trust behind it wins; of equals the latest.
- `delete` and `ignore` take a sample out, whoever says so; a new class teaches nothing until there is a new study.
- Poison: the share of a source's labels that contradict the audit, or where there is none the model, is bet against the
  share that its peers have plus a margin (`fleet.risk_test.log_above`). An honest source whose share is within that is
  ever put aside with a chance of at most `bound`, over all sources and looks (Ville's inequality, Bonferroni).
- Labels that people sent by themselves are compared with such labels of others, and those that were asked for likewise:
  whoever only corrects always contradicts the model. A source whose inputs have drifted is compared with the audit
  alone.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from edgehone.fleet.risk_test import Count, log_above

CORE = "core"
POISONED = "labels look poisoned: "  # how a reason in `feedback.quarantined` begins
LABELLING = ("confirm", "correct", "new_class")
_PRIOR = (4.0, 1.0)
_UNKNOWN = _PRIOR[0] / sum(_PRIOR)  # trust in somebody who was never compared
_FEWEST_PEERS = 3
_FEWEST_ROWS = 10  # of a peer, for its share to count
_AUDIT_SHARE = 0.1  # contradictions of the audit that are expected where peers do not tell

Label = int | float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A captured sample that somebody said something about.

    Attributes:
        node, id: which.
        digest: of the bundle that answered.
        blob: digest of the reading; None once it was deleted.
        answered: the class, or the values of another task; None where that cannot be read.
        share, propensity: of the capture.
        source, licence: where the reading comes from, and what it may be used for.
        time_s: when it was read, by the node's clock.
    """

    node: str
    id: str
    digest: str
    blob: str | None
    answered: Label | None
    share: str
    propensity: float
    source: str = "field"
    licence: str = ""
    time_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Vote:
    """One word about a sample.

    Attributes:
        sender: node that sent it, or "core".
        event: its id, unique at the sender.
        annotator: who says so; "" for nobody named.
        kind: confirm, correct, new_class, ignore or delete.
        label: what is right; None for kinds that do not say, and for labels that the task does not have.
        unknown: name of a class that the task does not have.
        trust: as told with it.
        time_s, received_s: when it was said, and when it came.
        is_asked: the sample was drawn to be labelled.
        quarantined: why it was put aside, or None.
    """

    sender: str
    event: str
    annotator: str
    kind: str
    label: Label | None
    unknown: str = ""
    trust: float = 1.0
    time_s: float = 0.0
    received_s: float = 0.0
    is_asked: bool = True
    quarantined: str | None = None

    @property
    def voice(self) -> str:
        """Whose word it is: a person at the core, a named annotator, or a node."""
        if self.sender == CORE:
            return f"person:{self.annotator}"
        return f"annotator:{self.annotator}" if self.annotator else f"node:{self.sender}"

    @property
    def is_audit(self) -> bool:
        """Whether a person at the core said it."""
        return self.sender == CORE


Said = tuple[Sampled, Sequence[Vote]]


@dataclass(frozen=True, slots=True)
class Settled:
    """A sample with the label that counts, if any.

    Attributes:
        node, id, digest, blob, share, propensity, source, licence, time_s: of the sample.
        label: what is right; None when nothing usable was said.
        is_class: the label is a class.
        kind: of the word that counts.
        voices: who stands behind the label.
        senders: nodes that sent it.
        trust: in the label, 0 to 1.
        received_s: when the last word for it came.
        is_wrong: the model had answered something else; None where that is not known.
        is_drawn: of the uniform share, and labelled because of that.
        unknown: the class that was named, when it is a new one.
        conflict: others said something else.
    """

    node: str
    id: str
    digest: str
    blob: str | None
    share: str
    propensity: float
    source: str
    licence: str
    time_s: float = 0.0
    label: Label | None = None
    is_class: bool = True
    kind: str = ""
    voices: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    trust: float = 0.0
    received_s: float = 0.0
    is_wrong: bool | None = None
    is_drawn: bool = False
    unknown: str = ""
    conflict: bool = False


@dataclass(frozen=True)
class Suspect:
    """A source whose labels look poisoned.

    Attributes:
        kind: "node" or "annotator".
        name: of it.
        rows, wrong: of its labels, those that contradict.
        limit: share that was to be expected at most.
        log_e: evidence.
        why: in words.
    """

    kind: str
    name: str
    rows: int
    wrong: int
    limit: float
    log_e: float
    why: str


def latest(votes: Iterable[Vote]) -> list[Vote]:
    """The last word of each voice."""
    votes = list(votes)
    if len(votes) < 2:
        return votes
    found: dict[str, Vote] = {}
    for vote in sorted(votes, key=lambda one: (one.time_s, one.received_s, one.event)):
        found[vote.voice] = vote
    return list(found.values())


def trust_of(said: Iterable[Said]) -> dict[str, float]:
    """Voice → how far to believe it, from how often it agreed with the audit or with the majority of others."""
    agreed: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    voices: set[str] = set()
    for _, votes in said:
        words = [vote for vote in latest(votes) if vote.label is not None and vote.quarantined is None]
        voices.update(vote.voice for vote in words)
        for vote in words if len(words) > 1 else ():
            reference = _reference([other for other in words if other.voice != vote.voice])
            if reference is not None:
                compared[vote.voice] += 1
                agreed[vote.voice] += vote.label == reference
    return {voice: (_PRIOR[0] + agreed[voice]) / (sum(_PRIOR) + compared[voice]) for voice in voices}


def settle(said: Iterable[Said], *, min_trust: float = 0.0) -> list[Settled]:
    """One label for each sample.

    Args:
        said: samples with what was said about each.
        min_trust: labels of voices below it do not count.
    """
    said = list(said)
    trust = trust_of(said)
    return [_settle(sample, votes, trust, min_trust) for sample, votes in said]


def suspects(
    said: Iterable[Said],
    *,
    bound: float,
    margin: float,
    drifted: Collection[str] = (),
    label_error: float = 0.0,
) -> list[Suspect]:
    """Sources whose labels contradict far more often than those of their peers.

    Args:
        said: samples with what was said about each, also what was put aside for this reason before.
        bound: chance that any honest source is ever named.
        margin: above the peers' share nobody minds.
        drifted: nodes whose inputs have drifted: their model may well be wrong.
        label_error: share of wrong labels of anybody, people at the core included.
    """
    audit_share = max(_AUDIT_SHARE, label_error * (2 - label_error))  # one of the two is wrong, or both are
    totals: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(dict)  # rows and wrong ones, by source
    for sample, votes in said:
        words = [vote for vote in latest(votes) if vote.label is not None]
        is_audited = any(vote.is_audit for vote in words)
        audit = _reference([vote for vote in words if vote.is_audit]) if is_audited else None
        for vote in words:
            against = audit if audit is not None else None if sample.node in drifted else sample.answered
            if vote.is_audit or against is None or isinstance(against, float | tuple):
                continue
            stratum = "audit" if audit is not None else "asked" if vote.is_asked else "sent"
            for kind, name in (("node", vote.sender), ("annotator", vote.annotator)):
                if name:
                    mine = totals[kind, stratum].setdefault(name, [0, 0])
                    mine[0] += 1
                    mine[1] += vote.label != against
    counts = {key: {name: Count(*pair) for name, pair in rows.items()} for key, rows in totals.items()}
    tests = sum(map(len, counts.values()))
    found: dict[tuple[str, str], Suspect] = {}
    for (kind, stratum), rows in sorted(counts.items()):
        for name, count in sorted(rows.items()):
            limit = _limit(name, rows, audit_share if stratum == "audit" else None, margin)
            if limit is None or not count.wrong > limit * count.rows:
                continue
            log_e = log_above(count, limit)
            if log_e >= math.log(tests / bound) and (kind, name) not in found:
                what = "what people at the core say" if stratum == "audit" else "the model"
                why = f"{POISONED}{count.wrong} of {count.rows} contradict {what}, {limit:.0%} at most are expected"
                found[kind, name] = Suspect(kind, name, count.rows, count.wrong, limit, log_e, why)
    return list(found.values())


def _limit(name: str, rows: Mapping[str, Count], share: float | None, margin: float) -> float | None:
    """The share of contradictions that a source may have: the upper quartile of its peers', and the margin.

    Where there are too few peers it is `share` and the margin, or nothing is known.
    """
    peers = [count.wrong / count.rows for other, count in rows.items() if other != name and count.rows >= _FEWEST_ROWS]
    if len(peers) >= _FEWEST_PEERS:
        limit = quantiles(peers, n=4, method="inclusive")[2] + margin
    elif share is not None:
        limit = share + margin
    else:
        return None
    return limit if limit < 1 else None


def _settle(sample: Sampled, votes: Sequence[Vote], trust: Mapping[str, float], min_trust: float) -> Settled:
    if any(vote.kind == "delete" for vote in votes):
        return _bare(sample)
    words = [vote for vote in latest(votes) if vote.quarantined is None]
    if any(vote.kind == "ignore" for vote in words):
        return _bare(sample)
    believed = [
        (vote, key, weight)
        for vote in words
        if (key := vote.unknown or vote.label) is not None
        and vote.kind in LABELLING
        and (weight := trust.get(vote.voice, _UNKNOWN) * vote.trust) >= min_trust
    ]
    if len(believed) == 1:  # nearly always
        ((vote, key, weight),) = believed
        return _labelled(sample, key, [vote], weight)
    scores: dict[Label | str, float] = defaultdict(float)
    behind: dict[Label | str, list[Vote]] = defaultdict(list)
    for vote, key, weight in believed:
        scores[key] += weight
        behind[key].append(vote)
    if not scores:
        return _bare(sample)
    best = max(scores, key=lambda key: (round(scores[key], 9), max(vote.time_s for vote in behind[key])))
    strongest = max(weight for _, key, weight in believed if key == best)
    share = scores[best] / sum(scores.values())
    return _labelled(sample, best, behind[best], strongest * share, conflict=len(scores) > 1)


def _bare(sample: Sampled) -> Settled:
    return Settled(
        sample.node, sample.id, sample.digest, sample.blob, sample.share, sample.propensity, sample.source,
        sample.licence, sample.time_s,
    )  # fmt: skip


def _labelled(
    sample: Sampled, best: Label | str, winners: Sequence[Vote], trust: float, *, conflict: bool = False
) -> Settled:  # fmt: skip
    last = winners[0] if len(winners) == 1 else max(winners, key=lambda vote: (vote.time_s, vote.event))
    is_class, label = isinstance(best, int), None if isinstance(best, str) else best
    return Settled(
        sample.node, sample.id, sample.digest, sample.blob, sample.share, sample.propensity, sample.source,
        sample.licence, sample.time_s,
        label=label,
        is_class=is_class,
        kind=last.kind,
        voices=tuple(sorted({vote.voice for vote in winners})),
        senders=tuple(sorted({vote.sender for vote in winners})),
        trust=round(trust, 6),
        received_s=max(vote.received_s for vote in winners),
        is_wrong=label != sample.answered if is_class and sample.answered is not None else None,
        is_drawn=sample.share == "uniform" and any(vote.is_asked for vote in winners),
        unknown=best if isinstance(best, str) else "",
        conflict=conflict,
    )  # fmt: skip


def _reference(words: Sequence[Vote]) -> Label | None:
    """What the audit says, else what most say; None where that is not clear."""
    audit = [vote for vote in words if vote.is_audit]
    if audit:
        return max(audit, key=lambda vote: (vote.time_s, vote.event)).label
    counts = Counter(vote.label for vote in words).most_common(2)
    if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]
