"""The gate of a round: is the new file good enough to be released? Values in, a verdict in words out. Pure.

Judged is the compressed file that would ship, beside the one that ships now. Whatever has an interval is judged by its
bad end: a loss may not exceed epsilon even there, and a gain must be there even so.

Old data is the task's own, so its labels are good. Of the labels of new data a share e may be wrong (`label_error`).
Old and new file are judged on the same examples, and a wrong label does not know which file it speaks against. So a
gain g shows as g (1 - 2 e) at the least and as g at the most: wrong labels make the gate ask for more, and let nothing
pass that is worse. What they can hide is a mistake that most people share, because the new model has learnt it as well;
that costs on old data.

A round without training ships the model files that are served already. There is nothing to judge but that, and that its
drift references are made of enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgehone.loop.policy import LoopPolicy
from edgehone_agent.watch.risk import RiskDetector

_MOST_FLIPS = 0.98  # a limit of a rollout is below 1
Models = Mapping[str, str]  # path of a model file in a bundle → its digest


@dataclass(frozen=True)
class Check:
    """One thing that was asked: its name, whether it holds, a sentence, and the figures."""

    name: str
    ok: bool
    words: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one member."""

    member: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def why(self) -> str:
        """What decided, in words: all that failed, or all that was good."""
        failed = [check.words for check in self.checks if not check.ok]
        return f"{self.member}: {'; '.join(failed or [check.words for check in self.checks])}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"member": self.member, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}


def judge(members: Sequence[Mapping[str, Any]], policy: LoopPolicy) -> tuple[Verdict, ...]:
    """A verdict for each refreshed member.

    Args:
        members: `search.refresh.Refreshed` as JSON: slices "old" and "new", latency and size ratios.
        policy: of the task.
    """
    return tuple(_judge(member, policy) for member in members)


def flips(members: Sequence[Mapping[str, Any]], released: Collection[str]) -> tuple[float | None, int]:
    """The share of answers that changes with a release, and of how many it is; (None, 0) where that is not known.

    Of old and new data, and of all members, that with the highest upper bound: nobody knows how much of which a node
    will see.

    Args:
        members: as for `judge`.
        released: names of those that passed.
    """
    found: list[tuple[float, float, int]] = []
    for one in (part for member in members if member["member"] in released for part in member["slices"].values()):
        if one["flips"] is not None and one["n"]:
            rate, rows = min(float(one["flips"]), _MOST_FLIPS), int(one["n"])
            found.append((RiskDetector("disagreement", baseline=rate, rows=rows, tolerance=0.0).limit, rate, rows))
    return max(found)[1:] if found else (None, 0)


def too_few_readings(there: Mapping[str, int], cohorts: Sequence[str], policy: LoopPolicy) -> str:
    """Why no cohort can get a new drift reference; "" when one can.

    Args:
        there: cohort → uniformly drawn readings of it.
        cohorts: that ask for one.
        policy: of the task.
    """
    counts = {name: there.get(name, 0) for name in cohorts}
    if any(count >= policy.card_readings for count in counts.values()):
        return ""
    told = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "none"
    needed = f"a reference needs {policy.card_readings} uniformly drawn readings of a cohort"
    return f"{needed}, and here are {told}; collect more"


def judge_same(
    members: Mapping[str, tuple[Models, Models]],
    cohorts: Sequence[str],
    contexts: Mapping[str, int],
    policy: LoopPolicy,
) -> tuple[Verdict, ...]:
    """A verdict for each member that is released again with new drift references.

    Args:
        members: name → model files of the new bundle, and of the one that it follows.
        cohorts: that asked for a new reference.
        contexts: cohort → readings that the reference in the bundle is made of.
        policy: of the task.
    """
    why_not = too_few_readings(contexts, cohorts, policy)
    there = {name: float(contexts[name]) for name in cohorts if name in contexts}
    told = ", ".join(f"{name} of {count:.0f} readings" for name, count in sorted(there.items()))
    readings = Check("readings", not why_not, why_not or f"new references: {told}", there)
    found = []
    for name, (new, old) in sorted(members.items()):
        is_same = bool(new) and new == old
        words = f"its model files are {'' if is_same else 'not '}those that are served"
        found.append(Verdict(name, (Check("same model", is_same, words), readings)))
    return tuple(found)


def _judge(member: Mapping[str, Any], policy: LoopPolicy) -> Verdict:
    old, new = member["slices"]["old"], member["slices"]["new"]
    loss, gain = old["drop"]["high_pp"], -new["drop"]["high_pp"]
    flips = old["flips"]
    checks = [
        Check(
            "old slice", loss <= policy.epsilon_pp,
            f"on old data it loses at most {loss:.2f} pp, {policy.epsilon_pp:g} pp are allowed",
            {"value_pp": old["drop"]["value_pp"], "high_pp": loss, "n": old["n"]},
        ),
        Check(
            "new slice", gain >= policy.least_gain_pp,
            f"on new data it gains {-new['drop']['value_pp']:.2f} pp, at least {gain:.2f} pp,"
            f" {policy.least_gain_pp:g} pp are asked for",
            {"value_pp": -new["drop"]["value_pp"], "low_pp": gain, "n": new["n"]},
        ),
        Check(
            "latency", member["latency_high"] <= policy.latency_ratio,
            f"it takes at most {member['latency_high']:.2f} times as long, {policy.latency_ratio:g} is allowed",
            {"ratio": member["latency"], "high": member["latency_high"]},
        ),
        Check(
            "size", member["size"] <= policy.size_ratio,
            f"it is {member['size']:.2f} times as large, {policy.size_ratio:g} is allowed", {"ratio": member["size"]},
        ),
    ]  # fmt: skip
    if flips is not None:
        words = f"it answers {flips:.1%} of old data differently, {policy.flip_limit:.1%} are allowed"
        checks.append(Check("flips", flips <= policy.flip_limit, words, {"share": flips, "n": old["n"]}))
    return Verdict(str(member["member"]), tuple(checks))
